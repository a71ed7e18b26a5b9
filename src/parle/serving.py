"""The training loop of the command line for replicas at a server, each by its own clock."""

import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from parle import buffers
from parle.algorithm import Algorithm
from parle.data import in_turn
from parle.errors import ConfigError
from parle.metrics import Score, score
from parle.random_streams import RandomStream, derive
from parle.servers import Host, Seat
from parle.training import STRIDE, Plan, Training
from parle.vectors import Layout

GLANCE = 0.05  # seconds between two looks at what the server has counted


class Judge:
    """Tests a flat vector of parameters on the data of a plan; BatchNorm is estimated for it from training samples."""

    def __init__(self, plan: Plan):
        self.plan, device = plan, plan.devices[0]
        with RandomStream(derive(plan.seed, "model", 0)):
            self.model = plan.build().to(device).eval()
        self.layout = Layout.of(self.model)
        self._test, train = plan.data.test.to(device), plan.data.train.to(device)
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(derive(plan.seed, "refresh")))[: plan.refresh].to(device)
        self._all, self._some = train, train.subset(chosen)

    @torch.no_grad()
    def score(self, vector: Tensor, last: bool = False) -> Score:
        """The test error and loss of the vector, shape (N,); at the last time BatchNorm is estimated from all data."""
        for parameter, part in zip(self.layout.parameters(self.model), self.layout.views(vector.to(self._test.labels.device)), strict=True):
            parameter.copy_(part)
        if buffers.with_statistics(self.model):
            buffers.recompute(self.model, in_turn(self._all if last else self._some))
        return score(self.model, in_turn(self._test))

    def solution(self) -> dict[str, Tensor]:
        """The model as it was scored last."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}


def replicas_of(plan: Plan) -> list[Training]:
    """A training for each replica of a plan, not yet joined, to be carried out beside the others."""
    return [Training(plan, mine=range(number, number + 1), joined=False, apart=True) for number in range(plan.replicas)]


def carry_out(training: Training, seat: Seat, first: int = 0) -> None:
    """What a replica does at its seat: join, take the steps of its plan from number `first` on, leave."""
    training.go_to(first)
    training.join(seat)
    while training.step < training.plan.steps:
        training.advance(min(STRIDE, training.plan.steps - training.step))
    training.replicas.finish()
    training.replicas.close()


def require_servable(algorithm: Algorithm) -> None:
    """Raise ConfigError for an algorithm whose solution a server cannot form."""
    if type(algorithm).solution is not Algorithm.solution:
        name = type(algorithm).__name__
        raise ConfigError(f"The solution of {name} is a mean over its replicas, which a server does not have. Use another algorithm or variant.")


class Serving:
    """Replicas of a plan at a server; `run` lets them go and yields what there is to tell, as `Training.run` does.

    `work(seat, first)` is what each of them does, from step `first` on; where none is given they are trained in this process.
    """

    def __init__(self, plan: Plan, server: Host, work: Callable[[Seat, int], None] | None = None):
        self.plan, self.server, self.seconds, self.mine = plan, server, 0.0, range(plan.replicas)
        require_servable(plan.algorithm)
        self.judge = Judge(plan)
        trainings = [] if work else replicas_of(plan)
        self.work = work or (lambda seat, first: carry_out(trainings[seat.first], seat, first))
        self.solved: dict | None = None
        self._before: dict | None = None  # the status at the last record
        self._merged = [0] * plan.replicas  # rounds of each replica

    @property
    def step(self) -> int:
        """Steps of a replica so far, on the average."""
        return min(self.plan.steps, self._gradients // self.plan.replicas)

    @property
    def _gradients(self) -> int:
        """Steps of all replicas so far, as far as they have been merged; the last of a run may fill no period."""
        return sum(min(self.plan.steps, self.plan.algorithm.steps_in(rounds)) for rounds in self._merged)

    @property
    def size(self) -> int:
        """Numbers in the vector of a replica."""
        return self.judge.layout.size

    def caution(self) -> str | None:
        """What the user should know before it begins."""
        return self.plan.algorithm.at(0).caution(self.plan.lr, self.plan.momentum)

    @property
    def round(self) -> int:
        """Rounds of a replica so far, on the average."""
        return sum(self._merged) // self.plan.replicas

    def run(self) -> Iterator[dict | int]:
        """Train to the end of the plan. Yields the number of the step now and then, and a record for every evaluation."""
        firsts = [min(self.plan.steps, self.plan.algorithm.steps_in(merged)) for merged in self.server.status()["merged"]]
        every = self.plan.evaluate_every
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(self.server.run, functools.partial(_from, self.work, firsts))
            try:
                due = self.step + every
                while not self._look(going):
                    if self.step >= due and self.step < self.plan.steps:
                        yield self.record()
                        due = self.step + every
                    yield self.step
                going.result()
            finally:
                self.server.end()
        yield self.plan.steps
        yield self.record(last=True)

    def _look(self, going: Future) -> bool:
        """Wait a moment; whether all replicas have ended."""
        began = time.perf_counter()
        while not going.done() and time.perf_counter() - began < GLANCE:
            time.sleep(GLANCE / 5)
        self.seconds += time.perf_counter() - began
        self._merged = self.server.status()["merged"]
        return going.done()

    def record(self, last: bool = False) -> dict:
        """Test the reference now: one line of metrics.jsonl. The replicas of this process stand still meanwhile."""
        status, vector = self.server.status(), self.server.reference()
        with self.server.paused():
            scored = self.judge.score(vector, last)
        if last:
            self.solved = self.judge.solution()
        self._merged = status["merged"]
        gradients = self._gradients
        record = {
            "epoch": gradients / self.plan.replicas / self.plan.batches,
            "step": self.step,
            "round": status["updates"],
            "gradient_evaluations": gradients * (2 if self.plan.sharpness else 1),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(gradients * self.plan.batch_size / max(self.seconds, 1e-9), 1),
            "bytes_sent_per_replica": status["received"] * self.size * self.judge.layout.dtype.itemsize // self.plan.replicas,
            "consensus": vars(scored),
            "replicas": [],
            **_since(self._before, status),
            "algorithm": self.plan.algorithm.at(status["received"] // self.plan.replicas).settings(),
        }
        self._before = status
        return record

    def state_dict(self) -> dict:
        """All that the server depends on; the replicas begin anew from its reference."""
        return {"seconds": self.seconds, "server": self.server.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there."""
        self.seconds = state["seconds"]
        self.server.load_state_dict(state["server"], self.plan.algorithm)
        self._before = self.server.status()
        self._merged = self._before["merged"]

    def close(self) -> None:
        """End the replicas and the server."""
        self.server.close()


def _from(work: Callable[[Seat, int], None], firsts: list[int], seat: Seat) -> None:
    work(seat, firsts[seat.first])


def _since(before: dict | None, status: dict) -> dict:
    """What a server has counted since the last record: the staleness of every merged proposal, by how often it occurred."""
    old = before or {"staleness": {}, "waited": [0.0] * len(status["waited"]), "refused": [0] * len(status["refused"])}
    late = {str(value): count - old["staleness"].get(value, 0) for value, count in status["staleness"].items()}
    return {
        "quorum": status["quorum"],
        "active_replicas": len(status["active"]),
        "staleness": {value: count for value, count in late.items() if count},
        "seconds_waited": [round(now - then, 3) for now, then in zip(status["waited"], old["waited"], strict=True)],
        "refused": [now - then for now, then in zip(status["refused"], old["refused"], strict=True)],
        "merged": status["merged"],
    }
