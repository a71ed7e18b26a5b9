"""Numbers that change with the round: any hyper-parameter of an algorithm may be one.

A schedule is a pure function of the round (the first round has number 0), so nothing has to be saved to resume it; one that
adapts is a function of what all replicas have `Seen` as well. Its text form, such as `scoping(100.0, batches=469, floor=1.0)`,
is what files and the command line use.
"""

import ast
import dataclasses
import math
from dataclasses import dataclass

from parle.errors import ConfigError, did_you_mean


class _Written:
    """Written as its name with its settings in parentheses."""

    def __str__(self) -> str:
        first, *rest = dataclasses.fields(self)
        settings = "".join(f", {f.name}={_text(getattr(self, f.name))}" for f in rest)
        return f"{type(self).__name__.lower()}({_text(getattr(self, first.name))}{settings})"


class Schedule(_Written):
    """A function of the round; subclasses are frozen dataclasses that define `__call__`."""

    def __call__(self, round: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Seen:
    """What all replicas know after a round: the inner rate, and their mean training loss in that round and in the first one."""

    lr: float
    loss: float = math.nan
    first_loss: float = math.nan


class Adaptive(Schedule):
    """A schedule that follows what the replicas have seen; before the first round has ended they have seen nothing."""

    needs_loss = False

    def __call__(self, round: int, seen: Seen | None = None) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Scoping(Schedule):
    """The scoping of the Parle paper, equation (9): value q^round with q = 1 - 1/(2 batches), never below floor.

    `batches` is the number of mini-batches in one pass of one replica over its data; it need not be whole.

    >>> Scoping(100.0, batches=100, floor=1.0)(0)
    100.0
    >>> Scoping(100.0, batches=100, floor=1.0)(10_000)
    1.0
    """

    value: float
    batches: float
    floor: float = 0.0

    def __post_init__(self):
        if not self.batches > 0.5:
            raise ConfigError(f"Scoping.batches must be more than 0.5, got {self.batches}. Give the mini-batches of one data epoch.")

    def __call__(self, round: int) -> float:
        return max(self.value * (1.0 - 1.0 / (2.0 * self.batches)) ** round, self.floor)

    @classmethod
    def over(cls, rounds: int, value: float, floor: float, ratio: float = 100.0) -> "Scoping":
        """The scoping that falls by `ratio` within `rounds` rounds (100: gamma of the paper reaches its clip at the end)."""
        last = max(rounds - 1, 1)
        return cls(value, 0.5 / (1.0 - ratio ** (-1.0 / last)), floor)


@dataclass(frozen=True)
class Steps(Schedule):
    """A value divided by `factor` at each of the rounds in `at`.

    >>> [Steps(1.0, at=(2, 3), factor=10.0)(round) for round in range(5)]
    [1.0, 1.0, 0.1, 0.01, 0.01]
    """

    value: float
    at: tuple[int, ...] = ()
    factor: float = 10.0

    def __post_init__(self):
        object.__setattr__(self, "at", tuple(self.at))
        if not self.factor > 0:
            raise ConfigError(f"Steps.factor must be above 0, got {self.factor}. Use factor=10 to divide by ten at each step.")

    def __call__(self, round: int) -> float:
        return self.value / self.factor ** sum(round >= at for at in self.at)


@dataclass(frozen=True)
class Ramp(Schedule):
    """A step function from `start` to `stop` that changes by `by` after every `every` rounds.

    >>> [Ramp(1, 3, every=2)(round) for round in range(6)]
    [1, 1, 2, 2, 3, 3]
    """

    start: float
    stop: float
    every: int = 1
    by: float = 1

    def __post_init__(self):
        if self.every < 1 or not self.by > 0:
            raise ConfigError(f"A ramp needs every >= 1 and by > 0, got every={self.every}, by={self.by}.")

    def __call__(self, round: int) -> float:
        moved = self.by * (round // self.every)
        return min(self.start + moved, self.stop) if self.stop >= self.start else max(self.start - moved, self.stop)


@dataclass(frozen=True)
class Switch(Schedule):
    """One value before a round and another one from it on: `Switch(1, 16, at=3000)` as a period is post-local SGD.

    >>> [Switch(1, 16, at=2)(round) for round in range(4)]
    [1, 1, 16, 16]
    """

    before: float
    after: float
    at: int

    def __call__(self, round: int) -> float:
        return self.before if round < self.at else self.after


@dataclass(frozen=True)
class Power(Schedule):
    """A value that grows or falls with a power of the number s of the round, counted from 1: value s^exponent.

    PR-SGD, Algorithm 2, has the rate `Power(N, -2 / 3)` beside the period `Stages(N)`.

    >>> [round(Power(2.0, 0.5)(k), 3) for k in (0, 3, 8)]
    [2.0, 4.0, 6.0]
    """

    value: float
    exponent: float

    def __call__(self, round: int) -> float:
        return self.value * (round + 1) ** self.exponent


@dataclass(frozen=True)
class Stages(Schedule):
    """The growing period of PR-SGD, Algorithm 2: ceil( s^(1/3) / N ) steps in round s, counted from 1, with N `replicas`.

    >>> [Stages(replicas=1)(k) for k in (0, 1, 7, 8, 26)]
    [1, 2, 2, 3, 3]
    """

    replicas: int

    def __call__(self, round: int) -> int:
        return math.ceil((round + 1) ** (1 / 3) / self.replicas - 1e-9)  # the cubes are exact


@dataclass(frozen=True)
class Harmonic(Schedule):
    """The weight that makes a running mean: 1 up to the round `since`, then 1/2, 1/3, 1/4.

    >>> [round(Harmonic(since=1)(k), 2) for k in range(5)]
    [1.0, 1.0, 0.5, 0.33, 0.25]
    """

    since: int = 0

    def __call__(self, round: int) -> float:
        return 1.0 / max(1, round - self.since + 1)


@dataclass(frozen=True)
class Restart(Schedule):
    """The largest period for which PR-SGD's analysis promises a linear speed-up: T^(1/4) / N^(3/4), at least 1.

    T is the number of `steps` of each of N `replicas`.

    >>> Restart(steps=60_000, replicas=3)(0)
    6
    """

    steps: int
    replicas: int

    @property
    def interval(self) -> float:
        """The bound itself, before it is made a whole number of steps."""
        return self.steps**0.25 / self.replicas**0.75

    def __call__(self, round: int) -> int:
        return max(1, math.floor(self.interval))


@dataclass(frozen=True)
class AdaComm(Adaptive):
    """A period that shrinks with the training loss F: ceil( sqrt(F / F_0) first ) (Adaptive Communication, arXiv 1810.08313).

    F is the mean loss of all replicas in the last round, F_0 that of the first one; who trains tells it to `replicas.report`.

    >>> AdaComm(20)(7, Seen(lr=0.1, loss=0.5, first_loss=2.0))
    10
    """

    first: int

    needs_loss = True

    def __call__(self, round: int, seen: Seen | None = None) -> int:
        if seen is None or not (seen.first_loss > 0 and math.isfinite(seen.loss)):
            return self.first
        return max(1, math.ceil(math.sqrt(max(0.0, seen.loss) / seen.first_loss) * self.first))


@dataclass(frozen=True)
class QSR(Adaptive):
    """A period that grows as the inner rate eta falls: max( least, floor( (alpha / eta)^2 ) ) (Quadratic Synchronization Rule, arXiv 2310.14423).

    >>> QSR(4, alpha=0.2)(7, Seen(lr=0.01))
    400
    """

    least: int
    alpha: float

    def __call__(self, round: int, seen: Seen | None = None) -> int:
        return self.least if seen is None or not seen.lr > 0 else max(self.least, math.floor((self.alpha / seen.lr) ** 2))


@dataclass(frozen=True)
class Seconds(_Written):
    """A period by time: as many steps as fit into so many seconds, at least one, so that unequal replicas wait little for each other.

    Replicas in one process step equally often; those of other processes as often as they can.

    >>> str(Seconds(2.0))
    'seconds(2.0)'
    """

    seconds: float

    def __post_init__(self):
        if not isinstance(self.seconds, (int, float)) or not 0 < self.seconds < math.inf:
            raise ConfigError(f"Seconds needs a number above 0, got {self.seconds}. Give the time between two rounds, such as seconds(2.0).")


SCHEDULES = {kind.__name__.lower(): kind for kind in (Scoping, Steps, Ramp, Switch, Power, Stages, Harmonic, Restart, AdaComm, QSR, Seconds)}


def parse(text: str) -> Schedule | Seconds:
    """The schedule that a text such as `steps(0.1, at=[50, 75])` describes; ConfigError where it describes none.

    >>> parse("ramp(1, 8, every=300)")
    Ramp(start=1, stop=8, every=300, by=1)
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        arguments = [_literal(argument) for argument in call.args]
        settings = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ConfigError(f"`{text}` is not a number or a schedule. A schedule looks like steps(0.1, at=[50, 75]).") from None
    if call.func.id not in SCHEDULES:
        raise ConfigError(f"`{call.func.id}` is not a schedule. {did_you_mean(call.func.id, SCHEDULES)}")
    try:
        return SCHEDULES[call.func.id](*arguments, **settings)
    except TypeError as error:
        raise ConfigError(f"`{text}` cannot be read as a schedule: {str(error).split('__init__() ')[-1]}.") from None


def _text(value) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _literal(node: ast.expr):
    if isinstance(node, ast.Name) and node.id in ("inf", "infinity"):
        return math.inf
    value = ast.literal_eval(node)
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in (value if isinstance(value, (list, tuple)) else [value])):
        raise ValueError
    return value
