"""Elastic-SGD, as the Parle paper states it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.algorithms.stability import overshoots
from parle.schedules import Schedule
from parle.vectors import Vectors


@dataclass(frozen=True)
class ElasticSGD(Algorithm):
    """Replicas tied to a moving centre by springs (Parle paper, equations 7a and 7b).

        (7a)  x^a <- x^a - eta ( g(x^a) + (x^a - x) / rho )      every step
        (7b)  x   <- x - eta ( x - mean_a x^a )                  every round

    In the paper's letters: params is x^a, reference is x, lr is the eta of (7b); the eta of (7a) is the rate of the user's
    optimizer. A large rho is a loose spring. The paper scopes rho by equation (9) and finds that it matters.

    >>> ElasticSGD(rho=1.0, lr=0.1).period
    1
    """

    period: Period = steps_between(1, "steps between two rounds; the paper has 1")
    rho: float | Schedule = setting(1.0, "spring between a replica and the reference; large is loose", above=0, clip=0.1)
    lr: float | Schedule = setting(0.1, "rate of the reference, eta of (7b)", above=0, rate="outer")
    center: str = setting("moving", "the reference follows (7b) (moving) or is the mean itself (mean, the authors' code)", choices=("moving", "mean"))

    paper: ClassVar[str] = "Zhang, Choromanska, LeCun: Deep learning with Elastic Averaging SGD, 2015; equation 7 of the Parle paper (arXiv 1707.00424)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "rho = inf: independent replicas and a moving average of them",
        'center="mean", no momentum: Parle with period 1, gamma inf, alpha 0, lr 1, no outer momentum and rho divided by the inner rate',
    )
    elementwise: ClassVar[bool] = True
    proposes_points: ClassVar[bool] = True

    def force(self, r):  # (7a)
        return (r.params - r.reference).div_(self.rho)

    def propose(self, r):
        return r.params

    def merge(self, shared, mean):  # (7b)
        return moving_average(shared, mean, self.lr if self.center == "moving" else 1.0)

    def adopt(self, r, reference):
        pass

    @property
    def family(self):
        return f"a moving average with the rate {self.lr}" if self.center == "moving" else None

    def caution(self, inner_lr, inner_momentum):
        return overshoots(step=inner_lr, pull=1 / self.rho, rule="the optimizer's lr / rho", momentum=inner_momentum)


def moving_average(shared: Vectors, mean: Tensor, rate: float) -> Tensor:
    """The reference, moved towards the mean of some replicas, each of which has one n-th of the pull."""
    return shared.reference.lerp(mean, rate * (shared.count / shared.size))
