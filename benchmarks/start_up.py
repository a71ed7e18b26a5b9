"""Seconds until something happens: `parle --help`, `import parle`, the first step of `parle train`, and with --clone a fresh `make demo`.

    python benchmarks/start_up.py [--repetitions 5] [--clone] [--json FILE]

All in processes of their own, with warm file caches: the first start of each is not counted, if there are several. `import parle` is
what it adds to `import torch`, the difference of two starts beside each other. The first step is timed from the start of the process to
the end of the first optimizer step of the first replica, on embedded digits. Importing torch, and its compiler, which every optimizer
does, is most of it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

NAME = "start-up"
ROOT = Path(__file__).parents[1]
LOADED = "import sys; {}; print(len([name for name in sys.modules if name.split('.')[0] == 'torch']), 'torch._dynamo' in sys.modules)"


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def of_python(code: str) -> float:
    return seconds(sys.executable, "-c", code)


def to_first_step() -> float:
    """From the start of `parle train` to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        around = os.environ | {
            "PARLE_FIRST_STEP": f"{folder}/told",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        }
        settings = ["threads=1", "evaluation.every=100", "processes=false"]
        command = [sys.executable, "-m", "parle", "train", "-m", "first_step:network", "-e", "0.2", "--runs-dir", folder]
        began = time.time()
        done = subprocess.run([*command, *(word for text in settings for word in ("--set", text))], env=around, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip())
        return float(Path(around["PARLE_FIRST_STEP"]).read_text()) - began


def loaded(code: str) -> tuple[int, bool]:
    """How many modules of torch are there after that, and whether its compiler is one."""
    count, compiler = subprocess.run([sys.executable, "-c", LOADED.format(code)], check=True, capture_output=True, text=True).stdout.split()[-2:]
    return int(count), compiler == "True"


def clone() -> float:
    """From `git clone` to the end of `make demo`."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", ROOT, f"{folder}/fresh"], check=True)
        subprocess.run(["make", "demo"], cwd=f"{folder}/fresh", env=os.environ | {"HOME": folder}, check=True, capture_output=True)
        return time.perf_counter() - began


def rows_of(options: argparse.Namespace) -> list[dict]:
    ways = {
        "help": lambda: seconds(sys.executable, "-m", "parle", "--help"),
        "torch": lambda: of_python("import torch"),
        "parle": lambda: of_python("import torch, parle; parle.join"),
        "first": to_first_step,
    }
    found = [{name: way() for name, way in ways.items()} for _ in range(options.repetitions)]
    found = found[1:] or found
    its = {name: [one[name] for one in found] for name in ways}
    added = [ours - torch for ours, torch in zip(its["parle"], its["torch"], strict=True)]
    of_help, compiler = loaded("from parle.cli import app")[0], loaded("import parle; parle.join")[1]
    rows = [
        side_by_side.row(NAME, "parle --help", its["help"], "s", "< 0.5", torch_modules=of_help),
        side_by_side.row(NAME, "import parle, beyond import torch", added, "s", "< 0.2", compiler_loaded=int(compiler)),
        side_by_side.row(NAME, "parle train to its first step", its["first"], "s", "< 5"),
    ]
    return rows + ([side_by_side.row(NAME, "git clone to the end of make demo", [clone()], "s", "< 180")] if options.clone else [])


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--clone", action="store_true", help="time a fresh clone, too")
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
