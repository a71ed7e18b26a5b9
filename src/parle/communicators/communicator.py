"""What a communicator is: the one thing that separates an algorithm from a transport."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor


class Communicator(ABC):
    """Forms the mean of the replicas' vectors and hands it to the center, which merges it into the reference.

    Vectors come one by one, one per local replica in the order of the replicas, shape (N,); each is valid until the next is
    asked for, and none may be changed. `size` is the number of replicas in all processes together, known after `open`.
    """

    size: int

    @abstractmethod
    def open(self, center, starts: Iterable[Tensor], common: bool) -> Tensor:
        """Meet the other processes and return the first reference: the first start if common, else the mean of all."""

    @abstractmethod
    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        """The mean over all replicas, shape (N,), in memory of its own; sums are formed in float32 or wider."""

    @abstractmethod
    def exchange(self, proposals: Iterable[Tensor]) -> Tensor:
        """Hold a round: the vector, shape (N,), that the center makes of the proposals."""

    @abstractmethod
    def bytes_sent(self, vector: Tensor) -> int:
        """Bytes that one replica sends when its vector takes part in a mean or an exchange."""

    def close(self) -> None:
        """Nobody waits for this process any more."""
