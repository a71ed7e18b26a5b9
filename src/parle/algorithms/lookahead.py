"""Lookahead: slow weights that follow an optimizer."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Schedule


@dataclass(frozen=True)
class Lookahead(Algorithm):
    """One replica that goes k steps forward and comes a part of the way back (Lookahead, Algorithm 1).

        theta <- theta - eta g(theta)                 every step, by the user's own optimizer
        phi   <- phi + alpha ( theta - phi )          every k steps
        theta <- phi

    In the paper's letters: params is theta, reference is phi, period is k.

    >>> Lookahead(period=5, alpha=0.5).single
    True
    """

    period: Period = steps_between(5, "steps between two rounds, the paper's k")
    alpha: float | Schedule = setting(0.5, "how far the slow weights follow", above=0)

    paper: ClassVar[str] = "Zhang, Lucas, Hinton, Ba: Lookahead Optimizer: k steps forward, 1 step back, 2019 (arXiv 1907.08610)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "alpha 1: the user's optimizer, to rounding",
        "it is EntropySGD with gamma inf, alpha 0, momentum 0 and lr as alpha, and SlowMo with one replica and momentum 0",
    )
    elementwise: ClassVar[bool] = True
    vectors_sent: ClassVar[int] = 0
    single: ClassVar[bool] = True

    def merge(self, shared, mean):
        return shared.reference.add(mean, alpha=self.alpha)
