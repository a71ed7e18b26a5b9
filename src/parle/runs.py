"""Run folders: what a training leaves on disk.

runs/<name>/  config.yaml  env.json  status.json  metrics.jsonl  events.jsonl  checkpoints/  final/model.safetensors  report.html

The first process of a run writes it. Every process of several writes `logs/process-<rank>.jsonl`, and its state of a checkpoint into
`checkpoints/`, all but the first in a folder of its own there.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from parle.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from torch import Tensor  # whoever only reads about a run does without torch


class RunFolder:
    """The folder of one run: its files by name, written so that a reader never sees half a file."""

    def __init__(self, path: Path):
        self.path = path
        self.config, self.environment, self.status = path / "config.yaml", path / "env.json", path / "status.json"
        self.metrics, self.events = path / "metrics.jsonl", path / "events.jsonl"
        self.logs = path / "logs"
        self.checkpoints, self.model = path / "checkpoints", path / "final" / "model.safetensors"
        self.report = path / "report.html"

    def require_free(self, overwrite: bool = False) -> None:
        """Raise ConfigError if the name is taken, or not to be overwritten."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not overwrite:
            raise ConfigError(f"The run {self.path} exists. Choose another --name, continue it with --resume, or replace it with --overwrite.")
        if not self.config.is_file():
            raise ConfigError(f"{self.path} is not a run of parle (it has no config.yaml), so --overwrite leaves it alone. Choose another --name.")

    def create(self, overwrite: bool = False) -> None:
        """Make the folder anew; ConfigError where the name is taken, SetupError where it cannot be written."""
        self.require_free(overwrite)
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.checkpoints.mkdir(parents=True)
            self.model.parent.mkdir()
        except OSError as error:
            raise SetupError(f"The run folder {self.path} cannot be made: {error.strerror}. Choose a folder that you may write to with --runs-dir.") from error

    def checkpoints_of(self, rank: int) -> Path:
        """The folder of one process's checkpoints."""
        return self.checkpoints / f"process-{rank}" if rank else self.checkpoints

    def log(self, rank: int, name: str, **details) -> None:
        """Note in the log of one process what happened there, with the time."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.append(self.logs / f"process-{rank}.jsonl", {"time": round(time.time(), 3), "event": name, **details})

    @property
    def state(self) -> str:
        """How far the run has come: running, done, failed, interrupted, or not begun."""
        return _told(self.status, "state") or ("unreadable" if self.status.exists() else "not begun")

    def require_done(self) -> None:
        """Raise ConfigError, with what to do, unless the run has come to its end."""
        if not self.is_done():
            raise ConfigError(
                f"The run {self.path} is not finished; its state is `{self.state}`. Wait for its end, or continue it with `parle resume {self.path}`."
            )

    def machine(self) -> dict:
        """What env.json tells of the machine and the versions; nothing where it is missing or damaged."""
        try:
            told = json.loads(self.environment.read_text())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def is_done(self) -> bool:
        """Whether the run has come to its end."""
        return _told(self.status, "state") == "done"

    def has_failed(self) -> bool:
        """Whether the run has begun and neither come to its end nor been interrupted."""
        return _told(self.status, "state") in ("running", "failed")

    def is_of(self, launch_id: str) -> bool:
        """Whether this run was begun by an earlier start of that launch."""
        return bool(launch_id) and _told(self.environment, "launch_id") == launch_id

    def result(self) -> dict:
        """The summary of a run that is done."""
        return json.loads(self.status.read_text())["result"]

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """The folder of an earlier run; ConfigError where there is none."""
        run = cls(path)
        if not run.config.is_file():
            raise ConfigError(f"{path} is not a run: it has no config.yaml. `parle list runs` shows the runs in ./runs.")
        return run

    def write_json(self, file: Path, content: dict) -> None:
        """Replace a JSON file in one step."""
        self.write_text(file, json.dumps(content, indent=1) + "\n")

    def write_text(self, file: Path, text: str) -> None:
        """Replace a text file in one step."""
        aside = file.with_suffix(file.suffix + ".part")
        try:
            with open(aside, "w") as content:
                content.write(text)
                content.flush()
                os.fsync(content.fileno())
            os.replace(aside, file)
        except OSError as error:
            raise SetupError(f"{file} cannot be written: {error.strerror}. Free some space, or choose another --runs-dir.") from error

    def append(self, file: Path, record: dict) -> None:
        """Add a line to a JSONL file."""
        try:
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")
        except OSError as error:
            raise SetupError(f"{file} cannot be written: {error.strerror}. Free some space, or choose another --runs-dir.") from error

    def event(self, name: str, **details) -> None:
        """Note what happened, with the time (seconds since 1970)."""
        self.append(self.events, {"time": round(time.time(), 3), "event": name, **details})

    def records(self) -> list[dict]:
        """The evaluations written so far, one dict each; a torn last line is passed over, and what is none."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if isinstance(record, dict) and record.get("consensus"):
                records.append(record)
        return records

    def forget_after(self, step: int) -> None:
        """Drop evaluations of later steps than `step`, before a resumed run writes them again."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def save_model(self, state: "dict[str, Tensor]") -> None:
        """Write the solution: parameters and buffers by name, tied ones once under each name."""
        import safetensors.torch

        aside = self.model.with_suffix(".part")
        try:
            self.model.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, aside)
            os.replace(aside, self.model)
        except (OSError, safetensors.SafetensorError) as error:
            raise SetupError(f"{self.model} cannot be written: {error}. Free some space, or choose another --runs-dir.") from error

    def load_model(self) -> "dict[str, Tensor]":
        """The solution of a finished run; ConfigError where it cannot be read."""
        import safetensors.torch

        if not self.model.exists():
            self.require_done()
        try:
            return safetensors.torch.load_file(self.model)
        except (OSError, safetensors.SafetensorError) as error:
            raise ConfigError(
                f"The run {self.path} has no usable {self.model.relative_to(self.path)} ({error}). Train it again, or fetch the file again."
            ) from error


def _told(file: Path, key: str) -> str | None:
    """What a JSON file says under a key; None where it is missing or damaged."""
    try:
        return json.loads(file.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
