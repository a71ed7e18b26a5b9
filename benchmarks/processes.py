"""Images/s of `parle train --processes` with two replicas against a hand-written plain loop on one thread; time spent in rounds.

    PARLE_DATA_DIR=DIR python benchmarks/processes.py [--replicas 2] [--algorithm parle] [--blocks 5] [--epochs 0.3] [--json FILE]
    python benchmarks/processes.py --share [--steps 25] [--periods 1] [--batch-size 128] [--algorithm parle] [--json FILE]

The command runs as anybody would start it, once a block, on LeNet and MNIST with one thread per process; its images/s are its own
count, which leaves out start-up and evaluation. Blocks of the plain loop (that of overhead.py) lie between, and each command is
compared with the mean of the two around it; so are as many plain loops at once, which is the limit that the machine sets. The null
compares two blocks of the plain loop. The fastest blocks say more where other work takes the cores away.

With `--share`, processes on loopback train an All-CNN (1.37 M parameters) on made-up batches with a round every `--steps` steps, and
parle's meter says which share of the time goes into exchanging, and which into waiting for the slower process.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time

import side_by_side
import torch
import torch.distributed as dist
from overhead import Plain, timed
from rounds import all_cnn, in_processes
from torch.nn.functional import cross_entropy

import parle
from parle import config, plans

NAME = "processes"
BATCH = 128


def trained(options: argparse.Namespace) -> float:
    """Images/s by the command's own count."""
    settings = ["threads=1", f"batch_size={BATCH}", "evaluation.every=100", "buffers=keep"]  # BatchNorm is not estimated again at the end
    command = [sys.executable, "-m", "parle", "train", "-m", options.model, "-d", options.data, "-a", options.algorithm, "-n", str(options.replicas)]
    command += ["--processes", "-e", str(options.epochs), "--json", *(word for text in settings for word in ("--set", text))]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "--runs-dir", folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout.splitlines()[-1])["images_per_second"]


def plain_loop(options: argparse.Namespace) -> Plain:
    plain = Plain(plans.load_data(config.load(sets=(f"data={options.data}",))), BATCH, 1, options.model)
    plain.advance(10)  # warm up
    return plain


def speed(plain: Plain, steps: int) -> float:
    return steps * BATCH / timed(plain.advance, steps)


def side_by_side_loops(options: argparse.Namespace, steps: int) -> float:
    """Images/s of as many plain loops at the same time, together."""
    speeds = multiprocessing.get_context("spawn").SimpleQueue()
    in_processes(options.replicas, one_of_several, options, speeds, steps)
    return options.replicas * min(speeds.get() for _ in range(options.replicas))


def one_of_several(options: argparse.Namespace, speeds, steps: int) -> None:
    plain = plain_loop(options)
    dist.barrier()
    speeds.put(speed(plain, steps))


def compare(options: argparse.Namespace) -> list[dict]:
    """Images/s of the command against the plain loop, block by block."""
    plain, blocks = plain_loop(options), []
    steps = max(1, round(options.epochs * len(plain.data.train) / BATCH))
    before = speed(plain, steps)
    for _ in range(options.blocks):
        ours, between, limit = trained(options), speed(plain, steps), side_by_side_loops(options, steps)
        after = speed(plain, steps)
        blocks.append((2 * ours / (before + between), 2 * limit / (between + after), between / before, ours))
        before = after
    command, limit, null, speeds = zip(*blocks, strict=True)
    count = options.replicas
    return [
        side_by_side.row(NAME, f"train --processes, {options.algorithm}, n={count}", command, "x plain", ">= 1.8")
        | {"remark": f"{statistics.median(speeds):,.0f} images/s"},
        side_by_side.row(NAME, f"{count} plain loops at once, the machine's limit", limit, "x plain"),
        side_by_side.row(NAME, "plain loop again (null)", null, "x plain"),
    ]


def share(options: argparse.Namespace, file: str) -> None:
    """One of the processes that train an All-CNN; the first one writes where the time went."""
    model = all_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    meter = parle.Metered(parle.TorchDistributed())
    replicas = parle.join(model, optimizer, parle.ALGORITHMS[options.algorithm](period=options.steps), meter)
    images, labels = torch.randn(options.batch_size, 3, 32, 32), torch.randint(0, 10, (options.batch_size,))

    def advance(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()

    advance(2)  # warm up, a round too
    replicas.finish()
    before, began = (meter.seconds_exchanged, meter.seconds_waited), time.perf_counter()
    advance(options.steps * options.periods)
    seconds = time.perf_counter() - began
    shares = torch.tensor([(meter.seconds_exchanged - before[0]) / seconds, (meter.seconds_waited - before[1]) / seconds, seconds])
    every = [torch.empty_like(shares) for _ in range(options.replicas)]
    dist.all_gather(every, shares)
    counted = {"rounds": meter.rounds, "bytes_of_a_round": meter.bytes_in_round}
    replicas.close()
    if dist.get_rank() == 0:
        exchanged, waited, seconds = torch.stack(every).amax(0).tolist()
        case = f"{options.algorithm}, n={options.replicas}, All-CNN, batch {options.batch_size}, a round every {options.steps} steps"
        rows = [
            side_by_side.row(NAME, f"{case}: exchanging", [100 * exchanged], "% of the time", "<= 0.5", **counted),
            side_by_side.row(NAME, f"{case}: waiting for the slower process", [100 * waited], "% of the time"),
        ]
        remark = f"{1000 * seconds / options.steps / options.periods:.0f} ms a step"
        with open(file, "w") as out:
            json.dump([row | {"remark": remark} for row in rows], out)


def rows_of(options: argparse.Namespace) -> list[dict]:
    if not options.share:
        return compare(options)
    with tempfile.NamedTemporaryFile() as file:
        in_processes(options.replicas, share, options, file.name)
        return json.load(file)


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--algorithm", default="parle")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=0.3)
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--periods", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
