"""All replicas are rows in the memory of one process."""

from collections.abc import Iterable

import torch
from torch import Tensor

from parle.communicators.communicator import Communicator
from parle.errors import JoinError


class InProcess(Communicator):
    """The replicas of one process, on one device or several: a mean is a sum over rows, in the order of the replicas.

    A proposal is counted at its full size, as what a replica hands over; a lone replica hands over nothing.

    >>> InProcess().mean([torch.zeros(2), torch.ones(2)])
    tensor([0.5000, 0.5000])
    """

    center = None

    def open(self, center, starts: Iterable[Tensor], common: bool) -> Tensor:
        if self.center is not None:
            raise JoinError("This communicator already serves other replicas. Give each join a communicator of its own, or close the other replicas first.")
        starts = list(starts)
        self.center, self.size = center, len(starts)
        return starts[0].clone() if common else self.mean(starts)

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        total, count, kind = None, 0, None
        for vector in vectors:
            if total is None:
                kind = vector.dtype
                total = vector.to(torch.promote_types(kind, torch.float32), copy=True)
            else:
                total.add_(vector.to(total.device))
            count += 1
        return total.div_(count).to(kind) if count > 1 else total.to(kind)

    def exchange(self, proposals: Iterable[Tensor]) -> Tensor:
        return self.center.merge(self.mean(proposals), self.size)

    def close(self) -> None:
        self.center = None

    def bytes_sent(self, vector: Tensor) -> int:
        return vector.numel() * vector.element_size() if self.size > 1 else 0
