"""One replica that speaks to nobody: the baseline."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Algorithm


@dataclass(frozen=True)
class PlainSGD(Algorithm):
    """The user's own optimizer, alone: the baseline of every comparison.

        x <- x - eta g(x)

    >>> PlainSGD().single
    True
    """

    paper: ClassVar[str] = "none; the baseline of all of them"
    special_cases: ClassVar[tuple[str, ...]] = ("it equals the optimizer without parle, bit for bit",)
    elementwise: ClassVar[bool] = True
    vectors_sent: ClassVar[int] = 0
    single: ClassVar[bool] = True

    def propose(self, r):
        return r.params

    def merge(self, shared, mean):
        return mean

    def adopt(self, r, reference):
        pass

    def solution(self, r):
        return r.params
