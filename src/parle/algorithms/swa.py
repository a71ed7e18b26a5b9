"""Stochastic weight averaging of one replica."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Harmonic, Schedule


@dataclass(frozen=True)
class SWA(Algorithm):
    """The user's own optimizer, alone, and the plain mean of where it was at the ends of its cycles (SWA, Algorithm 1).

        x <- x - eta g(x)                                 every step, by the user's own optimizer
        average <- average + ( x - average ) / k          every c steps, for the k-th time

    In the paper's letters: params is w, average is w_SWA, period is c; weight is 1 / k, which `train` begins after three quarters of
    the run, as the paper does. The paper keeps the inner rate high or cyclic from there on: `--set schedule.drops=[]`.

    >>> SWA(period=10, weight=Harmonic(since=300)).single
    True
    """

    period: Period = steps_between(10, "steps between two samples of the mean, the paper's c")
    weight: float | Schedule = setting(Harmonic(0), "weight of the newest sample", above=0, tail=0.75)

    paper: ClassVar[str] = "Izmailov et al.: Averaging Weights Leads to Wider Optima and Better Generalization, 2018 (arXiv 1803.05407)"
    special_cases: ClassVar[tuple[str, ...]] = ("weight 1, period 1: the user's optimizer, to rounding",)
    elementwise: ClassVar[bool] = True
    vectors_sent: ClassVar[int] = 0
    single: ClassVar[bool] = True

    def start(self, r):
        r.average = r.params

    def adopt(self, r, reference):
        r.average.lerp_(r.params, self.weight)

    def solution(self, r):
        return r.average
