"""Parle, as the program that its authors released in May 2018 had it."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.algorithms.stability import overshoots
from parle.schedules import Schedule


@dataclass(frozen=True)
class ParleRelease2018(Algorithm):
    """Parle whose outer step starts from y^a (the authors' released program, `ucla-vision/parle`, parle_mpi.py, 2018).

              y^a <- y^a - eta (inner step on g(y^a) + (y^a - x^a) / gamma)    every step
              z^a <- alpha z^a + (1 - alpha) y^a                               every step, never reset
              z   <- mean_a z^a                                                every L steps
              d   <- (x^a - z^a) + (x^a - z) / rho,  m^a <- mu m^a + d         every L steps
              y^a <- y^a - eta (d + m^a),  x^a <- y^a                          every L steps

    In these letters: params is y^a, reference is z, period is L, lr is eta, momentum is mu. The solution is mean_a x^a.
    Both momenta of the release step along d + m, not Nesterov's d + mu m; the inner one belongs to the user's optimizer.
    Its inner rate drops together with the outer one, and its first rho is 1 / (0.01 L n). Its schedule counted tensors
    instead of rounds, a mistake which is not repeated here.

    >>> ParleRelease2018(rho=1.33).period
    25
    """

    period: Period = steps_between(25, "steps between two rounds, L")
    gamma: float | Schedule = setting(100.0, "spring between y^a and x^a; large is loose", above=0, clip=1.0)
    rho: float | Schedule = setting(1.33, "spring between x^a and the mean of z^a; the release has 1 / (0.01 L n)", above=0, clip=0.1)
    alpha: float | Schedule = setting(0.75, "memory of the running mean z^a", at_least=0, below=1)
    lr: float | Schedule = setting(0.1, "rate of the outer step, eta", above=0, rate="outer")
    momentum: float | Schedule = setting(0.9, "momentum of the outer step, mu", at_least=0, below=1)

    paper: ClassVar[str] = "the released program of Parle, 2018: github.com/ucla-vision/parle, parle_mpi.py"
    special_cases: ClassVar[tuple[str, ...]] = ("none: even one replica is neither Entropy-SGD nor SGD",)
    elementwise: ClassVar[bool] = True
    proposes_points: ClassVar[bool] = True
    partial_rounds: ClassVar[bool] = False

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
        r.m.mul_(self.momentum).add_(d)
        r.params -= d.add_(r.m).mul_(self.lr)
        r.x = r.params

    def solution(self, r):
        return r.x

    def caution(self, inner_lr, inner_momentum):
        return overshoots(step=self.lr, pull=1 + 1 / self.rho, rule="lr (1 + 1/rho)", momentum=self.momentum, torch_form=False)
