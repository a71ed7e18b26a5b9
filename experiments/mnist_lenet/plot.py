"""The picture of the table: test error against gradient evaluations and against bytes, mean of the seeds.

pip install matplotlib
python experiments/mnist_lenet/plot.py
"""

import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SHOWN = {
    "sgd-x3": ("one plain SGD", "#888888"),
    "data-parallel": ("data-parallel SGD", "#b07aa1"),
    "elastic-sgd": ("Elastic-SGD", "#59a14f"),
    "local-sgd-momentum": ("local SGD, period 25", "#4e79a7"),
    "parle": ("Parle, period 25", "#e15759"),
}


def curve(case: str, key: str) -> tuple[list[float], list[float]]:
    """The mean error of the consensus over the seeds at each evaluation, against the key."""
    runs = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(HERE.glob(f"runs/{case}-[0-9]/metrics.jsonl"))]
    rows = list(zip(*runs, strict=True))
    return [row[0][key] for row in rows], [statistics.mean(record["consensus"]["error_pct"] for record in row) for row in rows]


def main() -> None:
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "parle", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for case, (label, colour) in SHOWN.items():
        gradients, errors = curve(case, "gradient_evaluations")
        sent, _ = curve(case, "bytes_sent_per_replica")
        axes[0].plot(gradients, errors, "o-", color=colour, label=label, markersize=3)
        if any(sent):
            axes[1].plot([value / 1e6 for value in sent], errors, "o-", color=colour, label=label, markersize=3)
    axes[0].set_xlabel("gradient evaluations, all replicas together")
    axes[0].set_ylabel("test error of the consensus, %")
    axes[1].set_xlabel("MB sent by each replica")
    axes[1].set_xscale("log")
    axes[0].set_ylim(0.5, 1.6)
    axes[0].legend(frameon=False)
    figure.suptitle("LeNet on MNIST, three replicas, mean of 3 seeds", fontsize=10)
    figure.tight_layout()
    figure.savefig(HERE / "errors.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
