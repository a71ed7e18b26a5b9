"""Commands that look at runs: `eval`, `compare`, `align`, `flatness`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli.application import JsonOption, app
from parle.errors import ConfigError


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[str | None, typer.Option("-d", "--data", help="Other data of the same shape; default: that of the run.")] = None,
    training: Annotated[bool, typer.Option("--training", help="On the samples for training: the training error.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Test the solution of a finished run: `parle eval runs/mine`."""
    from parle import jobs
    from parle.reports import progress, tables

    result = jobs.evaluate(run, data, "train" if training else "test", progress.Display(as_json))
    if as_json:
        print(json.dumps(result))
    else:
        tables.show(
            str(run), ["data", "samples", "error %", "loss"], [[result["data"], result["samples"], f"{result['error_pct']:.2f}", f"{result['loss']:.4f}"]]
        )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    as_json: JsonOption = False,
) -> None:
    """Compare runs at their ends and at equal epochs, gradients, seconds and bytes: `parle compare runs/a runs/b`."""
    from parle import config as configuration
    from parle.reports import comparison, tables
    from parle.runs import RunFolder

    found = []
    for path in runs:
        run, records = RunFolder.existing(path), RunFolder(path).records()
        if not records:
            raise ConfigError(f"The run {path} has no evaluations yet, so there is nothing to compare.")
        settings = configuration.load(run.config)
        found.append(
            comparison.Run(path.name if len({p.name for p in runs}) == len(runs) else str(path), configuration.title(settings), settings.replicas, records)
        )
    compared = comparison.compare(found)
    print(json.dumps(compared)) if as_json else tables.show_comparison(compared)


@app.command()
def align(
    runs: Annotated[list[Path], typer.Argument(help="Two or more finished runs of one model, trained apart.")],
    method: Annotated[str, typer.Option(help="greedy or hungarian, layer by layer; or weights, over all layers.")] = "greedy",
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw both matrices of overlaps.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring networks into one order of channels, and test their mean: `parle align runs/a runs/b --method weights`."""
    from parle import anatomy
    from parle.reports import pictures, progress, tables

    found = anatomy.align(runs, method, progress.Display(as_json))
    if plot:
        pictures.matrices(plot, "Overlap of networks", {"as trained": found["overlap"], f"aligned ({method})": found["aligned_overlap"]})
    print(json.dumps(found)) if as_json else tables.show_alignment(found)


@app.command()
def flatness(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    samples: Annotated[int, typer.Option(min=2, help="Training samples, the first ones.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show how flat the loss around a solution is: `parle flatness runs/mine`."""
    from parle import anatomy
    from parle.reports import progress, tables

    found = anatomy.flatness(run, samples, show=progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_flatness(found)
