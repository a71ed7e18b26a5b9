"""Blockwise model-update filtering."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.errors import ConfigError
from parle.schedules import Schedule


@dataclass(frozen=True)
class BMUF(Algorithm):
    """Local SGD whose mean change G goes through a filter with momentum (blockwise model-update filtering).

        x_i <- x_i - eta g(x_i)                       every step, by the user's own optimizer
        G   =  mean_i x_i - y                         every block of steps, from where the replicas started, y
        d   <- mu d + zeta G
        x   <- x + d
        x_i <- y  =  x  (classical)   or   x + mu d  (nesterov)

    In the letters of its authors' filter: params is x_i, period is the length of a block, momentum is mu (they take about 1 - 1/n),
    rate is zeta. The reference is y; the solution is x, which with `nesterov` is y - mu d.

    >>> BMUF(momentum=0.75).nesterov
    False
    """

    period: Period = steps_between(25, "steps between two rounds, a block")
    momentum: float | Schedule = setting(0.75, "block momentum, mu", at_least=0, below=1)
    rate: float | Schedule = setting(1.0, "block rate, zeta", above=0)
    nesterov: bool = setting(False, "start the next block from x + mu d", choices=(False, True))

    paper: ClassVar[str] = (
        "Chen, Huo: Scalable Training of Deep Learning Machines by Incremental Block Training with ... Blockwise Model-Update Filtering, 2016"
    )
    special_cases: ClassVar[tuple[str, ...]] = (
        "momentum 0, rate 1: LocalSGD",
        "classical: SlowMo with alpha as rate, where the inner rate is constant",
        "nesterov: the replicas start where those of DiLoCo with lr as rate do",
    )
    elementwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.nesterov and callable(self.momentum):
            raise ConfigError(f"BMUF with nesterov ships a point that rests on one momentum, got {self.momentum}. Give momentum as a number.")

    def start_shared(self, shared):
        shared.d = shared.reference * 0

    def merge(self, shared, mean):
        ahead = self.momentum if self.nesterov else 0.0
        x = shared.reference - ahead * shared.d
        shared.d = shared.d.mul_(self.momentum).add_(mean, alpha=self.rate)
        return x.add_(shared.d, alpha=1 + ahead)

    def publish(self, shared):
        return shared.reference - self.momentum * shared.d if self.nesterov else None
