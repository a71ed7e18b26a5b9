"""A training that goes on with another number of replicas, or in another number of processes."""

import copy

from parle.errors import ConfigError
from parle.training import Training


def resized(states: list[dict], training: Training) -> int:
    """Put a training where the states of all processes of an earlier one left off; how many replicas that one had.

    A replica that was there goes on as if never stopped; a new one starts from the reference, with the first one's buffers and an
    optimizer and random stream of its own; surplus ones are dropped. Raises ConfigError where something of the earlier one belongs to
    all of its replicas together.
    """
    if not isinstance(training, Training):
        raise ConfigError("Replicas at a server go on in as many processes as before.")
    its, first = [state["replicas"] for state in states], states[0]
    before = first["plan"]
    if its[0]["meeting"] or its[0]["communicator"]["inner"]:
        raise ConfigError(f"A run that overlaps its rounds or encodes them goes on with its {before} replicas, in as many processes as before.")
    fresh, new = training.state_dict(), [number >= before for number in training.mine]

    def mine(rows: list, fallback: list) -> list:
        return [fallback[place] if new[place] else rows[number] for place, number in enumerate(training.mine)]

    def of_all(key: str) -> list:
        return [row for state in states for row in state[key]]

    count = len(training.mine)
    state = {"streams": mine(of_all("streams"), fresh["streams"])}
    state |= {"optimizers": mine(of_all("optimizers"), [copy.deepcopy(first["optimizers"][0]) for _ in range(count)])}  # emptied below, unless all stay equal
    state |= {key: mine(of_all(key), [first[key][0]] * count) for key in ("since", "taken", "losses", "buffers")}
    shared, steps = its[0]["shared"], [row for part in its for row in part["steps"]]
    vectors = {}
    for name, now in fresh["replicas"]["vectors"].items():
        rows = [row for part in its for row in part["vectors"][name]]
        vectors[name] = now.new_zeros(now.shape)
        for place, row in enumerate(mine(rows, [shared["reference"]] * count)):
            vectors[name][place] = row
    pace = its[0]["pace"] | {key: mine([row for part in its for row in part["pace"][key]], [its[0]["pace"][key][0]] * count) for key in ("losses", "told")}
    ours = {"steps": mine(steps, [steps[0]] * count), "vectors": vectors, "pace": pace, "replicas": count, "first": training.mine.start}
    ours |= {"refusals": mine([row for part in its for row in part["refusals"]], [[0, 0]] * count)}
    training.load_state_dict(first | state | {"replicas": its[0] | ours, "plan": training.plan.replicas})
    training.replicas.begin_anew([place for place in range(count) if new[place]])
    return before
