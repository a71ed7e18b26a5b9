"""Entropy-SGD, as the Parle paper states it."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Schedule
from parle.vectors import nesterov


@dataclass(frozen=True)
class EntropySGD(Algorithm):
    """One replica that descends the local entropy of the loss (Parle paper, equations 6a to 6c).

        (6a)  y <- y - eta' ( g(y) + (y - x) / gamma )           every step
        (6b)  z <- alpha z + (1 - alpha) y                       every step
        (6c)  x <- x - eta ( x - z ),  y <- x,  z <- x           every L steps

    In the paper's letters: params is y, reference is x, period is L, lr is eta; eta' is the rate of the user's optimizer,
    which keeps its initial value. (6c) has Nesterov's momentum m. gamma follows equation (9).

    >>> EntropySGD(period=25, gamma=100.0, alpha=0.75, lr=0.1, momentum=0.9).single
    True
    """

    period: Period = steps_between(25, "steps between two rounds, the paper's L")
    gamma: float | Schedule = setting(100.0, "spring between y and x; large is loose", above=0, clip=1.0)
    alpha: float | Schedule = setting(0.75, "memory of the running mean z", at_least=0, below=1)
    lr: float | Schedule = setting(0.1, "rate of x, eta of (6c)", above=0, rate="outer")
    momentum: float | Schedule = setting(0.9, "Nesterov momentum of x", at_least=0, below=1)

    paper: ClassVar[str] = "Chaudhari et al.: Entropy-SGD, 2016 (arXiv 1611.01838); equation 6 of the Parle paper (arXiv 1707.00424)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "it is Parle with one replica, for any rho, bit for bit",
        "gamma = inf, alpha = 0, momentum = 0: Lookahead with step lr",
        "in addition period = 1, lr = 1: the user's optimizer",
    )
    elementwise: ClassVar[bool] = True
    vectors_sent: ClassVar[int] = 0
    single: ClassVar[bool] = True
    fixed_inner_rate: ClassVar[bool] = True

    def start(self, r):
        r.z = r.params
        r.m = r.params * 0

    def force(self, r):  # (6a)
        return (r.params - r.reference).div_(self.gamma)

    def track(self, r):  # (6b)
        r.z.lerp_(r.params, 1 - self.alpha)

    def propose(self, r):  # (6c)
        d = nesterov(r.reference - r.z, r.m, self.momentum)
        return r.reference - d.mul_(self.lr)

    def merge(self, shared, mean):
        return mean

    def adopt(self, r, reference):
        r.params = r.z = reference.expand_as(r.params)
