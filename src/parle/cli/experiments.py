"""Commands that carry out many trainings or none: `reproduce`, `simulate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parle.cli import completion
from parle.cli.application import COUPLING, STEPS, STUDY, WHAT, JsonOption, app, option, quorum_of
from parle.errors import ConfigError

CLOCK = "The virtual clock"


@app.command(rich_help_panel=STUDY)
def reproduce(
    table: Annotated[str, typer.Argument(help="One of `parle list tables`.")],
    scale: Annotated[
        float, option("--scale", says="Part of the gradient evaluations: samples and epochs are multiplied by its square root.", default="1, full size")
    ] = 1.0,
    seeds: Annotated[int | None, option("--seeds", min=1, says="Runs of every row.", default="3, of figure 1 the six networks")] = None,
    only: Annotated[
        str | None, option("--only", metavar="TEXT", says="Only rows whose name contains it, such as lenet, or allcnn-50,allcnn-25.", default="all")
    ] = None,
    finished: Annotated[bool, option("--finished", says="Train nothing: show what is there.")] = False,
    minutes: Annotated[
        float | None, option("--minutes", says="Stop after so many, with a checkpoint; the same command goes on.", default="when all is done")
    ] = None,
    sets: Annotated[
        list[str] | None,
        option(
            "--set", autocompletion=completion.settings, says="Any other setting, for every row: path=value, such as threads=1 or device=cuda.", default="none"
        ),
    ] = None,
    runs_dir: Annotated[Path, option("--runs-dir", says="Folder of the runs, which tables and figures share.", default="runs/reproduce")] = Path(
        "runs/reproduce"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train what stands behind a table or figure of a paper, and show our figures beside the published ones.

    - `parle reproduce parle-table-1 --only lenet`
    - `parle reproduce parle-table-2 --scale 0.02 --seeds 1 --set model.options.width=0.25`
    - `parle reproduce parle-table-2 --minutes 9 --set device=cuda --set precision=bf16`

    Finished runs are kept and interrupted ones go on, so the same command may be repeated until all is done.
    """
    from parle import launch
    from parle import reproduce as reproducing
    from parle.reports import progress, tables
    from parle.together import Ended

    if minutes is not None:
        if not minutes > 0:
            raise ConfigError(f"--minutes is {minutes:g}, but it must be above 0.")
        launch.end_after(60 * minutes, Ended(f"{minutes:g} minutes are over. The same command goes on.", 143))
    found = reproducing.reproduce(table, runs_dir, scale, seeds, only, tuple(sets or ()), finished, progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_reproduced(found)


@app.command(rich_help_panel=STUDY)
def simulate(
    model: Annotated[str | None, option("-m", "--model", autocompletion=completion.models, says="As in train.", default="mlp", panel=WHAT)] = None,
    data: Annotated[str | None, option("-d", "--data", autocompletion=completion.data, says="As in train.", default="digits", panel=WHAT)] = None,
    sets: Annotated[
        list[str] | None,
        option("--set", autocompletion=completion.settings, says="Any other setting: path=value, such as algorithm.reduce=sum.", default="none", panel=WHAT),
    ] = None,
    algorithm: Annotated[
        str,
        option(
            "-a",
            "--algorithm",
            autocompletion=completion.algorithms,
            says="One of `parle list` that takes partial rounds.",
            default="server-sgd",
            panel=COUPLING,
        ),
    ] = "server-sgd",
    replicas: Annotated[int, option("-n", "--replicas", says="How many replicas.", default="8", panel=COUPLING)] = 8,
    quorum: Annotated[
        str | None,
        option(
            "--quorum", says="Proposals that close a round: 1, n, or 'ramp(1, n, every=300)'.", default="that ramp, or n where all are needed", panel=COUPLING
        ),
    ] = None,
    batch_size: Annotated[
        int | None, option("-b", "--batch-size", says="Samples in a step of one replica.", default="128, or 32 below 10,000 samples", panel=STEPS)
    ] = None,
    lr: Annotated[float | None, option("--lr", says="The rate, constant.", default="0.1, or 0.001 with AdamW", panel=STEPS)] = None,
    seed: Annotated[int, option("-s", "--seed", says="Root of all random numbers, those of the clock included.", default="0", panel=STEPS)] = 0,
    seconds: Annotated[
        float | None, option("--seconds", says="Virtual seconds to simulate.", default="100, unless --samples says otherwise", panel=STEPS)
    ] = None,
    samples: Annotated[
        int | None, option("--samples", says="End when so many samples were used: the time to N samples.", default="no such end", panel=STEPS)
    ] = None,
    every: Annotated[float | None, option("--every", says="Virtual seconds between two tests.", default="a fiftieth of the run", panel=STEPS)] = None,
    compute: Annotated[
        str,
        option("--compute", says="Seconds of one gradient: 'lognormal(0.05, 0.3)', '0.05; 0:0.5' or trace(file.json).", default="0.05", panel=CLOCK),
    ] = "0.05",
    delay: Annotated[
        str | None, option("--delay", says="Seconds on top: 'half:normal(0, 0.25)', for half of the replicas, all or some.", default="none", panel=CLOCK)
    ] = None,
    link: Annotated[
        str | None,
        option("--link", says="'latency=0.001, bandwidth=12.5e6', in seconds and bytes per second, shared.", default="takes no time", panel=CLOCK),
    ] = None,
    time_only: Annotated[bool, option("--time-only", says="Only count time, without gradients: thousands of replicas in seconds.", panel=CLOCK)] = False,
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
