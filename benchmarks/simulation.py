"""How fast the virtual clock counts, and what one slow replica costs, on the clock and with real threads.

    python benchmarks/simulation.py [--replicas 1000] [--proposals 200000] [--seconds 10] [--json FILE]

The replicas of the real runs wait for their gradients, as the paper's delays do; gradients that compete for the cores are not predicted.
"""

import threading
import time

import side_by_side
import torch
from torch import nn

import parle

NAME = "simulation"
RAMP = "ramp(1, n, every=300)"


def speed(replicas: int, proposals: int) -> list[dict]:
    """Proposals per second of real time, without gradients."""
    rows = []
    for quorum in (1, "n", RAMP):
        rates = []
        for _ in range(3):
            server = parle.Simulated(quorum, replicas=replicas, clock=parle.Clock(compute=0.05, delay="half:normal(0, 0.25)"))
            began = time.perf_counter()
            server.run_times(proposals=proposals)
            rates.append(server.desk.received / (time.perf_counter() - began))
        counted = {"proposals": server.desk.received}
        rows.append(side_by_side.row(NAME, f"{replicas:,} replicas, quorum {quorum}", rates, "proposals/s", ">= 100000", **counted))
    return rows


def on_threads(quorum, compute: list[float], seconds: float) -> float:
    """Proposals per second of replicas whose gradients take that long, by waiting."""
    server = parle.Server(quorum, replicas=len(compute))
    barrier = threading.Barrier(len(compute))

    def work(seat) -> None:
        model = nn.Linear(100, 100)
        with parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.ServerSGD(lr=1e-6), seat) as replica:
            barrier.wait()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                time.sleep(compute[seat.first])
                for parameter in model.parameters():
                    parameter.grad = torch.ones_like(parameter)
                replica.optimizers[0].step()

    server.run(work)
    return server.desk.received / seconds


def off(quorum, replicas: int, clock: str, times: list[float], seconds: float) -> float:
    """By how many percent the clock is off from what threads do."""
    server = parle.Simulated(quorum, replicas=replicas, clock=parle.Clock(compute=clock))
    server.run_times(seconds=seconds)
    return 100 * (server.desk.received / seconds / on_threads(quorum, times, seconds) - 1)


def predictions(seconds: float) -> list[dict]:
    """One replica ten times slower than seven others, and a few unequal ones."""
    errors = {}
    for quorum in ("n", 1, "ramp(1, n, every=100)", 4):
        errors[f"one of eight ten times slower, quorum {quorum}"] = off(quorum, 8, "0.05; 0:0.5", [0.5] + [0.05] * 7, seconds)
    for replicas in (2, 3, 4):
        for quorum in (1, "n"):
            times = [0.04 + 0.02 * index for index in range(replicas)]
            text = "; ".join(f"{index}:{its}" for index, its in enumerate(times))
            errors[f"{replicas} unequal replicas, quorum {quorum}"] = off(quorum, replicas, text, times, seconds / 2)
    sizes = [abs(error) for error in errors.values()]
    rows = [
        side_by_side.row(NAME, "prediction against real threads, median of the cases", sizes, "% off", "<= 5", cases=len(sizes)),
        side_by_side.row(NAME, "prediction against real threads, worst case", [max(sizes)], "% off", "<= 15"),
    ]
    return [its | {"errors": errors} for its in rows]


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--proposals", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each prediction")
    side_by_side.run(parser, lambda options: predictions(options.seconds) + speed(options.replicas, options.proposals))


if __name__ == "__main__":
    main()
