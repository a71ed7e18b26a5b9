"""Local SGD, which is Parallel Restarted SGD."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Restart


@dataclass(frozen=True)
class LocalSGD(Algorithm):
    """Replicas that step alone and are replaced by their mean every I steps (Parallel Restarted SGD).

        x_i <- x_i - eta g(x_i)        every step, by the user's own optimizer
        x   <- mean_i x_i              every I steps
        x_i <- x

    In the paper's letters: params is x_i, reference is x, period is I. The paper's algorithms differ in the period alone:

        Algorithm 1    period=I                                   the same number of steps in every round
        Algorithm 2    period=Stages(N), rate Power(N, -2/3)      K^s = ceil(s^(1/3) / N) steps with the rate N / s^(2/3) in round s
        Algorithm 3    period=(I_1, ..., I_N), or Seconds(2.0)    replica i takes I_i steps in every round, or as many as it can

    The mean is written as changes, x + mean(x_i - x), so that a round of a few replicas does not erase the work of the others.
    The paper takes the gradient of the step after a round at the point before it, which is the same sequence shifted by one
    step. Where the replicas take unequal numbers of steps, `weigh` says what becomes of them, with m the mean of the I_i:

        uniform        x <- x + mean_i (x_i - x)                  as Algorithm 3
        steps          x <- x + mean_i (I_i / m) (x_i - x)        every step counts the same
        replicas       x <- x + mean_i (m / I_i) (x_i - x)        every replica counts the same (FedNova)

    Averaging the momentum as well is `join(..., optimizer_state="average")`. Over an `Overlapped` communicator it is overlapped
    local SGD (CoCoD): the mean of where the replicas were arrives late, and each adds what it has moved since,

        x_i <- x + (x_i - proposed x_i)

    >>> LocalSGD(period=25).period
    25
    """

    period: Period = steps_between(25, "steps between two rounds, the paper's I")
    weigh: str = setting("uniform", "what counts the same, where replicas take unequal numbers of steps", choices=("uniform", "steps", "replicas"))

    paper: ClassVar[str] = "Yu, Yang, Zhu: Parallel Restarted SGD with Faster Convergence and Less Communication, 2019 (arXiv 1807.06629)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "one replica: the user's optimizer, to rounding (x + (x_1 - x))",
        "period 1 with SGD and equal starts: data-parallel SGD",
        "period = the whole run: one-shot averaging",
        "period switch(1, I, at=t0): post-local SGD; adacomm(I) and qsr(I, alpha=...): periods that adapt",
    )
    elementwise: ClassVar[bool] = True

    def propose(self, r):
        changes = r.params - r.reference
        return changes if self.weigh == "uniform" else changes.mul_(r.weight if self.weigh == "steps" else 1 / r.weight)

    def adopt_late(self, r, reference, proposed):  # CoCoD
        r.params += reference - proposed

    def promised_period(self, steps, replicas):
        return Restart(steps, replicas).interval
