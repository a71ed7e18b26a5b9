"""SlowMo: momentum between the rounds of local SGD."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, Period, setting, steps_between
from parle.schedules import Schedule


@dataclass(frozen=True)
class SlowMo(Algorithm):
    """Local SGD whose reference has a slow momentum u (SlowMo, Algorithm 1).

        x_i <- x_i - eta g(x_i)                            every step, by the user's own optimizer
        u   <- beta u + ( x - mean_i x_i ) / eta           every tau steps
        x   <- x - alpha eta u,  x_i <- x

    In the paper's letters: params is x_i, reference is x, period is tau, lr is eta, the rate of the inner optimizer (which `train`
    keeps equal to it), momentum is beta. What becomes of the inner momentum at a round is `join(..., optimizer_state=...)`.

    >>> SlowMo(period=12, momentum=0.5).alpha
    1.0
    """

    period: Period = steps_between(12, "steps between two rounds, the paper's tau")
    alpha: float | Schedule = setting(1.0, "slow rate", above=0)
    momentum: float | Schedule = setting(0.5, "slow momentum, beta", at_least=0, below=1)
    lr: float | Schedule = setting(0.1, "rate of the inner optimizer, eta", above=0, rate="inner")

    paper: ClassVar[str] = "Wang, Tantia, Ballas, Rabbat: SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum, 2020 (arXiv 1910.00643)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "alpha 1, momentum 0: LocalSGD",
        "constant lr: BMUF with rate alpha and the same momentum",
        "one replica, momentum 0: Lookahead",
    )
    elementwise: ClassVar[bool] = True

    def start_shared(self, shared):
        shared.u = shared.reference * 0

    def merge(self, shared, mean):
        shared.u = shared.u.mul_(self.momentum).sub_(mean, alpha=1 / self.lr)
        return shared.reference.sub(shared.u, alpha=self.alpha * self.lr)
