"""The examples run and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import parle

EXAMPLES = Path(parle.__file__).parent.parent.parent / "examples"


def test_an_ordinary_loop_becomes_a_parle_run_with_one_line():
    done = subprocess.run([sys.executable, EXAMPLES / "own_loop.py"], capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"consensus: (\S+) %", done.stdout).group(1)) < 5
    assert len((EXAMPLES / "own_loop.py").read_text().splitlines()) <= 50
