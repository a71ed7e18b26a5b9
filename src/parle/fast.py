"""What makes a training faster on this machine: `train --fast` measures it at the start, and turns on what pays."""

import ctypes
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from parle import config, data
from parle.algorithms import OneShot
from parle.errors import ParleError
from parle.plans import Quiet, plan_for
from parle.training import Plan, Training

WORTH = 1.04  # times as fast, from which a setting is turned on
WORTH_LESS_PRECISION = 1.1
BLOCKS, SHORTEST = 5, 0.03  # blocks of steps of either kind, and seconds that one lasts at least
LONGEST_STEP = 0.15  # seconds; slower steps are measured on a part of the batch
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
LARGEST = 32 << 20  # bytes, the largest threshold that glibc takes


def keep_memory() -> None:
    """Let glibc keep memory that is freed, up to 32 MB in one piece; elsewhere this does nothing.

    A step frees its activations. By default they go back to the system, and the next step fetches them anew, page by page.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(MMAP_THRESHOLD, LARGEST)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)


def decided(settings: config.RunConfig, found: data.Data, show: Quiet, threads: int | None = None) -> config.RunConfig:
    """The configuration with everything on that `fast` asks to be measured and that pays here; what is given stays as it is.

    One setting is tried after another, each on top of those that paid, by steps of the training itself, without rounds, that take
    turns with steps without it. With `threads`, as many are used meanwhile.
    """
    if settings.fast is not True:
        return settings
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _decided(settings, found, show)
    finally:
        torch.set_num_threads(before)


def as_in(settings: config.RunConfig, other: config.RunConfig) -> config.RunConfig:
    """The configuration with what was decided for another one."""
    return config.changed(settings, {path: config.at(other, path) for path in (*config.MEASURED, "fast")})


def _decided(settings: config.RunConfig, found: data.Data, show: Quiet) -> config.RunConfig:
    plan, ratios, update = plan_for(settings, found), {}, {}
    show.begin("measuring what pays", len(config.MEASURED))
    lines = []
    for number, (path, field, value, worth) in enumerate(_candidates(settings, plan)):
        if _is_given(settings, path):
            lines.append(f"{path}: given, {getattr(plan, field)}")
            continue
        tried = replace(plan, **{field: value})
        ratio = ratios[path] = round(times_as_fast(tried, plan), 3)
        if ratio >= worth:
            plan, update[path] = tried, value
        shown = path if value is True else f"{path} {value}"
        lines.append(f"{shown}: {ratio:.2f} times as fast, {'on' if ratio >= worth else 'off'}")
        show.advance(number + 1, len(config.MEASURED))
    show.end()
    for line in lines:
        show.note(line)
    return config.changed(settings, update | {"fast": ratios})


def _candidates(settings: config.RunConfig, plan: Plan) -> list[tuple[str, str, Any, float]]:
    """What may pay: the setting, its name in a plan, its value, and the ratio from which it is turned on."""
    images, several = plan.data.train.scale is not None, plan.replicas > 1 and not settings.processes and not config.at_server(settings)
    possible = [("model.channels_last", "channels_last", True, WORTH)] if images else []
    possible += [("precision", "precision", "bf16", WORTH_LESS_PRECISION)]
    if not plan.algorithm.steps_at_center:
        possible += [("optimizer.fused", "fused", True, WORTH)]
    if several and plan.devices[0].type == "cuda":  # on a CPU one pass is slower, wherever it was measured
        possible += [("stepping", "stepping", "batched", WORTH)]
    return possible


def _is_given(settings: config.RunConfig, path: str) -> bool:
    group, _, last = path.rpartition(".")
    return last in (config.at(settings, group) if group else settings).model_fields_set


def times_as_fast(tried: Plan, plan: Plan) -> float:
    """How many times as fast steps of one plan are as those of another: the median over blocks that take turns; 0 where they fail."""
    batch = _batch_for(plan)
    first = _Steps(replace(plan, batch_size=batch))
    count = max(1, round(SHORTEST / first.seconds(1)))
    try:
        second = _Steps(replace(tried, batch_size=batch))
        return statistics.median(first.seconds(count) / second.seconds(count) for _ in range(BLOCKS))
    except (RuntimeError, ParleError):  # a device or a network that cannot do it
        return 0.0


def _batch_for(plan: Plan) -> int:
    """The batch of the plan, or as much of it as a step takes in time."""
    seconds = _Steps(replace(plan, batch_size=min(8, plan.batch_size))).seconds(1) * plan.batch_size / min(8, plan.batch_size)
    return min(plan.batch_size, max(8, int(plan.batch_size * LONGEST_STEP / seconds)))


class _Steps:
    """Steps of a plan that have been warmed up: of one replica, or of all on one device where they do not step in turn."""

    def __init__(self, plan: Plan):
        together = plan.stepping != "in-turn"
        mine = range(plan.replicas if together else 1)
        self._device, self._replicas = plan.devices[0], len(mine)
        self._training = Training(replace(plan, algorithm=OneShot(), one_pass=None, devices=plan.devices[:1]), mine=mine)
        self.seconds(2)

    def seconds(self, count: int) -> float:
        """Seconds that so many steps of a replica take."""
        self._wait()
        began = time.perf_counter()
        self._training.advance(count)
        self._wait()
        return (time.perf_counter() - began) / self._replicas

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
