"""DiLoCo: an outer optimizer between rare rounds."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Schedule


@dataclass(frozen=True)
class DiLoCo(Algorithm):
    """AdamW inside, Nesterov outside, and a round every few hundred steps (DiLoCo, Algorithm 1).

        theta_i <- InnerOpt( theta_i, g(theta_i) )        every step, by the user's own optimizer, AdamW in the paper
        Delta   =  theta - mean_i theta_i                 every H steps
        v       <- mu v + Delta
        theta   <- theta - lr ( Delta + mu v )
        theta_i <- theta

    In the paper's letters: params is theta_i, reference is theta, period is H, momentum is mu.

    >>> DiLoCo(period=500, lr=0.7, momentum=0.9).inner_optimizer
    'adamw'
    """

    period: Period = steps_between(500, "steps between two rounds, the paper's H")
    lr: float | Schedule = setting(0.7, "rate of the outer step", above=0)
    momentum: float | Schedule = setting(0.9, "Nesterov momentum of the outer step, mu", at_least=0, below=1)

    paper: ClassVar[str] = "Douillard et al.: DiLoCo: Distributed Low-Communication Training of Language Models, 2023 (arXiv 2311.08105)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "lr 1, momentum 0: LocalSGD",
        "it trains at the points from which the blocks of BMUF with nesterov start, with lr as rate",
    )
    elementwise: ClassVar[bool] = True
    inner_optimizer: ClassVar[str] = "adamw"

    def start_shared(self, shared):
        shared.v = shared.reference * 0

    def merge(self, shared, mean):
        shared.v = shared.v.mul_(self.momentum).sub_(mean)
        return shared.reference.sub(shared.v, alpha=self.lr * self.momentum).add_(mean, alpha=self.lr)
