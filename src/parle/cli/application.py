"""The application that the commands of the other files belong to, and what they share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from parle.cli import completion

PANELS = TRAIN, LOOK, STUDY, LEARN = "Train", "Look at runs, and share them", "Study", "Find out"  # of the commands, in the order of `parle --help`
WHAT, COUPLING, STEPS, MACHINE, FOLDER, OUTPUT = "What to train", "Coupling", "How long, and how", "Machine", "Run folder", "Output"  # of their options

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def option(*names: str, says: str, default: str | None = None, panel: str | None = None, **more: Any) -> Any:
    """An option with its default in words, on the line of its help; a flag, which is off by default, has none."""
    text = says if default is None else f"{says} Default: {default}."
    return typer.Option(*names, help=text, show_default=False, rich_help_panel=panel, **more)


RunArgument = Annotated[Path, typer.Argument(help="A run folder.", autocompletion=completion.runs)]
JsonOption = Annotated[bool, option("--json", says="Print one JSON object as the last line of standard output.")]


@app.callback()
def about() -> None:
    """Train several coupled replicas of a network that speak to each other rarely.

    - `parle train`: three Parle replicas on embedded digits, in seconds and offline
    - `parle list`: what there is to train, and how
    """


def in_order() -> None:
    """Bring the commands into the order of their panels; inside one, they stay in the order of their files."""
    place = {panel: number for number, panel in enumerate(PANELS)}
    app.registered_commands.sort(key=lambda command: place.get(command.rich_help_panel, len(place)))


def quorum_of(text: str | None) -> int | str | None:
    """The quorum that an option names: a number, or a schedule as text."""
    return int(text) if text and text.isdigit() else text
