"""Parle whose reference follows slowly, so that some replicas suffice for a round."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import setting
from parle.algorithms.elastic_sgd import moving_average
from parle.algorithms.parle import Parle
from parle.schedules import Schedule


@dataclass(frozen=True)
class ParleMoving(Parle):
    """Parle with (8d) as a moving average, which takes rounds of a few replicas, and may be mixed with Elastic-SGD (Remark 3).

        (8a)  y^a <- y^a - eta' ( g(y^a) + (y^a - x^a) / gamma )               every step
        (8b)  z^a <- alpha z^a + (1 - alpha) y^a                               every step
        (8c)  x^a <- x^a - eta (x^a - z^a) - (eta / rho) (x^a - x)             every L steps
        (8d)  x   <- x - beta ( x - mean_a x^a ),  y^a <- x^a,  z^a <- x^a     every L steps, with beta = eta'' n / rho

    In the paper's letters as `Parle`; pull is beta, of which a round of m replicas does the part m / n. Replicas that are rich in
    compute and poor in links run this, others run ElasticSGD with the same beta as its lr, each by its own clock at one server.

    >>> ParleMoving(pull=0.1).family == __import__("parle").ElasticSGD(lr=0.1).family
    True
    """

    pull: float | Schedule = setting(0.5, "how far the reference follows in a round of all, eta'' n / rho", above=0)

    special_cases: ClassVar[tuple[str, ...]] = ("pull 1: Parle",)
    partial_rounds: ClassVar[bool] = True

    def merge(self, shared, mean):  # (8d)
        return moving_average(shared, mean, self.pull)

    @property
    def family(self):
        return f"a moving average with the rate {self.pull}"
