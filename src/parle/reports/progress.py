"""Progress of long work: a bar on a terminal, plain lines elsewhere, on standard error."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

EVERY = 10.0  # seconds between two plain lines


class Display:
    """Shows the progress of one work after another; `quiet` shows cautions only."""

    def __init__(self, quiet: bool = False):
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # [plots] is no style
        self._quiet, self._bar, self._title = quiet, None, ""

    def __reduce__(self) -> tuple:
        """A display sent to another process begins anew there."""
        return Display, (self._quiet,)

    def begin(self, title: str, total: int) -> None:
        """A long work of so many parts begins."""
        self.end()
        self._title, self._last = title, time.monotonic()
        if self._console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(title, total=total, note="")
            self._bar.start()

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So many parts are done."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif not self._quiet and time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            self._console.print(f"{self._title}: {done:,} of {total:,}{', ' + note if note else ''}")

    def end(self) -> None:
        """The work is done, or given up."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def note(self, text: str) -> None:
        """Something that was decided for the user."""
        if not self._quiet:
            self._console.print(f"note: {text}", soft_wrap=True)

    def caution(self, text: str) -> None:
        """Something that the user should know."""
        self._console.print(f"caution: {text}", style="yellow", soft_wrap=True)
