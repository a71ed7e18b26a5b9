"""The configuration of a training: one set of objects for the Python API, the YAML file and the command line.

Order of precedence: named option, `--set path=value`, file, default. A key or value that is not known is refused.
"""

from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parle.errors import ConfigError, did_you_mean

SMALL = 10_000  # samples; below that, the defaults are more and smaller steps
SMOOTH_SWITCH = "ramp(1, n, every=300)"
RATES = {"sgd": 0.1, "adamw": 0.001}
PAPER_DROPS = (30, 60, 90)  # data epochs after which SGD drops its rate in the Parle paper, section 4.2
PAPER_ROUNDS_OF_BATCHES = 2  # Parle and Entropy-SGD drop theirs after 2 of their epochs, each of as many rounds as there are batches


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
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self):
        if self.nesterov and self.momentum == 0:
            self.nesterov = False
        return self


class ScheduleConfig(Strict):
    """How rates drop and springs tighten in the course of the run: a short run's way, or the paper's (docs/decisions)."""

    name: Literal["short", "paper"] = "short"
    drops: list[float] = Field([0.5, 0.75], description="short: parts of the run after which the inner rate is divided by factor")
    factor: float = Field(10.0, gt=0)
    inner: str | None = Field(None, description="the inner rate as a schedule of the round, such as power(0.4, -0.667), in place of drops")
    outer_drops: list[float] = Field([0.75], description="short: parts of the run after which an outer rate is divided by outer_factor")
    outer_factor: float = Field(3.0, gt=0)
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
    timeout: float = Field(300.0, gt=0, description="seconds after which a process that does not answer is lost")
    codec: str | None = Field(None, description="send bf16, int8, int4 or topk(0.01) instead of float32")
    delay: int = Field(0, ge=0, description="steps between the beginning of a round and its end, for algorithms with a delayed form")


class EvaluationConfig(Strict):
    """When and how the solution is tested."""

    every: float = Field(1.0, gt=0, description="epochs between two evaluations")
    refresh: int = Field(10_000, ge=2, description="training samples for BatchNorm at evaluations before the last, which uses all")


class RunConfig(Strict):
    """A training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    algorithm: dict[str, Any] = Field({"name": "parle"}, description="name, and the settings that `parle explain NAME` lists")
    derived: list[str] = Field(
        [], description="settings of the algorithm and the optimizer that follow from the rest; worked out again when an option or --set changes that"
    )
    replicas: int | None = Field(None, ge=1, description="default: 3, or 1 for an algorithm of one replica")
    epochs: float | None = Field(None, gt=0, description=f"data epochs per replica; default: 5, or 50 below {SMALL:,} samples")
    batch_size: int | None = Field(None, ge=1, description=f"per replica; default: 128, or 32 below {SMALL:,} samples")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, or several as cuda:0,cuda:1")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: forward and backward under autocast")
    threads: int | None = Field(None, ge=1, description=f"intra-op threads; default: torch's own choice, or 1 below {SMALL:,} samples, where more are slower")
    processes: bool | None = Field(None, description="one process per replica on this machine; default: where that is faster")
    communicator: CommunicatorConfig = CommunicatorConfig()
    start: Literal["common", "own"] = "common"
    buffers: Literal["recompute", "average", "keep"] = "recompute"
    optimizer_state: Literal["keep", "average", "reset"] = "keep"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

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
    if "algorithm.name" in given:  # before --set, which may hold settings of this algorithm
        _put(tree, "algorithm.name", given["algorithm.name"])
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text} has no value. Write --set path=value, such as --set algorithm.period=10.")
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


def settled(config: RunConfig, samples: int) -> RunConfig:
    """The configuration with every default written out that depends on the algorithm or the size of the data."""
    from parle.algorithms import VARIANTS

    kind, small = algorithm_class(config), samples < SMALL
    unnamed = [key for key in ("name", "lr") if getattr(config.optimizer, key) is None]
    replicas = config.replicas or (1 if kind.single else 3)
    config = config.model_copy(update={"replicas": replicas})
    update: dict[str, Any] = {
        "batch_size": min(config.batch_size or (32 if small else 128), samples_of(config, samples)),
        "epochs": config.epochs or (50.0 if small else 5.0),
        "threads": config.threads or (1 if small else None),
        "optimizer": optimizer_of(config),
    }
    config = config.model_copy(update=update)
    name = config.algorithm["name"]
    variant = next((variant for variant, its in VARIANTS.get(name, {}).items() if its is kind), None)
    algorithm = {"name": name} | ({"variant": variant} if variant else {}) | algorithm_for(config, samples_of(config, samples) // config.batch_size).settings()
    derived = [key for key in algorithm if key not in config.algorithm]
    derived += [f"optimizer.{key}" for key in unnamed]
    return config.model_copy(update={"algorithm": algorithm, "derived": [*config.derived, *derived]})


def optimizer_of(config: RunConfig) -> OptimizerConfig:
    """The inner optimizer with its name and rate: by default those of the algorithm's paper, or of the model."""
    from parle.models import OPTIMIZERS

    kind, its = algorithm_class(config), config.optimizer
    if kind.steps_at_center:
        return _handing_over(config)
    name = its.name or (kind.inner_optimizer if kind.inner_optimizer != "sgd" else OPTIMIZERS.get(config.model.name, "sgd"))
    return its.model_copy(update={"name": name, "lr": its.lr or RATES[name]})


def _handing_over(config: RunConfig) -> OptimizerConfig:
    """The optimizer of an algorithm whose center steps: it only hands the gradients over."""
    its, name = config.optimizer, config.algorithm["name"]
    for field in ("momentum", "weight_decay"):
        if field in its.model_fields_set and getattr(its, field):
            raise ConfigError(f"optimizer.{field} has no effect with {name}, which steps at the center. Use --set algorithm.{field}={getattr(its, field)}.")
    if its.name == "adamw":
        raise ConfigError(f"optimizer.name is {its.name}, but {name} steps at the center by itself. Leave optimizer.name away.")
    return OptimizerConfig(name="sgd", lr=its.lr or RATES["sgd"], momentum=0.0, nesterov=False, sharpness=its.sharpness)


def samples_of(config: RunConfig, samples: int) -> int:
    """Of so many training samples, how many a replica sees; of a skewed split, the mean."""
    its = config.data
    return max(1, round(samples / config.replicas if its.skew else samples * (its.split or 1.0)))


def steps_of(config: RunConfig, batches: int) -> int:
    """Steps of one replica in the whole run."""
    return max(1, round(config.epochs * batches))


def milestones(config: RunConfig, batches: int) -> tuple[int, ...]:
    """The steps at which the inner rate drops: at parts of a short run; after the epochs of the paper, or never for its Parle."""
    if config.schedule.name == "short":
        return tuple(max(1, int(part * steps_of(config, batches))) for part in config.schedule.drops)
    return () if algorithm_class(config).fixed_inner_rate else tuple(epoch * batches for epoch in PAPER_DROPS)


def algorithm_for(config: RunConfig, batches: int):
    """The algorithm with its settings; rates and springs that are not given follow the schedule of the run.

    A spring with a clip in the paper is scoped by equation (9). An outer rate starts at the optimizer's rate, or with AdamW, whose
    rate means another thing, at its own default; in a short run it has drops of its own, in the paper's schedule it drops with the
    inner one, or alone where the inner one is fixed.
    """
    from parle import schedules

    kind, schedule = algorithm_class(config), config.schedule
    given = _given(config)
    plain, optimizer = kind.from_settings(given), optimizer_of(config)
    plain.at(0)  # refuses a schedule that gives no number
    rounds, scoping = max(1, plain.rounds_in(steps_of(config, batches))), schedule.scoping or ("run" if schedule.name == "short" else "paper")
    if schedule.name == "short":
        drops, factor = tuple(max(1, int(part * rounds)) for part in schedule.outer_drops), schedule.outer_factor
    elif kind.fixed_inner_rate:
        drops, factor = (PAPER_ROUNDS_OF_BATCHES * batches,), schedule.factor
    else:
        drops, factor = _in_rounds(config, batches, plain), schedule.factor
    for field in fields(kind):
        clip = field.metadata.get("clip")
        if field.name in given:
            continue
        if field.metadata.get("rate") == "inner":
            given[field.name] = _as_the_inner_rate(config, batches, plain, optimizer.lr)
        elif field.metadata.get("rate"):
            given[field.name] = schedules.Steps(optimizer.lr if optimizer.name == "sgd" else field.default, drops, factor)
        elif field.metadata.get("tail"):
            given[field.name] = schedules.Harmonic(int(field.metadata["tail"] * rounds))
        elif clip is not None and scoping == "paper":
            given[field.name] = schedules.Scoping(field.default, batches, clip)
        elif clip is not None and scoping == "run":
            given[field.name] = schedules.Scoping.over(rounds, field.default, clip)
    return kind.from_settings(given)


def _given(config: RunConfig) -> dict:
    """The settings of the algorithm that are given."""
    return {name: value for name, value in config.algorithm.items() if name not in ("name", "variant")}


def _in_rounds(config: RunConfig, batches: int, algorithm) -> tuple[int, ...]:
    """The rounds in which the inner rate drops."""
    return tuple(algorithm.rounds_in(step) for step in milestones(config, batches))


def _as_the_inner_rate(config: RunConfig, batches: int, algorithm, lr: float):
    """The inner rate as a schedule of the round."""
    from parle import schedules

    if config.schedule.inner:
        return schedules.parse(config.schedule.inner)
    if isinstance(algorithm.period, (schedules.Adaptive, schedules.Seconds)) and milestones(config, batches):
        raise ConfigError(
            f"With the period {algorithm.period} nobody knows beforehand in which round the inner rate drops, which {type(algorithm).__name__} has to know. "
            "Give a period in steps, or keep the rate constant with --set schedule.drops=[]."
        )
    return schedules.Steps(lr, _in_rounds(config, batches, algorithm), config.schedule.factor)


def alone(config: RunConfig, epochs: float) -> RunConfig:
    """The same training by one plain SGD for so many epochs: the baseline."""
    return config.model_copy(update={"algorithm": {"name": "sgd"}, "replicas": 1, "epochs": epochs, "processes": False})


def title(config: RunConfig) -> str:
    """The algorithm with its variant, for tables."""
    variant = config.algorithm.get("variant")
    return config.algorithm["name"] + (f" ({variant})" if variant else "")


def at_server(config: RunConfig) -> bool:
    """Whether the replicas train at a server, each by its own clock."""
    return config.communicator.transport in ("server", "ray") or (config.communicator.transport == "auto" and config.communicator.quorum is not None)


def served(config: RunConfig) -> RunConfig:
    """The configuration with a quorum, where the replicas train at a server: by default the Smooth Switch, or all for an algorithm that needs all."""
    from parle import schedules

    its, kind = config.communicator, algorithm_class(config)
    alone = its.transport == "auto" and config.processes is None
    if its.quorum is None and (at_server(config) or (kind.steps_at_center and alone)):
        its = its.model_copy(update={"quorum": SMOOTH_SWITCH if kind.partial_rounds else "n"})
        config = config.model_copy(update={"communicator": its})
    period = kind.from_settings(_given(config)).period
    if at_server(config) and isinstance(period, (tuple, schedules.Adaptive, schedules.Seconds)):
        raise ConfigError(f"A server takes one period for all replicas, each of which goes by its own clock, got {period}. Give a number of steps.")
    if at_server(config) and (its.codec or its.delay or config.processes):
        raise ConfigError("A server takes no codec, no delay and no processes. Leave them away, train without --quorum, or use --ray for several processes.")
    return config


def from_text(text: str) -> RunConfig:
    """The configuration that `to_yaml` wrote."""
    return parse(yaml.safe_load(text))


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `load` reads again."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def _forget_derived(tree: dict) -> None:
    """Drop the settings that follow from the rest, since an option or --set may have changed that."""
    names = tree.pop("derived", None)
    for name in names if isinstance(names, list) else ():
        group, _, key = name.rpartition(".")
        if isinstance(tree.get(group or "algorithm"), dict):
            tree[group or "algorithm"].pop(key, None)


def _from_file(file: Path) -> dict:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
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
    value = "a group of settings" if isinstance(error["input"], dict) else repr(error["input"])
    return f"{where} is {value}, but it should be {expected}."


def _model_at(path: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = RunConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model
