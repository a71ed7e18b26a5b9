"""The tables of README.md from results/*.jsonl: differences to asynchronous SGD, averaged over the whole curve, beside the paper's.

python experiments/smooth_switch/tables.py
"""

import json
from pathlib import Path
from statistics import mean, stdev

RESULTS = Path(__file__).parent / "results"
PAPER = {  # hybrid minus asynchronous: accuracy in points, test loss, train loss
    ("mnist", 300, 32): (1.374, -0.047, -0.047),
    ("mnist", 300, 64): (-0.516, 0.001, -0.001),
    ("mnist", 500, 32): (1.366, -0.053, -0.054),
    ("mnist", 500, 64): (1.291, -0.022, -0.023),
    ("cifar10", 300, 32): (4.849, -0.137, -0.139),
    ("cifar10", 300, 64): (2.435, -0.066, -0.067),
    ("cifar10", 500, 32): (3.468, -0.092, -0.091),
    ("cifar10", 500, 64): (2.884, -0.080, -0.082),
    **{("synthetic", 500, b): v for b, v in {8: (4.896, -0.141, -0.143), 16: (5.183, -0.141, -0.141), 32: (4.222, -0.117, -0.114)}.items()},
    **{("synthetic", 500, b): v for b, v in {64: (3.304, -0.089, -0.088), 128: (2.599, -0.072, -0.068)}.items()},
    **{("synthetic", s, 32): v for s, v in {100: (0.136, -0.016, -0.013), 300: (3.857, -0.110, -0.110)}.items()},
    **{("synthetic", s, 32): v for s, v in {700: (3.083, -0.084, -0.079), 1000: (2.967, -0.074, -0.075)}.items()},
    **{("synthetic", 500, 32, s): v for s, v in {0.5: (1.920, -0.035, -0.039), 0.75: (3.012, -0.081, -0.079)}.items()},
    **{("synthetic", 500, 32, s): v for s, v in {1.0: (2.879, -0.079, -0.075), 1.25: (5.184, -0.156, -0.166)}.items()},
}
SCORES = ("accuracy", "test_loss", "train_loss")


def runs(name: str) -> dict:
    """Averages over the curve and the last accuracy of every run, by what it is and its seed."""
    found = {}
    for line in (RESULTS / f"{name}.jsonl").read_text().splitlines():
        its = json.loads(line)
        run, curve = its["run"], its["curve"]
        more = tuple(run[key] for key in ("std", "compute") if key in run)
        key = (run["method"], run["reduce"], run["step"] if run["method"] == "hybrid" else None, run["batch"], *more)
        scores = [mean(its[score] for its in curve) for score in SCORES]
        found.setdefault(key, {})[run["seed"]] = (*scores, curve[-1]["accuracy"], curve[-1]["gradients"], curve[-1]["quorum"])
    return found


def spread(values: list[float], digits: int) -> str:
    return f"{mean(values):+.{digits}f} ± {stdev(values):.{digits}f}"


def table(name: str) -> None:
    """Every hybrid and synchronous run minus the asynchronous one of the same seed."""
    found = runs(name)
    print(
        f"\n### {name}\n\n| method | step | batch | more | accuracy, points | test loss | train loss | paper | accuracy at the end | gradients | last quorum |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key, seeds in sorted(found.items(), key=str):
        method, reduce, step, batch, *more = key
        against = found[("asynchronous", "mean", None, batch, *more)]
        columns = [spread([its[index] - against[seed][index] for seed, its in seeds.items()], 2 + (index > 0)) for index in range(3)]
        paper = PAPER.get((name, step, batch, *more)) if method == "hybrid" else None
        told = " / ".join(f"{number:+.3f}" for number in paper) if paper else ""
        label = method if method == "asynchronous" else f"{method}, {reduce}"
        columns = ["", "", ""] if method == "asynchronous" else columns
        rest = [f"{mean(its[index] for its in seeds.values()):,.{digits}f}" for index, digits in ((3, 1), (4, 0), (5, 0))]
        print("|", " | ".join([label, str(step or ""), str(batch), " ".join(map(str, more)), *columns, told, *rest]), "|")


if __name__ == "__main__":
    for name in ("mnist", "cifar10", "synthetic", "sensitivity"):
        table(name)
