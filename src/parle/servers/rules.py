"""When a server closes a round: the quorum, and what it counts."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from parle import schedules
from parle.errors import ConfigError
from parle.schedules import Ramp

COUNTS = ("gradients", "updates")

Quorum = int | str | Callable[[int], float]


@dataclass(frozen=True)
class Rules:
    """How a server of so many replicas closes its rounds.

    `quorum` is the number of proposals that close one: a number, `"n"` for all, a schedule or any function of what has been
    counted so far, or its text, in which n is the number of replicas. It counts `gradients` (proposals received, the one that
    has just come included) or `updates` (rounds closed). Above the number of active replicas it means all of those. With `wait`
    a replica waits until its proposal is used, without it goes on at once with the reference as it is. `bound` is the number of
    rounds that a replica may be ahead of the slowest one (stale synchronous parallel). A replica that neither proposes nor waits
    for `timeout` seconds is not counted until it comes back. Raises ConfigError for rules that cannot work.

    >>> Rules("ramp(1, n, every=300)", replicas=25).quorum_at(700, 0)
    3
    """

    quorum: Quorum = 1
    replicas: int = 1
    count: str = "gradients"
    wait: bool = True
    bound: int | None = None
    timeout: float = 300.0

    def __post_init__(self):
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int) or self.replicas < 1:
            raise ConfigError(f"A server needs at least one replica, got replicas={self.replicas!r}.")
        if self.count not in COUNTS:
            raise ConfigError(f"A quorum counts {' or '.join(COUNTS)}, got {self.count!r}.")
        if self.bound is not None and (isinstance(self.bound, bool) or not isinstance(self.bound, int) or self.bound < 0):
            raise ConfigError(f"bound is {self.bound!r}, but it must be a whole number of rounds from 0 on, or None for no bound.")
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be a number of seconds above 0, got {self.timeout!r}: a replica that hangs is noticed when it is over.")
        object.__setattr__(self, "_schedule", self._read(self.quorum))
        self.quorum_at(0, 0)

    def quorum_at(self, received: int, updates: int) -> int:
        """The quorum after so many proposals and updates, at most the number of replicas."""
        wanted = self._schedule(received if self.count == "gradients" else updates)
        if type(wanted) is int and wanted >= 1:
            return min(wanted, self.replicas)
        if isinstance(wanted, bool) or not isinstance(wanted, Real) or not wanted >= 1:
            raise ConfigError(f"The quorum {self.quorum} is {wanted} after {received} gradients, but a round needs at least one proposal. Use 1 or more.")
        return int(min(wanted, self.replicas))

    @property
    def always_all(self) -> bool:
        """Whether every round waits for all replicas, as far as the quorum tells before the run."""
        return not callable(self.quorum) and not isinstance(self._schedule, schedules.Schedule) and self.quorum_at(0, 0) == self.replicas

    def _read(self, quorum: Quorum) -> Callable[[int], float]:
        if isinstance(quorum, str):
            text = re.sub(r"\bn\b", str(self.replicas), quorum)
            quorum = int(text) if re.fullmatch(r"\s*-?\d+\s*", text) else schedules.parse(text)
        if callable(quorum):
            if isinstance(quorum, Ramp) and not all(math.isfinite(number) for number in (quorum.start, quorum.stop, quorum.every)):
                raise ConfigError(f"The quorum {quorum} never comes to an end. Give its last value, as in ramp(1, n, every=300).")
            return quorum
        if isinstance(quorum, bool) or not isinstance(quorum, Real) or quorum != quorum // 1 or quorum < 1:
            raise ConfigError(f"The quorum is {quorum!r}, but it must be a whole number from 1 on, n, or a schedule such as ramp(1, n, every=300).")
        return lambda counted: quorum
