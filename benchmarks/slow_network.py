"""Seconds of 100 steps of two workers on a slow network, against the plain loop and DistributedDataParallel, and what they send.

    python benchmarks/slow_network.py [--rate 100mbit] [--steps 100] [--ddp-steps 20] [--works lenet all-cnn] [--repetitions 3] [--json FILE]

Needs root, `ip` and `tc`: each worker runs in a network namespace of its own, and a pair of veth interfaces of the given rate joins
them. Gloo, one thread each. `lenet` is a real LeNet on made-up batches of 128; `all-cnn` has the tensors of an All-CNN (1.37 M
parameters), but sleeps for 20 ms instead of computing, which stands for an accelerator: a real step at batch 128 takes some two
seconds of one core, beside which no network is slow. The methods take turns; each begins with steps that are not timed, and is
timed until its last round has ended, an overlapped one too. DistributedDataParallel takes fewer steps of `all-cnn`, whose time
and bytes are scaled. `sent` is what the interface counts, headers and acknowledgements included; `metered` is parle's own count.
`waited` and `exchanged` are the shares of time that parle's meter finds before the vectors move and until the mean is there; an
overlapped round has no such first part, and waits for the slower worker in the second.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from rounds import all_cnn, leave
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import parle
from parle.models import builder

PORT, LINK, ADDRESSES = 29500, "slow0", ("10.123.45.1", "10.123.45.2")
BATCH, PERIOD, DELAY, PAUSE = 128, 25, 10, 0.02
SHARES = ("waited", "exchanged")
PLAIN, DDP = "plain loop, alone", "DistributedDataParallel"
COUPLED: dict[str, tuple[type[parle.Algorithm], Callable]] = {
    "LocalSGD(25)": (parle.LocalSGD, lambda between: between),
    "Parle(25)": (parle.Parle, lambda between: between),
    "LocalSGD(25), int8": (parle.LocalSGD, lambda between: parle.Compressed(between, "int8")),
    "LocalSGD(25), overlapped by 10": (parle.LocalSGD, lambda between: parle.Overlapped(between, DELAY)),
}


class Asleep(nn.Module):
    """The parameters of a network whose computation is a pause."""

    def __init__(self):
        super().__init__()
        self.net = all_cnn()

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(PAUSE)
        return torch.stack([p.square().sum() for p in self.net.parameters()]).expand(len(images), -1)


@dataclass(frozen=True)
class Work:
    """A network, and the shape of a batch for it."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


WORKS = {"lenet": Work(builder("lenet", (1, 28, 28), 10), (BATCH, 1, 28, 28)), "all-cnn": Work(Asleep, (1, 1))}


def counted(name: str) -> int:
    """Bytes that this worker's interface has sent."""
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


def measured(method: str, work: Work, steps: int) -> dict:
    """Seconds of so many steps, of the slower worker, and what this worker has sent."""
    torch.manual_seed(0)
    model = work.build().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    images, labels = torch.randn(work.shape), torch.randint(0, 10, work.shape[:1])
    meter = replicas = None
    if method == DDP:
        model = nn.parallel.DistributedDataParallel(model)
    elif method in COUPLED:
        kind, around = COUPLED[method]
        meter = parle.Metered(around(parle.TorchDistributed()))
        replicas = parle.join(model, optimizer, kind(period=PERIOD), meter)

    def advance(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        if replicas:
            replicas._end_meeting()  # an overlapped round is still under way

    advance(PERIOD if replicas else 3)
    dist.barrier()
    before, sent, began = counts(meter), counted(LINK), time.perf_counter()
    advance(steps)
    seconds = torch.tensor([time.perf_counter() - began])
    metered, waited, exchanged = (end - start for end, start in zip(counts(meter), before, strict=True))
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    found = {"seconds": float(seconds), "sent": counted(LINK) - sent}
    if replicas:
        found |= {"metered": metered, "waited": waited / float(seconds), "exchanged": exchanged / float(seconds)}
        replicas.close()
    dist.barrier()
    return found


def counts(meter: parle.Metered | None) -> tuple[float, ...]:
    return (meter.bytes_sent, meter.seconds_waited, meter.seconds_exchanged) if meter else (0, 0, 0)


def worker(options: argparse.Namespace) -> None:
    """All measurements of one of the two workers; the first one prints them."""
    torch.set_num_threads(1)
    store = dist.TCPStore(ADDRESSES[0], PORT, 2, is_master=options.rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=options.rank, world_size=2, timeout=timedelta(seconds=300))
    rows = []
    for name in options.works:
        steps = dict.fromkeys([PLAIN, DDP, *COUPLED], options.steps)
        if name != "lenet":
            steps[DDP] = min(options.steps, options.ddp_steps)
        found = [{method: measured(method, WORKS[name], count) for method, count in steps.items()} for _ in range(options.repetitions)]
        if options.rank == 0:
            its = [row_of([its[method] for its in found], options, {"work": name, "method": method, "steps": steps[method]}) for method in steps]
            rows += its
            show(its, options)
    if options.json and options.rank == 0:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
    leave()


def row_of(found: list[dict], options: argparse.Namespace, common: dict) -> dict:
    """Medians over the repetitions, scaled to as many steps as asked for."""
    scale = options.steps / common["steps"]
    row = common | {"rate": options.rate, "repetitions": len(found)}
    row |= {key: statistics.median(its[key] for its in found) * (1 if key in SHARES else scale) for key in found[0]}
    return row | {"seconds_min": scale * min(its["seconds"] for its in found), "seconds_max": scale * max(its["seconds"] for its in found)}


def show(rows: list[dict], options: argparse.Namespace) -> None:
    by_method = {row["method"]: row for row in rows}
    plain, ddp = by_method[PLAIN]["seconds"], by_method[DDP]["seconds"]
    print(
        f"\n{rows[0]['work']} at {options.rate}, two workers, repetitions: {options.repetitions}; seconds and MB per worker for {options.steps} steps\n"
        f"{'':32}{'seconds':>8}  {'(range)':18}{'x plain':>8}{'x as fast as DDP':>18}{'MB sent':>9}{'metered':>9}{'waited':>9}{'exchanged':>11}"
    )
    for row in rows:
        span = f"({row['seconds_min']:.2f} to {row['seconds_max']:.2f})"
        line = f"{row['method']:32}{row['seconds']:8.2f}  {span:18}{row['seconds'] / plain:8.2f}{ddp / row['seconds']:18.2f}{row['sent'] / 1e6:9.2f}"
        if "metered" in row:
            line += f"{row['metered'] / 1e6:9.2f}{row['waited']:9.1%}{row['exchanged']:11.1%}"
        if row["steps"] != options.steps:
            line += f"   from {row['steps']} steps"
        print(line, flush=True)


def cannot() -> str | None:
    """Why this machine cannot have a slow network, if so."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "it needs root, for network namespaces"
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    return f"{' and '.join(missing)} not found; install iproute2" if missing else None


def tell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def connect(spaces: list[str], rate: str) -> None:
    """Two namespaces with one interface each, joined at that rate."""
    for space in spaces:
        tell("ip", "netns", "add", space)
    tell("ip", "link", "add", LINK, "netns", spaces[0], "type", "veth", "peer", "name", LINK, "netns", spaces[1])
    for space, address in zip(spaces, ADDRESSES, strict=True):
        tell("ip", "-n", space, "addr", "add", f"{address}/24", "dev", LINK)
        for name in ("lo", LINK):
            tell("ip", "-n", space, "link", "set", name, "up")
        tell("tc", "-n", space, "qdisc", "add", "dev", LINK, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "500ms")


def run(spaces: list[str]) -> int:
    """Start a worker in each namespace and wait for both; the exit code."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": LINK, "TORCH_CPP_LOG_LEVEL": "ERROR"}  # no warnings that the addresses have no names
    command = [sys.executable, __file__, *sys.argv[1:]]
    workers = [subprocess.Popen(["ip", "netns", "exec", space, *command, "--rank", str(rank)], env=environment) for rank, space in enumerate(spaces)]
    try:
        return max(abs(its.wait()) for its in workers)
    finally:
        for its in workers:
            its.kill()
            its.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ddp-steps", type=int, default=20, help="steps of DistributedDataParallel on all-cnn")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        worker(options)
        return
    if reason := cannot():
        print(f"skipped: {reason}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are deleted then too
    spaces = [f"parle-{os.getpid()}-{end}" for end in range(2)]
    try:
        connect(spaces, options.rate)
        code = run(spaces)
    except subprocess.CalledProcessError as error:
        print(f"skipped: `{' '.join(error.cmd)}` fails here: {error.stderr.strip()}")
        return
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
