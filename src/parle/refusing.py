"""Replicas whose numbers are not finite: left out of a round with weight 0, and begun anew from the reference."""

import copy

import torch
from torch import Tensor

from parle import buffers
from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.errors import DivergedError
from parle.replica import Replica

REFUSALS = 10  # rounds in a row, after which it is more than an accident


class Refusals:
    """Finds the replicas of this process that a round has to do without; `rows` are those of the last round, `counts` how often each was one."""

    def __init__(self, replicas: list[Replica]):
        self._replicas, self.rows = replicas, []
        self.counts, self._in_a_row = [0] * len(replicas), [0] * len(replicas)

    def look(self, algorithm: Algorithm, with_optimizer: bool, round: int, communicator: Communicator) -> list[int]:
        """The rows whose parameters, gradients of a round of gradients, or optimizer state of one that is averaged, are not finite.

        None where the communicator sees to it. Raises DivergedError where a replica was one of them too often in a row, or at all
        where the communicator would and the algorithm needs all replicas.
        """
        if communicator.refuses and algorithm.partial_rounds:
            return []
        self.rows = [row for row, replica in enumerate(self._replicas) if not _is_finite(replica, algorithm.round_before_step, with_optimizer)]
        self._in_a_row = [times + 1 if row in self.rows else 0 for row, times in enumerate(self._in_a_row)]
        for row in self.rows:
            self.counts[row] += 1
            if communicator.refuses:
                raise DivergedError(
                    f"Replica {self._replicas[row].index} comes to round {round} with numbers that are not finite, and {type(algorithm).__name__} needs all "
                    "replicas. Lower the learning rate, or clip the gradients."
                )
            if self._in_a_row[row] > REFUSALS:
                raise DivergedError(
                    f"Replica {self._replicas[row].index} comes to round {round} with numbers that are not finite, for the {self._in_a_row[row]}th time in a "
                    "row, although it began anew from the reference each time. Lower the learning rate, or clip the gradients."
                )
        return self.rows

    def begin_anew(self, rows: list[int], algorithm: Algorithm, reference: Tensor, averages: bool) -> None:
        """Let replicas start from the reference, with sound statistics and an empty optimizer, or one of zeros where its vectors are averaged."""
        sound = [replica for row, replica in enumerate(self._replicas) if row not in rows]
        for replica in (self._replicas[row] for row in rows):
            buffers.mend(replica.model)
            if not algorithm.means_gradients:
                replica.r.params = reference.to(replica.r.params.device).expand_as(replica.r.params)
                algorithm.start(replica.r)
                _forget(replica, averages)
            elif sound and not torch.isfinite(replica.r.params.sum()):  # replicas that stay equal: as one of the others
                replica.r.params = sound[0].r.params.to(replica.r.params.device)
                replica.optimizer.load_state_dict(copy.deepcopy(sound[0].optimizer.state_dict()))

    def state_dict(self) -> list:
        """How often each replica was left out, and how often in a row."""
        return [list(pair) for pair in zip(self.counts, self._in_a_row, strict=True)]

    def load_state_dict(self, state: list) -> None:
        """Go on from there."""
        self.counts, self._in_a_row = [pair[0] for pair in state], [pair[1] for pair in state]


def _forget(replica: Replica, averages: bool) -> None:
    if not averages:
        replica.optimizer.state.clear()
        return
    for state in replica.optimizer.state.values():  # which stay, since all processes average as many
        for value in state.values():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
                value.zero_()


def _is_finite(replica: Replica, gradients: bool, with_optimizer: bool) -> bool:
    tensors = [replica.r.params] + ([replica.r.gradient] if gradients else [])
    if with_optimizer:
        tensors += [value for state in replica.optimizer.state.values() for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return all(bool(torch.isfinite(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)))) for tensor in tensors)
