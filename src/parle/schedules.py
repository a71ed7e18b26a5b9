"""Numbers that change with the round: any hyper-parameter of an algorithm may be one.

A schedule is a pure function of the round (the first round has number 0), so nothing has to be saved to resume it.
Its text form, such as `scoping(100.0, batches=469, floor=1.0)`, is what files and the command line use.
"""

import ast
import dataclasses
import math
from dataclasses import dataclass

from parle.errors import ConfigError, did_you_mean


class Schedule:
    """A function of the round; subclasses are frozen dataclasses that define `__call__`."""

    def __call__(self, round: int) -> float:
        raise NotImplementedError

    def __str__(self) -> str:
        first, *rest = dataclasses.fields(self)
        settings = "".join(f", {f.name}={_text(getattr(self, f.name))}" for f in rest)
        return f"{type(self).__name__.lower()}({_text(getattr(self, first.name))}{settings})"


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


SCHEDULES = {kind.__name__.lower(): kind for kind in (Scoping, Steps, Ramp)}


def parse(text: str) -> Schedule:
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
