"""The tables and the picture of README.md from results/*.jsonl: mean and standard deviation over the seeds.

python experiments/family/tables.py            # Markdown tables
python experiments/family/tables.py --plot     # errors.svg as well; pip install matplotlib
"""

import argparse
import json
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
        lines.append(f"| {name} | {errors} | {losses} | {rounds} | {sent} | {apart if first['bytes_sent_per_replica'] else '-'} |")
    return "\n".join(lines)


def plot() -> None:
    """Errors against bytes."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "svg.hashsalt": "parle", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    for axis, (task, (title, label)) in zip(axes, TASKS.items(), strict=True):
        found = {name: [run for run in runs if not run.get("diverged")] for name, runs in results(task).items()}
        key = "error_pct" if task == "mnist" else "loss"
        alone = found["SGD or AdamW, one replica"]
        axis.axhline(statistics.mean(run[key] for run in alone), color=COLOURS["one replica"], lw=1, ls="--", label="one replica, as many gradients")
        for group, beginnings in GROUPS.items():
            names = [name for name in found if name.startswith(beginnings) and found[name] and found[name][0]["bytes_sent_per_replica"]]
            sent = [found[name][0]["bytes_sent_per_replica"] / 1e6 for name in names]
            means = [statistics.mean(run[key] for run in found[name]) for name in names]
            bars = [statistics.stdev([run[key] for run in found[name]]) if len(found[name]) > 1 else 0.0 for name in names]
            if names:
                axis.errorbar(sent, means, bars, fmt="o", ms=4, lw=1, color=COLOURS[group], label=group)
            for name, x, y in zip(names, sent, means, strict=True):
                axis.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=5.5, color=COLOURS[group])
        axis.set(xscale="log", xlabel="MB sent by each replica", ylabel=label, title=title)
        axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "errors.svg", metadata={"Date": None})


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
