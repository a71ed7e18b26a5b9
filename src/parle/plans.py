"""From a configuration to its data and its plan."""

import dataclasses
import functools

import torch

from parle import config, data, launch, models, schedules, settling
from parle.errors import ConfigError
from parle.launch import Environment, World
from parle.runs import RunFolder
from parle.training import Plan


class Quiet:
    """What a display of the training has to offer; this one shows nothing."""

    def begin(self, title: str, total: int) -> None:
        """A long work of so many parts begins."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So many parts are done."""

    def end(self) -> None:
        """The work is done, or given up."""

    def note(self, text: str) -> None:
        """Something that was decided for the user."""

    def caution(self, text: str) -> None:
        """Something that the user should know."""


def load_data(settings: config.RunConfig, show: Quiet | None = None) -> data.Data:
    """The configured data."""
    show, environment, its = show or Quiet(), Environment.read(), settings.data

    def progress(done: int, total: int) -> None:
        if done <= 500:
            show.begin(f"decoding {its.name}", total)
        show.advance(done, total)

    show.begin(f"loading {its.name}", 1)
    try:
        found = data.load(
            its.name, environment.data_dir, environment.cache_dir, its.image_column, its.label_column, its.extra, its.context, its.normalize, progress
        )
    finally:
        show.end()
    return dataclasses.replace(found, train=found.train.first(its.samples))


def solution_of(run: RunFolder, settings: config.RunConfig, found: data.Data) -> torch.nn.Module:
    """The network of a finished run with its solution, for that data; ConfigError where they do not fit together."""
    model = models.builder(settings.model.name, found.shape, found.classes, settings.model.options)()
    models.check_fits(settings.model.name, model, *found.test.take(slice(0, 2)), found.classes)
    try:
        model.load_state_dict(run.load_model())
    except RuntimeError as error:
        raise ConfigError(f"The solution of {run.path} does not fit the model {settings.model.name}: {' '.join(str(error).split())[:200]}") from error
    return model.eval()


def plan_for(settings: config.RunConfig, found: data.Data, world: World | None = None) -> Plan:
    """The plan of a settled configuration, on the devices of this process."""
    batches = max(1, settling.samples_of(settings, len(found.train)) // settings.batch_size)
    steps, schedule, optimizer = settling.steps_of(settings, batches), settings.schedule, settling.optimizer_of(settings)
    return Plan(
        model=settings.model.name,
        build=models.builder(settings.model.name, found.shape, found.classes, settings.model.options),
        channels_last=settings.model.channels_last,
        precision=settings.precision,
        share=(settings.data.split, settings.data.skew),
        augment=None if settings.data.augment == "none" else functools.partial(data.augmented, how=settings.data.augment, padding=settings.data.padding),
        data=found,
        algorithm=settling.algorithm_for(settings, batches),
        replicas=settings.replicas,
        steps=steps,
        batch_size=settings.batch_size,
        batches=batches,
        seed=settings.seed,
        devices=launch.devices_of(world or World(), launch.devices(settings.device)),
        optimizer=optimizer.name,
        sharpness=optimizer.sharpness,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        fused=optimizer.fused,
        stepping=settings.stepping,
        milestones=settling.milestones(settings, batches),
        factor=schedule.factor,
        inner=_inner(schedule.inner) if schedule.inner else None,
        start=settings.start,
        buffers=settings.buffers,
        optimizer_state=settings.optimizer_state,
        one_pass=settings.one_pass,
        evaluate_every=max(1, round(settings.evaluation.every * batches)),
        refresh=settings.evaluation.refresh,
    )


def _inner(text: str) -> schedules.Schedule:
    """The schedule of the inner rate; ConfigError unless it gives rates from the round alone."""
    found = schedules.parse(text)
    if isinstance(found, (schedules.Adaptive, schedules.Seconds)) or not found(0) > 0 or not found(1) > 0:
        raise ConfigError(f"schedule.inner is `{text}`, which gives no rate above 0 from the number of the round. Write one such as power(0.4, -0.6667).")
    return found


def flat(settings: config.RunConfig) -> dict[str, str]:
    """Every setting as text by its path."""

    def leaves(tree: dict, path: str = "") -> dict[str, str]:
        found = {}
        for key, value in tree.items():
            found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": str(value)}
        return found

    return leaves(settings.model_dump())
