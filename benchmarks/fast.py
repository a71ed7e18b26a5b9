"""Images/s of `parle train --fast` against a plain PyTorch loop on one thread, and the limit that the machine sets: LeNet on MNIST.

    PARLE_DATA_DIR=DIR python benchmarks/fast.py [--replicas 3] [--algorithm parle] [--blocks 3] [--epochs 0.8] [--json FILE] [--also SETTINGS ...]

The plain loop (that of overhead.py) trains the replicas in turn on one thread, in float32, with torch's defaults. The command runs as
anybody would start it, once a block, and counts its images/s itself, without start-up and evaluation; each block measures anew what pays. The limit is
as many loops at once in processes of their own that do not speak, with the settings that the command chose. Blocks of the plain loop lie between, and each
figure is divided by the mean of the two around it. `--also` adds the command with settings of your own, such as `keep_memory=false` (several with commas).
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import side_by_side
import torch
import torch.distributed as dist
from overhead import Plain, timed
from rounds import in_processes

from parle import config, fast, plans, settling
from parle.algorithms import OneShot
from parle.training import Training

NAME, AIM = "fast", ">= 3"
CASES = ["train --fast", "train", "limit", "plain"]  # the limit takes the settings of the command before it
COMMON = ("model=lenet", "data=mnist", "batch_size=128", "evaluation.every=100", "buffers=keep")  # BatchNorm is not estimated again at the end


def command(options: argparse.Namespace, *more: str, sets: tuple[str, ...] = ()) -> tuple[float, Path]:
    """Images/s by the command's own count, and the configuration that it wrote."""
    folder = Path(tempfile.mkdtemp())
    line = [sys.executable, "-m", "parle", "train", "-a", options.algorithm, "-n", str(options.replicas), "-e", str(options.epochs), "--json", *more]
    line += [word for text in (*COMMON, *sets) for word in ("--set", text)]
    done = subprocess.run([*line, "--runs-dir", str(folder), "--name", "run"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout.splitlines()[-1])["images_per_second"], folder / "run/config.yaml"


def limit(options: argparse.Namespace, chosen: Path, steps: int) -> float:
    """Images/s of as many replicas at once, each alone in a process, with the settings that the command chose."""
    speeds = multiprocessing.get_context("spawn").SimpleQueue()
    in_processes(options.replicas, alone, speeds, chosen, steps)
    return sum(speeds.get() for _ in range(options.replicas))


def alone(speeds, chosen: Path, steps: int) -> None:
    settings = config.load(chosen)
    torch.set_num_threads(1)
    if settings.keep_memory:
        fast.keep_memory()
    found = plans.load_data(settings)
    plan = plans.plan_for(settling.settled(settings, len(found.train)), found)
    training = Training(plan.__class__(**{**vars(plan), "algorithm": OneShot()}), mine=range(1))
    training.advance(10)  # warm up
    dist.barrier()
    speeds.put(steps * plan.batch_size / timed(training.advance, steps))


def rows_of(options: argparse.Namespace) -> list[dict]:
    """A row for each case, and one for the null."""
    found = plans.load_data(config.load(sets=("data=mnist",)))
    plain, steps = Plain(found, 128, options.replicas), max(1, round(options.epochs * len(found.train) / 128))

    def plainly() -> float:
        return options.replicas * options.plain_steps * 128 / timed(plain.advance, options.plain_steps)

    plain.advance(5)  # warm up
    speeds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    before = plainly()
    for _ in range(options.blocks):
        chosen = None
        for case in (*options.cases, *options.also):
            if case == "limit":
                its = limit(options, chosen, steps)
            elif case == "plain":
                its = plainly()
            else:
                its, written = command(options, *(["--fast"] if case.endswith("fast") else []), sets=tuple(case.split(",")) if "=" in case else ())
                chosen = chosen or written
            after = plainly()
            speeds.setdefault(case, []).append(its)
            ratios.setdefault(case, []).append(2 * its / (before + after))
            before = after
            print(f"  {case}: {its:,.0f} images/s, {ratios[case][-1]:.2f}", file=sys.stderr, flush=True)
    names = {"limit": f"{options.replicas} processes that do not speak (the limit)", "plain": "plain loop again (null)"}
    choice = ", ".join(f"{path} {ratio:.2f}" for path, ratio in config.load(chosen).fast.items())
    rows = []
    for case, its in ratios.items():
        name = f"{names.get(case, case)}, {options.algorithm}, {options.replicas} replicas"
        remark = f"{statistics.median(speeds[case]):,.0f} images/s" + (f"; measured {choice}" if case == "train --fast" else "")
        row = side_by_side.row(NAME, name, its, "x plain on one thread", AIM if case == "train --fast" else None, steps=steps)
        rows.append(row | {"remark": remark})
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--algorithm", default="parle")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.8)
    parser.add_argument("--plain-steps", type=int, default=40)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--also", nargs="*", default=[], metavar="SETTINGS")
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
