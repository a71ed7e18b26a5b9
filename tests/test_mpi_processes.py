"""Replicas in several processes over MPI, as mpiexec starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parle
from parle.communicators import mpi

HERE = Path(__file__).parent
MPIEXEC = Path(sys.executable).parent / "mpiexec"
pytest.importorskip("mpi4py", reason='needs mpi4py: pip install "parle-sgd[mpich]"')
needs_mpiexec = pytest.mark.skipif(not MPIEXEC.exists(), reason='needs the mpiexec of the mpich wheel: pip install "parle-sgd[mpich]"')


def mpiexec(count: int, *command: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    around = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **environment}
    return subprocess.run([MPIEXEC, "-n", str(count), sys.executable, *command], capture_output=True, text=True, timeout=timeout, env=around)


@needs_mpiexec
def test_it_passes_the_checks_for_every_communicator():
    done = mpiexec(3, str(HERE / "mpi_program.py"), "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"checked {rank}" in done.stdout for rank in range(3))


@needs_mpiexec
def test_who_stops_answering_is_named_and_the_job_ends():
    done = mpiexec(3, str(HERE / "mpi_program.py"), "stop", timeout=60)
    assert done.returncode != 0
    assert "Process 1 was lost" in done.stdout and "no answer within 2 s" in done.stdout


@needs_mpiexec
def test_processes_that_do_not_fit_together_are_refused_by_name():
    done = mpiexec(3, str(HERE / "mpi_program.py"), "unequal")
    assert done.stdout.count("Process 1 has algorithm.period 5, but process 0 has 4") == 3


@needs_mpiexec
def test_train_under_mpiexec_gives_the_numbers_of_one_process(parle_command):
    import json

    expected = parle_command("train", "-n", "2", "-e", "1", "--name", "alone", "--json").json
    done = mpiexec(2, "-m", "parle", "train", "-n", "2", "-e", "1", "--name", "several", "--json", "--set", "communicator.ordered=true")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert (result["error_pct"], result["loss"]) == (expected["error_pct"], expected["loss"])
    assert {path.name for path in Path("runs/several/logs").iterdir()} == {"process-0.jsonl", "process-1.jsonl"}


@needs_mpiexec
def test_a_library_that_does_not_belong_to_the_launcher_is_found_out():
    """Each of its processes believes to be alone: the launcher's variables say otherwise."""
    command = [sys.executable, "-m", "parle", "train", "-n", "4", "--name", "x"]
    around = {**os.environ, "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=around)
    assert done.returncode == 3 and not Path("runs/x").exists()
    assert "MPI sees 1 process where its launcher started 4" in done.stderr and "mpiexec belongs to another MPI" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@needs_mpiexec
def test_a_script_that_mpiexec_did_not_start_is_told_so():
    done = subprocess.run(
        [sys.executable, HERE / "mpi_program.py", "unequal"], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(HERE)}
    )
    assert "MPI sees 1 process where its launcher started several" in done.stderr


def test_without_mpi4py_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(parle.SetupError, match=r'pip install "parle-sgd\[mpich\]"'):
        mpi.library()


def test_without_an_mpi_library_the_cure_is_named(tmp_path):
    """mpi4py looks for libmpi in the environment's lib folder: here there is another one."""
    code = "import parle\nfrom parle.communicators import mpi\ntry:\n    mpi.library()\nexcept parle.SetupError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "MPI4PY_LIBMPI": str(tmp_path / "none.so")}
    )
    assert "mpi4py finds no MPI library" in done.stdout, done.stdout + done.stderr
