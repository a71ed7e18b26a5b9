"""Writes docs/algorithms: a page for every algorithm, as `parle explain` has it, with what the experiments measured, and their catalogue.

python docs/generate.py            writes them (make docs)
python docs/generate.py --check    names those that differ from what it would write
"""

import re
import sys
from pathlib import Path

from parle.algorithms import ALGORITHMS
from parle.reports import explain

HERE = Path(__file__).parent
MADE = "<!-- Written by docs/generate.py from the class and from experiments/. Change those, and run `make docs`. -->\n\n"

# The tables with measurements: the heading above them, their README, and the rows that every page shows for comparison.
TABLES = [
    ("LeNet on MNIST, 5 epochs of each replica, 3 seeds", "mnist_lenet", "", r"One plain SGD"),
    ("LeNet on MNIST, 312 steps of each of 4 replicas, 3 seeds", "family", "### LeNet on MNIST", r"SGD or AdamW, one replica|data-parallel"),
    ("A small transformer on text, 400 steps of each of 4 replicas, 3 seeds", "family", "### a small transformer", r"SGD or AdamW, one replica|data-parallel"),
]
ROWS = {
    "parle": r"\*?\*?Parle, (?!moving|released)",
    "parle-dev2017": r"\*\*Parle, defaults|Parle, as developed",
    "parle-release2018": r"Parle, released",
    "parle-moving": r"Parle, moving",
    "entropy-sgd": r"Entropy-SGD",
    "elastic-sgd": r"Elastic-SGD",
    "local-sgd": r"[Ll]ocal SGD|PR-SGD|the same, weighed|post-local|AdaComm|QSR|CoCoD",
    "one-shot": r"one-shot",
    "slowmo": r"SlowMo",
    "bmuf": r"BMUF",
    "diloco": r"DiLoCo|local SGD, 25, AdamW",
    "streaming-diloco": r"streaming DiLoCo|DiLoCo$",
    "data-parallel": r"[Dd]ata-parallel",
    "sgd": r"SGD or AdamW|One plain SGD",
    "lookahead": r"Lookahead",
    "ema": r"EMA",
    "swa": r"SWA",
}
WORDS = {
    "server-sgd": "Asynchronous, synchronous and hybrid on a virtual clock, 25 replicas, beside the numbers of the paper, whose gain is not confirmed: "
    "[experiments/smooth_switch](../../experiments/smooth_switch/README.md).",
    "parle": "At the length of the paper (75 epochs of MNIST, one seed), and All-CNN on CIFAR-10 at a hundredth of it: "
    "[experiments/reproduce](../../experiments/reproduce/README.md). The three forms side by side: [the three Parles](../reproducing.md#the-three-parles).",
}


def measured(name: str) -> str:
    """The rows of the experiments' tables that concern an algorithm, under what every table compares with."""
    parts = []
    for title, folder, heading, always in TABLES if name in ROWS else ():
        text = (HERE.parent / "experiments" / folder / "README.md").read_text()
        lines = [line for line in text[text.index(heading) :].split("<!-- end")[0].splitlines() if line.startswith("|")]
        first = next(index for index, line in enumerate(lines) if "test error" in line)
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first + 2 :]]
        if not any(re.match(ROWS[name], row[0]) for row in table):
            continue
        titles = [cell.strip() for cell in lines[first].strip("|").split("|")]
        table = table[: next((index for index, row in enumerate(table) if row[0].startswith("SGD or") and index), len(table))]
        rows = [row for row in table if re.match(f"{always}|{ROWS[name]}", row[0])]
        parts.append(f"{title} ([all rows and how](../../experiments/{folder}/README.md)):\n\n{explain.table(titles, rows)}")
    parts += [WORDS[name]] if name in WORDS else []
    return "\n\n".join(parts) or "Nothing: no experiment of ours has it yet."


def catalogue() -> str:
    """The page with the table of all algorithms."""
    text = (
        "# Algorithms\n\nAll of them are five verbs ([ARCHITECTURE.md](../../ARCHITECTURE.md)) and go by the same call, `parle.join(models, optimizers, "
        "algorithm, communicator)`; on the command line by `-a NAME` and `--set algorithm.SETTING=VALUE`. Which one when: [choosing.md](../choosing.md). "
        "One of your own: [CONTRIBUTING.md](../../CONTRIBUTING.md).\n\n"
    )
    table = explain.catalogue(ALGORITHMS, lambda name: f"[`{name}`]({name}.md)")
    return (
        f'{text}{table}\n\nA vector has N numbers, as many as the network has parameters. "At a server of any quorum": rounds may close without some, so '
        'that each goes by its own clock ([server in threads](../communicators/server.md), [Ray](../communicators/ray.md)). "Overlapped": a round may '
        "end steps after it began ([overlapped](../communicators/overlapped.md)). Two levels of replicas: [hierarchy](../communicators/hierarchy.md).\n"
    )


def pages() -> dict[Path, str]:
    """All pages by the file that holds them."""
    folder = HERE / "algorithms"
    made = {folder / f"{name}.md": MADE + explain.page(name, kind, root="../..", measured=measured(name)) for name, kind in ALGORITHMS.items()}
    return made | {folder / "README.md": MADE + catalogue()}


if __name__ == "__main__":
    made = pages()
    surplus = set((HERE / "algorithms").glob("*.md")) - set(made)
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"Run `make docs`: {', '.join(sorted(path.name for path in [*stale, *surplus]))} differ from what the classes say." if stale or surplus else 0)
    (HERE / "algorithms").mkdir(exist_ok=True)
    for path in stale:
        path.write_text(made[path])
    for path in surplus:
        path.unlink()
    print(f"{len(made)} pages, {len(stale)} written, {len(surplus)} removed")
