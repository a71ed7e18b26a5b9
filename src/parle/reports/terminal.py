"""Runs that are followed in a terminal: a table that renews itself, or a line for every evaluation where there is no terminal."""

import time

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from parle.reports.story import ENDED, Story
from parle.reports.tables import clock, size
from parle.reports.watching import Watcher, figures

EVERY = 0.5  # seconds between two looks
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = "test error"  # in small blocks
COLUMNS = ("run", "state", "epoch", "test error %", "least", "loss", "rounds", "sent", "images/s", "time", "left", CURVE)
LEAVING = ("rounds", "images/s", "least", "sent", CURVE, "loss", "left", "time", "epoch")  # in this order, where a terminal is narrow
STYLES = {"done": "green", "failed": "red", "lost": "red", "interrupted": "yellow", "deleted": "yellow", "running": "blue"}


def follow(watcher: Watcher, console: Console | None = None) -> None:
    """Show the runs until all of them have ended; Ctrl-C ends the showing, not the runs."""
    console = console or _console()
    try:
        _renew(watcher, console) if console.is_terminal else _tell(watcher, console)
    except KeyboardInterrupt:
        console.print()


def show(watcher: Watcher, stories: list[Story], console: Console | None = None) -> None:
    """Print the runs as they are now."""
    console = console or _console()
    if not console.is_terminal:
        console.width = 160  # nothing says how wide, and nothing should be cut
    console.print(_table(stories, console.width) if stories else watcher.waiting_for, soft_wrap=not stories)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)  # a run may be called [red]


def _renew(watcher: Watcher, console: Console) -> None:
    stories = watcher.look()
    with Live(_view(watcher, stories, console.width), console=console, auto_refresh=False) as live:
        while not _ended(stories):
            time.sleep(EVERY)
            stories = watcher.look()
            live.update(_view(watcher, stories, console.width), refresh=True)


def _tell(watcher: Watcher, console: Console) -> None:
    """A line for every evaluation, and for every change of a state."""
    told: dict[str, tuple[int, str]] = {}
    stories = watcher.look()
    while True:
        for its in stories:
            count, said = told.get(str(its.path), (0, ""))
            count = min(count, len(its.records))  # fewer than before where a run was begun anew
            for record in its.records[count:]:
                error, loss = record["consensus"]["error_pct"], record["consensus"]["loss"]
                console.print(
                    f"{its.label}: epoch {record['epoch']:.4g} of {its.epochs:.4g}, test error {error:.2f} %, loss {loss:.4f}, {clock(record['seconds'])}",
                    soft_wrap=True,
                )
            if its.state != said:
                console.print(f"{its.label}: {its.state}. {its.message}".rstrip(), soft_wrap=True)
            told[str(its.path)] = (len(its.records), its.state)
        if _ended(stories):
            return
        time.sleep(EVERY)
        stories = watcher.look()


def _ended(stories: list[Story]) -> bool:
    return bool(stories) and all(its.state in ENDED for its in stories)


def _view(watcher: Watcher, stories: list[Story], width: int):
    return Group(_table(stories, width), Text("Ctrl-C ends this; the runs go on.", style="dim")) if stories else Text(watcher.waiting_for)


def _table(stories: list[Story], width: int) -> Table:
    """The runs, in as many columns as are readable in so many characters; what run it is, and its state, always stand there."""
    rows = [_cells(its) for its in stories]
    wide = {name: max(cell_len(name), *(cell_len(str(row.get(name, ""))) for row in rows)) for name in COLUMNS}
    wide["run"] = min(wide["run"], max(12, width // 4))  # a longer name goes on in the next line
    shown = list(COLUMNS)
    for name in LEAVING:
        if sum(wide[its] + 3 for its in shown) > width:
            shown.remove(name)
    table = Table(show_edge=False)
    for name in shown:
        left = name in ("run", "state", CURVE)
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name != "run", min_width=wide[name] if name == "run" else None)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in shown))
    messages = [f"{its.label}: {its.message}" for its in stories if its.message]
    table.caption, table.caption_justify = Text("\n".join(messages)) if messages else None, "left"
    return table


def _cells(its: Story) -> dict[str, Text | str]:
    """What stands in the columns; those without an entry are empty."""
    row, known = figures(its), {"run": Text(its.label), "state": Text(its.state, style=STYLES.get(its.state, ""))}
    if not its.records:
        return known
    return known | {
        "epoch": f"{row['epoch']:.4g} / {row['epochs']:.4g}",
        "test error %": _number(row["error_pct"], ".2f"),
        "least": _number(row["best_error_pct"], ".2f"),
        "loss": _number(row["loss"], ".4f"),
        "rounds": f"{row['round']:,}",
        "sent": size(row["bytes_sent_per_replica"]),
        "images/s": f"{row['images_per_second']:,.0f}",
        "time": clock(row["seconds"]),
        "left": clock(row["seconds_left"]) if row["seconds_left"] is not None else "",
        CURVE: spark([record["consensus"]["error_pct"] for record in its.records]),
    }


def spark(values: list[float], width: int = 16) -> str:
    """A curve of a few characters, the last values of which are the newest.

    >>> spark([8.0, 4.0, 2.0, 1.0])
    '█▄▂▁'
    """
    values = [value for value in values if value == value]
    values = [values[index * len(values) // min(width, len(values))] for index in range(min(width, len(values)) - 1)] + values[-1:]
    low, high = min(values, default=0), max(values, default=0)
    return "".join(BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1))] if high > low else BLOCKS[0] for value in values)


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
