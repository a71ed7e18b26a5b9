"""Seconds of 100 steps of two workers on a slow network, as a ratio to the loop that does not communicate, and what they send.

    python benchmarks/slow_network.py [--rates 100mbit 20mbit] [--works asleep lenet all-cnn] [--steps N] [--repetitions 3] [--few] [--json FILE]

Needs root, `ip` and `tc`: each worker runs in a network namespace of its own, and a pair of veth interfaces of the given rate joins
them. Gloo, one thread each. `lenet` is a real LeNet on made-up batches of 128, `all-cnn` a real All-CNN (1.37 M parameters) on batches
of 8. `asleep` has the tensors of the All-CNN but sleeps for 20 ms instead of computing, which stands for an accelerator; with its
optimizer a step takes some 24 ms. The methods take turns. Each begins with steps that are not timed, and is timed until its last round
has ended, also where it overlaps with steps: of four rounds, one is always waited for. DistributedDataParallel takes fewer steps where
each takes seconds; its time and bytes are scaled. `sent` is what the interface counts, headers and acknowledgements included, `metered`
parle's own count. What late and shortened rounds do to the error is measured by late_rounds.py.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import side_by_side
import torch
import torch.distributed as dist
from rounds import all_cnn, leave
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.functional import cross_entropy

import parle
from parle.models import builder

NAME = "slow network"
PORT, LINK, ADDRESSES = 29500, "slow0", ("10.123.45.1", "10.123.45.2")
PERIOD, PAUSE = 25, 0.02
PLAIN, DDP, AVERAGER = "without communication", "DistributedDataParallel", "PeriodicModelAverager(25)"


@dataclass(frozen=True)
class Ours:
    """A coupling of parle, with the codec of its proposals and the steps by which its rounds come late, where it has such."""

    algorithm: type[parle.Algorithm] = parle.LocalSGD
    codec: str | None = None
    delay: int = 0

    def __str__(self) -> str:
        codec, delay = f", {self.codec}" if self.codec else "", f", overlapped by {self.delay}" if self.delay else ""
        return f"{self.algorithm.__name__}({PERIOD}){codec}{delay}"

    def communicator(self, transport: parle.Communicator) -> parle.Communicator:
        between = parle.Compressed(transport, self.codec) if self.codec else transport
        return parle.Overlapped(between, self.delay) if self.delay else between


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
    """A network, the shape of a batch for it, and how many steps it takes, of DistributedDataParallel by rate."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int
    ddp_steps: dict[str, int]


WORKS = {
    "lenet": Work(builder("lenet", (1, 28, 28), 10), (128, 1, 28, 28), 100, {"20mbit": 20}),
    "asleep": Work(Asleep, (1, 1), 100, {"100mbit": 20, "20mbit": 6}),
    "all-cnn": Work(all_cnn, (8, 3, 32, 32), 50, {"100mbit": 6, "20mbit": 4}),
}
# A vector of 1.37 M numbers takes 0.44 s at 100 Mbit/s and 2.2 s at 20; as int8 a quarter of it, as int4 a seventh. A delay of so many
# steps of 24 ms hides it, if it is at most the period.
BEST = {"100mbit": Ours(codec="int8", delay=6), "20mbit": Ours(codec="int4", delay=16)}
OURS = {
    "100mbit": [Ours(), Ours(parle.Parle), Ours(codec="int8"), Ours(delay=20), BEST["100mbit"]],
    "20mbit": [Ours(), Ours(parle.Parle), Ours(codec="int8"), Ours(codec="int8", delay=24), BEST["20mbit"]],
}
TARGETS = {("asleep", "100mbit"): "<= 1.10", ("asleep", "20mbit"): "<= 1.5"}


def methods(work: str, rate: str, few: bool) -> list:
    """What is compared: all of ours for the network that sleeps, the best for those that compute; in a hurry, that and the averager."""
    ours = OURS.get(rate, OURS["20mbit"])
    return [PLAIN, *([] if few else [DDP]), AVERAGER, *(ours if work == "asleep" and not few else [ours[0], ours[-1]])]


def counted(name: str) -> int:
    """Bytes that this worker's interface has sent."""
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


def measured(method: "str | Ours", work: Work, steps: int) -> dict:
    """Seconds of so many steps, of the slower worker, and what this worker has sent."""
    torch.manual_seed(0)
    model = work.build().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    images, labels = torch.randn(work.shape), torch.randint(0, 10, work.shape[:1])
    ours = isinstance(method, Ours)
    # The two namespaces are on one machine, whose memory would make the network fast.
    meter = parle.Metered(method.communicator(parle.TorchDistributed(shared_memory=False))) if ours else None
    replicas = parle.join(model, optimizer, method.algorithm(period=PERIOD), meter) if ours else None
    averager = PeriodicModelAverager(period=PERIOD) if method == AVERAGER else None
    network = nn.parallel.DistributedDataParallel(model) if method == DDP else model

    def advance(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimizer.step()
            if averager:
                averager.average_parameters(model.parameters())
        if replicas:
            replicas._end_meeting()  # an overlapped round is still under way

    advance(3 if method in (PLAIN, DDP) else PERIOD)
    dist.barrier()
    before, sent, began = counts(meter), counted(LINK), time.perf_counter()
    advance(steps)
    seconds = torch.tensor([time.perf_counter() - began])
    metered, rounds, waited, exchanged = (end - start for end, start in zip(counts(meter), before, strict=True))
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    found = {"seconds": float(seconds), "sent": counted(LINK) - sent}
    if replicas:
        found |= {"metered": metered, "rounds": rounds, "waited": waited / float(seconds), "exchanged": exchanged / float(seconds)}
        replicas.close()
    dist.barrier()
    return found


def counts(meter: parle.Metered | None) -> tuple[float, ...]:
    return (meter.bytes_sent, meter.rounds, meter.seconds_waited, meter.seconds_exchanged) if meter else (0, 0, 0, 0)


def worker(options: argparse.Namespace) -> None:
    """All measurements of one of the two workers at one rate; the first one writes them."""
    torch.set_num_threads(1)
    rate = options.rates[0]
    store = dist.TCPStore(ADDRESSES[0], PORT, 2, is_master=options.rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=options.rank, world_size=2, timeout=timedelta(seconds=300))
    rows = []
    for name in options.works:
        work = WORKS[name]
        steps = {method: options.steps or work.steps for method in methods(name, rate, options.few)}
        if DDP in steps:
            steps[DDP] = min(steps[DDP], work.ddp_steps.get(rate, steps[DDP]))
        found = [{method: measured(method, work, count) for method, count in steps.items()} for _ in range(options.repetitions)]
        plain = [its[PLAIN]["seconds"] / steps[PLAIN] for its in found]
        for method, count in steps.items():
            rows.append(row_of(f"{name} at {rate}", method, [its[method] for its in found], count, plain, TARGETS.get((name, rate))))
    if options.rank == 0:
        Path(options.json).write_text(json.dumps(rows))
    leave()


def row_of(case: str, method: "str | Ours", found: list[dict], steps: int, plain: list[float], target: str | None) -> dict:
    """A row of one method: its seconds a step against those of the plain loop beside it."""
    target = target if method in BEST.values() else None
    exact = {key: found[0][key] for key in ("rounds", "metered") if key in found[0]}
    its = side_by_side.row(NAME, f"{case}: {method}", [one["seconds"] / steps / p for one, p in zip(found, plain, strict=True)], "x plain", target, **exact)
    return its | {"steps": steps} | {key: statistics.median(one[key] for one in found) for key in found[0]}


def cannot() -> str | None:
    """Why this machine cannot have a slow network, if so."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "it needs root, for network namespaces"
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    return f"{' and '.join(missing)} not found; install iproute2" if missing else None


def tell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def connected(rate: str):
    """Two namespaces with one interface each, joined at that rate; deleted at the end."""
    spaces = [f"parle-{os.getpid()}-{end}" for end in range(2)]
    try:
        for space in spaces:
            tell("ip", "netns", "add", space)
        tell("ip", "link", "add", LINK, "netns", spaces[0], "type", "veth", "peer", "name", LINK, "netns", spaces[1])
        for space, address in zip(spaces, ADDRESSES, strict=True):
            tell("ip", "-n", space, "addr", "add", f"{address}/24", "dev", LINK)
            for name in ("lo", LINK):
                tell("ip", "-n", space, "link", "set", name, "up")
            tell("tc", "-n", space, "qdisc", "add", "dev", LINK, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "500ms")
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


def at_rate(rate: str, options: argparse.Namespace) -> list[dict]:
    """The rows at one rate, from a worker in each namespace."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": LINK, "TORCH_CPP_LOG_LEVEL": "ERROR"}  # no warnings that the addresses have no names
    with tempfile.NamedTemporaryFile() as file, connected(rate) as spaces:
        command = [sys.executable, __file__, "--rates", rate, "--works", *options.works, "--repetitions", str(options.repetitions), "--json", file.name]
        command += (["--steps", str(options.steps)] if options.steps else []) + (["--few"] if options.few else [])
        workers = [subprocess.Popen(["ip", "netns", "exec", space, *command, "--rank", str(rank)], env=environment) for rank, space in enumerate(spaces)]
        try:
            if any([its.wait() for its in workers]):
                return [side_by_side.skipped(NAME, rate, "a worker failed")]
            return json.load(file)
        finally:
            for its in workers:
                its.kill()
                its.wait()


def rows_of(options: argparse.Namespace) -> list[dict]:
    if reason := cannot():
        return [side_by_side.skipped(NAME, "all", reason)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are deleted then too
    rows = []
    for rate in options.rates:
        try:
            rows += at_rate(rate, options)
        except subprocess.CalledProcessError as error:
            rows.append(side_by_side.skipped(NAME, rate, f"`{' '.join(error.cmd)}` fails here: {error.stderr.strip()}"))
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--rates", nargs="+", default=["100mbit", "20mbit"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--steps", type=int, help="default: 100, or 50 for all-cnn")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--few", action="store_true", help="without DistributedDataParallel and most of ours")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    side_by_side.run(parser, lambda options: rows_of(options) if options.rank is None else worker(options))


if __name__ == "__main__":
    main()
