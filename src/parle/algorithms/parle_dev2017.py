"""Parle, as the development code of its authors had it in June and July 2017, when the paper's numbers were made."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.algorithms.stability import overshoots
from parle.schedules import Schedule
from parle.vectors import nesterov


@dataclass(frozen=True)
class ParleDev2017(Algorithm):
    """Parle coupled to the mean of z^a instead of x^a (the authors' development code, `distributed-ensembles`, 2017).

              y^a <- y^a - eta' ( g(y^a) + (y^a - x^a) / gamma )               every step
              z^a <- alpha z^a + (1 - alpha) y^a                               every step
              z   <- mean_a z^a                                                every L steps
              x^a <- x^a - eta (x^a - z^a) - (eta / rho) (x^a - z)             every L steps
              y^a <- x^a,  z^a <- x^a                                          every L steps

    In these letters: params is y^a, reference is z, period is L, lr is eta. The step of x^a has Nesterov's momentum m^a.
    The solution is mean_a x^a, formed on demand. It differs from the paper's form in more than a detail: averaged over the
    replicas, the paper's x moves by eta (x - z), this one by eta (1 + 1/rho) (x - z), up to eleven times as far.

    >>> ParleDev2017(period=25, rho=0.5).rho
    0.5
    """

    period: Period = steps_between(25, "steps between two rounds, L")
    gamma: float | Schedule = setting(100.0, "spring between y^a and x^a; large is loose", above=0, clip=1.0)
    rho: float | Schedule = setting(1.0, "spring between x^a and the mean of z^a; large is loose", above=0, clip=0.1)
    alpha: float | Schedule = setting(0.75, "memory of the running mean z^a", at_least=0, below=1)
    lr: float | Schedule = setting(0.1, "rate of x^a, eta", above=0, rate="outer")
    momentum: float | Schedule = setting(0.9, "Nesterov momentum of x^a", at_least=0, below=1)

    paper: ClassVar[str] = "the development code behind Parle, 2017 (arXiv 1707.00424): github.com/pratikac/distributed-ensembles, code/optim.py"
    special_cases: ClassVar[tuple[str, ...]] = (
        "one replica: Entropy-SGD with the outer rate lr (1 + 1/rho)",
        "rho = inf: independent Entropy-SGD replicas",
    )
    elementwise: ClassVar[bool] = True
    proposes_points: ClassVar[bool] = True
    partial_rounds: ClassVar[bool] = False
    fixed_inner_rate: ClassVar[bool] = True

    def start(self, r):
        r.x = r.params
        r.z = r.params
        r.m = r.params * 0

    def force(self, r):
        return (r.params - r.x).div_(self.gamma)

    def track(self, r):
        r.z.lerp_(r.params, 1 - self.alpha)

    def propose(self, r):
        return r.z

    def merge(self, shared, mean):
        return mean

    def adopt(self, r, reference):
        d = (r.x - reference).div_(self.rho).add_(r.x).sub_(r.z)
        r.x -= nesterov(d, r.m, self.momentum).mul_(self.lr)
        r.params = r.z = r.x

    def solution(self, r):
        return r.x

    def caution(self, inner_lr, inner_momentum):
        return overshoots(step=self.lr, pull=1 + 1 / self.rho, rule="lr (1 + 1/rho)", momentum=self.momentum)
