"""Commands that show runs: `report`, `watch`."""

import getpass
import json
import platform
from pathlib import Path
from typing import Annotated

import typer

from parle.cli import completion
from parle.cli.application import LOOK, JsonOption, app, option
from parle.errors import ConfigError


@app.command(rich_help_panel=LOOK)
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders.", autocompletion=completion.runs)],
    to: Annotated[
        Path | None,
        option("--to", metavar="FILE.html", says="Where to.", default="report.html in the run folder, or of several runs beside the first one"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report of runs as one HTML file.

    - `parle report runs/mine`
    - `parle report runs/a runs/b --to both.html`
    """
    from parle.reports import page, story
    from parle.runs import RunFolder

    stories = story.existing(runs)
    path = to or (RunFolder(runs[0]).report if len(runs) == 1 else runs[0].parent / "report.html")
    page.write(stories, path)
    print(json.dumps({"report": str(path)}) if as_json else f"Written to {path}")


@app.command(rich_help_panel=LOOK)
def watch(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, also such as are not there yet. Default: what is under way, and the newest.", show_default=False, autocompletion=completion.runs
        ),
    ] = None,
    runs_dir: Annotated[Path, option("--runs-dir", says="Folder of all runs.", default="runs")] = Path("runs"),
    port: Annotated[int | None, option("--port", min=1, max=65535, says="Of the page.", default="8417, or a free one where that is taken")] = None,
    text: Annotated[bool, option("--text", says="In the terminal, until the runs end.")] = False,
    once: Annotated[bool, option("--once", says="In the terminal, as it is now.")] = False,
    as_json: Annotated[bool, option("--json", says="As it is now, as one JSON object.")] = False,
) -> None:
    """Follow trainings that are under way, on a page for the browser of this machine or in the terminal.

    - `parle watch`, and open the address that it prints
    - `parle watch runs/a runs/b --text`
    - `parle watch --once --json`
    """
    from parle.reports import terminal, watching
    from parle.runs import RunFolder

    if as_json or once:
        for path in runs or ():
            RunFolder.existing(path)
        watcher = watching.Watcher(runs or [], runs_dir)
        stories = watcher.look()
        print(json.dumps({"runs": [watching.figures(its) for its in stories]})) if as_json else terminal.show(watcher, stories)
        return
    if text and port:
        raise ConfigError("--port is that of the page, and --text shows none. Leave one of them away.")
    watcher = watching.Watcher(runs or [], runs_dir)
    if text:
        terminal.follow(watcher)
    else:
        _serve(watcher, port)


def _serve(watcher, port: int | None) -> None:
    from parle.reports import live

    server = live.server_for(watcher, port)
    number = server.server_address[1]
    try:
        print(f"Watching on http://127.0.0.1:{number}/  (Ctrl-C ends it; the runs go on)")
        print(f"From another machine: ssh -L {number}:127.0.0.1:{number} {getpass.getuser()}@{platform.node()}  and open the same address there.", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
