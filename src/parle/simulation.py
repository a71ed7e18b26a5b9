"""`parle simulate`: replicas at a server on a virtual clock, with real gradients or with times alone."""

import dataclasses
import time
from collections.abc import Callable

import torch

from parle import config, launch, plans, settling
from parle.errors import ConfigError
from parle.random_streams import RandomStream, derive
from parle.servers import Clock, Simulated
from parle.serving import Judge, carry_out, replicas_of
from parle.training import Plan

Watch = Callable[[dict], None]


def simulate(
    settings: config.RunConfig,
    clock: Clock,
    seconds: float | None = 100.0,
    samples: int | None = None,
    every: float | None = None,
    gradients: bool = True,
    show: plans.Quiet | None = None,
    watch: Watch | None = None,
) -> dict:
    """Train as configured on a virtual clock, until so many virtual seconds are over or so many samples were used: what `--json` prints.

    Every `every` virtual seconds, a fiftieth of the run where none are given, the reference is tested, and `watch` gets what
    there is to tell. Without `gradients` nothing is trained, and times are all that is told. ConfigError where settings, clock
    and end do not fit together.
    """
    show = show or plans.Quiet()
    _check_end(seconds, samples, every)
    found = plans.load_data(settings, show)
    settings = settling.settled(settings, len(found.train))
    settings = settling.served(settings.model_copy(update={"communicator": settings.communicator.model_copy(update={"transport": "server"})}))
    launch.set_threads(launch.World(), settings.threads)
    its = settings.communicator
    server = Simulated(its.quorum, settings.replicas, clock, count=its.count, wait=its.wait, bound=its.bound, timeout=its.timeout)
    plan = plans.plan_for(settings, found)
    period = plan.algorithm.at(0).steps_of(0)
    proposals = None if samples is None else -(-samples // (plan.batch_size * period))
    began = time.perf_counter()
    if gradients:
        scored = _with_gradients(plan, server, seconds, proposals, every or (seconds or 100.0) / 50, show, watch)
    else:
        judge = Judge(plan)
        server.run_times(seconds, proposals, judge.layout.size * judge.layout.dtype.itemsize)
        scored = {"error_pct": None, "loss": None}
    return summary(plan, server, period) | scored | {"real_seconds": round(time.perf_counter() - began, 3), "exit_code": 0}


def summary(plan: Plan, server: Simulated, period: int) -> dict:
    """What a server on a virtual clock has counted."""
    status, seconds = server.status(), server.now
    late = status["staleness"]
    gradients, idle = status["received"] * period, [waited / seconds if seconds else 0.0 for waited in status["waited"]]
    return {
        "algorithm": type(plan.algorithm).__name__,
        "replicas": plan.replicas,
        "gradients": gradients,
        "updates": status["updates"],
        "seconds": round(seconds, 6),
        "throughput": round(gradients / seconds, 3) if seconds else 0.0,
        "samples": gradients * plan.batch_size,
        "quorum": status["quorum"],
        "staleness_p50": percentile(late, 50),
        "staleness_p95": percentile(late, 95),
        "staleness_max": max(late, default=0),
        "waiting_share": round(sum(idle) / len(idle), 4),
        "link_use": {way: round(busy / seconds, 4) if seconds else 0.0 for way, busy in server.port.items()},
        "active_replicas": len(status["active"]),
        "refused": sum(status["refused"]),
    }


def percentile(counts: dict[int, int], percent: float) -> int:
    """The smallest value that at least so many percent of the counted ones do not exceed.

    >>> percentile({0: 90, 3: 8, 7: 2}, 50), percentile({0: 90, 3: 8, 7: 2}, 95)
    (0, 3)
    """
    wanted, seen = percent / 100 * sum(counts.values()), 0
    for value, count in sorted(counts.items()):
        seen += count
        if seen >= wanted:
            return value
    return 0


def _with_gradients(plan: Plan, server: Simulated, seconds, proposals, every: float, show: plans.Quiet, watch: Watch | None) -> dict:
    judge, trainings = Judge(plan), replicas_of(_endless(plan))
    scores = {}

    def look(server: Simulated, last: bool = False) -> None:
        if (vector := server.reference()) is None:
            return
        status = server.status()
        scores.update(vars(judge.score(vector, last)))
        told = {"second": round(server.now, 6), "gradients": status["received"], "updates": status["updates"], "quorum": status["quorum"], **scores}
        show.advance(*((server.now, seconds) if seconds else (status["received"], proposals)), f"error {scores['error_pct']:.2f} %")
        if watch:
            watch(told)

    show.begin(f"{type(plan.algorithm).__name__} x {plan.replicas}", seconds or proposals)
    try:
        with RandomStream(derive(plan.seed, "simulation")):
            server.run(lambda seat: carry_out(trainings[seat.first], seat), seconds, proposals, look, every)
        look(server, last=True)
    finally:
        show.end()
    if not torch.isfinite(torch.tensor(scores["loss"])):
        scores["loss"] = None
    return scores


def _endless(plan: Plan) -> Plan:
    """The plan whose replicas go on until the clock ends them."""
    return dataclasses.replace(plan, steps=10**12)


def _check_end(seconds: float | None, samples: int | None, every: float | None) -> None:
    for name, value in (("seconds", seconds), ("samples", samples), ("every", every)):
        if value is not None and not value > 0:
            raise ConfigError(f"--{name} is {value}, but it must be above 0.")
    if seconds is None and samples is None:
        raise ConfigError("A simulation needs an end. Give --seconds or --samples.")
