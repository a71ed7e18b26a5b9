"""FedProx: local SGD on a spring."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting
from parle.algorithms.local_sgd import LocalSGD
from parle.schedules import Schedule


@dataclass(frozen=True)
class FedProx(LocalSGD):
    """Local SGD whose replicas are held near the last reference by a proximal term (FedProx, Algorithm 2).

        w_i <- w_i - eta ( g(w_i) + mu ( w_i - w ) )        every step, by the user's own optimizer
        w   <- mean_i w_i,  w_i <- w                        every round

    In the paper's letters: params is w_i, reference is w. The paper lets replicas take unequal numbers of steps: a tuple as period.

    >>> FedProx(period=25, mu=0.01).mu
    0.01
    """

    mu: float | Schedule = setting(0.01, "stiffness of the spring between a replica and the reference", at_least=0)

    paper: ClassVar[str] = "Li et al.: Federated Optimization in Heterogeneous Networks, 2020 (arXiv 1812.06127)"
    special_cases: ClassVar[tuple[str, ...]] = ("mu 0: LocalSGD",)

    adopt_late = Algorithm.adopt_late  # none: the spring hangs on a reference that would move between two rounds

    def force(self, r):
        return (r.params - r.reference).mul_(self.mu)

    def promised_period(self, steps, replicas):
        return None
