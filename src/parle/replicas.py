"""The engine: holds the vectors of the replicas, hooks their optimizers, counts steps and holds the rounds.

    optimizer.step()                               ->  force added to the gradients  ->  the user's own step  ->  track
    the last replica has taken its period steps    ->  propose  ->  exchange  ->  adopt

An algorithm with `round_before_step` meets on the gradients instead: steps wait until the last replica has come.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parle import buffers as buffer_policies
from parle import joining
from parle import optimizer_state as state_policies
from parle.algorithm import Algorithm
from parle.center import Center
from parle.communicators import Communicator, InProcess
from parle.errors import ConfigError, JoinError
from parle.meeting import Meeting, parts_of
from parle.one_pass import OnePass, chosen
from parle.pace import Pace
from parle.refusing import Refusals
from parle.replica import Replica
from parle.vectors import WHOLE, Part

AHEAD = 8  # steps that a replica may take beyond its period: a GradScaler passes over a step of one replica now and then


def join(
    models: nn.Module | list[nn.Module],
    optimizers: Optimizer | list[Optimizer],
    algorithm: Algorithm,
    communicator: Communicator | None = None,
    *,
    start: str = "common",
    buffers: str = "recompute",
    optimizer_state: str = "keep",
    one_pass: bool | None = None,
) -> "Replicas":
    """Couple replicas: from here on, their optimizers' `step()` also speaks to the other replicas.

    `models` and `optimizers` are one each, or lists of the replicas of this process; `communicator` is `InProcess()` where
    none is given. Policies: `start` is `common` (every replica starts from the first) or `own`; `buffers` says what happens
    to BatchNorm statistics (`recompute` for the solution, `average` at rounds, `keep`); `optimizer_state` says what happens
    to momentum and the like at a round (`keep`, `average`, `reset`). `one_pass` compiles force, SGD's step and track into one pass
    over memory, by default where the network is large enough for that to pay (docs/performance.md). Raises JoinError or ConfigError where that cannot work.

    >>> import parle
    >>> models = [nn.Linear(2, 1) for _ in range(3)]
    >>> optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    >>> replicas = parle.join(models, optimizers, parle.Parle(period=5), parle.InProcess())
    >>> replicas.params.shape
    torch.Size([3, 3])
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    joining.check_policy("start", start, joining.STARTS)
    joining.check_policy("buffers", buffers, buffer_policies.POLICIES)
    joining.check_policy("optimizer_state", optimizer_state, state_policies.POLICIES)
    if communicator is not None and not isinstance(communicator, Communicator):
        raise ConfigError(f"join needs a communicator such as parle.InProcess(), got {communicator!r}.")
    return Replicas(models, optimizers, algorithm, communicator or InProcess(), start, buffers, optimizer_state, one_pass)


class Replicas:
    """The coupled replicas of this process; made by `parle.join`."""

    def __init__(self, models, optimizers, algorithm, communicator, start: str, buffers: str, optimizer_state: str, one_pass: bool | None):
        self.layout = joining.check_members(models, optimizers, algorithm)
        self.algorithm, self.communicator = algorithm, communicator
        self.buffers, self.optimizer_state, self._common = buffers, optimizer_state, start == "common"
        self.round = 0
        self._now = algorithm.at(0)
        self._lock, self._releasing, self._showing, self._meeting = threading.RLock(), False, False, None
        joining.share_start(models, self.layout, start)
        self._blocks, places = joining.flatten(models, self.layout)
        terms = joining.terms(models[0], self.layout, algorithm, start=start, buffers=buffers, optimizer_state=optimizer_state)
        if optimizer_state == "average":
            terms["optimizer"] = type(optimizers[0]).__name__
        self._open([self._blocks[block].params[row] for block, row in places], start == "common", terms)
        if start == "common" and communicator.size > len(models):
            joining.share_untrained(models, self.layout, communicator)
        self._parts = parts_of(self.layout.size, self.reference.device, algorithm)
        self._in_part = False  # whether the last round exchanged a fragment only
        self._replicas: list[Replica] = []
        for index, (model, optimizer, (block, row)) in enumerate(zip(models, optimizers, places, strict=True), communicator.first):
            replica = Replica(index, model, optimizer, self.layout, self._blocks[block].row(row))
            replica.hook(self._before, self._after)
            replica.one_pass = OnePass(algorithm, replica, bool(one_pass)) if chosen(one_pass, algorithm, replica) else None
            self._replicas.append(replica)
        self.pace = Pace(algorithm, self._replicas, communicator)
        self.refusals = Refusals(self._replicas)

    def _open(self, rows: list[Tensor], common: bool, terms: dict) -> None:
        """Agree on the first reference, then let the algorithm add its vectors."""
        on_gradients, equal = self.algorithm.round_before_step, self.algorithm.means_gradients
        joining.check_delay(self.algorithm, self.communicator.delay)
        self.center = Center(self.algorithm, rows[0] if equal else rows[0].clone())  # of replicas that stay equal, the first one is the reference
        self.reference.copy_(self.communicator.open(self.center, rows, common or on_gradients, terms))
        joining.check_periods(self.algorithm, self.communicator.size)
        if self.algorithm.single and self.communicator.size > 1:
            raise ConfigError(
                f"{type(self.algorithm).__name__} trains one replica, got {self.communicator.size}. Use one replica, or Parle or LocalSGD to couple several."
            )
        for block in self._blocks:
            block.share("reference", self.reference)
            if common or on_gradients:
                block.params = block.reference.expand_as(block.params)
            if on_gradients:
                block.gradient = block.params * 0
            self.algorithm.start(block)

    @property
    def params(self) -> Tensor:
        """The parameters of the local replicas, shape (local replicas, N); a copy where they lie on several devices."""
        return self.vector("params")

    @property
    def reference(self) -> Tensor:
        """The shared vector x, shape (N,)."""
        return self.center.shared.reference

    @property
    def steps_to_round(self) -> int:
        """Steps until the next round begins, or one under way ends, for the replica that has most to take; by time, at least one."""
        under_way = self.communicator.delay - min(replica.steps for replica in self._replicas) if self._meeting else 0
        return under_way if under_way > 0 else self.pace.to_round(self._now)

    @property
    def now(self) -> Algorithm:
        """The algorithm with the numbers that its schedules have in this round."""
        return self._now

    def steps_of(self, row: int) -> int:
        """Steps that the local replica of that row still has to take until the next round; at least one where the period goes by time."""
        replica = self._replicas[row]
        return self._now.steps_of(replica.index) - (0 if self.pace.timed else replica.steps)

    def report(self, loss: Tensor | float, row: int = 0) -> None:
        """Tell the training loss of a step of a local replica, which periods such as `AdaComm` follow."""
        self.pace.report(loss, row)

    @property
    def models(self) -> list[nn.Module]:
        """The local replicas' models."""
        return [replica.model for replica in self._replicas]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The local replicas' optimizers."""
        return [replica.optimizer for replica in self._replicas]

    def names(self) -> list[str]:
        """The names of the vectors that each replica has."""
        return [name for name in self._blocks[0].tensors() if name != "reference"]

    def vector(self, name: str) -> Tensor:
        """The vectors of that name, shape (local replicas, N); a copy where they lie on several devices."""
        rows = [getattr(block, name) for block in self._blocks]
        return rows[0] if len(rows) == 1 else torch.cat([getattr(replica.r, name).to(self.reference.device) for replica in self._replicas])

    def finish(self) -> None:
        """Hold one last round, if any replica has stepped since the last one. Every process has to call it."""
        self._refuse_while_waiting("finish()")
        self._end_meeting()
        if self.pace.asks and not self.communicator.apart:
            while not self.pace.take_stock(self._now, ends=True):  # others may have steps to take, and rounds to hold
                self._hold_round(late=False)
            if self.pace.stepped:
                self._hold_round(late=False)
        elif self.communicator.ready_to_finish(self._in_part or any(replica.steps for replica in self._replicas)):
            self.pace.take_stock(self._now, ends=True)
            self._hold_round(late=False, whole=True)

    def solution_vector(self) -> Tensor:
        """The vector to evaluate and ship, shape (N,). Every process has to call it."""
        if (published := self._now.publish(self.center.shared)) is not None:
            return published
        shares = [self._now.solution(replica.r) for replica in self._replicas]
        return shares[0] if shares[0].dim() == 1 else self.communicator.mean([share[0] for share in shares])

    @contextmanager
    def solution(self, loader: Iterable | None = None, vector: Tensor | None = None) -> Iterator[nn.Module]:
        """Inside `with`, the first model is the solution, or another `vector` (N,), in evaluation mode; afterwards it is as it was.

        BatchNorm statistics are estimated again from `loader`, batches of training data without augmentation, unless the
        policy for buffers says otherwise. Raises ConfigError where they are needed and no loader is given.
        """
        first = self._replicas[0]
        first.check_in_place()
        recompute = buffer_policies.to_be_estimated(first.model, self.buffers, loader)
        vector, saved = self.solution_vector() if vector is None else vector, first.r.params.clone()
        with buffer_policies.preserved(first.model):
            try:
                self._showing = True
                first.r.params = vector.expand_as(saved)
                first.model.eval()
                if recompute:
                    buffer_policies.recompute(first.model, loader)
                yield first.model
            finally:
                first.r.params = saved
                self._showing = False

    def state_dict(self) -> dict:
        """All that the next step depends on here: vectors, center and counters. Buffers and optimizers have their own."""
        self._refuse_while_waiting("state_dict()")
        if self._showing:
            raise JoinError("state_dict() was called inside `with replicas.solution()`, where the first model is not its replica. Call it outside.")
        meeting = self._meeting and self._meeting.state_dict()  # first, since it may wait for the reference
        return self._identity() | {
            "round": self.round,
            "center_round": self.center.round,
            "steps": [replica.steps for replica in self._replicas],
            "vectors": {name: self.vector(name).detach().clone() for name in self.names()},
            "shared": {name: tensor.detach().clone() for name, tensor in self.center.shared.tensors().items()},
            "meeting": meeting,
            "in_part": self._in_part,
            "pace": self.pace.state_dict(),
            "refusals": self.refusals.state_dict(),
            "communicator": self.communicator.state_dict(),
        }

    def _identity(self) -> dict:
        its = {"algorithm": type(self.algorithm).__name__, "layout": self.layout.digest()}
        return its | {"replicas": len(self._replicas), "first": self.communicator.first}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Go on from a state of the same algorithm, model and number of replicas; ConfigError where it is of another."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ConfigError(f"This state has {name} {state.get(name)}, but these replicas have {value}. Join them as they were when it was saved.")
        if self._meeting:
            self._meeting.state_dict()  # waits for what is on its way
            self._meeting = None
        self.round, self.center.round = state["round"], state["center_round"]
        for name, tensor in state["shared"].items():
            setattr(self.center.shared, name, tensor)
        self._spread(WHOLE)
        for row, replica in enumerate(self._replicas):
            replica.steps, replica.waiting = state["steps"][row], None
            for name, tensor in state["vectors"].items():
                setattr(replica.r, name, tensor[row : row + 1])
        self._in_part = state["in_part"]
        self.pace.load_state_dict(state["pace"])
        self.refusals.load_state_dict(state["refusals"])
        self._now = self.algorithm.at(self.round, self.pace.seen)
        self.communicator.load_state_dict(state["communicator"])
        if state["meeting"]:
            self._meeting = Meeting(self.algorithm.at(self.round - 1), self._replicas, True, self._spread, []).load_state_dict(state["meeting"])

    def close(self) -> None:
        """Uncouple the optimizers and leave the other replicas; the parameters keep their values. Every process has to call it."""
        for replica in self._replicas:
            replica.unhook()
        self.communicator.close()

    def __enter__(self) -> "Replicas":
        return self

    def __exit__(self, kind, *_) -> None:
        for replica in self._replicas:
            replica.unhook()
        if kind is None:  # after an exception nobody waits for the others
            self.communicator.close()

    def _refuse_while_waiting(self, what: str) -> None:
        if any(replica.waiting for replica in self._replicas):
            raise JoinError(f"{what} was called while a step waits for the other replicas. Call it when every replica has stepped.")

    # Every step

    @torch.no_grad()
    def _before(self, replica: Replica) -> None:
        if self._releasing:
            return
        replica.check_in_place()
        if self._showing:
            raise JoinError("optimizer.step() was called inside `with replicas.solution()`, whose end would undo it. Step outside.")
        if replica.waiting or (not self.pace.timed and replica.steps >= self._now.steps_of(replica.index) + AHEAD):
            raise JoinError(
                f"Replica {replica.index} steps again in round {self.round}, but others are behind: the replicas have taken "
                f"{[other.steps + bool(other.waiting) for other in self._replicas]} steps of {self._now.period}. Step all replicas equally often between "
                "two rounds; a step that was skipped on one of them has to be made up for."
            )
        if self.algorithm.round_before_step:
            with self._lock:  # replicas on several devices step in threads
                self._meet_on_gradients(replica)
        elif not (replica.one_pass and replica.one_pass.take(self._now)) and (force := self._now.force(replica.r)) is not None:
            replica.add_force(force)

    @torch.no_grad()
    def _after(self, replica: Replica) -> None:
        if replica.waiting and not self._releasing:
            return
        if not (replica.one_pass and replica.one_pass.give_back()):
            self._now.track(replica.r)
        if self.algorithm.round_before_step:
            return
        with self._lock:
            replica.steps += 1
            if self._meeting and all(other.steps >= self.communicator.delay for other in self._replicas):
                self._end_meeting()
            if self.pace.is_due(self._now, replica):
                self.pace.take_stock(self._now)
                self._hold_round(late=self.communicator.delay > 0)

    # Every round

    @torch.no_grad()
    def _hold_round(self, late: bool, whole: bool = False) -> None:
        joining.check_delay(self._now, self.communicator.delay)
        self._meet(late, whole)
        self.pace.begin_round(self._now)
        self._next_round()

    def _meet(self, late: bool = False, whole: bool = False) -> None:
        """Propose, exchange, adopt, and carry out the policies of a round; all but the first some steps later, if `late`.

        Of an algorithm that exchanges fragments, the round is one of the `whole` vector if asked for.
        """
        self._following = self.algorithm.at(self.round + 1, self.pace.seen)  # refused values are found before anything has changed
        for replica in self._replicas:
            replica.check_layers()
        place = self._now.fragment(self.round, self.layout.size)
        self._in_part = place != WHOLE.place and not whole
        left_out = self.refusals.look(self._now, self.optimizer_state == "average", self.round, self.communicator)
        parts = [Part(place)] if self._in_part else self._parts
        self._meeting = Meeting(self._now, self._replicas, late, self._spread, left_out).begin(self.communicator, parts)
        if not late:
            self._end_meeting()

    @torch.no_grad()
    def _end_meeting(self) -> None:
        """Take what has come of a round under way."""
        if self._meeting is None:
            return
        meeting, self._meeting = self._meeting, None
        meeting.end()
        self.begin_anew(list(range(len(self._replicas))) if self.communicator.refused else meeting.left_out)
        if self.buffers == "average":
            buffer_policies.average(self.models, self.communicator.mean)
        state_policies.apply(self.optimizer_state, [(replica.optimizer, replica.parameters) for replica in self._replicas], self.communicator.mean)

    @torch.no_grad()
    def begin_anew(self, rows: list[int]) -> None:
        """Let local replicas start from the reference, with an empty optimizer: new ones, or those whose numbers were not finite."""
        self.refusals.begin_anew(rows, self.algorithm, self.reference, self.optimizer_state == "average")

    def _spread(self, part: Part) -> None:
        """Copy the reference to the devices that do not hold it."""
        for block in self._blocks:
            if block.reference is not self.reference:
                block.reference[part.place].copy_(self.reference[part.place])

    @torch.no_grad()
    def move_reference(self, vector: Tensor) -> None:
        """Take a reference, shape (N,), that was moved from outside; before the first step, the replicas start from it."""
        self.center.shared.reference = vector
        self._spread(WHOLE)
        if self._common and not self.round and not any(replica.steps for replica in self._replicas):
            for block in self._blocks:
                block.params = block.reference.expand_as(block.params)
                self.algorithm.start(block)

    def _next_round(self) -> None:
        self.round += 1
        self._now = self._following

    def _meet_on_gradients(self, replica: Replica) -> None:
        """Take the gradient; the last replica to come brings the mean back, and all steps are carried out."""
        replica.hand_over_gradients()
        others = [other for other in self._replicas if other is not replica]
        if not all(other.waiting for other in others):
            replica.wait()
            return
        self._meet()
        self._releasing = True
        try:
            for other in others if self.algorithm.means_gradients else ():
                other.release()
        finally:
            self._releasing = False
            for other in others:
                other.waiting = None
        if self.algorithm.means_gradients:
            replica.take_gradients()
        self._next_round()
