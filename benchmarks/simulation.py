"""How fast the virtual clock counts, and what one slow replica costs, on the clock and with real threads.

python benchmarks/simulation.py
"""

import threading
import time

import torch
from torch import nn

import parle

RAMP = "ramp(1, n, every=300)"


def speed(replicas: int = 1000, proposals: int = 200_000) -> None:
    """Proposals per second of real time, without gradients."""
    print(f"time alone, {replicas:,} replicas, {proposals:,} proposals:")
    for quorum in (1, "n", RAMP):
        rates = []
        for _ in range(3):
            server = parle.Simulated(quorum, replicas=replicas, clock=parle.Clock(compute=0.05, delay="half:normal(0, 0.25)"))
            began = time.perf_counter()
            server.run_times(proposals=proposals)
            rates.append(server.desk.received / (time.perf_counter() - began))
        print(f"  quorum {quorum}: {min(rates):,.0f} to {max(rates):,.0f} proposals per second (aim: 100,000)")


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


def slow_one(seconds: float = 10.0) -> None:
    """One replica ten times slower than seven others; predicted against real threads as well."""
    print("one replica ten times slower than seven others, proposals per second:")
    compute, errors = [0.5] + [0.05] * 7, []
    for quorum in ("n", 1, "ramp(1, n, every=100)", 4):
        clock = parle.Simulated(quorum, replicas=8, clock=parle.Clock(compute="0.05; 0:0.5"))
        clock.run_times(seconds=seconds)
        expected, real = clock.desk.received / seconds, on_threads(quorum, compute, seconds)
        errors.append(abs(expected / real - 1))
        print(f"  quorum {quorum}: {expected:.1f} on the clock, {real:.1f} with threads, {100 * (expected / real - 1):+.1f} %")
    for replicas in (2, 3, 4):
        for quorum in (1, "n"):
            times = [0.04 + 0.02 * index for index in range(replicas)]
            text = "; ".join(f"{index}:{its}" for index, its in enumerate(times))
            clock = parle.Simulated(quorum, replicas=replicas, clock=parle.Clock(compute=text))
            clock.run_times(seconds=seconds / 2)
            expected, real = 2 * clock.desk.received / seconds, on_threads(quorum, times, seconds / 2)
            errors.append(abs(expected / real - 1))
            print(f"  {replicas} unequal replicas, quorum {quorum}: {expected:.1f} on the clock, {real:.1f} with threads, {100 * (expected / real - 1):+.1f} %")
    errors.sort()
    print(f"error of the prediction: median {100 * errors[len(errors) // 2]:.1f} % (aim 5), worst {100 * errors[-1]:.1f} % (aim 15)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow_one()
    speed()
