"""Commands that say what there is: `list`, `explain`, `doctor`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli import completion
from parle.cli.application import LEARN, JsonOption, app, option
from parle.errors import ConfigError, did_you_mean


@app.command("list", rich_help_panel=LEARN)
def list_(
    what: Annotated[str, typer.Argument(help="algorithms, models, data, tables, runs or all. Default: all.", show_default=False)] = "all",
    runs_dir: Annotated[Path, option("--runs-dir", says="Folder of all runs.", default="runs")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List algorithms, models, data, tables to reproduce and runs.

    - `parle list`
    - `parle list algorithms`
    """
    from parle.reports import catalogue, tables

    listed = catalogue.everything(runs_dir)
    if what != "all" and what not in listed:
        raise ConfigError(f"`{what}` cannot be listed. {did_you_mean(what, ['all', *listed])}")
    listed = {title: rows for title, rows in listed.items() if what in ("all", title)}
    if as_json:
        print(json.dumps(listed))
        return
    if what == "runs" and not listed["runs"]:
        print(f"There are no runs in {runs_dir}.")
        return
    for title, rows in listed.items():
        tables.show(title, [title.removesuffix("s"), "what it is"], [[name, text] for name, text in rows.items()], texts=2)
        print()


@app.command(rich_help_panel=LEARN)
def explain(
    name: Annotated[str, typer.Argument(help="The name of an algorithm, as in `parle list`.", autocompletion=completion.algorithms)],
    replicas: Annotated[int, option("-n", "--replicas", min=1, says="Of the run in mind.", default="3")] = 3,
    steps: Annotated[int, option("--steps", min=1, says="Of each replica, in the run in mind.", default="10000")] = 10_000,
) -> None:
    """Explain an algorithm: equations, settings, cost, where it runs, special cases.

    - `parle explain parle`
    - `parle explain local-sgd -n 8 --steps 60000`
    """
    from parle.algorithms import ALGORITHMS
    from parle.reports import explain as explaining
    from parle.reports import tables

    if name not in ALGORITHMS:
        raise ConfigError(f"`{name}` is not an algorithm. {did_you_mean(name, ALGORITHMS)}")
    tables.show_page(explaining.page(name, ALGORITHMS[name], steps, replicas))


@app.command(rich_help_panel=LEARN)
def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has for parle, and the command that adds what is missing.

    - `parle doctor`
    - `parle doctor --json`
    """
    from parle import launch
    from parle.reports import doctor as examining
    from parle.reports import tables

    folder = launch.Environment.read().data_dir
    report = examining.report(str(folder) if folder else None)
    if as_json:
        print(json.dumps(report))
        return
    rows = [[key, ", ".join(value) if isinstance(value, list) else str(value)] for key, value in report.items() if not isinstance(value, dict)]
    rows += [[name, version or "missing"] for name, version in report["packages"].items()]
    tables.show("doctor", ["what", "found"], rows, texts=2)
    for extra, command in report["install"].items():
        print(f"To add what {extra} needs: {command}")
