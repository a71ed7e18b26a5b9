"""Commands that train: `train`, `resume`."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from parle.cli.application import JsonOption, app, quorum_of
from parle.errors import ConfigError


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
    fast: Annotated[bool | None, typer.Option("--fast", help="Measure for seconds what makes steps faster on this machine, and turn it on.")] = None,
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
        "fast": fast,
        "checkpoint.every": checkpoint_every,
        "communicator.elastic": elastic,
        "communicator.quorum": quorum_of(quorum),
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
