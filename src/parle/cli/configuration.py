"""Commands about configurations: `config show`, `config diff`, `config schema`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli import completion
from parle.cli.application import LEARN, JsonOption, app, option

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(commands, name="config", rich_help_panel=LEARN)


@commands.callback()
def about() -> None:
    """Show the keys of a configuration, compare two, write the schema for an editor.

    - `parle config show`
    - `parle config diff runs/a runs/b`
    """


@commands.command()
def show(
    place: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|FILE]", help="A run folder or a YAML file. Default: the defaults of train.", show_default=False, autocompletion=completion.runs
        ),
    ] = None,
    sets: Annotated[
        list[str] | None, option("--set", autocompletion=completion.settings, says="Any setting on top: path=value, such as algorithm=diloco.", default="none")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every key of a configuration with its value, its default and its meaning.

    - `parle config show`
    - `parle config show runs/mine`
    - `parle config show --set algorithm=diloco`
    """
    from parle import schema
    from parle.reports import tables

    found = [dataclasses.asdict(entry) for entry in schema.entries(schema.read(place, tuple(sets or ())))]
    print(json.dumps(found)) if as_json else tables.show_settings(str(place or "the defaults"), found)


@commands.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder or a YAML file.", autocompletion=completion.runs)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.", autocompletion=completion.runs)],
    as_json: JsonOption = False,
) -> None:
    """Show only what differs between two runs or files.

    - `parle config diff runs/a runs/b`
    - `parle config diff runs/a my.yaml --json`
    """
    from parle import schema
    from parle.reports import tables

    found = schema.differences(schema.read(first), schema.read(second))
    print(json.dumps({"a": str(first), "b": str(second), "differences": found})) if as_json else tables.show_differences(str(first), str(second), found)


@commands.command("schema")
def schema_() -> None:
    """Print the JSON schema of configuration files, from which editors complete and check them.

    - `parle config schema`
    - `parle config schema > parle.schema.json`, named in the first line of a file: `# yaml-language-server: $schema=parle.schema.json`
    """
    from parle import schema

    print(json.dumps(schema.json_schema(), indent=1))
