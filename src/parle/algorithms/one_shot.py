"""One-shot averaging: the replicas speak once, at the end."""

import sys
from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm, setting


@dataclass(frozen=True)
class OneShot(Algorithm):
    """Replicas that step alone to the end, and are averaged there.

        x_i <- x_i - eta g(x_i)        every step, by the user's own optimizer
        x   <- mean_i x_i              once, by `finish()`

    Before the end, its solution is the mean of where the replicas are.

    >>> import parle
    >>> OneShot().vectors_sent
    1
    """

    period: int = setting(sys.maxsize, "steps between two rounds: more than there are", choices=(sys.maxsize,))

    paper: ClassVar[str] = "Zinkevich, Weimer, Smola, Li: Parallelized Stochastic Gradient Descent, 2010"
    special_cases: ClassVar[tuple[str, ...]] = ("it is LocalSGD whose period is the whole run",)
    elementwise: ClassVar[bool] = True

    def solution(self, r):
        return r.params
