"""What a communicator is: the one thing that separates an algorithm from a transport."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from parle.errors import DivergedError
from parle.vectors import WHOLE, Part


class Communicator(ABC):
    """Forms the mean of the replicas' vectors and hands it to the center, which merges it into the reference.

    Vectors come one by one, one per local replica in the order of the replicas, shape (N,); each is valid until the next is
    asked for, and none may be changed. Known after `open`: `size`, the number of replicas in all processes together, `first`,
    the number of this process's first replica among them, and `local`, how many are here. `sent` counts the bytes that this
    process has sent so far. Where processes are lost, the methods raise ReplicaLost.
    """

    size: int
    first: int = 0
    local: int
    sent: int = 0
    center = None
    delay: int = 0  # steps that replicas take between the beginning of a round and its end
    together: bool = True  # the parts of a vector are adopted only when all of them have come
    refuses: bool = False  # proposals that are not finite are refused where they are merged, and are nobody else's concern
    refused: bool = False  # whether that has happened in the last round
    apart: bool = False  # every replica holds its rounds by its own clock

    @abstractmethod
    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        """Meet the other processes and return the first reference: the first start if common, else the mean of all.

        `terms` is what all processes have to agree on, as text by name; ConfigError where they do not.
        """

    @abstractmethod
    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        """The mean over all replicas, shape (N,), in memory of its own; sums are formed in float32 or wider."""

    @abstractmethod
    def gather(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        """The vectors of all replicas, in their order."""

    def begin_gather(self, vectors: Iterable[Tensor]) -> Callable[[], list[Tensor]]:
        """Begin to gather vectors; the call that it returns waits for those of all replicas."""
        gathered = self.gather(vectors)
        return lambda: gathered

    @abstractmethod
    def of_first(self, vector: Tensor) -> Tensor:
        """The vector that the first process gives, for everybody, in memory of its own."""

    @abstractmethod
    def cost_of_mean(self, vector: Tensor) -> int:
        """Bytes that this process sends when such vectors of its replicas take part in a mean."""

    @abstractmethod
    def cost_of_gather(self, vector: Tensor) -> int:
        """Bytes that this process sends when such vectors of its replicas are gathered."""

    def begin(self, proposals: Iterable[Tensor | None], part: Part = WHOLE) -> Callable[[], Tensor]:
        """Begin a round; the call that it returns waits for what the center makes of the proposals, shape (N,).

        Proposals longer than fits a cache come in parts of the vector, in their order. A replica that is left out proposes None,
        and the mean is that of the others; where all are, DivergedError.
        """
        present = [0]
        mean = self.mean(_counted(proposals, present))
        return lambda: self.center.merge(mean, present[0], part, self.size)

    def exchange(self, proposals: Iterable[Tensor]) -> Tensor:
        """Hold a round: the vector, shape (N,), that the center makes of the proposals."""
        return self.begin(proposals)()

    def fetch(self) -> bool:
        """Copy the reference as it is now to the center here, where another one holds it; whether that was done."""
        return False

    def check_round(self, absent: int = 0) -> int:
        """How many replicas of all processes are left out of a round, of which here `absent`; JoinError unless every process is about to hold it."""
        return absent

    def ready_to_finish(self, stepped: bool) -> bool:
        """Whether a last round is due, because a replica has stepped since the last one; every process asks at its end."""
        return stepped

    def meet(self) -> None:
        """Wait until every process has come to this point."""

    def state_dict(self) -> dict:
        """What the next round depends on, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint."""

    def close(self) -> None:
        """Nobody waits for this process any more."""


def _counted(proposals: Iterable[Tensor | None], present: list[int]) -> Iterator[Tensor]:
    """The proposals that are there, counted; DivergedError where there are none."""
    for proposal in proposals:
        if proposal is not None:
            present[0] += 1
            yield proposal
    require_present(present[0])


def require_present(count: int) -> None:
    """Raise DivergedError where a round has no proposal at all."""
    if not count:
        raise DivergedError(
            "Every replica comes to this round with numbers that are not finite; the reference keeps its last finite value. "
            "Lower the learning rate, or clip the gradients."
        )


class Wrapped(Communicator):
    """A communicator around another one, which does all that is not overridden."""

    def __init__(self, inner: Communicator):
        self.inner = inner

    size = property(lambda self: self.inner.size)
    first = property(lambda self: self.inner.first)
    local = property(lambda self: self.inner.local)
    sent = property(lambda self: self.inner.sent)
    center = property(lambda self: self.inner.center)
    delay = property(lambda self: self.inner.delay)
    together = property(lambda self: self.inner.together)
    refuses = property(lambda self: self.inner.refuses)
    refused = property(lambda self: self.inner.refused)
    apart = property(lambda self: self.inner.apart)

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        """Open the inner one."""
        return self.inner.open(center, starts, common, terms)

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        """As the inner one."""
        return self.inner.mean(vectors)

    def gather(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        """As the inner one."""
        return self.inner.gather(vectors)

    def begin_gather(self, vectors: Iterable[Tensor]) -> Callable[[], list[Tensor]]:
        """As the inner one."""
        return self.inner.begin_gather(vectors)

    def of_first(self, vector: Tensor) -> Tensor:
        """As the inner one."""
        return self.inner.of_first(vector)

    def cost_of_mean(self, vector: Tensor) -> int:
        """As the inner one."""
        return self.inner.cost_of_mean(vector)

    def cost_of_gather(self, vector: Tensor) -> int:
        """As the inner one."""
        return self.inner.cost_of_gather(vector)

    def fetch(self) -> bool:
        """As the inner one."""
        return self.inner.fetch()

    def check_round(self, absent: int = 0) -> int:
        """As the inner one."""
        return self.inner.check_round(absent)

    def begin(self, proposals: Iterable[Tensor], part: Part = WHOLE) -> Callable[[], Tensor]:
        """As the inner one."""
        return self.inner.begin(proposals, part)

    def ready_to_finish(self, stepped: bool) -> bool:
        """As the inner one."""
        return self.inner.ready_to_finish(stepped)

    def meet(self) -> None:
        """As the inner one."""
        self.inner.meet()

    def state_dict(self) -> dict:
        """As the inner one."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """As the inner one."""
        self.inner.load_state_dict(state)

    def close(self) -> None:
        """Close the inner one."""
        self.inner.close()
