"""Counts what the replicas say to each other, and how long they wait for each other."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from parle.communicators.communicator import Communicator, Wrapped
from parle.vectors import WHOLE, Part

END = object()  # a proposal may be None


class Metered(Wrapped):
    """Any communicator, with exact counts for this process.

    `bytes_sent` and `rounds` so far, `bytes_in_round` of the last round alone, `seconds_waited` for slower processes before
    the vectors move, and `seconds_exchanged` until the mean is there. Means outside a round count as well, such as those of buffers and momentum.

    >>> import parle
    >>> meter = parle.Metered(parle.InProcess())
    >>> meter.bytes_sent, meter.rounds
    (0, 0)
    """

    def __init__(self, inner: Communicator):
        super().__init__(inner)
        self.bytes_sent = self.bytes_in_round = self.rounds = 0
        self.seconds_waited = self.seconds_exchanged = 0.0

    @property
    def bytes_sent_per_replica(self) -> int:
        """The bytes that this process has sent, divided among its replicas."""
        return self.bytes_sent // self.local

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        return self._timed(self.inner.mean, vectors)

    def begin(self, proposals: Iterable[Tensor], part: Part = WHOLE) -> Callable[[], Tensor]:
        if part.first:
            began = time.perf_counter()
            self.rounds, self.bytes_in_round, sent = self.rounds + 1, 0, self.inner.sent
            self.inner.meet()
            self.seconds_waited += time.perf_counter() - began
            self._count(sent)
        finish = self._timed(lambda counted: self.inner.begin(counted, part), proposals)
        return lambda: self._timed(lambda _: finish(), ())

    def ready_to_finish(self, stepped: bool) -> bool:
        self._timed(lambda _: self.inner.meet(), ())  # as before a round, in which another process may be
        return self._timed(lambda _: self.inner.ready_to_finish(stepped), ())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside `with`, nothing is counted."""
        counts = self._counts()
        try:
            yield
        finally:
            vars(self).update(counts)

    def state_dict(self) -> dict:
        """The counts, and the state of the inner communicator."""
        return {"counts": self._counts(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on counting from a checkpoint."""
        vars(self).update(state["counts"])
        self.inner.load_state_dict(state["inner"])

    def _counts(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "inner"}

    def _timed(self, call, vectors: Iterable[Tensor]):
        began, forming, sent = time.perf_counter(), 0.0, self.inner.sent

        def timed() -> Iterator[Tensor]:
            nonlocal forming
            iterator = iter(vectors)
            while True:
                asked = time.perf_counter()
                vector = next(iterator, END)
                forming += time.perf_counter() - asked  # the algorithm's own time is not the communicator's
                if vector is END:
                    return
                yield vector

        result = call(timed())
        self.seconds_exchanged += time.perf_counter() - began - forming
        self._count(sent)
        return result

    def _count(self, before: int) -> None:
        self.bytes_sent += self.inner.sent - before
        self.bytes_in_round += self.inner.sent - before
