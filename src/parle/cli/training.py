"""Commands that train: `train`, `resume`."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from parle.cli import completion
from parle.cli.application import COUPLING, FOLDER, MACHINE, OUTPUT, STEPS, TRAIN, WHAT, JsonOption, RunArgument, app, option, quorum_of
from parle.errors import ConfigError


@app.command(rich_help_panel=TRAIN)
def train(
    model: Annotated[
        str | None,
        option(
            "-m",
            "--model",
            autocompletion=completion.models,
            says="One of `parle list`, or package.module:function, or file.py:function.",
            default="mlp",
            panel=WHAT,
        ),
    ] = None,
    data: Annotated[
        str | None,
        option(
            "-d",
            "--data",
            autocompletion=completion.data,
            says="One of `parle list`, a folder of parquet shards, a text, a hub id, or module:attribute.",
            default="digits",
            panel=WHAT,
        ),
    ] = None,
    split: Annotated[
        float | None, option("--split", says="Part of the data that each replica sees, up to 1; together they see all.", default="everything", panel=WHAT)
    ] = None,
    config: Annotated[
        Path | None, option("-c", "--config", says="A YAML file, or a run folder, whose config.yaml is meant.", default="none", panel=WHAT)
    ] = None,
    sets: Annotated[
        list[str] | None,
        option(
            "--set",
            autocompletion=completion.settings,
            says="Any other setting, as often as you like: path=value, such as algorithm.period=10.",
            default="none",
            panel=WHAT,
        ),
    ] = None,
    algorithm: Annotated[
        str | None, option("-a", "--algorithm", autocompletion=completion.algorithms, says="One of `parle list`.", default="parle", panel=COUPLING)
    ] = None,
    replicas: Annotated[
        int | None, option("-n", "--replicas", says="How many replicas.", default="3, or 1 for an algorithm of one replica", panel=COUPLING)
    ] = None,
    quorum: Annotated[
        str | None,
        option(
            "--quorum",
            says="Train at a server that closes a round with so many proposals: 1, n, 'ramp(1, n, every=300)'.",
            default="no server",
            panel=COUPLING,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        option("--ray", metavar="ADDRESS", says="Train at a server on Ray: the address of a cluster, or `local`.", default="no Ray", panel=COUPLING),
    ] = None,
    epochs: Annotated[
        float | None,
        option("-e", "--epochs", says="Passes of each replica over its data, also fractions.", default="5, or 50 below 10,000 samples", panel=STEPS),
    ] = None,
    batch_size: Annotated[
        int | None, option("-b", "--batch-size", says="Samples in a step of one replica.", default="128, or 32 below 10,000 samples", panel=STEPS)
    ] = None,
    lr: Annotated[
        float | None, option("--lr", says="Learning rate at the beginning, inner and outer.", default="0.1, or 0.001 with AdamW", panel=STEPS)
    ] = None,
    seed: Annotated[int | None, option("-s", "--seed", says="Root of all random numbers.", default="0", panel=STEPS)] = None,
    device: Annotated[
        str | None,
        option("--device", says="auto, cpu, cuda, or several: cuda:0,cuda:1.", default="auto, which is every GPU, or the CPU", panel=MACHINE),
    ] = None,
    processes: Annotated[
        bool | None,
        option("--processes/--no-processes", says="Train each replica in a process of its own.", default="where that is faster", panel=MACHINE),
    ] = None,
    fast: Annotated[
        bool | None, option("--fast", says="Measure for seconds what makes steps faster on this machine, and turn it on.", default="no", panel=MACHINE)
    ] = None,
    elastic: Annotated[
        bool | None,
        option("--elastic/--no-elastic", says="When a process of ours is lost, start all again from the last checkpoint.", default="no", panel=MACHINE),
    ] = None,
    name: Annotated[str | None, option("--name", says="Name of the run.", default="algorithm, data and the time", panel=FOLDER)] = None,
    runs_dir: Annotated[Path, option("--runs-dir", says="Folder of all runs.", default="runs", panel=FOLDER)] = Path("runs"),
    overwrite: Annotated[bool, option("--overwrite", says="Replace a run of this name.", panel=FOLDER)] = False,
    resume: Annotated[bool, option("--resume", says="Continue the run of this name from its last checkpoint.", panel=FOLDER)] = False,
    checkpoint_every: Annotated[
        str | None,
        option("--checkpoint-every", says="Between two checkpoints: 5rounds, 1epochs, 10min or 30s.", default="as between evaluations", panel=FOLDER),
    ] = None,
    loggers: Annotated[
        list[str] | None, option("--logger", says="Tell the run to tensorboard, or to module:attribute; may be repeated.", default="none", panel=OUTPUT)
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", says="Train nothing: show the configuration, memory, bytes, steps and an estimate of the time.", panel=OUTPUT)
    ] = False,
    baseline: Annotated[bool, option("--baseline", says="Also train one plain SGD with as many gradient evaluations.", panel=OUTPUT)] = False,
    as_json: JsonOption = False,
) -> None:
    """Train coupled replicas and test their consensus.

    - `parle train`
    - `parle train -m lenet -d mnist -a parle -n 3 -e 5`, with `--dry-run` to see first what it takes
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
        "fast": fast,
        "checkpoint.every": checkpoint_every,
        "communicator.elastic": elastic,
        "loggers": loggers or None,
        "communicator.quorum": quorum_of(quorum),
        "communicator.transport": "ray" if ray else None,
        "communicator.address": ray if ray != "local" else None,
    }
    given = {path: value for path, value in options.items() if value is not None}
    if resume:
        if not name or given or sets or config or baseline or overwrite or dry_run:
            raise ConfigError("--resume continues a run as it was configured: give --name, and no other setting.")
        _resume(runs_dir / name, as_json)
        return
    from parle import config as configuration

    if name and (Path(name).name != name or name == ".."):
        raise ConfigError(f"--name {name} is not a plain name. Choose the folder with --runs-dir.")
    settings = configuration.load(config, tuple(sets or ()), given)
    if dry_run:
        _estimate(settings, as_json)
        return
    kind, task = settings.algorithm["name"], Path(settings.data.name.rpartition(":")[2]).name
    path = runs_dir / (name or f"{kind}-{task}-{datetime.now():%Y%m%d-%H%M%S-%f}"[:-3])
    _train(settings, path, overwrite, False, baseline, as_json)


@app.command(rich_help_panel=TRAIN)
def resume(
    run: RunArgument,
    replicas: Annotated[
        int | None, option("-n", "--replicas", min=1, says="Go on with so many: new ones start from the reference.", default="as many as before")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Continue an interrupted run from its last checkpoint.

    - `parle resume runs/mine`
    - `parle resume runs/mine -n 5`, with more or fewer replicas than before
    """
    _resume(run, as_json, replicas)


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


def _estimate(settings: Any, as_json: bool) -> None:
    from parle import estimating
    from parle.reports import progress, tables

    found = estimating.estimate(settings, progress.Display(as_json))
    print(json.dumps(found)) if as_json else tables.show_estimate(found)


def _require_one_process() -> None:
    from parle.launch import World

    if World.read().size > 1:
        raise ConfigError("--baseline trains in one process, and this is one of several. Leave it away, and compare with `parle compare`.")
