"""Milliseconds of one round between processes on one machine, as a ratio to a bare all_reduce of one flat vector of the same size.

    python benchmarks/rounds.py [--processes 2] [--shapes lenet all-cnn wide-resnet] [--repetitions R] [--json FILE]

Over gloo on loopback, one thread per process. In every repetition all methods take their turn, in an order drawn anew, so that a
drift of the machine hits all of them: an optimizer step that is not timed, a barrier, then a round, of which the slowest process
counts. Of the small networks it is the mean of several rounds one after the other, since a bare all_reduce of 0.5 MB takes 0.5 ms
or 5, as the threads of gloo find the cores. Ratios are formed within a repetition, and once more between the fastest repetitions,
which says more where other work takes the cores away; the null is the bare all_reduce against itself. A round of parle is propose,
exchange, merge and adopt. The copy is a copy of one vector of that size, which all processes make at the same time.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.multiprocessing import start_processes

import parle
from parle.models import builder

BARE, NULL, COPY = "all_reduce, bare", "all_reduce, again (null)", "copy of one vector"
ALONE, AVERAGER, ACCELERATE = "parle communicator alone", "PeriodicModelAverager", "accelerate LocalSGD"
ROUNDS = {"parle LocalSGD": parle.LocalSGD, "parle Parle": parle.Parle}
AIM = 1.15
# Copies (one vector read, one written) that the equations need beside the all_reduce, if each verb passes over its vectors once:
# LocalSGD reads params, x, the sum and x, writes the proposal, x and params; Parle reads x^a, x, z, m and the sum, writes x^a, m,
# the proposal, x, params, z and x^a.
COPIES = {"parle LocalSGD": 3.5, "parle Parle": 6.0}


@dataclass
class Method:
    """A way to average: `prepare` comes before each round and is not timed."""

    name: str
    prepare: Callable[[], object]
    hold: Callable[[], object]


class Bare(nn.Module):
    """Parameters of given shapes, and nothing to do with them."""

    def __init__(self, shapes: list[tuple[int, ...]]):
        super().__init__()
        self.tensors = nn.ParameterList(torch.randn(shape) for shape in shapes)


def all_cnn() -> nn.Module:
    """All-CNN-C for 32 x 32 images in colour: 18 tensors, 1.37 M parameters."""
    layers, channels = [], 3
    for out, kernel, stride in ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1), (10, 1, 1)):
        layers += [nn.Conv2d(channels, out, kernel, stride, kernel // 2), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def wide_resnet() -> nn.Module:
    """The tensors of a WRN-28-10: 80 of them, 36.5 M parameters."""
    shapes, channels = [(16, 3, 3, 3)], 16
    for width in (160, 320, 640):
        for block in range(4):
            shapes += [(channels,), (channels,), (width, channels, 3, 3), (width,), (width,), (width, width, 3, 3)]
            shapes += [(width, channels, 1, 1)] if block == 0 else []
            channels = width
    return Bare([*shapes, (640,), (640,), (10, 640), (10,)])


@dataclass(frozen=True)
class Shape:
    """A network, how many rounds are timed at a time, and how often."""

    build: Callable[[], nn.Module]
    rounds: int
    repetitions: int


SHAPES = {"lenet": Shape(builder("lenet", (1, 28, 28), 10), 20, 30), "all-cnn": Shape(all_cnn, 5, 30), "wide-resnet": Shape(wide_resnet, 1, 12)}


def in_processes(count: int, work: Callable, *arguments) -> None:
    """Call work(*arguments) in so many processes, which are one gloo group on loopback and have one thread each."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_process, (count, f"{folder}/store", work, arguments), nprocs=count, start_method="spawn")


def _process(rank: int, count: int, store: str, work: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count)
    work(*arguments)
    leave()


def leave() -> None:
    """End this process when all have come to this point."""
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # where a method still holds the group, gloo's threads may abort an ordinary exit


def methods(build: Callable[[], nn.Module]) -> tuple[list[Method], dict[str, str]]:
    """All methods for a network, and why some are missing."""
    made = [*flat_vectors(sum(p.numel() for p in build().parameters()))]
    gradients = [torch.randn_like(p) for p in build().parameters()]
    made += [whole_round(name, kind(), *stepping(build, gradients)) for name, kind in ROUNDS.items()]
    made.append(averager(*stepping(build, gradients)))
    try:
        made.append(accelerated(*stepping(build, gradients)))
    except ImportError as error:
        return made, {ACCELERATE: str(error)}
    return made, {}


def flat_vectors(size: int) -> list[Method]:
    """What is held against the others: vectors of that size, and parle's communicator without an algorithm."""
    vector, message, copy = torch.randn(size), torch.randn(size), torch.zeros(size)
    communicator, center = parle.TorchDistributed(), OnlyMean(vector)
    communicator.open(center, [vector], True)
    bare = [Method(name, lambda: message.copy_(vector), lambda: dist.all_reduce(message)) for name in (BARE, NULL)]
    return [
        *bare,
        Method(COPY, lambda: vector.mul_(-1), lambda: copy.copy_(vector)),
        Method(ALONE, lambda: vector.mul_(-1), lambda: communicator.exchange([vector])),
    ]


class OnlyMean:
    """A center without an algorithm."""

    def __init__(self, vector: Tensor):
        self.shared, self.round = SimpleNamespace(reference=vector), 0

    def merge(self, mean: Tensor, count: int, part: slice, size: int) -> Tensor:
        self.round += 1
        return mean


def stepping(build: Callable[[], nn.Module], gradients: list[Tensor]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network whose optimizer steps by made-up gradients, so that every round has something to average."""
    model = build()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def whole_round(name: str, algorithm: parle.Algorithm, model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    replicas = parle.join(model, optimizer, algorithm, parle.TorchDistributed())
    return Method(name, optimizer.step, lambda: replicas._hold_round(late=False))


def averager(model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    its = PeriodicModelAverager(period=25)

    def hold() -> None:
        its.step = 0  # the calls in between do nothing
        its.average_parameters(model.parameters())

    return Method(AVERAGER, optimizer.step, hold)


def accelerated(model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    os.environ.update(RANK=str(dist.get_rank()), LOCAL_RANK=str(dist.get_rank()), WORLD_SIZE=str(dist.get_world_size()))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # asked for, but not used: there is a group already
    os.environ["OMP_NUM_THREADS"] = "1"  # else accelerate sets the threads of the process
    from accelerate import Accelerator
    from accelerate.local_sgd import LocalSGD

    its = LocalSGD(Accelerator(cpu=True), model, local_sgd_steps=25)
    assert its.enabled, "accelerate does not see the other processes"
    return Method(ACCELERATE, optimizer.step, its._sync_and_avg_model_params)


def seconds(method: Method, rounds: int) -> float:
    method.prepare()
    dist.barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        method.hold()
    return (time.perf_counter() - began) / rounds


def measured(made: list[Method], rounds: int, repetitions: int) -> dict[str, list[float]]:
    """Milliseconds of each repetition by method, of the slowest process."""
    times, order = torch.zeros(repetitions, len(made), dtype=torch.float64), random.Random(0)
    for repetition in [0, 0, *range(repetitions)]:  # two to warm up, which are overwritten
        turns = list(enumerate(made))
        order.shuffle(turns)
        for column, method in turns:
            times[repetition, column] = seconds(method, rounds)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return {method.name: (times[:, column] * 1000).tolist() for column, method in enumerate(made)}


def rows_of(times: dict[str, list[float]], common: dict) -> list[dict]:
    """A row for each method: median and range of the milliseconds, and of the ratio to the bare all_reduce."""
    rows, fastest = [], min(times[BARE])
    for name, its in times.items():
        ratios = [own / bare for own, bare in zip(its, times[BARE], strict=True)]
        row = {"method": name, **common, "ratio_of_fastest": min(its) / fastest}
        for kind, values in (("ms", its), ("ratio", ratios)):
            row |= {kind: statistics.median(values), f"{kind}_min": min(values), f"{kind}_max": max(values)}
        rows.append(row)
    return rows


def show(rows: list[dict], missing: dict[str, str]) -> None:
    first, by_name = rows[0], {row["method"]: row for row in rows}
    print(
        f"\n{first['shape']}: {first['parameters']:,} parameters in {first['tensors']} tensors, {first['processes']} processes, "
        f"{first['repetitions']} repetitions of {first['rounds']}\n"
        f"{'':26}{'ms':>8}  {'(range)':20}{'x bare':>8}  {'(range)':18}{'fastest x fastest bare':>24}"
    )
    for row in rows:
        ms, ratio = (f"({row[f'{kind}_min']:.2f} to {row[f'{kind}_max']:.2f})" for kind in ("ms", "ratio"))
        print(f"{row['method']:26}{row['ms']:8.2f}  {ms:20}{row['ratio']:8.2f}  {ratio:18}{row['ratio_of_fastest']:24.2f}")
    for name, reason in missing.items():
        print(f"{name:26} skipped: {reason}")
    bare, copy = by_name[BARE]["ms"], by_name[COPY]["ms"]
    for name in ROUNDS:
        ours = by_name[name]
        verdicts = [
            f"{'holds' if ours['ratio'] <= AIM else 'MISSED'}: {ours['ratio']:.2f} x bare, {ours['ratio_of_fastest']:.2f} between the fastest, the aim is {AIM}"
        ]
        for other in (AVERAGER, ACCELERATE):
            if other in by_name:
                times = by_name[other]["ms"] / ours["ms"]
                verdicts.append(f"{'holds' if times > 1 else 'MISSED'}: {times:.2f} times as fast as {other}")
        print(f"{name}: {'; '.join(verdicts)}")
    if first["shape"] == "wide-resnet":  # vectors beyond the cache, where copies cost something
        limits = ", ".join(f"{1 + copies * copy / bare:.2f} for {name} ({copies:g} copies)" for name, copies in COPIES.items())
        print(f"limit by the copies that a round needs beside its all_reduce, one after the other, in x bare: {limits}")


def work(options: argparse.Namespace) -> None:
    rows = []
    for shape in options.shapes:
        its, tensors = SHAPES[shape], list(SHAPES[shape].build().parameters())
        repetitions = options.repetitions or its.repetitions
        common = {"shape": shape, "parameters": sum(p.numel() for p in tensors), "tensors": len(tensors), "processes": options.processes}
        made, missing = methods(its.build)
        its = rows_of(measured(made, its.rounds, repetitions), common | {"repetitions": repetitions, "rounds": its.rounds})
        rows += its
        if dist.get_rank() == 0:
            show(its, missing)
    if options.json and dist.get_rank() == 0:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repetitions", type=int, help="default: 30, or 12 for wide-resnet")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    in_processes(options.processes, work, options)


if __name__ == "__main__":
    main()
