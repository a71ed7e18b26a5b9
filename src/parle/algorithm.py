"""What an algorithm is: the verbs and their defaults, which are model averaging.

    every step     force -> the user's own optimizer step -> track
    every round    propose -> (the communicator averages) -> merge -> adopt

An algorithm is a frozen dataclass of hyper-parameters. It holds no tensor and knows no rank, device, epoch, model or
transport. `r` holds the vectors of one or more replicas, one row each: `r.params` has shape (replicas, N), `r.reference` (N,).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, ClassVar

from parle import schedules
from parle.errors import ConfigError, did_you_mean
from parle.schedules import Adaptive, Schedule, Seconds, Seen

if TYPE_CHECKING:
    from torch import Tensor

    from parle.vectors import Vectors


def setting(default, meaning: str, *, above=None, at_least=None, below=None, whole=False, choices=None, clip=None, rate=None, tail=None, each=False):
    """A hyper-parameter of an algorithm: its default, its meaning for `parle explain`, and the values that it may take.

    `clip` is the value at which the paper's scoping stops; `rate` says that the paper ties it to the learning rate, of the
    `outer` steps or the `inner` ones; `tail` is the part of a run after which a running mean begins. They tell the command line
    which schedule to give it where the user gives none. With `each`, it may be a tuple of one value per replica, or a time.
    """
    limits = dict(above=above, at_least=at_least, below=below, whole=whole, choices=choices, clip=clip, rate=rate, tail=tail, each=each)
    return dataclasses.field(default=default, metadata={"meaning": meaning, **limits})


def steps_between(default, meaning: str):
    """The period of an algorithm: a number of steps, a schedule, a tuple of numbers (one for each replica), or `Seconds`."""
    return setting(default, meaning, at_least=1, whole=True, each=True)


Period = int | tuple[int, ...] | Schedule | Seconds


@dataclass(frozen=True)
class Algorithm:
    """A coupling between replicas: what each adds to its steps, brings to a round, and takes from it.

    Override the verbs that differ from model averaging. Assigning to an attribute of `r` or `shared` writes into the
    vector of that name, or adds it in `start` and `start_shared`.
    """

    period: Period = steps_between(1, "steps between two rounds")

    paper: ClassVar[str] = ""
    special_cases: ClassVar[tuple[str, ...]] = ()
    vectors_sent: ClassVar[int] = 1  # N-vectors that a replica brings to a round
    partial_rounds: ClassVar[bool] = True  # may a round close without all replicas?
    single: ClassVar[bool] = False  # for one replica only
    round_before_step: ClassVar[bool] = False  # the round is held on r.gradient, before the optimizer steps
    steps_at_center: ClassVar[bool] = False  # and the center steps with the gradients; the replicas' optimizers only hand them over
    fetches: ClassVar[bool] = False  # a server sends its reference as it is now before a proposal is formed
    elementwise: ClassVar[bool] = False  # every number of a verb's result depends only on the numbers at its place
    proposes_points: ClassVar[bool] = False  # proposals are points near the reference, not changes
    fixed_inner_rate: ClassVar[bool] = False  # in the paper, the inner rate keeps its initial value and only the outer one drops
    inner_optimizer: ClassVar[str] = "sgd"  # that of the paper

    def start(self, r: Vectors) -> None:
        """Add the replicas' own vectors, shape (replicas, N)."""

    def start_shared(self, shared: Vectors) -> None:
        """Add vectors that exist once, shape (N,)."""

    def force(self, r: Vectors) -> Tensor | None:
        """The term added to the gradient at every step, before the optimizer, shape (replicas, N); None for none."""
        return None

    def track(self, r: Vectors) -> None:
        """Follow the replicas after every step of the optimizer."""

    def propose(self, r: Vectors) -> Tensor:
        """What the replicas bring to a round, shape (replicas, N); it may be one of their own vectors."""
        return r.params - r.reference

    def merge(self, shared: Vectors, mean: Tensor) -> Tensor:
        """The next reference, shape (N,), from the mean of `shared.count` proposals of `shared.size` replicas. `mean` may be overwritten."""
        return mean.add_(shared.reference)

    def adopt(self, r: Vectors, reference: Tensor) -> None:
        """Take the merged vector, shape (N,), into the replicas."""
        r.params.copy_(reference.expand_as(r.params))

    def adopt_late(self, r: Vectors, reference: Tensor, proposed: Tensor) -> None:
        """Take the merged vector, shape (N,), some steps after the replicas proposed it, when their parameters were `proposed`.

        The delayed form of `adopt`, for communicators whose rounds overlap with steps; an algorithm without one cannot be joined
        to them.
        """
        raise ConfigError(f"{type(self).__name__} has no delayed form.")

    def correct(self, shared: Vectors, proposal: Tensor, staleness: int, sent: Tensor | None) -> Tensor:
        """What a server merges of a proposal, shape (N,), that comes `staleness` updates after the reference on which it rests.

        `sent` is that reference, where the algorithm `remembers` it.
        """
        return proposal

    @property
    def remembers(self) -> bool:
        """Whether a server keeps, for each replica, the reference that it has sent to it last: N numbers each."""
        return False

    @property
    def means_gradients(self) -> bool:
        """Whether a round forms a mean gradient, with which every replica then takes the same step."""
        return self.round_before_step and not self.steps_at_center

    def fragment(self, round: int, size: int) -> slice:
        """The part of the vector, of `size` numbers, that is exchanged in that round."""
        return slice(None)

    def publish(self, shared: Vectors) -> Tensor | None:
        """The vector to evaluate and ship, shape (N,), where it is made of what exists once; None where `solution` makes it."""
        return None

    def solution(self, r: Vectors) -> Tensor:
        """The vector to evaluate and ship, shape (N,), or each replica's share in it, (replicas, N), to be averaged."""
        return r.reference

    def caution(self, inner_lr: float, inner_momentum: float) -> str | None:
        """A warning about these numbers and those of the inner optimizer, where the mathematics gives one."""
        return None

    def promised_period(self, steps: int, replicas: int) -> float | None:
        """The largest period for which the theory promises that a run of so many steps gains by its replicas, where there is one."""
        return None

    @property
    def family(self) -> str | None:
        """How proposals are merged, as text: replicas of one family may meet at one server, each with an algorithm of its own."""
        return None

    def steps_of(self, replica: int) -> int:
        """Steps that a replica takes between two rounds; of a period by time, the least."""
        return 1 if isinstance(self.period, Seconds) else self.period[replica] if isinstance(self.period, tuple) else self.period

    def steps_in(self, rounds: int, replica: int = 0) -> int:
        """Steps that a replica takes in its first so many rounds; where the period adapts, the least."""
        return sum(int(self.period(round)) for round in range(rounds)) if callable(self.period) else rounds * self.steps_of(replica)

    def rounds_in(self, steps: int) -> int:
        """Whole rounds in so many steps of a replica, the mean of all; where the period adapts or goes by time, the most."""
        if not callable(self.period):
            return int(steps / self.mean_period)
        rounds, taken = 0, int(self.period(0))
        while taken <= steps:
            rounds, taken = rounds + 1, taken + max(1, int(self.period(rounds + 1)))
        return rounds

    @property
    def in_fragments(self) -> bool:
        """Whether a round exchanges a part of the vector only."""
        return self.fragment(0, 2) != slice(None)

    @property
    def mean_period(self) -> float:
        """Steps between two rounds, of all replicas on the average."""
        return sum(self.period) / len(self.period) if isinstance(self.period, tuple) else self.steps_of(0)

    @property
    def watched(self) -> list[Adaptive]:
        """The schedules that follow what the replicas see."""
        return [value for f in dataclasses.fields(self) if isinstance(value := getattr(self, f.name), Adaptive)]

    def at(self, round: int, seen: Seen | None = None) -> Algorithm:
        """This algorithm with every schedule replaced by its number in that round, after the replicas have `seen` the one before."""
        values = {f: getattr(self, f.name) for f in dataclasses.fields(self)}
        try:
            moving = {f: value(round, seen) if isinstance(value, Adaptive) else value(round) for f, value in values.items() if callable(value)}
            if not moving:
                return self
            moving = {f.name: int(value) if f.metadata.get("whole") and value == value // 1 else value for f, value in moving.items()}
            return dataclasses.replace(self, **moving)
        except ConfigError as error:
            raise ConfigError(f"In round {round}: {error}") from None
        except (TypeError, ArithmeticError) as error:
            name = next((f.name for f, value in values.items() if callable(value) and not _gives_a_number(value, round, seen)), "a schedule")
            raise ConfigError(f"In round {round}: {type(self).__name__}.{name} is {getattr(self, name, '')}, which gives no number ({error}).") from None

    def settings(self) -> dict:
        """The hyper-parameters as plain values, schedules as text: what a configuration file holds."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else str(value) if _moves(value) else value for name, value in values.items()}

    @classmethod
    def from_settings(cls, values: dict) -> Algorithm:
        """The algorithm that plain values describe; texts are read as schedules. Unknown names are refused."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in values.keys() - fields.keys():
            raise ConfigError(f"algorithm.{name} is not a setting of {cls.__name__}. {did_you_mean(name, fields)}")
        return cls(**{name: _plain(value, fields[name]) for name, value in values.items()})

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, each = getattr(self, f.name), f.metadata.get("each")
            if callable(value) or (each and isinstance(value, Seconds)):
                continue
            values = (value,)
            if each and isinstance(value, (list, tuple)) and value:
                object.__setattr__(self, f.name, values := tuple(value))
            for its in values:
                check(f"{type(self).__name__}.{f.name}", its, f.metadata)


def check(name: str, value, limits) -> None:
    """Raise ConfigError unless the value is one that the limits of its setting allow."""
    cure = f"It means: {limits['meaning']}." if limits.get("meaning") else ""
    if limits.get("choices"):
        if value not in limits["choices"]:
            raise ConfigError(f"{name} must be one of {', '.join(map(str, limits['choices']))}, got {value!r}. {cure}")
        return
    kind = "a whole number" if limits.get("whole") else "a number"
    if isinstance(value, bool) or not isinstance(value, Integral if limits.get("whole") else Real) or math.isnan(value):
        raise ConfigError(f"{name} must be {kind} or a schedule, got {value!r}. {cure}")
    bounds = [("above", lambda limit: value > limit), ("at_least", lambda limit: value >= limit), ("below", lambda limit: value < limit)]
    for word, holds in bounds:
        if limits.get(word) is not None and not holds(limits[word]):
            raise ConfigError(f"{name} must be {kind} {word.replace('_', ' ')} {limits[word]}, got {value}. {cure}")


def _gives_a_number(value, round: int, seen: Seen | None) -> bool:
    try:
        return isinstance(value(round, seen) if isinstance(value, Adaptive) else value(round), Real)
    except (TypeError, ArithmeticError):
        return False


def _moves(value) -> bool:
    return callable(value) or isinstance(value, Seconds)


def _plain(value, field: dataclasses.Field):
    """A value from a file: schedules are texts, and YAML reads 1e-3 and inf as texts too."""
    if not isinstance(value, str) or field.metadata.get("choices"):
        return value
    try:
        return float(value)
    except ValueError:
        return schedules.parse(value)
