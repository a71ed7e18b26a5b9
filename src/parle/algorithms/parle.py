"""Parle, as its paper states it."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.algorithms.stability import overshoots
from parle.schedules import Schedule
from parle.vectors import nesterov


@dataclass(frozen=True)
class Parle(Algorithm):
    """Entropy-SGD replicas, elastically coupled, that meet every L steps (Parle paper, equations 8a to 8d).

        (8a)  y^a <- y^a - eta' ( g(y^a) + (y^a - x^a) / gamma )               every step
        (8b)  z^a <- alpha z^a + (1 - alpha) y^a                               every step
        (8c)  x^a <- x^a - eta (x^a - z^a) - (eta / rho) (x^a - x)             every L steps
        (8d)  x   <- mean_a x^a,  y^a <- x^a,  z^a <- x^a                      every L steps

    In the paper's letters: params is y^a, reference is x, period is L, lr is eta; eta' is the rate of the user's optimizer,
    which keeps its initial value while eta is dropped. (8c) has Nesterov's momentum m^a (Remark 2); (8d) averages the x^a of
    after (8c), with the paper's choice eta'' = rho / n. The paper scopes gamma and rho by equation (9):
    `gamma=Scoping(100.0, batches=B, floor=1.0), rho=Scoping(1.0, batches=B, floor=0.1)`.

    >>> Parle(period=25, gamma=100.0, rho=1.0, alpha=0.75, lr=0.1, momentum=0.9).at(0).rho
    1.0
    """

    period: Period = steps_between(25, "steps between two rounds, the paper's L")
    gamma: float | Schedule = setting(100.0, "spring between y^a and x^a; large is loose", above=0, clip=1.0)
    rho: float | Schedule = setting(1.0, "spring between x^a and the reference; large is loose", above=0, clip=0.1)
    alpha: float | Schedule = setting(0.75, "memory of the running mean z^a", at_least=0, below=1)
    lr: float | Schedule = setting(0.1, "rate of x^a, eta of (8c)", above=0, rate="outer")
    momentum: float | Schedule = setting(0.9, "Nesterov momentum of x^a", at_least=0, below=1)

    paper: ClassVar[str] = "Chaudhari et al.: Parle: parallelizing stochastic gradient descent, 2017 (arXiv 1707.00424)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "one replica, any rho: Entropy-SGD, bit for bit",
        "rho = inf: independent Entropy-SGD replicas",
        'period 1, gamma inf, alpha 0, lr 1, momentum 0: Elastic-SGD (7a) without momentum, center="mean", rho times the inner rate',
        "in addition one replica: the user's optimizer",
    )
    elementwise: ClassVar[bool] = True
    proposes_points: ClassVar[bool] = True
    partial_rounds: ClassVar[bool] = False
    fixed_inner_rate: ClassVar[bool] = True

    def start(self, r):
        r.x = r.params
        r.z = r.params
        r.m = r.params * 0

    def force(self, r):  # (8a)
        return (r.params - r.x).div_(self.gamma)

    def track(self, r):  # (8b)
        r.z.lerp_(r.params, 1 - self.alpha)

    def propose(self, r):  # (8c)
        d = (r.x - r.reference).div_(self.rho).add_(r.x).sub_(r.z)
        r.x -= nesterov(d, r.m, self.momentum).mul_(self.lr)
        return r.x

    def merge(self, shared, mean):  # (8d)
        return mean

    def adopt(self, r, reference):
        r.params = r.z = r.x

    def caution(self, inner_lr, inner_momentum):
        return overshoots(step=self.lr, pull=1 + 1 / self.rho, rule="lr (1 + 1/rho)", momentum=self.momentum)
