"""Every error that parle raises on purpose.

ParleError                      exit code 1   (never raised itself)
├── ConfigError                 exit code 2   a setting, a name or an argument is not valid
│   └── JoinError               exit code 2   a model or an optimizer cannot be joined, or is used in a way that cannot work
├── SetupError                  exit code 3   the machine lacks something: an extra, a file, a device, a permission
├── DivergedError               exit code 4   training produced a number that is not finite
└── ReplicaLost                 exit code 5   a process with replicas died or does not answer

A message says what happened with the value, what was expected, and what to do.
"""

import difflib
from collections.abc import Iterable


class ParleError(Exception):
    """An error of parle, with the exit code that the command line returns for it."""

    exit_code = 1
    everywhere = False  # whether every process raises the same, so that one of them may speak for all


class ConfigError(ParleError):
    """A setting, a name or an argument is not valid."""

    exit_code = 2


class JoinError(ConfigError):
    """A model or an optimizer cannot be joined, or is used in a way that cannot work after joining."""


class SetupError(ParleError):
    """This machine lacks something: an optional package, a file, a device, a permission."""

    exit_code = 3


class DivergedError(ParleError):
    """Training produced a number that is not finite."""

    exit_code = 4


class ReplicaLost(ParleError):
    """A process with replicas has died or does not answer."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none.

    >>> first_line(AssertionError()), first_line(ValueError("bad"))
    ('AssertionError', 'bad')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence naming the known name nearest to `name`, or the whole list where none is near.

    >>> did_you_mean("peroid", ["period", "rho"])
    'Did you mean period?'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
