"""Commands that look at runs: `eval`, `compare`, `align`, `flatness`."""

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli import completion
from parle.cli.application import LOOK, JsonOption, RunArgument, app, option
from parle.errors import ConfigError


class Against(enum.StrEnum):
    """What runs are compared over."""

    epochs = "epochs"
    gradients = "gradients"
    seconds = "seconds"
    bytes = "bytes"

    @property
    def axis(self) -> str:
        """Its name in full."""
        return {"gradients": "gradient evaluations", "bytes": "bytes sent per replica"}.get(self.value, self.value)


@app.command("eval", rich_help_panel=LOOK)
def evaluate(
    run: RunArgument,
    data: Annotated[str | None, option("-d", "--data", says="Other data of the same shape.", default="that of the run")] = None,
    training: Annotated[bool, option("--training", says="On the samples for training: the training error.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Test the solution of a finished run.

    - `parle eval runs/mine`
    - `parle eval runs/mine --training --json`
    """
    from parle import anatomy
    from parle.reports import progress, tables

    result = anatomy.evaluate(run, data, "train" if training else "test", progress.Display(as_json))
    if as_json:
        print(json.dumps(result))
    else:
        tables.show(
            str(run), ["data", "samples", "error %", "loss"], [[result["data"], result["samples"], f"{result['error_pct']:.2f}", f"{result['loss']:.4f}"]]
        )


@app.command(rich_help_panel=LOOK)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.", autocompletion=completion.runs)],
    plot: Annotated[Path | None, option("--plot", metavar="FILE.svg|FILE.pdf", says="Draw the test errors of all runs.", default="no picture")] = None,
    against: Annotated[Against, option("--against", says="What the picture shows them over.", default="epochs")] = Against.epochs,
    as_json: JsonOption = False,
) -> None:
    """Compare runs at their ends and at equal epochs, gradients, seconds and bytes.

    - `parle compare runs/a runs/b`
    - `parle compare runs/a runs/b --plot errors.pdf --against bytes`
    """
    from parle.reports import comparison, pictures, story, tables

    if plot:
        pictures.require_format(plot)
    stories = story.existing(runs)
    for its in stories:
        if not its.records:
            raise ConfigError(f"The run {its.path} has no evaluations yet, so there is nothing to compare.")
    found = comparison.runs_of(stories)
    if plot:
        pictures.curves(plot, "", comparison.errors(found, against.axis), against.axis, "test error, %")
    compared = comparison.compare(found) | ({"plot": str(plot)} if plot else {})
    print(json.dumps(compared)) if as_json else tables.show_comparison(compared)


@app.command(rich_help_panel=LOOK)
def align(
    runs: Annotated[list[Path], typer.Argument(help="Two or more finished runs of one model, trained apart.", autocompletion=completion.runs)],
    method: Annotated[str, option("--method", says="greedy or hungarian, layer by layer; or weights, over all layers.", default="greedy")] = "greedy",
    plot: Annotated[Path | None, option("--plot", metavar="FILE.svg", says="Draw both matrices of overlaps.", default="no picture")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring networks into one order of channels, and test their mean.

    - `parle align runs/a runs/b`
    - `parle align runs/a runs/b --method weights --plot overlaps.svg`
    """
    from parle import anatomy
    from parle.reports import pictures, progress, tables

    found = anatomy.align(runs, method, progress.Display(as_json))
    if plot:
        pictures.matrices(plot, "Overlap of networks", {"as trained": found["overlap"], f"aligned ({method})": found["aligned_overlap"]})
    print(json.dumps(found)) if as_json else tables.show_alignment(found)


@app.command(rich_help_panel=LOOK)
def flatness(
    run: RunArgument,
    samples: Annotated[int, option("--samples", min=2, says="Training samples, the first ones.", default="1000")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show how flat the loss around a solution is.

    - `parle flatness runs/mine`
    - `parle flatness runs/mine --samples 200`
    """
    from parle import anatomy
    from parle.reports import progress, tables

    found = anatomy.flatness(run, samples, show=progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_flatness(found)
