"""An exponential moving average of the weights of one replica."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting
from parle.schedules import Schedule


@dataclass(frozen=True)
class EMA(Algorithm):
    """The user's own optimizer, alone, and an exponential moving average of where it has been, to be shipped.

        x <- x - eta g(x)                              every step, by the user's own optimizer
        average <- beta average + (1 - beta) x         every step

    In these letters: params is x, decay is beta.

    >>> EMA(decay=0.999).single
    True
    """

    period: int = setting(1, "steps between two rounds, always 1", choices=(1,))
    decay: float | Schedule = setting(0.999, "memory of the average, beta", at_least=0, below=1)

    paper: ClassVar[str] = "Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging, 1992, with an exponential window"
    special_cases: ClassVar[tuple[str, ...]] = ("decay 0: the user's optimizer, to rounding",)
    elementwise: ClassVar[bool] = True
    vectors_sent: ClassVar[int] = 0
    single: ClassVar[bool] = True

    def start(self, r):
        r.average = r.params

    def track(self, r):
        r.average.lerp_(r.params, 1 - self.decay)

    def adopt(self, r, reference):
        pass

    def solution(self, r):
        return r.average
