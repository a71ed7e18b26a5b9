"""All replicas are rows in the memory of one process."""

from collections.abc import Iterable

import torch
from torch import Tensor

from parle.communicators.communicator import Communicator
from parle.errors import JoinError


def add_up(vectors: Iterable[Tensor], into: Tensor | None = None) -> tuple[Tensor, int]:
    """The sum of vectors in the order in which they come, in float32 or wider, and how many there are."""
    total, count = into, 0
    for vector in vectors:
        if total is None:
            total = vector.to(torch.promote_types(vector.dtype, torch.float32), copy=True)
        elif count == 0:
            total.copy_(vector)
        else:
            total.add_(vector.to(total.device))
        count += 1
    return total, count


class InProcess(Communicator):
    """The replicas of one process, on one device or several: a mean is a sum over rows, in the order of the replicas.

    A proposal is counted at its full size, as what a replica hands over; a lone replica hands over nothing.

    >>> InProcess().mean([torch.zeros(2), torch.ones(2)])
    tensor([0.5000, 0.5000])
    """

    together = False  # nobody can be lost on the way

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        if self.center is not None:
            raise JoinError("This communicator already serves other replicas. Give each join a communicator of its own, or close the other replicas first.")
        starts = list(starts)
        self.center, self.size, self.local = center, len(starts), len(starts)
        reference = starts[0].clone() if common else self.mean(starts)
        self.sent = 0
        return reference

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        kinds = []
        total, count = add_up(kinds.append(vector.dtype) or vector for vector in vectors)
        if count > 1:
            self.sent += count * total.numel() * kinds[0].itemsize
            total.div_(count)
        return total.to(kinds[0])

    def gather(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        gathered = [vector.clone() for vector in vectors]
        self.sent += self.cost_of_gather(gathered[0])
        return gathered

    def of_first(self, vector: Tensor) -> Tensor:
        return vector.clone()

    def cost_of_mean(self, vector: Tensor) -> int:
        return self.local * vector.nbytes if self.local > 1 else 0

    def cost_of_gather(self, vector: Tensor) -> int:
        return self.cost_of_mean(vector)

    def close(self) -> None:
        self.center = None
