"""The application that the commands of the other files belong to, and what they share."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


@app.callback()
def about() -> None:
    """Train several coupled replicas of a network that speak to each other rarely.

    **parle train** alone trains three Parle replicas on embedded digits, in seconds and offline.
    """


def quorum_of(text: str | None) -> int | str | None:
    """The quorum that an option names: a number, or a schedule as text."""
    return int(text) if text and text.isdigit() else text
