"""The configuration of a training: one set of objects for the Python API, the YAML file and the command line.

Order of precedence: named option, `--set path=value`, file, default. A key or value that is not known is refused.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parle.errors import ConfigError, did_you_mean

SMALL = 10_000  # samples; below that, the defaults are more and smaller steps
MEASURED = ("model.channels_last", "precision", "optimizer.fused", "stepping")  # what `fast` decides, unless it is given


def amount(text: str) -> tuple[float, str]:
    """The number and unit of `5rounds`, `1epochs`, `10min` or `30s`; ConfigError for anything else.

    >>> amount("10min"), amount("5rounds")
    ((600.0, 'seconds'), (5.0, 'rounds'))
    """
    units = {"round": ("rounds", 1), "epoch": ("epochs", 1), "min": ("seconds", 60), "s": ("seconds", 1), "h": ("seconds", 3600)}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(rounds?|epochs?|min|s|h)", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"checkpoint.every is `{text}`. Write a number above 0 with its unit: 5rounds, 1epochs, 10min, 30s or 1h.")
    unit, factor = units[found[2] if found[2] in units else found[2].rstrip("s")]
    return float(found[1]) * factor, unit


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value):
        return {"name": value} if isinstance(value, str) and "name" in cls.model_fields else value


class ModelConfig(Strict):
    """Which network."""

    name: str = Field("mlp", description="a name of `parle list models`, or your own as package.module:function or file.py:function")
    options: dict[str, Any] = Field({}, description="arguments of the function that builds it, such as dropout=0.3")
    channels_last: bool = Field(False, description="keep the channels of images innermost in memory, which convolutions may like")


class DataConfig(Strict):
    """Which data."""

    name: str = Field("digits", description="digits, a folder of parquet shards, a text file, a name in PARLE_DATA_DIR, a hub id, or module:attribute")
    image_column: str | None = Field(None, description="column of the images; default: the one that holds encoded images")
    label_column: str | None = Field(None, description="column of the labels; default: label")
    normalize: Literal["scale", "mean-std", "contrast", "zca"] = Field("scale", description="contrast: every image by itself; zca: and whitened")
    augment: Literal["none", "shift", "mirror-shift"] = Field("none", description="shift training images by up to four pixels, mirror half of them")
    padding: Literal["reflect", "zero"] = Field("reflect", description="what comes in at the border of a shifted image")
    split: float | None = Field(None, gt=0, le=1, description="part of the training data that each replica sees; together they see all")
    skew: float | None = Field(None, gt=0, description="divide every class among the replicas by Dirichlet(skew); small is unequal")
    context: int = Field(128, ge=2, description="characters in a window of a text")
    extra: bool = Field(False, description="train on the shards extra-*.parquet too, as with SVHN")
    samples: int | None = Field(None, gt=0, description="use only the first so many training samples")


class OptimizerConfig(Strict):
    """The inner optimizer of every replica."""

    name: Literal["sgd", "adamw"] | None = Field(None, description="default: that of the algorithm's paper, or of the model; else sgd")
    lr: float | None = Field(None, gt=0, description="initial rate, also of outer rates that the paper ties to that of sgd; default: 0.1, or 0.001 for adamw")
    sharpness: float = Field(0.0, ge=0, description="radius of SAM: every step takes its gradient where the loss is higher, and costs two")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: memory of the velocity")
    nesterov: bool = Field(True, description="sgd: step from where the momentum leads; off without momentum")
    weight_decay: float = Field(0.0, ge=0, description="pull of the parameters towards zero")
    fused: bool = Field(False, description="torch's implementation in one kernel; the same to rounding")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self):
        if self.nesterov and self.momentum == 0:
            self.nesterov = False
        return self


class ScheduleConfig(Strict):
    """How rates drop and springs tighten in the course of the run: a short run's way, or the paper's (docs/decisions)."""

    name: Literal["short", "paper"] = Field("short", description="short: rates and springs fitted to the length of the run; paper: as in the papers")
    drops: list[float] = Field([0.5, 0.75], description="short: parts of the run after which the inner rate is divided by factor")
    factor: float = Field(10.0, gt=0, description="what the inner rate is divided by at a drop")
    inner: str | None = Field(None, description="the inner rate as a schedule of the round, such as power(0.4, -0.667), in place of drops")
    outer_drops: list[float] = Field([0.75], description="short: parts of the run after which an outer rate is divided by outer_factor")
    outer_factor: float = Field(3.0, gt=0, description="short: what an outer rate is divided by at a drop")
    scoping: Literal["run", "paper", "off"] | None = Field(
        None, description="run: gamma reaches its clip at the end of the run; paper: equation (9) with the batches of a data epoch; off: constant"
    )

    @field_validator("drops", "outer_drops")
    @classmethod
    def _parts_of_the_run(cls, drops):
        if any(not 0 < drop < 1 for drop in drops):
            raise ValueError("each drop must lie between 0 and 1, as a part of the run")
        return sorted(drops)


class CommunicatorConfig(Strict):
    """How the proposals come together."""

    transport: Literal["auto", "torch", "mpi", "server", "ray"] = Field(
        "auto", description="between processes; auto: a server where there is a quorum, else mpi under mpiexec, else torch.distributed"
    )
    quorum: int | str | None = Field(None, description="server: proposals that close a round, 1, n or ramp(1, n, every=300)")
    count: Literal["gradients", "updates"] = Field("gradients", description="server: what the schedule of the quorum counts")
    wait: bool = Field(True, description="server: a replica waits until its proposal is used")
    bound: int | None = Field(None, ge=0, description="server: rounds that a replica may be ahead of the slowest one")
    address: str | None = Field(None, description="ray: that of a cluster; default: a Ray of its own on this machine")
    ordered: bool = Field(False, description="add up in the order of the replicas: the same bits in one process and in several")
    shared_memory: bool = Field(True, description="between processes of one machine, read each other's proposals in memory instead of sending them")
    timeout: float = Field(300.0, gt=0, description="seconds after which a process that does not answer is lost")
    codec: str | None = Field(None, description="send bf16, int8, int4 or topk(0.01) instead of float32")
    elastic: bool = Field(False, description="when a process of our own is lost, start all again from the last checkpoint")
    delay: int = Field(0, ge=0, description="steps between the beginning of a round and its end, for algorithms with a delayed form")


class EvaluationConfig(Strict):
    """When and how the solution is tested."""

    every: float = Field(1.0, gt=0, description="epochs between two evaluations")
    refresh: int = Field(10_000, ge=2, description="training samples for BatchNorm at evaluations before the last, which uses all")


class CheckpointConfig(Strict):
    """When the state of the run goes to disk, and which states stay there."""

    every: str | None = Field(None, description="5rounds, 1epochs, 10min, 30s or 1h; default: at every evaluation")
    keep: int = Field(2, ge=1, description="the last so many")
    best: bool = Field(True, description="and that of the smallest test error")

    @field_validator("every")
    @classmethod
    def _amount(cls, every):
        if every is not None:
            amount(every)
        return every


class RunConfig(Strict):
    """A training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    algorithm: dict[str, Any] = Field({"name": "parle"}, description="name, and the settings that `parle explain NAME` lists")
    derived: list[str] = Field(
        [], description="settings of the algorithm and the optimizer that follow from the rest; worked out again when an option or --set changes that"
    )
    replicas: int | None = Field(None, ge=1, description="default: 3, or 1 for an algorithm of one replica")
    epochs: float | None = Field(None, gt=0, le=1_000_000, description=f"data epochs per replica; default: 5, or 50 below {SMALL:,} samples")
    batch_size: int | None = Field(None, ge=1, description=f"per replica; default: 128, or 32 below {SMALL:,} samples")
    seed: int = Field(0, ge=0, description="root of all random numbers")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, or several as cuda:0,cuda:1")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: forward and backward under autocast")
    threads: int | None = Field(None, ge=1, description=f"intra-op threads; default: torch's own choice, or 1 below {SMALL:,} samples, where more are slower")
    processes: bool | None = Field(None, description="one process per replica on this machine; default: where that is faster")
    stepping: Literal["in-turn", "batched", "streams"] = Field(
        "in-turn", description="of replicas in one process on one device; batched: the gradients of all at once; streams: on CUDA streams of their own"
    )
    keep_memory: bool = Field(True, description="keep freed memory in the process, which else fetches it from the system again in every step (glibc)")
    fast: bool | dict[str, float] = Field(False, description="measure at the start what pays here, and turn it on; then: how many times as fast each was")
    communicator: CommunicatorConfig = CommunicatorConfig()
    start: Literal["common", "own"] = Field("common", description="common: every replica begins as the first; own: each with weights of its own")
    buffers: Literal["recompute", "average", "keep"] = Field(
        "recompute", description="statistics of BatchNorm: estimated again for the solution, averaged at rounds, or kept by each"
    )
    optimizer_state: Literal["keep", "average", "reset"] = Field("keep", description="what happens to momentum and the like at a round")
    one_pass: bool | None = Field(None, description="compile force, SGD's step and track into one pass over memory; default: from 8 million parameters on")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    report: bool = Field(True, description="write report.html into the run folder at the end, where matplotlib is there")
    loggers: list[str] = Field([], description="who else hears of the run: tensorboard, or your own as package.module:attribute or file.py:attribute")

    @field_validator("loggers", mode="before")
    @classmethod
    def _logger_name_alone(cls, value):
        return [value] if isinstance(value, str) else value

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm_name_alone(cls, value):
        return {"name": value} if isinstance(value, str) else {"name": "parle", **value} if isinstance(value, dict) else value


def load(file: Path | None = None, sets: tuple[str, ...] = (), options: dict[str, Any] | None = None) -> RunConfig:
    """The configuration from a YAML file, `path=value` texts and options by path, each overriding the one before.

    >>> load(sets=("algorithm.period=10",), options={"replicas": 4}).replicas
    4
    """
    tree = _from_file(file) if file else {}
    if sets or options:
        _forget_derived(tree)
    given = {path: value for path, value in (options or {}).items() if value is not None}
    if given.get("fast"):
        _forget(tree, MEASURED)  # a file with every setting written out gives none of them
    if "algorithm.name" in given:  # before --set, which may hold settings of this algorithm
        _put(tree, "algorithm.name", given["algorithm.name"])
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not all(part.strip() for part in path.split(".")):
            raise ConfigError(f"--set {text} has no {'key' if equals else 'value'}. Write --set path=value, such as --set algorithm.period=10.")
        try:
            _put(tree, path.strip(), yaml.safe_load(value))
        except yaml.YAMLError:
            _put(tree, path.strip(), value)
    for path, value in given.items():
        _put(tree, path, value)
    return parse(tree)


def parse(tree: dict) -> RunConfig:
    """The configuration in nested dicts; ConfigError in one line that names the key, the value and what is allowed."""
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error.errors()[0])) from None
    algorithm_class(config)
    return config


def algorithm_class(config: RunConfig):
    """The class of the configured algorithm and variant; ConfigError where there is none of that name.

    Of an algorithm with variants, the paper's schedule takes the paper's variant, a short run the first of the catalogue.
    """
    from parle.algorithms import ALGORITHMS, VARIANTS

    name, variant = config.algorithm["name"], config.algorithm.get("variant")
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ConfigError(f"`{name}` is not an algorithm. {did_you_mean(str(name), ALGORITHMS)} `parle list` shows all.")
    variants = VARIANTS.get(name, {})
    if variant is None:
        return next(iter(variants.values())) if variants and config.schedule.name == "short" else ALGORITHMS[name]
    if not isinstance(variant, str) or variant not in variants:
        raise ConfigError(
            f"algorithm.variant is `{variant}`, which `{name}` does not have. {did_you_mean(str(variant), variants) if variants else ''}".rstrip()
        )
    return variants[variant]


def algorithm_settings(config: RunConfig) -> dict:
    """The settings of the algorithm that are given."""
    return {name: value for name, value in config.algorithm.items() if name not in ("name", "variant")}


def title(config: RunConfig) -> str:
    """The algorithm with its variant, for tables."""
    variant = config.algorithm.get("variant")
    return config.algorithm["name"] + (f" ({variant})" if variant else "")


def at_server(config: RunConfig) -> bool:
    """Whether the replicas train at a server, each by its own clock."""
    return config.communicator.transport in ("server", "ray") or (config.communicator.transport == "auto" and config.communicator.quorum is not None)


def at(config: RunConfig, path: str) -> Any:
    """The value at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def changed(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """The configuration with other values, given by dotted paths of at most one dot.

    >>> changed(RunConfig(), {"precision": "bf16", "optimizer.fused": True}).optimizer.fused
    True
    """
    update: dict[str, Any] = {}
    for path, value in values.items():
        group, _, key = path.rpartition(".")
        update[group or key] = update.get(group, getattr(config, group)).model_copy(update={key: value}) if group else value
    return config.model_copy(update=update)


def from_text(text: str) -> RunConfig:
    """The configuration that `to_yaml` wrote."""
    return parse(yaml.safe_load(text))


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `load` reads again."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _forget_derived(tree: dict) -> None:
    """Drop the settings that follow from the rest, since an option or --set may have changed that."""
    names = tree.pop("derived", None)
    _forget(tree, [name if "." in name else f"algorithm.{name}" for name in names if isinstance(name, str)] if isinstance(names, list) else [])


def _forget(tree: dict, paths: Iterable[str]) -> None:
    """Drop what is at those dotted paths."""
    for path in paths:
        group, _, key = path.rpartition(".")
        if isinstance(its := tree.get(group) if group else tree, dict):
            its.pop(key, None)


def _from_file(file: Path) -> dict:
    file = file / "config.yaml" if file.is_dir() else file  # a run
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # the latter of bytes, dates and depth
        raise ConfigError(f"The configuration file {file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree or {}, dict):
        raise ConfigError(f"The configuration file {file} must hold keys and values, got a {type(tree).__name__}.")
    return tree or {}


def _put(tree: dict, path: str, value: Any) -> None:
    """Set a value at a dotted path; another algorithm leaves the settings of the former behind."""
    if isinstance(value, str) and path in ("model", "data", "algorithm", "optimizer", "schedule"):
        path += ".name"
    *above, last = path.split(".")
    for key in above:
        if isinstance(tree.get(key), str):
            tree[key] = {"name": tree[key]}
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} cannot be set: {key} is a value, not a group of settings.")
    if path == "algorithm.name" and tree.get("name", value) != value:
        tree.clear()
    tree[last] = value


def _one_line(error: dict) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path) or "the configuration"
    if error["type"] == "extra_forbidden":
        known = _model_at(path[:-1]).model_fields
        group = ".".join(path[:-1])
        return f"{where} is not a setting{f' of {group}' if group else ''}. {did_you_mean(path[-1], known)}"
    expected = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] in ("dict_type", "model_type"):
        expected = "a group of settings" + (" or a name" if where in ("algorithm", "model", "data", "optimizer", "schedule") else "")
    value = "a group of settings" if isinstance(error["input"], dict) else repr(error["input"])
    return f"{where} is {value}, but it should be {expected}."


def _model_at(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = RunConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model
