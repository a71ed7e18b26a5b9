"""Blocks of the documents that need several processes, in those: test_documents leaves them out by their comment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_documents import BLOCK, DOCUMENTS, ROOT

MPIEXEC = Path(sys.executable).parent / "mpiexec"
STARTS = {
    "needs torchrun": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "needs mpiexec": (MPIEXEC, "-n", "2", sys.executable),
}


def programs(start: str) -> dict[str, str]:
    """Of every document that has blocks for this start: its first block, which prepares the others, and those, as one program."""
    found = {}
    for path in DOCUMENTS:
        blocks = [(re.sub(r"<!-- not run: (.*?) -->\n+", r"\1", why), text) for why, language, text in BLOCK.findall(path.read_text()) if language == "python"]
        if any(why == start for why, _ in blocks):
            found[str(path.relative_to(ROOT))] = "\n".join(text for index, (why, text) in enumerate(blocks) if why == start or not (index or why))
    return found


@pytest.mark.parametrize("start", STARTS)
def test_the_blocks_for_several_processes_run_in_them(start):
    """One document after the other in the same processes, since starting them is what takes its time."""
    if start == "needs mpiexec" and not MPIEXEC.exists():
        pytest.skip('needs the mpiexec of the mpich wheel: pip install "parle-sgd[mpich]"')
    lines = [f"print({path!r}); exec(compile({text!r}, {path!r}, 'exec'), dict(__name__='document'))" for path, text in programs(start).items()]
    Path("program.py").write_text("\n".join(lines))
    done = subprocess.run([*STARTS[start], "program.py"], capture_output=True, text=True, timeout=170, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
