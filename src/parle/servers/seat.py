"""The place of one replica at a server: the communicator with which it joins."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from parle.algorithm import Algorithm
from parle.communicators.communicator import Communicator
from parle.communicators.in_process import add_up
from parle.errors import ConfigError, JoinError
from parle.servers.desk import Answer
from parle.servers.rules import Rules
from parle.vectors import WHOLE, Part


class Host(ABC):
    """Whoever keeps a desk: threads, Ray or a virtual clock."""

    rules: Rules

    @abstractmethod
    def ask(self, replica: int, call: str, *arguments) -> Answer:
        """Call a method of the desk for a replica, and wait for the answer."""

    @abstractmethod
    def leave(self, replica: int) -> None:
        """A replica has finished."""

    @abstractmethod
    def status(self) -> dict:
        """What the server has counted so far, as plain values; `staleness` and `quorums` say how often each number occurred."""

    @abstractmethod
    def reference(self) -> Tensor | None:
        """The reference as it is now, shape (N,), if there is one yet."""

    @abstractmethod
    def state_dict(self) -> dict:
        """What the next round depends on, for a checkpoint; proposals that wait for their round are not a part of it."""

    @abstractmethod
    def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        """Go on from a checkpoint, before any replica joins."""

    def paused(self) -> AbstractContextManager:
        """Inside `with`, nothing is answered, where the server can do that."""
        return nullcontext()

    def close(self) -> None:
        """End the server."""

    def seat(self, replica: int) -> "Seat":
        """The communicator with which replica number `replica` joins; ConfigError where there is no such replica."""
        if not 0 <= replica < self.rules.replicas:
            raise ConfigError(f"This server has replicas 0 to {self.rules.replicas - 1}, got {replica}. Give it replicas={replica + 1} or more.")
        return Seat(self, replica)


class Seat(Communicator):
    """Brings the proposals of one replica to a server, and its reference back; made by `seat` of a server.

    Every round ends when the server answers: with wait, as soon as the proposal is merged. The reference here is the one that the
    server has sent last. Vectors outside of rounds (`mean`, `gather`) wait for all active replicas.
    """

    local = 1
    refuses = True
    apart = True

    def __init__(self, host: Host, replica: int):
        self._host, self.first, self.size = host, replica, host.rules.replicas
        self._number, self._sent_off, self._came_back = 0, False, False

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        starts, algorithm = list(starts), center.algorithm
        if algorithm.in_fragments or algorithm.at(0).publish(center.shared) is not None:
            raise ConfigError(
                f"{type(algorithm).__name__} in this form needs its center in every process, which a server keeps to itself. Use InProcess, "
                "TorchDistributed or MPI."
            )
        if len(starts) != 1:
            raise JoinError(f"A seat at a server is for one replica, got {len(starts)}. Join every replica on its own, with a seat of its own.")
        if self.center is not None:
            raise JoinError("This seat is taken. Give each join a seat of its own, or close the other replica first.")
        answer = self._ask("enter", center.algorithm, terms or {})
        self._came_back = answer.vector is not None
        if self._came_back:
            self._number, reference = answer.number, answer.vector
        else:
            reference = self.of_first(starts[0]) if common else self.mean(starts)
            self._ask("begin", center.algorithm, reference)
        self.center, self.sent = center, 0
        self._proposal = torch.empty_like(starts[0])
        return reference.to(starts[0].device)

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        vector = next(iter(vectors))
        total, count = add_up(self.gather([vector]))
        return total.div_(count).to(vector)

    def gather(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        mine = next(iter(vectors)).clone()
        self.sent += self.cost_of_gather(mine)
        self._number += 1
        return [its.clone() for its in self._ask("bring", self._number, mine).all]

    def of_first(self, vector: Tensor) -> Tensor:
        return vector.clone() if self._came_back else self.gather([vector])[0]  # the others are in the middle of their work

    def cost_of_mean(self, vector: Tensor) -> int:
        return vector.nbytes

    def cost_of_gather(self, vector: Tensor) -> int:
        return vector.nbytes

    def begin(self, proposals: Iterable[Tensor], part: Part = WHOLE) -> Callable[[], Tensor]:
        if part.first:
            self._proposal, self._sent_off = torch.empty_like(self._proposal), False  # the server keeps the one before
        self._proposal[part.place] = next(iter(proposals))

        def finish() -> Tensor:
            if not self._sent_off:
                self._propose()
            return self._merged[part.place]

        return finish

    def _propose(self) -> None:
        self._number, self._sent_off = self._number + 1, True
        self.sent += self._proposal.nbytes
        answer = self._ask("propose", self._number, self._proposal)
        self.refused, self._merged = answer.refused, answer.vector.to(self._proposal.device)
        self._take(answer)

    def fetch(self) -> bool:
        self._take(self._ask("fetch"))
        return True

    def _take(self, answer: Answer) -> None:
        if not self.center.algorithm.means_gradients:
            self.center.shared.reference = answer.vector
        self.center.round = answer.updates

    def _ask(self, call: str, *arguments) -> Answer:
        answer = self._host.ask(self.first, call, *arguments)
        if answer.error is not None:
            raise answer.error
        return answer

    def close(self) -> None:
        if self.center is not None:
            self.center = None
            self._host.leave(self.first)
