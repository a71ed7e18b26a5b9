"""Counts what the replicas say to each other."""

import time
from collections.abc import Iterable, Iterator

from torch import Tensor

from parle.communicators.communicator import Communicator


class Metered(Communicator):
    """Any communicator, with exact counts: `bytes_sent_per_replica`, `rounds`, and the `seconds` spent exchanging.

    >>> import parle
    >>> meter = parle.Metered(parle.InProcess())
    >>> meter.bytes_sent_per_replica, meter.rounds
    (0, 0)
    """

    def __init__(self, inner: Communicator):
        self.inner = inner
        self.bytes_sent_per_replica = 0
        self.rounds = 0
        self.seconds = 0.0

    @property
    def size(self) -> int:
        return self.inner.size

    def open(self, center, starts: Iterable[Tensor], common: bool) -> Tensor:
        return self.inner.open(center, starts, common)

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        return self._timed(self.inner.mean, vectors)

    def exchange(self, proposals: Iterable[Tensor]) -> Tensor:
        self.rounds += 1
        return self._timed(self.inner.exchange, proposals)

    def bytes_sent(self, vector: Tensor) -> int:
        return self.inner.bytes_sent(vector)

    def close(self) -> None:
        self.inner.close()

    def state_dict(self) -> dict:
        """The counts, for a checkpoint."""
        return {"bytes_sent_per_replica": self.bytes_sent_per_replica, "rounds": self.rounds, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        """Go on counting from a checkpoint."""
        self.bytes_sent_per_replica, self.rounds, self.seconds = state["bytes_sent_per_replica"], state["rounds"], state["seconds"]

    def _timed(self, call, vectors: Iterable[Tensor]) -> Tensor:
        began, forming = time.perf_counter(), 0.0

        def counted() -> Iterator[Tensor]:
            nonlocal forming
            iterator, first = iter(vectors), True
            while True:
                asked = time.perf_counter()
                vector = next(iterator, None)
                forming += time.perf_counter() - asked  # the algorithm's own time is not the communicator's
                if vector is None:
                    return
                if first:
                    self.bytes_sent_per_replica += self.inner.bytes_sent(vector)
                    first = False
                yield vector

        result = call(counted())
        self.seconds += time.perf_counter() - began - forming
        return result
