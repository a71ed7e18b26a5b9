"""What there is to draw of a run, as plain values: matplotlib draws it for the report, the browser for the live page."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from parle.reports.comparison import AXES
from parle.reports.story import Story


@dataclass(frozen=True)
class Line:
    """A number of a run at each of its records, None where there is none; `run` is the place of the run, and so its colour."""

    label: str
    run: int
    values: tuple[float | None, ...]
    single: bool = False  # of one replica, in the background


@dataclass(frozen=True)
class Panel:
    """A picture: lines over what their runs had spent."""

    title: str
    lines: tuple[Line, ...]

    @property
    def logarithmic(self) -> bool:
        """Whether the values are better shown by their ratios."""
        values = [value for line in self.lines for value in line.values if value is not None]
        return bool(values) and min(values) > 0 and max(values) > 5 * min(values)


def spent(records: list[dict]) -> dict[str, list[float]]:
    """For every axis, how much a run had spent at each record."""
    return {axis: [of(record) for record in records] for axis, of in AXES.items()}


def scores(stories: list[Story], records: list[list[dict]]) -> list[Panel]:
    """Test error and test loss of every run: the consensus, and its single replicas."""
    found = []
    for title, key in (("Test error, %", "error_pct"), ("Test loss", "loss")):
        lines = []
        for run, (story, its) in enumerate(zip(stories, records, strict=True)):
            lines += _singles(run, its, lambda record, key=key: [replica.get(key) for replica in record.get("replicas") or ()])
            lines.append(
                Line(f"{story.label}: consensus" if len(stories) > 1 else "consensus", run, _values(its, lambda record, key=key: record["consensus"][key]))
            )
        found.append(Panel(title, tuple(lines)))
    return found


def inside(records: list[dict], run: int = 0) -> list[Panel]:
    """What goes on within a run: losses, distances, what a server counts, and every setting that moves."""
    panels = [
        Panel("Training loss of each replica", _singles(run, records, lambda record: record.get("train_loss") or ())),
        Panel("Distance of each replica from the reference", _singles(run, records, lambda record: record.get("distance") or ())),
        Panel("Quorum", (Line("quorum", run, _values(records, lambda record: record.get("quorum"))),)),
        Panel(
            "Staleness since the last evaluation: mean, and greatest (thin)",
            (
                Line("greatest", run, _values(records, lambda record: max(map(int, record.get("staleness") or ()), default=None)), True),
                Line("mean", run, _values(records, _mean_staleness)),
            ),
        ),
    ]
    panels += [Panel(name, _setting(run, name, values)) for name, values in moving(records).items()]
    return [panel for panel in panels if any(value is not None for line in panel.lines for value in line.values)]


def moving(records: list[dict]) -> dict[str, list]:
    """The settings of the algorithm and the inner rate that were not the same at all records."""
    rows = [(record.get("algorithm") or {}) | ({"inner lr": record["inner_lr"]} if "inner_lr" in record else {}) for record in records]
    found = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values) and all(map(_numeric, values))}


def staleness(records: list[dict]) -> list[tuple[str, int]]:
    """How many proposals were how stale, over the whole run, in ranges that double.

    >>> staleness([{"staleness": {"0": 5, "2": 1}}, {"staleness": {"3": 4}}])
    [('0', 5), ('1', 0), ('2 to 3', 5)]
    """
    counts: dict[int, int] = {}
    for record in records:
        for value, count in (record.get("staleness") or {}).items():
            counts[int(value).bit_length()] = counts.get(int(value).bit_length(), 0) + count
    return [(_range(bits), counts.get(bits, 0)) for bits in range(max(counts, default=-1) + 1)]


def _range(bits: int) -> str:
    """The whole numbers that have so many binary digits."""
    return str(bits) if bits < 2 else f"{2 ** (bits - 1)} to {2**bits - 1}"


def times(records: list[dict]) -> dict[str, dict[str, float]]:
    """How the seconds of training were spent: by the first process, or, at a server, by each replica."""
    last = records[-1]
    if isinstance(last.get("seconds_waited"), list):
        waited = [sum(its) for its in zip(*(record["seconds_waited"] for record in records), strict=False)]
        return {f"replica {index}": {"computing": max(0.0, last["seconds"] - its), "waiting": its} for index, its in enumerate(waited)}
    waited, exchanged = last.get("seconds_waited", 0.0), last.get("seconds_exchanged", 0.0)
    return {"first process": {"computing": max(0.0, last["seconds"] - waited - exchanged), "waiting": waited, "exchanging": exchanged}}


def _values(records: list[dict], of: Callable[[dict], float | None]) -> tuple:
    return tuple(_finite(of(record)) for record in records)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _singles(run: int, records: list[dict], of: Callable[[dict], Iterable]) -> tuple[Line, ...]:
    """A line for each replica; there may be more or fewer of them after a run was resumed."""
    rows = [list(of(record)) for record in records]
    most = max(map(len, rows), default=0)
    return tuple(Line(f"replica {index}", run, tuple(_finite(row[index]) if index < len(row) else None for row in rows), True) for index in range(most))


def _setting(run: int, name: str, values: list) -> tuple[Line, ...]:
    if any(isinstance(value, list) for value in values):  # of each replica its own
        rows = [value if isinstance(value, list) else [value] for value in values]
        return _singles(run, [{"row": row} for row in rows], lambda record: record["row"])
    return (Line(name, run, tuple(map(_finite, values))),)


def _mean_staleness(record: dict) -> float | None:
    counts = record.get("staleness") or {}
    merged = sum(counts.values())
    return sum(int(value) * count for value, count in counts.items()) / merged if merged else None


def _numeric(value) -> bool:
    if isinstance(value, list):
        return all(map(_numeric, value))
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
