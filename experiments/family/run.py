"""Every algorithm of the model-averaging family on two tasks, four replicas, at equal gradient evaluations.

    python experiments/family/run.py mnist          # LeNet on MNIST: a third of an epoch per replica, 312 steps of 64 images
    python experiments/family/run.py text           # a small transformer on Python's standard library: 400 steps per replica, 16 windows of 64 characters

Writes one line per run to results/<task>.jsonl, and goes on where it stopped. An algorithm of one replica takes four times the
steps; SAM, which computes two gradients a step, half of them. One thread each, so that two tasks may run side by side.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
REPLICAS, PERIOD, SEEDS, LAST = 4, 25, 3, 2  # the last seed is also evaluated shortly before the end, for the distance between the replicas
STEPS = {"mnist": 312, "text": 400}  # of each replica
SETTINGS = {
    "mnist": {"model": "lenet", "data": "mnist", "batch_size": 64, "epochs": 1 / 3},
    "text": {"model": f"{HERE}/networks.py:small_gpt", "batch_size": 16, "data.context": 64, "optimizer.name": "adamw", "optimizer.lr": 0.003},
}
ADAMW = {"optimizer.name": "adamw", "optimizer.lr": 0.001}
EVERY = {"algorithm.period": PERIOD}


def configurations(task: str) -> dict[str, dict]:
    """The settings of every run by its name; `share` is the part of the steps that a replica takes."""
    half, late = STEPS[task] // 2, 10
    found = {
        "SGD or AdamW, one replica": {"algorithm": "sgd"},
        "Lookahead": {"algorithm": "lookahead"},
        "EMA": {"algorithm": "ema", "algorithm.decay": 0.99},
        "SWA": {"algorithm": "swa", "schedule.drops": [0.5]},
        "SAM": {"algorithm": "sgd", "optimizer.sharpness": 0.05, "share": 0.5},
        "Entropy-SGD": {"algorithm": "entropy-sgd"},
        "data-parallel": {"algorithm": "data-parallel"},
        "local SGD, T^(1/4)/N^(3/4)": {"algorithm": "local-sgd", "algorithm.period": f"restart({STEPS[task]}, {REPLICAS})"},
        "local SGD, 5": {"algorithm": "local-sgd", "algorithm.period": 5},
        "local SGD, 25": {"algorithm": "local-sgd", **EVERY},
        "local SGD, 100": {"algorithm": "local-sgd", "algorithm.period": 100},
        "local SGD, 25, momentum averaged": {"algorithm": "local-sgd", **EVERY, "optimizer_state": "average"},
        "PR-SGD, Algorithm 2": {"algorithm": "local-sgd", "algorithm.period": f"stages({REPLICAS})"},
        "PR-SGD, Algorithm 3 (40, 30, 20, 10)": {"algorithm": "local-sgd", "algorithm.period": [40, 30, 20, 10]},
        "the same, weighed by steps": {"algorithm": "local-sgd", "algorithm.period": [40, 30, 20, 10], "algorithm.weigh": "steps"},
        "one-shot averaging": {"algorithm": "one-shot"},
        "post-local SGD": {"algorithm": "local-sgd", "algorithm.period": f"switch(1, {PERIOD}, at={half})"},
        "AdaComm, 50": {"algorithm": "local-sgd", "algorithm.period": "adacomm(50)"},
        "QSR, 5": {"algorithm": "local-sgd", "algorithm.period": f"qsr(5, alpha={0.0015 if task == 'text' else 0.05})"},
        "CoCoD, 10 steps late": {"algorithm": "local-sgd", **EVERY, "communicator.delay": late},
        "SlowMo": {"algorithm": "slowmo", **EVERY},
        "BMUF": {"algorithm": "bmuf", **EVERY},
        "BMUF, Nesterov": {"algorithm": "bmuf", **EVERY, "algorithm.nesterov": True},
        "DiLoCo": {"algorithm": "diloco", **EVERY},
        "streaming DiLoCo": {"algorithm": "streaming-diloco", "algorithm.period": 6},
        "streaming DiLoCo, 3 steps late, int8": {"algorithm": "streaming-diloco", "algorithm.period": 6, "communicator.delay": 3, "communicator.codec": "int8"},
        "Elastic-SGD": {"algorithm": "elastic-sgd"},
        "Parle, as developed in 2017": {"algorithm": "parle"},
        "Parle, as its paper": {"algorithm": "parle", "algorithm.variant": "paper"},
        "Parle, moving average": {"algorithm": "parle", "algorithm.variant": "moving"},
    }
    if task == "mnist":  # where SGD is the inner optimizer of the others
        found |= {
            "local SGD, 25, AdamW": {"algorithm": "local-sgd", **EVERY, **ADAMW},
            "DiLoCo, SGD inside": {"algorithm": "diloco", **EVERY, "optimizer.name": "sgd", "optimizer.lr": 0.1},
        }
    inner = 0.003 if task == "text" else 0.1
    found["PR-SGD, Algorithm 2"]["schedule.inner"] = f"power({inner}, -0.6667)"
    return found


def text() -> Path:
    """The modules of Python's standard library, one after the other: a text that every machine has."""
    path = Path(tempfile.gettempdir()) / f"standard-library-{sys.version_info.major}.{sys.version_info.minor}.txt"
    if not path.exists():
        path.write_bytes(b"".join(module.read_bytes() for module in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))))
    return path


def train(task: str, settings: dict, seed: int, runs: Path) -> dict:
    """One run: what `parle train --json` prints, and the distances of its last record."""
    settings = dict(SETTINGS[task]) | settings
    single = settings["algorithm"] in ("sgd", "lookahead", "ema", "swa", "entropy-sgd")
    if task == "text":
        settings["data"] = str(text())
        windows = (text().stat().st_size - 2**17 - 1) // 64  # without the test
        settings["epochs"] = STEPS[task] / (windows // 16)
    settings["epochs"] *= settings.pop("share", 1.0) * (REPLICAS if single else 1)
    before_the_end = (
        settings["epochs"] * (STEPS[task] - {"mnist": 13, "text": 26}[task]) / STEPS[task] if seed == LAST and not single else 1000
    )  # 24 steps after a round of every 25
    settings |= {"replicas": 1 if single else REPLICAS, "seed": seed, "threads": 1, "processes": False, "evaluation.every": before_the_end}
    sets = [argument for path, value in settings.items() for argument in ("--set", f"{path}={value}")]
    command = [sys.executable, "-m", "parle", "train", *sets, "--runs-dir", str(runs), "--name", "run", "--overwrite", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode == 4:
        return {"diverged": True}
    if ended.returncode:
        raise SystemExit(f"{command}\n{ended.stderr[-2000:]}")
    result = json.loads(ended.stdout.splitlines()[-1])
    first, *_, last = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines() * 2]
    return {
        name: result[name]
        for name in ("error_pct", "loss", "replica_error_pct", "seconds", "steps", "rounds", "gradient_evaluations", "bytes_sent_per_replica")
    } | {
        "distance": first["distance"],
        "train_loss": last["train_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(SEEDS))
    parser.add_argument("--backwards", action="store_true", help="begin at the end: a second program beside the first meets it in the middle")
    chosen = parser.parse_args()
    file = HERE / "results" / f"{chosen.task}.jsonl"
    file.parent.mkdir(exist_ok=True)
    for seed in chosen.seeds:
        for name, settings in sorted(configurations(chosen.task).items(), reverse=chosen.backwards):
            if file.exists() and any((line["name"], line["seed"]) == (name, seed) for line in map(json.loads, file.read_text().splitlines())):
                continue
            with tempfile.TemporaryDirectory() as folder:
                result = train(chosen.task, settings, seed, Path(folder))
            with file.open("a") as out:
                print(json.dumps({"name": name, "seed": seed} | result), file=out)
            print(f"{name}, seed {seed}: {result.get('error_pct', 'diverged')}", flush=True)


if __name__ == "__main__":
    main()
