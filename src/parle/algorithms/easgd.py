"""Elastic averaging SGD, as its own paper states it for a server."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Schedule


@dataclass(frozen=True)
class EASGD(Algorithm):
    """Replicas and a server that move towards each other, each replica by its own clock (Elastic Averaging SGD, Algorithm 1).

        w_i <- w_i - eta g(w_i)                          every step, by the user's own optimizer
        d   =  alpha ( w_i - x )                         every tau steps of replica i, with x as it is now
        w_i <- w_i - d
        x   <- x + d                                     the server adds on arrival

    In the paper's letters: params is w_i, reference is x, period is tau. alpha is beta / n with beta = 0.9 in the paper, so
    alpha = 0.3 for three replicas; n alpha must stay below 1. With SGD and Nesterov's momentum inside (0.99 in the paper) it is
    EAMSGD. Where all replicas meet (quorum n, or no server) it is the synchronous form, x <- x + alpha sum_i (w_i - x).

    >>> EASGD(period=10).alpha
    0.1
    """

    period: Period = steps_between(10, "steps of a replica between two of its rounds, the paper's tau")
    alpha: float | Schedule = setting(0.1, "how far replica and reference move towards each other", above=0, below=1)

    paper: ClassVar[str] = "Zhang, Choromanska, LeCun: Deep learning with Elastic Averaging SGD, 2015"
    special_cases: ClassVar[tuple[str, ...]] = ("alpha near 0: independent replicas",)
    elementwise: ClassVar[bool] = True
    fetches: ClassVar[bool] = True

    def start(self, r):
        r.d = r.params * 0

    def propose(self, r):
        r.d = (r.params - r.reference).mul_(self.alpha)
        return r.d

    def merge(self, shared, mean):
        return mean.mul_(shared.count).add_(shared.reference)

    def adopt(self, r, reference):
        r.params -= r.d
