"""What exists once, and what becomes of a mean."""

import torch
from torch import Tensor

from parle.algorithm import Algorithm
from parle.errors import DivergedError
from parle.vectors import WHOLE, Part, Vectors


class Center:
    """What exists once: the reference and the algorithm's shared vectors, held by whoever forms the mean."""

    def __init__(self, algorithm: Algorithm, reference: Tensor):
        self.algorithm = algorithm
        self.shared = Vectors(reference=reference)
        self.round = 0
        algorithm.start_shared(self.shared)
        self.shared.seal()

    def merge(self, mean: Tensor, count: int, part: Part = WHOLE, size: int | None = None) -> Tensor:
        """What the algorithm makes of the mean of `count` proposals, shape (N,), or of a part of it; the last one closes the round.

        `size` is the number of all replicas, where it is not `count`.
        """
        if part.first:
            self._now = self.algorithm.at(self.round)
        shared = self.shared if part is WHOLE else self.shared.part(part)
        shared.count, shared.size = count, size or count
        if not torch.isfinite(mean.sum(dtype=torch.promote_types(mean.dtype, torch.float32))):
            raise DivergedError(f"The mean of round {self.round} is not finite, although its proposals were; the reference keeps its value. Lower the rate.")
        merged = self._now.merge(shared, mean)
        if part.last:
            self.round += 1
        if self.algorithm.means_gradients:  # which do not replace the reference
            return merged
        shared.reference = merged
        return shared.reference
