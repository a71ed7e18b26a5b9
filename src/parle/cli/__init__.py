"""The command `parle`: thin commands over plain functions; only this package and reports print, only this one exits."""

import os
import sys
import time

from parle.cli import catalogue, configuration, experiments, looking, results, sharing, training
from parle.cli.application import app, in_order
from parle.errors import ParleError

__all__ = ["app", "catalogue", "configuration", "experiments", "looking", "main", "results", "sharing", "training"]


in_order()


def main() -> None:
    """Run the command line; an error of parle becomes one line and its exit code."""
    # Threads that spin while they wait slow each other down up to a hundred times where another job shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when torch is imported
    try:
        app()
    except ParleError as error:
        _end(error)


def _end(error: ParleError) -> None:
    """Say what happened in one line, once for all processes where all say the same, and end with the error's exit code."""
    from parle.launch import World

    try:
        world = World.read()
    except ParleError:  # which is the error itself
        world = World()
    if error.everywhere and world.rank:
        time.sleep(1.0)  # the first process speaks for all, before a launcher ends it because of this one
    else:
        print(f"parle: {error}", file=sys.stderr)
    if world.size == 1:
        sys.exit(error.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.exit_code)  # after a lost process, torch's threads may abort an ordinary exit
