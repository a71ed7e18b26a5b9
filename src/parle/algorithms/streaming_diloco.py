"""Streaming DiLoCo: a part of the vector at a time, and late."""

from dataclasses import dataclass
from typing import ClassVar

from parle.algorithm import Period, setting, steps_between
from parle.algorithms.diloco import DiLoCo
from parle.errors import ConfigError
from parle.schedules import Schedule


@dataclass(frozen=True)
class StreamingDiLoCo(DiLoCo):
    """DiLoCo that exchanges one of P fragments of the vector in every round (Streaming DiLoCo, Algorithm 2).

        theta_i <- InnerOpt( theta_i, g(theta_i) )                      every step, by the user's own optimizer, AdamW in the paper
        p       =  round mod P                                          every H / P steps
        Delta_p =  theta_p - mean_i theta_i,p
        v_p     <- mu v_p + Delta_p
        theta_p <- theta_p - lr ( Delta_p + mu v_p )
        theta_i,p <- theta_p,  or, tau steps later,  alpha theta_i,p + (1 - alpha) theta_p

    In the paper's letters: params is theta_i, reference is theta, fragments is P, momentum is mu; period is H / P, so that every
    fragment waits fragments times period steps for its next round. The late form is that over `Overlapped(communicator, tau)`, and
    proposals in few bits are `Compressed(communicator, "int4")`. Fragments are consecutive and of equal length, wherever layers
    begin (the paper cuts between layers). The last round exchanges the whole vector.

    >>> [StreamingDiLoCo(fragments=4).fragment(round, size=10) for round in (0, 3, 4)]
    [slice(0, 2, None), slice(7, 10, None), slice(0, 2, None)]
    """

    period: Period = steps_between(25, "steps between two rounds, of one fragment each, the paper's H / P")
    fragments: int = setting(4, "parts of the vector, P", at_least=1, whole=True)
    alpha: float | Schedule = setting(0.5, "what a replica keeps of its own where the outcome comes late", at_least=0, below=1)

    paper: ClassVar[str] = "Douillard et al.: Streaming DiLoCo with overlapping communication, 2025 (arXiv 2501.18512)"
    special_cases: ClassVar[tuple[str, ...]] = ("one fragment: DiLoCo", "lr 1, momentum 0: LocalSGD of one fragment at a time")
    partial_rounds: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if callable(self.fragments):
            raise ConfigError(f"StreamingDiLoCo.fragments must be a whole number at least 1, got {self.fragments}. The vector is cut once for the whole run.")

    def fragment(self, round, size):
        if self.fragments == 1:
            return slice(None)
        p = round % self.fragments
        return slice(size * p // self.fragments, size * (p + 1) // self.fragments)

    def adopt_late(self, r, reference, proposed):
        r.params.lerp_(reference.expand_as(r.params), 1 - self.alpha)
