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
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import side_by_side
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.multiprocessing import start_processes

import parle
from parle.models import builder

NAME = "round"
BARE, NULL, COPY = "all_reduce, bare", "all_reduce, again (null)", "copy of one vector"
ALONE, AVERAGER, ACCELERATE = "parle communicator alone", "PeriodicModelAverager", "accelerate LocalSGD"
TORCHFT = "torchft LocalSGD"
ROUNDS = {"parle LocalSGD": parle.LocalSGD, "parle Parle": parle.Parle}
SENT = "parle LocalSGD, not in shared memory"
AIM = "<= 1.1"
KEPT = []  # what would stop where nothing refers to it
# Copies (one vector read, one written) that a round of two processes needs in shared memory, if each verb passes over its vectors once
# (docs/performance.md): LocalSGD looks at params, reads params and x, writes the proposal; reads both proposals and x, writes x and params.
# Parle looks at params, reads x^a, x, z and m, writes x^a, m and the proposal; reads both proposals, writes x, x^a, z and params.
COPIES = {"parle LocalSGD": 4.5, "parle Parle": 7.0}


@dataclass
class Method:
    """A way to average: `prepare` comes before each round and is not timed; `sent` tells the bytes so far, where they are counted."""

    name: str
    prepare: Callable[[], object]
    hold: Callable[[], object]
    sent: Callable[[], int] | None = None


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
    made += [whole_round(name, kind(), True, *stepping(build, gradients)) for name, kind in ROUNDS.items()]
    made.append(whole_round(SENT, parle.LocalSGD(), False, *stepping(build, gradients)))
    made.append(averager(*stepping(build, gradients)))
    missing = {}
    for name, peer in {ACCELERATE: accelerated, TORCHFT: fault_tolerant}.items():
        try:
            made.append(peer(*stepping(build, gradients)))
        except ImportError as error:
            missing[name] = f"{error}; `make bench` installs it"
    return made, missing


def flat_vectors(size: int) -> list[Method]:
    """What is held against the others: vectors of that size, and parle's communicator without an algorithm."""
    vector, message, copy = torch.randn(size), torch.randn(size), torch.zeros(size)
    communicator, center = parle.TorchDistributed(), OnlyMean(vector)
    communicator.open(center, [vector], True)
    bare = [Method(name, lambda: message.copy_(vector), lambda: dist.all_reduce(message)) for name in (BARE, NULL)]
    return [
        *bare,
        Method(COPY, lambda: vector.mul_(-1), lambda: copy.copy_(vector)),
        Method(ALONE, lambda: vector.mul_(-1), lambda: communicator.exchange([vector]), lambda: communicator.sent),
    ]


class OnlyMean:
    """A center that does nothing with a mean."""

    algorithm = parle.LocalSGD()

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


def whole_round(name: str, algorithm: parle.Algorithm, shared_memory: bool, model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    replicas = parle.join(model, optimizer, algorithm, parle.TorchDistributed(shared_memory=shared_memory))
    return Method(name, optimizer.step, lambda: replicas._hold_round(late=False), lambda: replicas.communicator.sent)


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


def fault_tolerant(model: nn.Module, optimizer: torch.optim.Optimizer) -> Method:
    os.environ.setdefault("RUST_LOG", "off")
    logging.getLogger("torchft").setLevel(logging.ERROR)
    from torchft import Manager, ProcessGroupGloo
    from torchft.coordination import LighthouseServer
    from torchft.local_sgd import LocalSGD

    house = LighthouseServer(bind="127.0.0.1:0", min_replicas=dist.get_world_size()) if dist.get_rank() == 0 else None
    address = [house and house.address()]
    dist.broadcast_object_list(address)  # noqa: TID251 (of processes that are our own)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=30)),
        load_state_dict=lambda state: None,
        state_dict=dict,
        min_replica_size=dist.get_world_size(),
        use_async_quorum=False,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=address[0],
        replica_id=f"bench{dist.get_rank()}",
        hostname="127.0.0.1",
    )
    its = LocalSGD(manager, model, optimizer, sync_every=25)
    KEPT.extend([house, store, manager])
    return Method(TORCHFT, optimizer.step, its.sync)


def seconds(method: Method, rounds: int) -> float:
    method.prepare()
    dist.barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        method.hold()
    return (time.perf_counter() - began) / rounds


def measured(made: list[Method], rounds: int, repetitions: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of each repetition by method, of the slowest process, and the bytes of a round where they are counted."""
    times, order = torch.zeros(repetitions, len(made), dtype=torch.float64), random.Random(0)
    before = {method.name: method.sent() for method in made if method.sent}
    for repetition in [0, 0, *range(repetitions)]:  # two to warm up, which are overwritten
        turns = list(enumerate(made))
        order.shuffle(turns)
        for column, method in turns:
            times[repetition, column] = seconds(method, rounds)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    held = rounds * (repetitions + 2)
    sent = {method.name: (method.sent() - before[method.name]) // held for method in made if method.sent}
    return {method.name: (times[:, column] * 1000).tolist() for column, method in enumerate(made)}, sent


def rows_of_shape(shape: str, repetitions: int | None) -> list[dict]:
    """A row for each method, and one for ours against each peer."""
    its, tensors = SHAPES[shape], list(SHAPES[shape].build().parameters())
    made, missing = methods(its.build)
    times, sent = measured(made, its.rounds, repetitions or its.repetitions)
    common = {"parameters": sum(p.numel() for p in tensors), "tensors": len(tensors)}
    rows, bare = [], times[BARE]
    for name, own in times.items():
        counted = common | ({"bytes_of_a_round": sent[name]} if name in sent else {})
        row = side_by_side.row(NAME, f"{shape}: {name}", side_by_side.ratios(own, bare), "x bare", AIM if name in ROUNDS else None, **counted)
        limit = COPIES.get(name, 0) * statistics.median(times[COPY]) / statistics.median(bare)
        remark = f"{statistics.median(own):.2f} ms, {min(own) / min(bare):.2f} x bare between the fastest"
        remark += f"; {COPIES[name]:g} copies, of which it consists, take {limit:.2f}" if name in COPIES and shape == "wide-resnet" else ""
        rows.append(row | {"milliseconds": statistics.median(own), "remark": remark})
    for name in ROUNDS:
        for peer in (AVERAGER, ACCELERATE, TORCHFT):
            if peer in times:
                faster = side_by_side.ratios(times[peer], times[name])
                rows.append(side_by_side.row(NAME, f"{shape}: {name} against {peer}", faster, "x as fast", "> 1"))
    return rows + [side_by_side.skipped(NAME, f"{shape}: {name}", reason) for name, reason in missing.items()]


def work(options: argparse.Namespace, file: str) -> None:
    rows = [row for shape in options.shapes for row in rows_of_shape(shape, options.repetitions)]
    if dist.get_rank() == 0:
        with open(file, "w") as out:
            json.dump(rows, out)


def rows_of(options: argparse.Namespace) -> list[dict]:
    with tempfile.NamedTemporaryFile() as file:
        in_processes(options.processes, work, options, file.name)
        return json.load(file)


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repetitions", type=int, help="default: 30, or 12 for wide-resnet")
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
