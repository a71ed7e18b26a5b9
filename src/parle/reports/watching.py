"""Runs that are followed, and what there is to show of them: for the live page and for the terminal."""

import math
import threading
from pathlib import Path

from parle.reports import panels, story
from parle.reports.story import ENDED, Story

SHOWN = 6  # runs at a time, where nobody says which


class Watcher:
    """Follows the runs that were named; or, of a folder of runs, those that are under way and the newest one.

    A run that it has once shown it goes on showing, so that its end is seen.
    """

    def __init__(self, paths: list[Path], runs_dir: Path):
        self.runs_dir, self.stories = runs_dir, [Story(path) for path in paths]
        self._chosen, self._seen, self._lock = bool(paths), {}, threading.Lock()

    def look(self) -> list[Story]:
        """The runs as they are now; one at a time may look."""
        with self._lock:
            for its in self.stories:
                its.refresh()
            if not self._chosen:
                self._find()
            return story.labelled(list(self.stories))

    @property
    def waiting_for(self) -> str:
        """What is said while there is no run."""
        return f"No run in {self.runs_dir} yet."

    def _find(self) -> None:
        """Take up what is new in the folder, the newest first; more than are shown at a time push out those that ended first."""
        stamps = sorted((stamp, path) for path in _folders(self.runs_dir) if (stamp := _stamp(path)))
        shown = {its.path for its in self.stories}
        for stamp, path in stamps:
            if path not in shown and self._seen.get(path) != stamp:
                its = Story(path)
                if its.state not in ENDED or path == stamps[-1][1]:
                    self.stories.insert(0, its)
            self._seen[path] = stamp
        over = max(0, len(self.stories) - SHOWN)
        dropped = [its for its in reversed(self.stories) if its.state in ENDED][:over]
        self.stories = [its for its in self.stories if its not in dropped]


def shown(stories: list[Story]) -> list[dict]:
    """Everything that there is to show of runs, as values that are JSON."""
    return [_shown(its) for its in stories]


def figures(its: Story) -> dict:
    """The present state of a run, in single numbers and texts."""
    last, records = its.last, its.records
    consensus = last.get("consensus") or {}
    return {
        "run": str(its.path),
        "name": its.label,
        "state": its.state,
        "message": its.message,
        "title": its.title if its.settings else "",
        "replicas": its.replicas,
        "epoch": last.get("epoch", 0),
        "epochs": its.epochs,
        "step": last.get("step", 0),
        "round": last.get("round", 0),
        "gradient_evaluations": last.get("gradient_evaluations", 0),
        "evaluations": len(records),
        "error_pct": _finite(consensus.get("error_pct")),
        "best_error_pct": min((error for record in records if (error := _finite(record["consensus"]["error_pct"])) is not None), default=None),
        "loss": _finite(consensus.get("loss")),
        "seconds": last.get("seconds", 0),
        "seconds_left": its.seconds_left,
        "changed": its.changed,
        "images_per_second": last.get("images_per_second", 0),
        "bytes_sent_per_replica": last.get("bytes_sent_per_replica", 0),
        "seconds_by_use": panels.times(records) if records else {},
    }


def _shown(its: Story) -> dict:
    records = story.thinned(its.records, 300)
    drawn = [*panels.scores([its], [records]), *panels.inside(records)] if records else []
    return figures(its) | {
        "spent": panels.spent(records),
        "panels": [
            {
                "title": panel.title,
                "logarithmic": panel.logarithmic,
                "lines": [{"label": line.label, "single": line.single, "values": line.values} for line in panel.lines],
            }
            for panel in drawn
        ],
    }


def _folders(runs_dir: Path) -> list[Path]:
    try:
        return list(runs_dir.iterdir())
    except OSError:
        return []


def _stamp(run: Path) -> float | None:
    """When the state of a run was last written; None where it is not a run."""
    for file in ("status.json", "config.yaml"):
        try:
            return (run / file).stat().st_mtime
        except OSError:
            continue
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
