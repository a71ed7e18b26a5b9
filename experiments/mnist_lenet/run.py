"""LeNet on MNIST: every algorithm, several seeds, and the table.

    PARLE_DATA_DIR=DIR python experiments/mnist_lenet/run.py [--seeds 0 1 2] [--jobs 2] [--only NAME ...] [--epochs 5]

Each case is one `parle train` in a process of its own with one thread. A finished run is not run again, so the script goes on
where it stopped. What is published lies beside this file: the table in README.md, results.json, metrics.jsonl and config.yaml of each run.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
EPOCHS = 5  # of each replica; the "x 3" baselines spend as many gradient evaluations as three replicas

# name in the table: (what it is, epochs as a multiple of EPOCHS, arguments of `parle train`)
CASES = {
    "parle": ("**Parle, defaults of `train`** (variant dev2017)", 1, ["-a", "parle"]),
    "parle-paper": ("Parle, the paper's equations, short schedule", 1, ["-a", "parle", "--set", "algorithm.variant=paper"]),
    "parle-paper-schedule": ("Parle, the paper's equations and schedule", 1, ["-a", "parle", "--set", "schedule=paper"]),
    "parle-release2018": ("Parle, released program of 2018", 1, ["-a", "parle-release2018"]),
    "elastic-sgd": ("Elastic-SGD, a round at every step", 1, ["-a", "elastic-sgd"]),
    "local-sgd": ("Local SGD, period 25", 1, ["-a", "local-sgd"]),
    "local-sgd-momentum": ("Local SGD, period 25, momentum averaged", 1, ["-a", "local-sgd", "--set", "optimizer_state=average"]),
    "data-parallel": ("Data-parallel SGD, total batch 384", 1, ["-a", "data-parallel"]),
    "sgd": ("One plain SGD", 1, ["-a", "sgd"]),
    "sgd-x3": ("One plain SGD, 15 epochs", 3, ["-a", "sgd"]),
    "entropy-sgd": ("Entropy-SGD, one replica", 1, ["-a", "entropy-sgd"]),
}


def finished(case: str, seed: int, folder: Path) -> dict | None:
    """The result of a run, if it has been run to its end."""
    status = folder / f"{case}-{seed}" / "status.json"
    state = json.loads(status.read_text()) if status.is_file() else {}
    return state["result"] if state.get("state") == "done" else None


def train(case: str, seed: int, epochs: float, folder: Path) -> None:
    """One run, unless it is done; what is published of it is copied beside this file."""
    run = folder / f"{case}-{seed}"
    if not finished(case, seed, folder):
        _, multiple, arguments = CASES[case]
        command = [sys.executable, "-m", "parle", "train", "-m", "lenet", "-d", "mnist", *arguments, "-s", str(seed), "-e", str(epochs * multiple)]
        command += ["--runs-dir", str(folder), "--name", run.name, "--overwrite", "--set", "threads=1", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{run.name}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return
    result = finished(case, seed, folder)
    print(f"{run.name}: {result['error_pct']:.2f} % after {result['seconds']:.0f} s", flush=True)
    kept = HERE / "runs" / run.name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run / file, kept / file)


def row(case: str, results: list[dict]) -> str:
    errors, first = [result["error_pct"] for result in results], results[0]
    spread = f" +- {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    cells = [
        CASES[case][0],
        f"{statistics.mean(errors):.2f}{spread}",
        ", ".join(f"{error:.2f}" for error in errors),
        f"{statistics.mean(result['loss'] for result in results):.4f}",
        f"{first['replicas']}",
        f"{first['epochs']:g}",
        f"{first['gradient_evaluations']:,}",
        f"{first['bytes_sent_per_replica'] / 1e6:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/mnist_lenet"))
    options = parser.parse_args()
    wanted = [(case, seed) for seed in options.seeds for case in options.only]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(*job, options.epochs, options.runs_dir), wanted))
    by_case = {case: [result for seed in options.seeds if (result := finished(case, seed, options.runs_dir))] for case in CASES}
    head = ["", "test error %, mean +- std", "by seed", "loss", "replicas", "epochs each", "gradient evaluations", "MB sent per replica"]
    table = [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
    table += [row(case, results) for case, results in by_case.items() if results]
    print("\n".join(table))
    (HERE / "results.json").write_text(json.dumps(by_case, indent=1) + "\n")
    before, _, rest = (HERE / "README.md").read_text().partition("<!-- table -->\n")
    after = rest.partition("<!-- end of the table -->\n")[2]
    (HERE / "README.md").write_text("\n".join([f"{before}<!-- table -->", *table, f"<!-- end of the table -->\n{after}"]))


if __name__ == "__main__":
    main()
