"""What follows from a configuration: defaults that depend on the algorithm or the size of the data, and schedules that fit the run."""

from dataclasses import fields
from typing import Any

from parle.config import SMALL, OptimizerConfig, RunConfig, algorithm_class, algorithm_settings, at_server
from parle.errors import ConfigError

SMOOTH_SWITCH = "ramp(1, n, every=300)"
RATES = {"sgd": 0.1, "adamw": 0.001}
PAPER_DROPS = (30, 60, 90)  # data epochs after which SGD drops its rate in the Parle paper, section 4.2
PAPER_ROUNDS_OF_BATCHES = 2  # Parle and Entropy-SGD drop theirs after 2 of their epochs, each of as many rounds as there are batches


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
    given = algorithm_settings(config)
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


def served(config: RunConfig) -> RunConfig:
    """The configuration with a quorum, where the replicas train at a server: by default the Smooth Switch, or all for an algorithm that needs all."""
    from parle import schedules

    its, kind = config.communicator, algorithm_class(config)
    alone = its.transport == "auto" and config.processes is None
    if its.quorum is None and (at_server(config) or (kind.steps_at_center and alone)):
        its = its.model_copy(update={"quorum": SMOOTH_SWITCH if kind.partial_rounds else "n"})
        config = config.model_copy(update={"communicator": its})
    period = kind.from_settings(algorithm_settings(config)).period
    if at_server(config) and isinstance(period, (tuple, schedules.Adaptive, schedules.Seconds)):
        raise ConfigError(f"A server takes one period for all replicas, each of which goes by its own clock, got {period}. Give a number of steps.")
    if at_server(config) and (its.codec or its.delay or config.processes):
        raise ConfigError("A server takes no codec, no delay and no processes. Leave them away, train without --quorum, or use --ray for several processes.")
    return config
