"""What there is to choose from, in a line each."""

import inspect
from pathlib import Path

from parle.algorithms import ALGORITHMS
from parle.data import EMBEDDED
from parle.data.hub import HUB_IDS
from parle.models import MODELS
from parle.recipes import TABLES
from parle.runs import RunFolder


def everything(runs_dir: Path) -> dict[str, dict[str, str]]:
    """Algorithms, models, data, tables to reproduce and runs by name, with the first line of what is known of each."""
    return {
        "algorithms": {name: _first_line(kind) for name, kind in ALGORITHMS.items()},
        "models": {name: _first_line(make) for name, make in MODELS.items()} | {"module:function": "your own, or file.py:function"},
        "data": {name: _first_line(make) for name, make in EMBEDDED.items()}
        | {name: f"hub id {hub}, or a folder of that name in PARLE_DATA_DIR" for name, hub in HUB_IDS.items()}
        | {"path/to/folder": "train-*.parquet and test-*.parquet", "module:attribute": "your own tensors"},
        "tables": {name: table.title for name, table in TABLES.items()},
        "runs": {path.name: _state(path) for path in sorted(runs_dir.glob("*")) if (path / "config.yaml").is_file()},
    }


def _first_line(thing) -> str:
    return inspect.getdoc(thing).splitlines()[0]


def _state(path: Path) -> str:
    records = RunFolder(path).records()
    if not records:
        return "no evaluation yet"
    return f"epoch {records[-1]['epoch']:.4g}, test error {records[-1]['consensus']['error_pct']:.2f} %"
