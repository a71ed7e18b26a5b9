"""Rounds under way while the replicas go on stepping."""

from collections.abc import Iterable

from torch import Tensor

from parle.communicators.communicator import Communicator, Wrapped
from parle.errors import ConfigError


class Overlapped(Wrapped):
    """Any communicator, whose rounds end `delay` steps after they began, for algorithms that have a delayed form.

    The replicas step on while their proposals are being averaged, and take the result late (overlapped local SGD, streaming
    DiLoCo). `delay` must not exceed the period. Only a communicator that sends in the background gains time by it:
    `TorchDistributed` without `ordered`, compressed or not; `MPI` where the library makes progress by itself, which MPICH does not.

    >>> import parle
    >>> Overlapped(parle.InProcess(), delay=5).delay
    5
    """

    delay = 0  # an attribute of each, where others ask the inner one

    def __init__(self, inner: Communicator, delay: int):
        super().__init__(inner)
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 1:
            raise ConfigError(f"Overlapped(..., delay={delay!r}) needs a whole number of steps, at least 1.")
        self.delay = delay

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        return self.inner.open(center, starts, common, (terms or {}) | {"delay": self.delay})

    def meet(self) -> None:
        """Nobody waits: the proposals are on their way while the replicas step."""
