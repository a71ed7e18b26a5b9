"""The examples say what they need; test_launching_processes runs them as they are meant."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parle

EXAMPLES = Path(parle.__file__).parent.parent.parent / "examples"


def test_a_script_for_several_processes_says_how_to_start_them():
    done = subprocess.run([sys.executable, EXAMPLES / "own_loop.py"], capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 1 and "Start the program with `torchrun --nproc-per-node 3 program.py`" in done.stderr


@pytest.mark.parametrize("path", sorted((EXAMPLES / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, monkeypatch):
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "parle-sgd[plots]"')
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    namespace = {"__name__": "notebook"}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(path), "exec", dont_inherit=True), namespace)
    namespace["plt"].close("all")
    assert path.stat().st_size < 200_000 and any(cell["outputs"] for cell in cells)


def test_the_links_of_the_notebooks_lead_somewhere():
    for path in (EXAMPLES / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""):
                assert (path.parent / target).exists(), target
