"""Commands that give runs to others: `export`."""

import json
from pathlib import Path
from typing import Annotated

from parle.cli import completion
from parle.cli.application import LOOK, JsonOption, RunArgument, app, option


@app.command(rich_help_panel=LOOK)
def export(
    run: RunArgument,
    to: Annotated[Path, option("--to", says="The file or folder to write.")],
    form: Annotated[
        str | None,
        option(
            "--format",
            autocompletion=completion.formats,
            says="safetensors, pt2 or onnx, a file each; or hf, a folder with a model card.",
            default="by the ending of --to; hf for a folder",
        ),
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", says="Replace an export of this name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the solution of a finished run for others, and check what was written.

    - `parle export runs/mine --to mine.safetensors`
    - `parle export runs/mine --format hf --to mine`
    - `parle export runs/mine --to mine.pt2`, a program that needs no code of the network; mine.onnx likewise
    """
    from parle import exporting
    from parle.reports import progress, tables

    found = exporting.export(run, to, form, overwrite, progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_export(found)
