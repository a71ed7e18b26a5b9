"""All benchmarks one after the other: one table with ratios, their range, targets and versions; what `make bench` runs.

    python benchmarks/run.py [--quick] [--only NAME ...] [--json FILE] [--page docs/performance.md]

Every benchmark is a script of its own, in a process of its own, and one that fails becomes a row that says so. `--quick` takes less than
five minutes and is for looking; only a whole run should be written into a page, between its two markers. Run nothing else meanwhile.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import side_by_side

HERE = Path(__file__).parent
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PATIENCE = 1800.0  # seconds for one benchmark
VERSIONED = ("torch", "accelerate", "torchft-nightly", "torchft", "numpy")


class Benchmark(NamedTuple):
    """A script and its arguments for a whole run, a quick one and a tiny one for tests (None: left out)."""

    script: str
    whole: str = ""
    quick: str | None = ""
    tiny: str | None = ""


TINY_NETWORK = "--model mlp --data digits"
BENCHMARKS = {
    "round": Benchmark("rounds.py", "", "--repetitions 4", "--shapes lenet --repetitions 1"),
    "slow-network": Benchmark(
        "slow_network.py", "", "--works asleep --few --steps 50 --repetitions 1", "--rates 1gbit --works asleep --few --steps 25 --repetitions 1"
    ),
    "late-rounds": Benchmark("late_rounds.py", "", None, f"{TINY_NETWORK} --train 256 --epochs 7 --seeds 1"),
    "update": Benchmark("update.py", "", "--shapes one-20M --repetitions 7", "--shapes lenet --repetitions 2"),
    "fast": Benchmark("fast.py", "", "--blocks 1 --epochs 0.2", None),
    "gpu-replicas": Benchmark(
        "gpu_replicas.py", "", "--models lenet --replicas 4 --blocks 2", "--device cpu --models mlp --replicas 2 --blocks 1 --steps 2 --samples 500"
    ),
    "overhead": Benchmark("overhead.py", "", "--replicas 1 --blocks 3", f"{TINY_NETWORK} --replicas 2 --blocks 1 --steps 2"),
    "processes": Benchmark("processes.py", "", "--blocks 1 --epochs 0.1", f"{TINY_NETWORK} --blocks 1 --epochs 0.5"),
    "share": Benchmark("processes.py", "--share --batch-size 16 --periods 2", "--share --batch-size 4", "--share --batch-size 2 --steps 3"),
    "memory": Benchmark("memory.py", "", "--algorithms parle local-sgd", "--algorithms local-sgd --size 4000000"),
    "start-up": Benchmark("start_up.py", "", "--repetitions 3", "--repetitions 1"),
    "data": Benchmark("data.py", "", "", "--name tiny"),
    "simulation": Benchmark("simulation.py", "", "--seconds 1 --proposals 50000", "--replicas 10 --proposals 100 --seconds 0.2"),
    "checkpoint": Benchmark("faults.py", "cost", "cost", "cost"),
}


def measured(name: str, how: str = "whole", patience: float = PATIENCE) -> list[dict]:
    """The rows of one benchmark, or one that says why there are none."""
    benchmark = BENCHMARKS[name]
    if not (HERE / benchmark.script).exists():
        return [side_by_side.skipped(name, benchmark.script, "not there")]
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, HERE / benchmark.script, *getattr(benchmark, how).split(), "--json", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"})
        except subprocess.TimeoutExpired:
            return [side_by_side.skipped(name, benchmark.script, f"not done within {patience:g} s")]
        if done.returncode:
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            return [side_by_side.skipped(name, benchmark.script, f"failed: {last}")]
        return [_complete(name, its) for its in json.load(file)]


def _complete(name: str, its: dict) -> dict:
    """A row in which a script has left out what is as usual; a target that is a number is the least ratio."""
    target = its.get("target")
    return side_by_side.row(name, "", [], "x plain") | its | {"target": f">= {target}" if isinstance(target, int | float) else target}


def table(rows: list[dict]) -> str:
    """The rows as Markdown, a table for each benchmark."""
    lines = []
    for name in dict.fromkeys(its["benchmark"] for its in rows):
        lines += [f"### {name.capitalize()}", "", "| what | measured | range | target | |", "|---|---|---|---|---|"]
        lines += [_cells(its) for its in rows if its["benchmark"] == name]
        lines.append("")
    return "\n".join(lines)


def _cells(its: dict) -> str:
    counted = "; ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in its["counted"].items())
    notes = "; ".join(part for part in (its["remark"], counted) if part)
    if its["ratio"] is None:
        return f"| {its['case']} | | | | {notes} |"
    word = {None: "", True: "met", False: "**missed**"}[side_by_side.met(its)]
    target = f"{its['target'].replace('<=', '≤').replace('>=', '≥')} {word}" if its["target"] else ""
    return f"| {its['case']} | {its['ratio']:,.3g} {its['unit']} | {its['low']:,.3g} to {its['high']:,.3g} | {target} | {notes} |"


def versions() -> str:
    """What was measured with, in one line."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip() or "unknown"
    packages = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{time.strftime('%Y-%m-%d')}, parle at {commit}; {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, {packages}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def summary(rows: list[dict]) -> str:
    """How many targets are met, and which are missed."""
    verdicts = [(its, side_by_side.met(its)) for its in rows]
    missed = [f"{its['benchmark']}, {its['case']}" for its, verdict in verdicts if verdict is False]
    text = f"{sum(verdict is True for _, verdict in verdicts)} targets met, {len(missed)} missed"
    return f"{text}: {'; '.join(missed)}." if missed else f"{text}."


def write(page: Path, text: str) -> None:
    """Put a text between the markers of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    if END not in rest:
        sys.exit(f"{page} has no {BEGIN} followed by {END}, between which the results would go.")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    options = parser.parse_args()
    how, rows = "quick" if options.quick else "whole", []
    began = time.perf_counter()
    for name in options.only:
        if getattr(BENCHMARKS[name], how) is None:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += measured(name, how)
    text = f"{versions()}\n\n{summary(rows)}\n\n{table(rows)}"
    print(text)
    print(f"{how}, in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    if options.page:
        write(options.page, text)


if __name__ == "__main__":
    main()
