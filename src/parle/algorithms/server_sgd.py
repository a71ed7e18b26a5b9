"""SGD at a server: asynchronous, synchronous, or the Smooth Switch from the one to the other."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting
from parle.schedules import Schedule


@dataclass(frozen=True)
class ServerSGD(Algorithm):
    """A server that steps with the gradients in its buffer as soon as they are a quorum of K (hybrid approach, section 3).

        g_i <- g_i(x_i) + w x_i                  replica i, at the reference x_i that it has received last
        g   <- mean_i g_i  or  sum_i g_i         over the K gradients in the buffer
        v   <- mu v + g
        x   <- x - lr v                          and x goes back to those K replicas

    K = 1 is asynchronous SGD, K = n synchronous SGD, and a K that rises from 1 to n with the gradients received is the Smooth
    Switch; K is the `quorum` of the server. The paper does not say whether gradients are added up or averaged: `sum` multiplies
    the rate by K. A gradient that comes tau updates late may be corrected before it enters the buffer's mean:

        rate        g_i / tau                                    staleness-aware SGD (arXiv 1511.05950)
        delay       g_i + lambda g_i g_i (x - x_i)               DC-ASGD (arXiv 1609.08326), elementwise

    In the papers' letters: reference is x, params is x_i, weight_decay is w, momentum is mu, compensation is lambda. The
    replicas' own optimizers only hand over the gradients. Without a server, a quorum is all replicas.

    >>> ServerSGD(lr=0.01, reduce="sum").momentum
    0.0
    """

    period: int = setting(1, "steps between two rounds, always 1", choices=(1,))
    lr: float | Schedule = setting(0.1, "rate of the server's step", above=0, rate="outer")
    momentum: float | Schedule = setting(0.0, "momentum of the server's step, mu", at_least=0, below=1)
    weight_decay: float = setting(0.0, "pull of the parameters towards zero, a part of the gradient", at_least=0)
    reduce: str = setting("mean", "what is made of the gradients in the buffer", choices=("mean", "sum"))
    correction: str = setting("none", "what is done about gradients that come late", choices=("none", "rate", "delay"))
    compensation: float = setting(0.04, "strength of the correction for delay, lambda", at_least=0)

    paper: ClassVar[str] = "Vora, Joshi, Patel: Hybrid Approach to Parallel Stochastic Gradient Descent, 2024 (arXiv 2407.00101)"
    special_cases: ClassVar[tuple[str, ...]] = (
        "one replica: plain SGD, bit for bit",
        "quorum n, mean: data-parallel SGD; sum: the same with n times the rate",
        "quorum 1: asynchronous SGD",
    )
    elementwise: ClassVar[bool] = True
    round_before_step: ClassVar[bool] = True
    steps_at_center: ClassVar[bool] = True

    @property
    def remembers(self):
        return self.correction == "delay"

    def start_shared(self, shared):
        if self.momentum:
            shared.v = shared.reference * 0

    def propose(self, r):
        return r.gradient.add_(r.params, alpha=self.weight_decay) if self.weight_decay else r.gradient

    def correct(self, shared, proposal, staleness, sent):
        if self.correction == "rate":
            return proposal / max(1, staleness)
        if self.correction == "delay":
            return proposal + self.compensation * proposal * proposal * (shared.reference - sent)
        return proposal

    def merge(self, shared, mean):
        if self.reduce == "sum":
            mean *= shared.count
        if self.momentum:
            shared.v = shared.v.mul_(self.momentum).add_(mean)
            mean = shared.v
        return shared.reference.add(mean, alpha=-self.lr)
