"""Commands that carry out many trainings or none: `reproduce`, `simulate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli.application import JsonOption, app, quorum_of


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="One of `parle list tables`.")],
    scale: Annotated[float, typer.Option("--scale", help="Part of the gradient evaluations: samples and epochs are multiplied by its square root.")] = 1.0,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of every row; default: 3, of figure 1 the six networks.")] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="TEXT", help="Only rows whose name contains it, such as lenet, or allcnn-50,allcnn-25.")] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Train nothing: show what is there.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after so many, with a checkpoint; the same command goes on.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, for every row: path=value, such as threads=1 or device=cuda.")] = None,
    runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Folder of the runs, which tables and figures share.")] = Path("runs/reproduce"),
    as_json: JsonOption = False,
) -> None:
    """Train what stands behind a table or figure of a paper, and show our figures beside the published ones.

    Finished runs are kept and interrupted ones go on, so the same command may be repeated until all is done.

    - `parle reproduce parle-table-1 --only lenet`
    - `parle reproduce parle-table-2 --scale 0.02 --seeds 1 --set model.options.width=0.25`
    - `parle reproduce parle-table-2 --minutes 9 --set device=cuda --set precision=bf16`
    """
    from parle import launch
    from parle import reproduce as reproducing
    from parle.reports import progress, tables
    from parle.together import Ended

    if minutes is not None:
        launch.end_after(60 * minutes, Ended(f"{minutes:g} minutes are over. The same command goes on.", 143))
    found = reproducing.reproduce(table, runs_dir, scale, seeds, only, tuple(sets or ()), finished, progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_reproduced(found)


@app.command()
def simulate(
    model: Annotated[str | None, typer.Option("-m", "--model", help="As in train.")] = None,
    data: Annotated[str | None, typer.Option("-d", "--data", help="As in train.")] = None,
    algorithm: Annotated[str, typer.Option("-a", "--algorithm", help="One of `parle list` that takes partial rounds.")] = "server-sgd",
    replicas: Annotated[int, typer.Option("-n", "--replicas", help="How many replicas.")] = 8,
    batch_size: Annotated[int | None, typer.Option("-b", "--batch-size", help="Of each replica.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The rate, constant.")] = None,
    seed: Annotated[int, typer.Option("-s", "--seed", help="Root of all random numbers, those of the clock included.")] = 0,
    quorum: Annotated[str | None, typer.Option("--quorum", help="Proposals that close a round: 1, n, or 'ramp(1, n, every=300)'.")] = None,
    compute: Annotated[
        str, typer.Option("--compute", help="Seconds of one gradient: 0.05, 'lognormal(0.05, 0.3)', '0.05; 0:0.5' or trace(file.json).")
    ] = "0.05",
    delay: Annotated[str | None, typer.Option("--delay", help="Seconds on top: 'half:normal(0, 0.25)', for half of the replicas, all or some.")] = None,
    link: Annotated[str | None, typer.Option("--link", help="'latency=0.001, bandwidth=12.5e6', in seconds and bytes per second, shared.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Virtual seconds to simulate; default: 100, unless --samples says otherwise.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="End when so many samples were used: the time to N samples.")] = None,
    every: Annotated[float | None, typer.Option("--every", help="Virtual seconds between two tests; default: a fiftieth of the run.")] = None,
    time_only: Annotated[bool, typer.Option("--time-only", help="Only count time, without gradients: thousands of replicas in seconds.")] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: path=value, such as algorithm.reduce=sum.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Study replicas at a server on a virtual clock, exactly and repeatably.

    - `parle simulate -n 25 --quorum "ramp(1, n, every=300)" --delay "half:normal(0, 0.25)"`
    - `parle simulate -m lenet -d mnist -n 25 -b 32 --lr 0.01 --quorum 1 --seconds 20`
    - `parle simulate -n 1000 --quorum n --link "latency=0.001, bandwidth=1e9" --time-only --samples 1000000`
    """
    from parle import config as configuration
    from parle import simulation
    from parle.reports import progress, tables
    from parle.servers import Clock, Link

    options = {"schedule.drops": [], "schedule.outer_drops": [], "schedule.scoping": "off"}
    options |= {"model.name": model, "data.name": data, "algorithm.name": algorithm, "replicas": replicas, "batch_size": batch_size}
    options |= {"optimizer.lr": lr, "seed": seed, "communicator.quorum": quorum_of(quorum)}
    settings = configuration.load(None, tuple(sets or ()), options)
    clock = Clock(compute, delay, Link.read(link) if link else Link(), seed=seed)
    seconds = seconds if seconds is not None or samples is not None else 100.0
    show, curve = progress.Display(as_json), []
    result = simulation.simulate(settings, clock, seconds, samples, every, not time_only, show, curve.append)
    print(json.dumps(result | {"curve": curve})) if as_json else tables.show_simulation(result, curve)
