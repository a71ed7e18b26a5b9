"""How long things take on a virtual clock: computing a gradient, delays, a link; and when replicas die or hang."""

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parle.errors import ConfigError, did_you_mean
from parle.random_streams import derive

BLOCK = 256  # numbers drawn at a time


@dataclass(frozen=True)
class Constant:
    """Always the same number of seconds."""

    seconds: float

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """So many times, in seconds, none below 0."""
        return np.full(count, self.seconds)


@dataclass(frozen=True)
class Normal:
    """Seconds from a normal distribution; a draw below 0 counts as 0."""

    mean: float
    std: float

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """So many times, in seconds, none below 0."""
        return np.maximum(0.0, generator.normal(self.mean, self.std, count))


@dataclass(frozen=True)
class LogNormal:
    """Seconds whose logarithm is normal with standard deviation sigma around that of the median."""

    median: float
    sigma: float

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """So many times, in seconds, none below 0."""
        return self.median * np.exp(generator.normal(0.0, self.sigma, count))


@dataclass(frozen=True)
class Trace:
    """Measured seconds, one after the other, and again from the first."""

    seconds: tuple[float, ...]

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """As many times as there are in the trace."""
        return np.array(self.seconds)


Times = Constant | Normal | LogNormal | Trace
TIMES = {"constant": Constant, "normal": Normal, "lognormal": LogNormal}


@dataclass(frozen=True)
class Link:
    """The way between a replica and the server: seconds of latency, bytes per second, and whether all share the server's port.

    >>> Link(latency=0.01, bandwidth=12.5e6).shared
    True
    """

    latency: float = 0.0
    bandwidth: float = math.inf
    shared: bool = True

    @classmethod
    def read(cls, text: str) -> "Link":
        """The link that `latency=0.001, bandwidth=12.5e6` describes.

        >>> Link.read("bandwidth=12.5e6").latency
        0.0
        """
        try:
            return cls(**{name.strip(): float(number) for name, number in (part.split("=") for part in text.split(","))})
        except (ValueError, TypeError):
            raise ConfigError(f"The link is `{text}`, but it must be such as latency=0.001, bandwidth=12.5e6 (seconds, bytes per second).") from None

    def __post_init__(self):
        if not self.latency >= 0 or not self.bandwidth > 0:
            raise ConfigError(f"A link needs a latency from 0 on and a bandwidth above 0, got {self.latency} s and {self.bandwidth} bytes per second.")


@dataclass(frozen=True)
class Clock:
    """What the virtual clock charges for.

    `compute` is the time of one gradient and `delay` what comes on top of it: a number of seconds, `constant(0.05)`,
    `normal(0, 0.25)`, `lognormal(0.05, 0.3)` (median and sigma) or `trace(times.json)` (a list of seconds), for all replicas or
    after `half:`, `0:` or `0,3:` for those; several are separated by `;`, and the last one that names a replica holds. `link` is
    the way to the server and back. `dies` and `hangs` tell when a replica leaves, or leaves without a word, in seconds. Draws
    follow from `seed`. Raises ConfigError for times that cannot be.

    >>> [next(times) for times in Clock(compute="0.05; 0:0.5").times(2)]
    [0.5, 0.05]
    """

    compute: str | float | Times = 0.05
    delay: str | float | Times | None = None
    link: Link = Link()
    dies: dict[int, float] = field(default_factory=dict)
    hangs: dict[int, float] = field(default_factory=dict)
    seed: int = 0

    def times(self, replicas: int) -> list[Iterator[float]]:
        """For each replica, the seconds of one gradient after the other, delays included."""
        compute, delay = read_times(self.compute, replicas, "compute"), read_times(self.delay, replicas, "delay")
        for replica, its in enumerate(compute):
            if its is None or (isinstance(its, Constant) and its.seconds == 0):
                raise ConfigError(f"compute gives replica {replica} no time, and then the clock would stand still. Give a time above 0, as in --compute 0.05.")
        return [self._draws(replica, [its for its in (compute[replica], delay[replica]) if its]) for replica in range(replicas)]

    def _draws(self, replica: int, parts: list[Times]) -> Iterator[float]:
        streams = [_numbers(its, np.random.default_rng(derive(self.seed, "clock", replica, index))) for index, its in enumerate(parts)]
        return streams[0] if len(streams) == 1 else map(sum, zip(*streams, strict=False))


def _numbers(times: Times, generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from times.draw(generator, BLOCK).tolist()


def read_times(times: str | float | Times | None, replicas: int, name: str) -> list[Times | None]:
    """The times of every replica that a text, a number or a distribution describes; ConfigError where it describes none."""
    found: list[Times | None] = [None] * replicas
    if times is None:
        return found
    for part in times.split(";") if isinstance(times, str) else [times]:
        who, its = range(replicas), part
        if isinstance(part, str):
            before, colon, after = part.rpartition(":")
            who, its = _who(before.strip() if colon else "all", replicas, name), _parse(after, name)
        elif not isinstance(part, Times):
            its = _checked(Constant(part), name)
        for replica in who:
            found[replica] = its
    return found


def _who(text: str, replicas: int, name: str) -> range | list[int]:
    if text == "all":
        return range(replicas)
    if text == "half":
        return range(replicas // 2)
    numbers = text.split(",")
    if not all(re.fullmatch(r"\s*\d+\s*", number) and int(number) < replicas for number in numbers):
        raise ConfigError(f"{name} is for `{text}`, but it must be for all, half, or replicas from 0 to {replicas - 1} such as 0,3.")
    return [int(number) for number in numbers]


def _parse(text: str, name: str) -> Times:
    text = text.strip()
    if trace := re.fullmatch(r"trace\((.+)\)", text):
        return _checked(_trace(Path(trace.group(1).strip("'\" "))), name)
    try:
        if not (call := re.fullmatch(r"(\w+)\((.*)\)", text)):
            return _checked(Constant(float(text)), name)
        numbers = ast.literal_eval(f"({call.group(2)},)")
    except (ValueError, SyntaxError):
        raise ConfigError(f"{name} is `{text}`, but it must be seconds, or such as normal(0, 0.25), lognormal(0.05, 0.3) or trace(file.json).") from None
    if call.group(1) not in TIMES:
        raise ConfigError(f"{name} is `{text}`. {did_you_mean(call.group(1), [*TIMES, 'trace'])}")
    try:
        return _checked(TIMES[call.group(1)](*numbers), name)
    except TypeError:
        raise ConfigError(f"{name} is `{text}`, but {call.group(1)} takes {len(TIMES[call.group(1)].__dataclass_fields__)} numbers.") from None


def _trace(file: Path) -> Trace:
    try:
        return Trace(tuple(float(number) for number in json.loads(file.read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"The trace {file} cannot be read: {error}. It must be a JSON list of seconds.") from None


def _checked(times: Times, name: str) -> Times:
    numbers = times.seconds if isinstance(times, Trace) else tuple(vars(times).values())
    if not numbers or not all(isinstance(number, (int, float)) and math.isfinite(number) and number >= 0 for number in numbers):
        raise ConfigError(f"{name} is {times}, but times are numbers of seconds from 0 on. A delay is never negative; a draw below 0 counts as 0.")
    return times
