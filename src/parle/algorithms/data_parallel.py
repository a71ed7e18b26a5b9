"""Data-parallel SGD: the baseline that speaks at every step."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting


@dataclass(frozen=True)
class DataParallel(Algorithm):
    """Replicas that average their gradients at every step and so stay equal.

        g   <- mean_a g_a(x)           a round before every step
        x   <- x - eta g               the same step in every replica, by the user's own optimizer

    In one process the optimizers that step early wait for the last: their step is carried out when it arrives, with the
    learning rate that they had when they were called.

    >>> DataParallel().round_before_step
    True
    """

    period: int = setting(1, "steps between two rounds, always 1", choices=(1,))

    paper: ClassVar[str] = "the synchronous baseline of all the papers"
    special_cases: ClassVar[tuple[str, ...]] = (
        "without BatchNorm and dropout: one replica with the joined batch",
        "equal starts, plain SGD: LocalSGD(period=1)",
    )
    elementwise: ClassVar[bool] = True
    partial_rounds: ClassVar[bool] = False
    round_before_step: ClassVar[bool] = True

    def propose(self, r):
        return r.gradient

    def merge(self, shared, mean):
        return mean

    def adopt(self, r, reference):
        r.gradient = reference.expand_as(r.gradient)
