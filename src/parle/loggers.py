"""Who else hears of a run: TensorBoard, or a logger of your own."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from parle.errors import ConfigError, SetupError, did_you_mean, first_line
from parle.named import is_reference, resolve


class Logger(Protocol):
    """What hears of a run: its configuration, every record of metrics.jsonl, and how it ended; in the first process of several."""

    def start(self, folder: Path, settings: dict, step: int) -> None:
        """The run begins at step 0, or goes on after a later `step`; records of steps behind that, told before, do not count any more."""

    def record(self, record: dict) -> None:
        """One line of metrics.jsonl."""

    def end(self, status: dict) -> None:
        """The run ends: `state` is done, interrupted or failed, `exit_code` what the command returns, `result` the summary of a run that is done."""


def numbers(tree: dict, prefix: str = "") -> dict[str, float]:
    """All numbers of nested dicts and lists, by their paths.

    >>> numbers({"step": 44, "consensus": {"loss": 0.5}, "train_loss": [0.4, 0.6], "note": "none"})
    {'step': 44.0, 'consensus/loss': 0.5, 'train_loss/0': 0.4, 'train_loss/1': 0.6}
    """
    found = {}
    for key, value in tree.items():
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


class TensorBoard:
    """Writes every number of a record, and the configuration, for TensorBoard into the folder `tensorboard` of the run.

    Raises SetupError where TensorBoard is not installed.
    """

    def __init__(self):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise SetupError("The logger tensorboard needs TensorBoard. Install it with `pip install 'parle-sgd[tensorboard]'`.") from None
        self._open = SummaryWriter

    def start(self, folder: Path, settings: dict, step: int) -> None:
        """Begin a file; TensorBoard hides what earlier ones have of later steps than `step`."""
        self._writer = self._open(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            self._writer.add_text("configuration", "\n".join("    " + line for line in json.dumps(settings, indent=2).splitlines()))

    def record(self, record: dict) -> None:
        """Add a point to every curve."""
        for name, number in numbers(record).items():
            if name != "step":
                self._writer.add_scalar(name, number, record["step"])
        self._writer.flush()  # so that it is seen at once

    def end(self, status: dict) -> None:
        """Close the file."""
        self._writer.close()


LOGGERS: dict[str, Callable[[], Logger]] = {"tensorboard": TensorBoard}


def made(name: str) -> Logger:
    """The logger of that name, or what `package.module:attribute` or `file.py:attribute` returns when it is called.

    Raises ConfigError where that is no logger, SetupError where a package is missing.
    """
    if name not in LOGGERS and not is_reference(name):
        raise ConfigError(f"`{name}` is not a logger. {did_you_mean(name, LOGGERS)} Your own is package.module:attribute or file.py:attribute.")
    make = LOGGERS.get(name) or resolve(name, "logger")
    if not callable(make):
        raise ConfigError(f"Logger `{name}` is {make!r}. Name a class, or a function, that returns an object with start, record and end.")
    try:
        logger = make()
    except SetupError:
        raise
    except Exception as error:
        raise ConfigError(f"Logger `{name}` cannot be made: {type(error).__name__}: {first_line(error)}") from error
    missing = [verb for verb in ("start", "record", "end") if not callable(getattr(logger, verb, None))]
    if missing:
        raise ConfigError(f"Logger `{name}` has no {' and no '.join(missing)}. It needs start(folder, settings, step), record(record) and end(status).")
    return logger


class Loggers:
    """The loggers of a run, in the order of their names. One that raises hears nothing more, `warn` is told, and the run goes on.

    >>> loggers = Loggers([], warn=print)
    >>> loggers.record({"step": 44})
    """

    def __init__(self, names: Iterable[str], warn: Callable[[str], None]):
        self._loggers, self._warn = {name: made(name) for name in names}, warn

    def start(self, folder: Path, settings: dict, step: int) -> None:
        """Tell all that the run begins, or goes on after `step`."""
        self._tell("start", folder, settings, step)

    def record(self, record: dict) -> None:
        """Tell all a record."""
        self._tell("record", record)

    def end(self, status: dict) -> None:
        """Tell all how the run ended."""
        self._tell("end", status)

    def _tell(self, verb: str, *what: Any) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                getattr(logger, verb)(*copy.deepcopy(what))  # which it may change
            except Exception as error:
                del self._loggers[name]
                self._warn(
                    f"Logger `{name}` failed in {verb} ({type(error).__name__}: {first_line(error)}) and hears nothing more; metrics.jsonl has every record."
                )
