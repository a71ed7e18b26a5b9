"""What is counted is what is on the wire, as the kernel counts it in a network of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
CAN = os.name == "posix" and subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0 if hasattr(os, "geteuid") and os.geteuid() == 0 else False
pytestmark = pytest.mark.skipif(not CAN, reason="needs root, unshare and ip, for a network namespace")

PROGRAM = """
import json, sys
import rank_programs, ranks
if __name__ == "__main__":
    for how in json.loads(sys.argv[1]):
        print(json.dumps(ranks.results(2, rank_programs.on_the_wire, how, 20_000)[0]), flush=True)
"""


def test_bytes_are_those_that_the_kernel_sees(tmp_path):
    ways = [{}, {"codec": "bf16"}, {"codec": "int8"}, {"codec": "topk(0.05)"}]
    (tmp_path / "program.py").write_text(PROGRAM)
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run([*ALONE, sys.executable, tmp_path / "program.py", json.dumps(ways)], capture_output=True, text=True, timeout=120, env=around)
    assert done.returncode == 0, done.stderr
    sent = [json.loads(line) for line in done.stdout.splitlines()]
    for counted, seen in sent:
        assert counted < seen < 1.05 * counted + 60_000, sent  # headers, acknowledgements and barriers come on top
    plain, bf16, int8, topk = (seen for _, seen in sent)
    assert bf16 < 0.55 * plain and int8 < 0.3 * plain and topk < 0.15 * plain
