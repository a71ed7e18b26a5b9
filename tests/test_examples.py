"""The examples say what they need; test_launching_processes runs them as they are meant."""

import os
import subprocess
import sys
from pathlib import Path

import parle

EXAMPLES = Path(parle.__file__).parent.parent.parent / "examples"


def test_a_script_for_several_processes_says_how_to_start_them():
    done = subprocess.run([sys.executable, EXAMPLES / "own_loop.py"], capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 1 and "Start the program with `torchrun --nproc-per-node 3 program.py`" in done.stderr
