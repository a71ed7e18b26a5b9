"""The tables and the picture of README.md from results/*.jsonl: mean and standard deviation over the seeds.

python experiments/family/tables.py            # Markdown tables
python experiments/family/tables.py --plot     # errors.svg as well; pip install matplotlib
"""

import argparse
import json
import math
import statistics
from pathlib import Path

HERE = Path(__file__).parent
LAST = 2  # the seed whose distances were measured shortly before the end, not after the last round
TASKS = {"mnist": ("LeNet on MNIST", "test error, %"), "text": ("a small transformer on Python's standard library", "loss of the next character, nats")}
GROUPS = {  # in the picture
    "one replica": ("SGD or AdamW, one replica", "Lookahead", "EMA", "SWA", "SAM", "Entropy-SGD"),
    "data-parallel": ("data-parallel",),
    "plain averaging": ("local SGD", "PR-SGD", "the same", "one-shot", "post-local", "AdaComm", "QSR", "CoCoD"),
    "outer optimizer": ("SlowMo", "BMUF", "DiLoCo", "streaming"),
    "springs": ("Elastic", "Parle"),
}
COLOURS = dict(zip(GROUPS, ("#888888", "#222222", "#4e79a7", "#f28e2b", "#e15759"), strict=True))


def results(task: str) -> dict[str, list[dict]]:
    """The runs of a task by their name."""
    found: dict[str, list[dict]] = {}
    for line in (HERE / "results" / f"{task}.jsonl").read_text().splitlines():
        run = json.loads(line)
        found.setdefault(run["name"], []).append(run)
    return found


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values) if len(values) > 1 else 0:.{digits}f}"


def table(task: str) -> str:
    """A row for every configuration."""
    lines = ["| | test error, % | loss | rounds | MB sent | distance |", "|---|---|---|---|---|---|"]
    for name, runs in results(task).items():
        runs = [run for run in runs if not run.get("diverged")]
        if not runs:
            lines.append(f"| {name} | diverged | | | | |")
            continue
        first, apart = runs[0], next((f"{statistics.mean(run['distance']):.2f}" for run in runs if run["seed"] == LAST), "")
        errors, losses = spread([run["error_pct"] for run in runs]), spread([run["loss"] for run in runs], 4 if task == "mnist" else 3)
        sent = f"{first['bytes_sent_per_replica'] / 1e6:.2f}" if first["bytes_sent_per_replica"] else "-"
        rounds = first["rounds"] if first["bytes_sent_per_replica"] else "-"
        seeds = "" if len(runs) == 3 else f" ({len(runs)} of 3 seeds)"
        lines.append(f"| {name}{seeds} | {errors} | {losses} | {rounds} | {sent} | {apart if first['bytes_sent_per_replica'] else '-'} |")
    return "\n".join(lines)


def plot() -> None:
    """Errors against bytes."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "svg.hashsalt": "parle", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(12, 6))
    for axis, (task, (title, label)) in zip(axes, TASKS.items(), strict=True):
        found = {name: [run for run in runs if not run.get("diverged")] for name, runs in results(task).items()}
        key = "error_pct" if task == "mnist" else "loss"
        alone = found["SGD or AdamW, one replica"]
        axis.axhline(statistics.mean(run[key] for run in alone), color=COLOURS["one replica"], lw=1, ls="--", label="one replica, as many gradients")
        points: list[tuple[str, float, float, str]] = []
        for group, beginnings in GROUPS.items():
            names = [name for name in found if name.startswith(beginnings) and found[name] and found[name][0]["bytes_sent_per_replica"]]
            sent = [found[name][0]["bytes_sent_per_replica"] / 1e6 for name in names]
            means = [statistics.mean(run[key] for run in found[name]) for name in names]
            bars = [statistics.stdev([run[key] for run in found[name]]) if len(found[name]) > 1 else 0.0 for name in names]
            if names:
                axis.errorbar(sent, means, bars, fmt="o", ms=4, lw=1, color=COLOURS[group], label=group)
            points += [(name, x, y, COLOURS[group]) for name, x, y in zip(names, sent, means, strict=True)]
        _label(axis, points)
        axis.set(xscale="log", xlabel="MB sent by each replica", ylabel=label, title=title)
        axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "errors.svg", metadata={"Date": None})


def _label(axis, points: list[tuple[str, float, float, str]]) -> None:
    """Name the points; those that send about as much as each other are named below each other."""
    least = (max(y for *_, y, _ in points) - min(y for *_, y, _ in points)) / 32
    taken: dict[int, float] = {}
    for name, x, y, colour in sorted(points, key=lambda point: -point[2]):
        column = round(3 * math.log10(x))
        place = min(y, taken.get(column, math.inf) - least)
        taken[column] = place
        axis.annotate(
            name, (x, y), xytext=(x * 1.12, place), fontsize=5.5, color=colour, va="center", arrowprops={"arrowstyle": "-", "lw": 0.3, "color": colour}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", action="store_true")
    if parser.parse_args().plot:
        plot()
    tables = "\n".join(f"### {title}\n\n{table(task)}\n" for task, (title, _) in TASKS.items())
    print(tables)
    text = (HERE / "README.md").read_text()
    begin, end = "<!-- tables -->\n", "<!-- end of the tables -->"
    (HERE / "README.md").write_text(text[: text.index(begin) + len(begin)] + tables + text[text.index(end) :])


if __name__ == "__main__":
    main()
