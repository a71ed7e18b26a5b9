"""Local SGD, which is Parallel Restarted SGD with a fixed interval."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting
from parle.schedules import Schedule


@dataclass(frozen=True)
class LocalSGD(Algorithm):
    """Replicas that step alone and are replaced by their mean every I steps (PR-SGD, Algorithm 1).

        x_i <- x_i - eta g(x_i)        every step, by the user's own optimizer
        x   <- mean_i x_i              every I steps
        x_i <- x

    In the paper's letters: params is x_i, reference is x, period is I. The mean is written as changes,
    x + mean(x_i - x), so that a round of a few replicas does not erase the work of the others. The paper takes the gradient
    of the step after a round at the point before it, which is the same sequence shifted by one step.
    Averaging the momentum as well is `join(..., optimizer_state="average")`. Over an `Overlapped` communicator it is overlapped
    local SGD (CoCoD): the mean of where the replicas were arrives late, and each adds what it has moved since,

        x_i <- x + (x_i - proposed x_i)

    >>> LocalSGD(period=25).period
    25
    """

    period: int | Schedule = setting(25, "steps between two rounds, the paper's I", at_least=1, whole=True)

    paper: ClassVar[str] = "Yu, Yang, Zhu: Parallel Restarted SGD with Faster Convergence and Less Communication, 2019 (arXiv 1807.06629)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "one replica: the user's optimizer, to rounding (x + (x_1 - x))",
        "period 1 with SGD and equal starts: data-parallel SGD",
        "period = the whole run: one-shot averaging",
    )
    elementwise: ClassVar[bool] = True

    def adopt_late(self, r, reference, proposed):  # CoCoD
        r.params += reference - proposed
