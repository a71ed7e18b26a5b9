"""Checks that any algorithm or communicator must pass, ours and third parties' alike.

    parle.testing.check_algorithm(MyCoupling(strength=0.5))
    parle.testing.check_communicator(MyTransport)

Each raises AssertionError with a sentence that says what does not hold.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from parle.algorithm import Algorithm
from parle.center import Center
from parle.communicators import Communicator, InProcess, Metered
from parle.errors import ConfigError
from parle.replicas import Replicas, join
from parle.vectors import WHOLE, Part

REPLICAS, STEPS = 3, 12


def check_algorithm(algorithm: Algorithm) -> None:
    """Check the contract of an algorithm on a small problem in float64; AssertionError says what fails.

    >>> import parle
    >>> check_algorithm(parle.LocalSGD(period=4))
    """
    _settings_round_trip(algorithm)
    _rows_and_blocks_agree(algorithm)
    _replicas_move_and_stay_finite(algorithm)
    _a_round_changes_the_reference(algorithm)
    _resume_is_exact(algorithm)
    _bytes_are_as_stated(algorithm)


def check_communicator(make: Callable[[], Communicator], mine: range | None = None, exact: bool = True) -> None:
    """Check that a communicator gives the trajectory of `InProcess`; AssertionError if not.

    In several processes, every one calls this, with the numbers of those of the three replicas that are its own; `exact` asks
    for the same bits, otherwise rounding may differ.

    >>> check_communicator(InProcess)
    """
    from parle.algorithms import ALGORITHMS

    mine = range(REPLICAS) if mine is None else mine
    same = torch.equal if exact else torch.allclose
    for name, kind in ALGORITHMS.items():
        if kind.single and len(mine) < REPLICAS:
            continue
        communicator = make()
        if communicator.apart and kind().in_fragments:  # a server takes whole vectors
            continue
        expected, got = _trained(kind(), STEPS * 3), _trained(kind(), STEPS * 3, communicator, mine)
        ours = expected.params if kind.single else expected.params[mine.start : mine.stop]
        _require(same(ours, got.params), f"{name}: the parameters differ from those of InProcess after {STEPS * 3} steps")
        _require(same(expected.reference, got.reference), f"{name}: the reference differs from that of InProcess")
        expected.finish()
        got.finish()
        _require(same(expected.solution_vector(), got.solution_vector()), f"{name}: the solution differs from that of InProcess")
        got.close()
    _means_are_right(make, mine, exact)


def _means_are_right(make: Callable[[], Communicator], mine: range, exact: bool) -> None:
    center = Center(Algorithm(), torch.zeros(3))
    vectors = [torch.full((3,), (1.0, 2.0, 6.0)[number]) for number in mine]
    communicator = make()
    center.shared.reference = communicator.open(center, vectors, common=False)
    _require(torch.allclose(center.shared.reference, torch.full((3,), 3.0)), "the first reference is not the mean of the starts 1, 2 and 6")
    _require((communicator.size, communicator.first) == (REPLICAS, mine.start), "size and first do not say which replicas are here")
    _require(torch.allclose(communicator.mean(vectors), torch.full((3,), 3.0)), "the mean of 1, 2 and 6 is not 3")
    _require(torch.allclose(communicator.exchange(vectors), torch.full((3,), 6.0), atol=0 if exact else 0.1), "a round does not add the mean of the proposals")
    _require([vector.tolist() for vector in communicator.gather(vectors)] == [[1.0] * 3, [2.0] * 3, [6.0] * 3], "gather does not give all vectors in order")
    _require(communicator.of_first(vectors[0]).tolist() == [1.0] * 3, "of_first does not give the vector of the first replica")
    _require(vectors[0][0] == (1.0, 2.0, 6.0)[mine.start], "the communicator has changed a vector that it was given")
    communicator.close()


def _settings_round_trip(algorithm: Algorithm) -> None:
    kind = type(algorithm)
    _require(dataclasses.is_dataclass(algorithm) and kind.__dataclass_params__.frozen, f"{kind.__name__} must be a frozen dataclass")
    held = [f.name for f in dataclasses.fields(algorithm) if isinstance(getattr(algorithm, f.name), Tensor)]
    _require(not held, f"{kind.__name__} holds a tensor in {held}; vectors belong to the replicas")
    plain = all(not callable(getattr(algorithm, f.name)) or str(getattr(algorithm, f.name)).endswith(")") for f in dataclasses.fields(algorithm))
    if plain:
        _require(kind.from_settings(algorithm.settings()) == algorithm, f"{kind.__name__} changes when its settings are written and read again")
    try:
        kind.from_settings({"no_such_setting": 1})
    except ConfigError:
        return
    raise AssertionError(f"{kind.__name__} accepts a setting that it does not have")


def _rows_and_blocks_agree(algorithm: Algorithm) -> None:
    """The verbs see one replica at a time; applied to all rows at once they must give the same. So must parts, if it says so."""
    replicas, block_replicas = _trained(algorithm, 2), _trained(algorithm, 2)
    now, block = algorithm.at(0), block_replicas._blocks[0]
    rows = [replica.r for replica in replicas._replicas]
    pairs = [("force", [now.force(r) for r in rows], now.force(block)), ("propose", [now.propose(r) for r in rows], now.propose(block))]
    reference = replicas.reference + 1.0
    for r in [*rows, block]:
        now.track(r)
        now.adopt(r, reference)
    pairs += [(f"adopt ({name})", [getattr(r, name) for r in rows], getattr(block, name)) for name in replicas.names()]
    for verb, parts, whole in pairs:
        if whole is not None:
            _require(torch.equal(torch.cat(parts), whole), f"{verb} gives other numbers for a block of replicas than for each of them")
    if algorithm.elementwise:
        _parts_agree(algorithm)


def _parts_agree(algorithm: Algorithm) -> None:
    """The verbs of a round, applied to two parts of the vectors, must give what they give for the whole."""
    whole, parted = _trained(algorithm, 2), _trained(algorithm, 2)
    now, middle = algorithm.at(0), whole.layout.size // 2
    for replicas, parts in ((whole, [WHOLE]), (parted, [Part(slice(0, middle), last=False), Part(slice(middle, None), first=False)])):
        block = replicas._blocks[0]
        for part in parts:
            mean = now.propose(block.part(part)).mean(0)
            now.adopt(block.part(part), replicas.center.merge(mean, len(block.params), part))
    for name in whole.names():
        _require(torch.allclose(whole.vector(name), parted.vector(name)), f"{name} differs where a round is held in parts, so elementwise must be False")
    _require(torch.allclose(whole.reference, parted.reference), "the reference differs where a round is held in parts, so elementwise must be False")


def _replicas_move_and_stay_finite(algorithm: Algorithm) -> None:
    before, after = _trained(algorithm, 0), _trained(algorithm, STEPS)
    _require(bool(torch.isfinite(after.params).all()), f"the parameters are not finite after {STEPS} steps")
    _require(bool((before.params != after.params).any(dim=1).all()), f"a replica has not moved in {STEPS} steps")
    _require(after.solution_vector().shape == (after.layout.size,), "the solution is not one vector of N numbers")


def _a_round_changes_the_reference(algorithm: Algorithm) -> None:
    replicas = _trained(algorithm, 0)
    before, rounds = replicas.solution_vector().clone(), 0
    while rounds < 3:
        _advance(replicas, min(replicas.steps_to_round, STEPS))
        if algorithm.mean_period > STEPS:  # averages once, at the end
            replicas.finish()
        rounds += 1
        _require(replicas.round == rounds, f"the replicas have held {replicas.round} rounds where {rounds} were due")
    _require(not torch.equal(before, replicas.solution_vector()), "three rounds have not changed the solution")


def _resume_is_exact(algorithm: Algorithm) -> None:
    whole, half = _trained(algorithm, STEPS), _trained(algorithm, STEPS // 2)
    resumed = _trained(algorithm, 0)
    resumed.load_state_dict(half.state_dict())
    for optimizer, its in zip(resumed.optimizers, half.optimizers, strict=True):
        optimizer.load_state_dict(its.state_dict())
    _advance(resumed, STEPS - STEPS // 2, first=STEPS // 2)
    for name in whole.names():
        _require(torch.equal(whole.vector(name), resumed.vector(name)), f"vector {name} differs after resuming from state_dict()")
    _require(torch.equal(whole.reference, resumed.reference), "the reference differs after resuming from state_dict()")


def _bytes_are_as_stated(algorithm: Algorithm) -> None:
    meter = Metered(InProcess())
    replicas = _trained(algorithm, STEPS, meter)
    size = replicas.layout.size
    exchanged = sum(len(range(*algorithm.fragment(round, size).indices(size))) for round in range(replicas.round))
    stated = exchanged * algorithm.vectors_sent * 8  # float64
    _require(meter.bytes_sent_per_replica == stated, f"{meter.bytes_sent_per_replica} bytes were sent, the class states {stated}")


def _trained(algorithm: Algorithm, steps: int, communicator: Communicator | None = None, mine: range | None = None) -> Replicas:
    """Replicas of a small regression after so many steps, always the same; all of them, or `mine` of several processes."""
    mine = range(1) if algorithm.single else mine or range(REPLICAS)
    models = [_network(index) for index in mine]
    momentum = {} if algorithm.steps_at_center else {"momentum": 0.9, "nesterov": True}
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, **momentum) for model in models]
    return _advance(join(models, optimizers, algorithm, communicator), steps)


def _network(index: int) -> nn.Module:
    """A small network, of which every call with that number gives the same, in several threads too."""
    model, generator = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double(), torch.Generator().manual_seed(index)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    return model


def _advance(replicas: Replicas, steps: int, first: int = 0) -> Replicas:
    for step in range(first, first + steps):
        for index, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True), replicas.communicator.first):
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * step + index), dtype=torch.float64)
            optimizer.zero_grad()
            (model(inputs) - inputs.sum(1, keepdim=True).sin()).square().mean().backward()
            optimizer.step()
    return replicas


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
