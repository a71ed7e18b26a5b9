"""`parle train --dry-run`: what a training would be, take and send, from its configuration and a second of its own steps."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from parle import buffers, config, launch, settling
from parle.data import Data
from parle.errors import ConfigError
from parle.jobs import decide, spread
from parle.launch import World
from parle.plans import Quiet, load_data, plan_for
from parle.serving import require_servable
from parle.training import STRIDE, Plan, Training

SECONDS = 1.5  # of steps that are measured, after the first one
REPEATS = 3  # of what is short; the least time counts
MEASURED = 3  # replicas whose rounds are measured, at most


def estimate(settings: config.RunConfig, show: Quiet | None = None) -> dict:
    """What `train` would do as configured, without a run folder: what `--json` prints.

    Steps of one replica (of all, where they step at once) are measured in this process, and rounds of up to three through a communicator
    in memory; the transport between processes is not in the time. ConfigError or SetupError as `train` raises them.
    """
    show = show or Quiet()
    if World.read().size > 1:
        raise ConfigError(f"--dry-run estimates in one process, and this is one of {World.read().size}. Start it without {World.read().launcher}.")
    found = load_data(settings, show)
    settings = spread(settling.served(settling.settled(settings, len(found.train))), len(found.train), show)
    settings = decide(settings, found, show, settings.replicas if settings.processes else 1)
    plan = plan_for(settings, found)
    if config.at_server(settings):
        require_servable(plan.algorithm)
    with _threads_of(settings):
        show.begin("measuring", 1)
        alone = Training(_first_of(plan, 1))
        _steps_in(alone, 0.0)  # so that its optimizer has its state
        side_by_side = plan.replicas if plan.stepping != "in-turn" and not settings.processes else 1
        steps, seconds = _steps_in(Training(_first_of(plan, side_by_side)) if side_by_side > 1 else alone, SECONDS)
        step, idle, forward = seconds / steps / side_by_side, min(_timed(lambda: _idle_steps(alone), plan) for _ in range(REPEATS)), _forward(alone)
        together = Training(_first_of(plan, min(plan.replicas, MEASURED)), launch.communicator(World(), settings))
        meeting = max(0.0, min(_round(together, idle) for _ in range(REPEATS)))
        show.end()
    return _told(settings, plan, found, alone, together) | {
        "seconds": _seconds(settings, plan, step, meeting * plan.replicas / len(together.mine), forward, alone),
        "measured": {"seconds": seconds, "steps": steps, "steps_of": side_by_side, "seconds_per_step": step}
        | {"seconds_per_round": meeting, "rounds_of": len(together.mine)},
        "estimated_for": _estimated_for(settings),
        "exit_code": 0,
    }


def _told(settings: config.RunConfig, plan: Plan, found: Data, alone: Training, together: Training) -> dict:
    """What is known without a clock."""
    rounds, last = rounds_of(plan)
    its, size, width = together.replicas, together.size, together.replicas.reference.itemsize
    state = sum(its.numel() for each in alone.replicas.optimizers[0].state.values() for its in each.values() if torch.is_tensor(its))
    each = {"optimizer state": round(state / size)} | dict.fromkeys(its.names(), 1)
    once = [*its.center.shared.tensors(), "the mean of a round"]
    whole = together.meter.bytes_sent_per_replica / max(1, together.round) * _more_between_processes(settings)
    fragment = plan.algorithm.at(0).fragment
    parts = [len(range(*fragment(number, size).indices(size))) / size for number in range(rounds if plan.algorithm.in_fragments else 0)]
    return {
        "configuration": settings.model_dump(),
        "params": size,
        "training_samples": len(found.train),
        "steps": plan.steps,
        "rounds": rounds + last,
        "gradient_evaluations": plan.steps * plan.replicas * (2 if plan.sharpness else 1),
        "vectors_of_each_replica": each,
        "vectors_once": once,
        "bytes_of_each_replica": sum(each.values()) * size * width,
        "bytes_once": len(once) * size * width,
        "bytes_per_round_per_replica": round(whole * (parts[0] if parts else 1)),
        "bytes_sent_per_replica": round(whole * ((sum(parts) if parts else rounds) + last)),
    }


def rounds_of(plan: Plan) -> tuple[int, int]:
    """The rounds in the course of a plan, and those at its end, none or one; where a period adapts or goes by time, the most."""
    rounds = plan.algorithm.rounds_in(plan.steps)
    rest = plan.steps - plan.algorithm.steps_in(rounds) if isinstance(plan.algorithm.at(0).period, int) else 1
    return rounds, int(rest > 0 or plan.algorithm.in_fragments)


def _more_between_processes(settings: config.RunConfig) -> float:
    """How many times the bytes of one process each of several sends: encoded or in order, to every other; else as a ring does."""
    others, its = settings.replicas - 1, settings.communicator
    if not settings.processes or config.at_server(settings) or not others:
        return 1.0
    to_all = its.codec or (its.ordered and others > 1 and not its.shared_memory)
    return others if to_all else 2 * others / settings.replicas


def _estimated_for(settings: config.RunConfig) -> str:
    if config.at_server(settings):
        return "one process; the replicas of a server go side by side, and do not wait for each other"
    if settings.processes and settings.replicas > 1:
        return f"{settings.replicas} processes on {launch.cores()} cores, from one process: what they wait for each other is not in it"
    return "one process"


def _seconds(settings: config.RunConfig, plan: Plan, step: float, meeting: float, forward: float, alone: Training) -> dict:
    """The seconds of the run by what they are spent on; `forward` is that of one sample."""
    places = min(plan.replicas, launch.cores()) if settings.processes else len(plan.devices)
    turns = max(1.0, plan.replicas / places)
    evaluations = max(1, -(-plan.steps // plan.evaluate_every))
    refreshed = buffers.with_statistics(alone.replicas.models[0]) and plan.buffers == "recompute"
    train, test = len(plan.data.train), len(plan.data.test)
    samples = evaluations * (1 + turns) * test + refreshed * ((evaluations - 1) * min(plan.refresh, train) + train)
    spent = {"steps": plan.steps * turns * step, "rounds": sum(rounds_of(plan)) * meeting, "evaluations": samples * forward}
    return spent | {"all": sum(spent.values())}


# Measuring


def _first_of(plan: Plan, count: int) -> Plan:
    """The plan with its first so many replicas alone."""
    its = plan.algorithm
    if isinstance(its.period, tuple):
        its = dataclasses.replace(its, period=its.period[:count])
    return dataclasses.replace(plan, replicas=count, algorithm=its)


@contextlib.contextmanager
def _threads_of(settings: config.RunConfig) -> Iterator[None]:
    """Inside `with`, as many threads as a process of the training has."""
    before = torch.get_num_threads()
    launch.set_threads(World(), settings.threads or (launch.threads_of(settings.replicas) if settings.processes else None))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _steps_in(training: Training, seconds: float) -> tuple[int, float]:
    """How many steps are taken in so many seconds, after the first one, and in how many exactly; one at the least."""
    training.advance(1)
    _wait(training.plan)
    steps, stride, spent, began = 0, 1, 0.0, time.perf_counter()
    while not steps or spent < seconds:
        training.advance(stride)
        _wait(training.plan)
        steps, spent = steps + stride, time.perf_counter() - began
        stride = max(1, min(2 * stride, STRIDE, int((seconds - spent) * steps / spent)))  # at last as in a training
    return steps, spent


def _round(training: Training, idle: float) -> float:
    """Seconds of a round, where a step of one replica with gradients of zero takes `idle`."""
    rounds, stepping = training.round, _timed(lambda: _idle_steps(training), training.plan)
    if training.round > rounds:  # it was a part of the steps
        return stepping - len(training.mine) * idle
    return _timed(training.replicas.finish, training.plan)


def _idle_steps(training: Training) -> None:
    """A step of every replica with gradients of zero."""
    for optimizer in training.replicas.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def _timed(call: Callable[[], None], plan: Plan) -> float:
    began = time.perf_counter()
    call()
    _wait(plan)
    return time.perf_counter() - began


@torch.no_grad()
def _forward(training: Training) -> float:
    """Seconds of one sample in an evaluation."""
    model, (samples, _) = training.replicas.models[0].eval(), training.batches[0].at(0)
    model(samples)
    return _timed(lambda: model(samples), training.plan) / len(samples)


def _wait(plan: Plan) -> None:
    if plan.devices[0].type == "cuda":
        torch.cuda.synchronize()
