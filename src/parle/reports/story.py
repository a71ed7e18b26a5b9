"""What a run folder tells, finished or not, as plain values: for the report, the live page and the terminal. Needs no torch."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from parle.runs import RunFolder

SILENT = 20.0  # seconds without a sign of life after which a run whose process is gone is called lost; a restart takes a few
COUNTS = {"epoch", "step", "round", "gradient_evaluations", "seconds", "images_per_second", "bytes_sent_per_replica"}  # of every evaluation
ENDED = ("done", "failed", "interrupted", "lost", "deleted")


class Tail:
    """The records of a JSONL file that may still be written; `read` takes in what came since, up to the last whole line."""

    def __init__(self, file: Path):
        self.file, self.records = file, []
        self._read, self._inode = 0, 0

    def read(self) -> None:
        """Take in new lines; begin anew where the file was replaced, as a resumed run does."""
        try:
            with open(self.file, "rb") as lines:
                about = os.fstat(lines.fileno())
                if about.st_ino != self._inode or about.st_size < self._read:
                    self.forget()
                    self._inode = about.st_ino
                lines.seek(self._read)
                fresh = lines.read()
        except OSError:
            self.forget()
            return
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        self.records += filter(None, map(_object, whole.splitlines()))

    def forget(self) -> None:
        """Read all of it at the next time."""
        self.records, self._read, self._inode = [], 0, 0


class Story:
    """A run so far. `refresh` looks again, and costs little where nothing has changed; a folder that is not there yet is waited for."""

    def __init__(self, path: Path):
        self.path, self._folder = path, RunFolder(path)
        self.label = self.name  # that tells it from others
        self.settings: dict = {}
        self.environment: dict = {}
        self.status: dict = {}
        self.records: list[dict] = []  # the evaluations
        self._metrics, self._events = Tail(self._folder.metrics), Tail(self._folder.events)
        self._stamps: dict[Path, tuple] = {}
        self._known = False
        self.refresh()

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.resolve().name

    @property
    def events(self) -> list[dict]:
        """What happened so far."""
        return self._events.records

    @property
    def last(self) -> dict:
        """The last evaluation; empty where there is none."""
        return self.records[-1] if self.records else {}

    def refresh(self) -> None:
        """Read what has changed."""
        folder = self._folder
        self._known = self._known or folder.config.is_file()
        if self._changed(folder.config):
            self.settings = _mapping(folder.config, yaml.safe_load)
        if self._changed(folder.environment):  # written whenever a run begins or is taken up again
            self.environment = _mapping(folder.environment, json.loads)
            self._metrics.forget()
            self._events.forget()
        if self._changed(folder.status):
            self.status = _mapping(folder.status, json.loads)
        self._metrics.read()
        self.records = [record for record in self._metrics.records if record.keys() >= COUNTS and _scored(record.get("consensus"))]
        self._events.read()

    @property
    def state(self) -> str:
        """absent, starting, running, done, failed, interrupted, lost (its process is gone, without a word), or deleted."""
        if not self._folder.config.is_file():
            return "deleted" if self._known else "absent"
        told = str(self.status.get("state", "starting"))
        return "lost" if told == "running" and self._abandoned() else told

    @property
    def message(self) -> str:
        """What there is to say about that state."""
        match self.state:
            case "absent":
                return f"There is no run in {self.path} yet."
            case "deleted":
                return f"The run folder {self.path} was deleted."
            case "lost":
                return f"Process {self.status.get('pid')} is gone without a word. Continue with `parle resume {self.path}`."
            case "interrupted":
                return f"Interrupted at step {self.status.get('step', 0):,}. Continue with `parle resume {self.path}`."
            case "failed":
                return str(self.status.get("message", ""))
            case "starting" | "running" if not self.records:
                return "No evaluation yet."
        return ""

    @property
    def replicas(self) -> int:
        """How many there are."""
        return _number(self.settings.get("replicas"), 1)

    @property
    def algorithm(self) -> str:
        """The algorithm with its variant."""
        its = self.settings.get("algorithm")
        its = its if isinstance(its, dict) else {"name": its or "?"}
        return str(its.get("name", "parle")) + (f" ({its['variant']})" if its.get("variant") else "")

    @property
    def task(self) -> tuple[str, str]:
        """The names of the model and of the data."""
        return tuple(str((its.get("name", "?") if isinstance(its, dict) else its) or "?") for its in (self.settings.get("model"), self.settings.get("data")))

    @property
    def title(self) -> str:
        """What was trained, in a line."""
        model, data = self.task
        return f"{self.algorithm} on {data}, {self.replicas} x {model}"

    @property
    def epochs(self) -> float:
        """The epochs that are planned; 0 where that is not known."""
        return _number(self.settings.get("epochs"), 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Of training, if it goes on as before; None where that cannot be said."""
        epoch = self.last.get("epoch", 0)
        if self.state != "running" or not epoch or not self.epochs:
            return None
        return max(0.0, (self.epochs - epoch) * self.last["seconds"] / epoch)

    @property
    def changed(self) -> float:
        """When something was last written into its files, in seconds since 1970; 0 where nothing was."""
        return max((stamp[0] / 1e9 for stamp in map(_stamp, self._files()) if stamp), default=0.0)

    def _files(self) -> Iterator[Path]:
        yield from (self._folder.config, self._folder.status, self._folder.metrics, self._folder.events)

    def _changed(self, file: Path) -> bool:
        before, now = self._stamps.get(file), _stamp(file)
        self._stamps[file] = now
        return now is not None and now != before

    def _abandoned(self) -> bool:
        """Whether the process that trains ran on this machine and is no longer there."""
        pid = self.status.get("pid")
        if os.name != "posix" or not isinstance(pid, int) or pid <= 0 or self.status.get("host") != platform.node():
            return False
        try:
            os.kill(pid, 0)  # sends nothing
        except ProcessLookupError:
            return time.time() - self.changed > SILENT
        except OSError:
            return False
        return False


def existing(paths: list[Path]) -> list[Story]:
    """The stories of runs that there are, labelled by their names or, where two have the same, by their paths; ConfigError where there is none."""
    for path in paths:
        RunFolder.existing(path)
    return labelled([Story(path) for path in paths])


def labelled(stories: list[Story]) -> list[Story]:
    """The same stories, with labels that tell them apart."""
    alike = len({its.name for its in stories}) < len(stories)
    for its in stories:
        its.label = str(its.path) if alike else its.name
    return stories


def thinned(records: list, most: int = 400) -> list:
    """At most so many of the records and the last one, evenly: more than a picture can show are not drawn.

    >>> thinned([1, 2, 3, 4, 5, 6], most=3)
    [1, 3, 5, 6]
    """
    stride = max(1, -(-len(records) // most))
    kept = records[::stride]
    return kept if not records or (len(records) - 1) % stride == 0 else [*kept, records[-1]]


def _scored(consensus) -> bool:
    return isinstance(consensus, dict) and consensus.keys() >= {"error_pct", "loss"}


def _number(value, otherwise):
    return value if isinstance(value, (int, float)) else otherwise


def _stamp(file: Path) -> tuple | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size


def _object(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mapping(file: Path, read: Callable[[str], object]) -> dict:
    """What a JSON or YAML file holds; nothing where it is missing or damaged."""
    try:
        value = read(file.read_text(errors="replace"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
