"""The command `parle`: thin commands over plain functions; only this module and reports print, only this one exits."""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from parle.errors import ConfigError, ParleError, did_you_mean

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


def main() -> None:
    """Run the command line; an error of parle becomes one line and its exit code."""
    # Threads that spin while they wait slow each other down up to a hundred times where another job shares the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, when torch is imported
    try:
        app()
    except ParleError as error:
        _end(error)


@app.callback()
def about() -> None:
    """Train several coupled replicas of a network that speak to each other rarely.

    **parle train** alone trains three Parle replicas on embedded digits, in seconds and offline.
    """


@app.command()
def train(
    model: Annotated[str | None, typer.Option("-m", "--model", help="One of `parle list`, or package.module:function, or file.py:function.")] = None,
    data: Annotated[str | None, typer.Option("-d", "--data", help="digits, mnist, a folder of parquet shards, a text, a hub id, or module:attribute.")] = None,
    algorithm: Annotated[str | None, typer.Option("-a", "--algorithm", help="One of `parle list`.")] = None,
    replicas: Annotated[int | None, typer.Option("-n", "--replicas", help="How many replicas.")] = None,
    epochs: Annotated[float | None, typer.Option("-e", "--epochs", help="Data epochs of each replica; may be a fraction.")] = None,
    batch_size: Annotated[int | None, typer.Option("-b", "--batch-size", help="Of each replica.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Initial rate, inner and outer.")] = None,
    seed: Annotated[int | None, typer.Option("-s", "--seed", help="Root of all random numbers.")] = None,
    split: Annotated[float | None, typer.Option("--split", help="Part of the data that each replica sees; together they see all.")] = None,
    quorum: Annotated[str | None, typer.Option("--quorum", help="Train at a server that closes a round with so many: 1, n, 'ramp(1, n, every=300)'.")] = None,
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="Train at a server on Ray: the address of a cluster, or `local`.")] = None,
    processes: Annotated[bool | None, typer.Option(help="Train each replica in a process of its own. Default: where that is faster.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, or several: cuda:0,cuda:1.")] = None,
    checkpoint_every: Annotated[str | None, typer.Option("--checkpoint-every", help="5rounds, 1epochs, 10min or 30s; default: at every evaluation.")] = None,
    elastic: Annotated[bool | None, typer.Option("--elastic", help="When a process of ours is lost, start all again from the last checkpoint.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: path=value, such as algorithm.period=10.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="A YAML file, such as a run's config.yaml.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; default: algorithm, data and the time.")] = None,
    runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of this name.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of this name from its last checkpoint.")] = False,
    baseline: Annotated[bool, typer.Option("--baseline", help="Also train one plain SGD with as many gradient evaluations.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train coupled replicas and test their consensus.

    - `parle train`
    - `parle train -m lenet -d mnist -a parle -n 3 -e 5`
    - `parle train -m lenet -d mnist -n 4 --processes`
    - `torchrun --nproc-per-node 4 -m parle train -m lenet -d mnist`, and likewise `mpiexec -n 4 python -m parle train` or `srun`
    - `parle train -a server-sgd -n 8 --quorum "ramp(1, n, every=300)"`, with `--ray local` in processes of Ray
    - `parle train -m my_nets.py:make_net -d path/to/parquet_folder --set algorithm.period=10`
    """
    options = {
        "model.name": model,
        "data.name": data,
        "algorithm.name": algorithm,
        "replicas": replicas,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "seed": seed,
        "data.split": split,
        "device": device,
        "processes": processes,
        "checkpoint.every": checkpoint_every,
        "communicator.elastic": elastic,
        "communicator.quorum": _quorum(quorum),
        "communicator.transport": "ray" if ray else None,
        "communicator.address": ray if ray != "local" else None,
    }
    given = {path: value for path, value in options.items() if value is not None}
    if resume:
        if not name or given or sets or config or baseline or overwrite:
            raise ConfigError("--resume continues a run as it was configured: give --name, and no other setting.")
        _resume(runs_dir / name, as_json)
        return
    from parle import config as configuration

    if name and Path(name).name != name:
        raise ConfigError(f"--name {name} is not a plain name. Choose the folder with --runs-dir.")
    settings = configuration.load(config, tuple(sets or ()), given)
    kind, task = settings.algorithm["name"], Path(settings.data.name.rpartition(":")[2]).name
    path = runs_dir / (name or f"{kind}-{task}-{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3])
    _train(settings, path, overwrite, False, baseline, as_json)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    replicas: Annotated[int | None, typer.Option("-n", "--replicas", min=1, help="Go on with so many: new ones start from the reference.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Continue an interrupted run from its last checkpoint.

    - `parle resume runs/mine`
    - `parle resume runs/mine -n 5`, with more or fewer replicas than before
    """
    _resume(run, as_json, replicas)


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


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="algorithms, models, data, tables, runs or all.")] = "all",
    runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List algorithms, models, data, tables to reproduce and runs: `parle list algorithms`."""
    from parle.reports import catalogue, tables

    listed = catalogue.everything(runs_dir)
    if what != "all" and what not in listed:
        raise ConfigError(f"`{what}` cannot be listed. {did_you_mean(what, ['all', *listed])}")
    listed = {title: rows for title, rows in listed.items() if what in ("all", title)}
    if as_json:
        print(json.dumps(listed))
        return
    for title, rows in listed.items():
        tables.show(title, [title.removesuffix("s"), "what it is"], [[name, text] for name, text in rows.items()], texts=2)
        print()


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="The name of an algorithm, as in `parle list`.")],
    replicas: Annotated[int, typer.Option("-n", "--replicas", min=1, help="Of the run in mind.")] = 3,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of each replica, in the run in mind.")] = 10_000,
) -> None:
    """Explain an algorithm: paper, equations, settings, vectors, bytes, special cases: `parle explain local-sgd -n 8 --steps 60000`."""
    from parle.algorithms import ALGORITHMS
    from parle.reports import explain as explaining

    if name not in ALGORITHMS:
        raise ConfigError(f"`{name}` is not an algorithm. {did_you_mean(name, ALGORITHMS)}")
    print(explaining.page(name, ALGORITHMS[name], steps, replicas), end="")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has for parle, and the command that adds what is missing."""
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
    options |= {"optimizer.lr": lr, "seed": seed, "communicator.quorum": _quorum(quorum)}
    settings = configuration.load(None, tuple(sets or ()), options)
    clock = Clock(compute, delay, Link.read(link) if link else Link(), seed=seed)
    seconds = seconds if seconds is not None or samples is not None else 100.0
    show, curve = progress.Display(as_json), []
    result = simulation.simulate(settings, clock, seconds, samples, every, not time_only, show, curve.append)
    print(json.dumps(result | {"curve": curve})) if as_json else tables.show_simulation(result, curve)


def _quorum(text: str | None) -> int | str | None:
    return int(text) if text and text.isdigit() else text


def _resume(path: Path, as_json: bool, replicas: int | None = None) -> None:
    from parle import config as configuration
    from parle.runs import RunFolder

    settings = configuration.load(RunFolder.existing(path).config, options={"replicas": replicas} if replicas else None)
    _train(settings, path, False, True, False, as_json)


def _train(settings: Any, path: Path, overwrite: bool, resumed: bool, baseline: bool, as_json: bool) -> None:
    from parle import jobs, settling
    from parle.reports import progress, tables
    from parle.runs import RunFolder

    show, plain, path_of_plain = progress.Display(as_json), None, path.with_name(f"{path.name}-plain-sgd")
    if baseline:
        _require_one_process()
        RunFolder(path_of_plain).require_free(overwrite)
    result = jobs.train(settings, path, overwrite, resumed, show)
    if result is None:  # another process speaks for all
        return
    if baseline:
        alone = settling.alone(settings, result["epochs"] * result["replicas"])
        plain = jobs.train(alone, path_of_plain, overwrite, False, show)
    if as_json:
        print(json.dumps(result | ({"baseline": plain} if plain else {})))
    else:
        tables.show_result(result, plain)


def _require_one_process() -> None:
    from parle.launch import World

    if World.read().size > 1:
        raise ConfigError("--baseline trains in one process, and this is one of several. Leave it away, and compare with `parle compare`.")


def _end(error: ParleError) -> None:
    """Say what happened in one line, once for all processes where all say the same, and end with the error's exit code."""
    from parle.launch import World

    try:
        world = World.read()
    except ParleError:  # which is the error itself
        world = World()
    if error.everywhere and world.rank:
        time.sleep(1.0)  # the first process speaks for all, before a launcher ends it because of this one
    else:
        print(f"parle: {error}", file=sys.stderr)
    if world.size == 1:
        sys.exit(error.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.exit_code)  # after a lost process, torch's threads may abort an ordinary exit
