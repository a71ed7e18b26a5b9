"""The files of examples/launch: all parse, and what can be run on one machine trains two replicas in two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import parle

LAUNCH = Path(parle.__file__).parent.parent.parent / "examples" / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
SHORT = ["-n", "2", "-e", "0.2"]


def run(*command: str, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment})
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def check_run(folder: str) -> None:
    """Two processes have trained one replica each, to the end."""
    logs = [json.loads(line) for path in sorted(Path(folder, "logs").glob("process-*.jsonl")) for line in path.read_text().splitlines()[:1]]
    assert [log["replicas"] for log in logs] == [[0], [1]]
    assert json.loads(Path(folder, "status.json").read_text())["exit_code"] == 0 and Path(folder, "final/model.safetensors").exists()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_for_a_shell_parses(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_torchrun_sh_trains():
    run(str(LAUNCH / "torchrun.sh"), "2", *SHORT, "--name", "a")
    check_run("runs/a")


@pytest.mark.skipif(not (Path(sys.executable).parent / "mpiexec").exists(), reason='needs the mpiexec of the mpich wheel: pip install "parle-sgd[mpich]"')
def test_mpiexec_sh_trains():
    run(str(LAUNCH / "mpiexec.sh"), "2", *SHORT, "--name", "a")
    check_run("runs/a")


def test_slurm_sbatch_gives_srun_the_command_that_trains_or_resumes():
    """With a stand-in for srun; test_launching_processes trains with the variables that srun sets."""
    Path("srun").write_text('#!/bin/sh\necho "$@"\n')
    Path("srun").chmod(0o755)
    around = {"PATH": f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": "/home/me", "SLURM_CPUS_PER_TASK": "4"}
    for more, expected in (({}, "train --name parle-12 --runs-dir /home/me/runs --set threads=4 -n 8"), ({"RESUME": "old"}, "resume /home/me/runs/old")):
        done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "-n", "8"], capture_output=True, text=True, env={**os.environ, **around, **more})
        assert done.stdout == f"--cpus-per-task=4 python -m parle {expected}\n", done.stderr


def container(name: str) -> dict:
    """The part of a file for Kubernetes that says what runs in a pod."""
    documents = list(yaml.safe_load_all((LAUNCH / name).read_text()))
    spec = documents[-1]["spec"]
    return spec["trainer"] if documents[-1]["kind"] == "TrainJob" else spec["template"]["spec"]["containers"][0]


def test_the_files_for_kubernetes_run_the_same_command_on_as_many_pods_as_they_say():
    job, trainjob = container("job.yaml"), container("trainjob.yaml")
    assert job["command"] == trainjob["command"] and job["args"] == trainjob["args"]
    service, its = yaml.safe_load_all((LAUNCH / "job.yaml").read_text())
    variables = {entry["name"]: entry.get("value") for entry in job["env"]}
    assert variables["PET_NNODES"] == str(its["spec"]["completions"]) == str(its["spec"]["parallelism"])
    assert variables["PET_MASTER_ADDR"] == f"{its['metadata']['name']}-0.{service['metadata']['name']}" and "PET_NODE_RANK" in variables
    assert its["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_the_command_of_a_pod_trains_and_resumes_a_run_that_it_finds():
    """torchrun reads the PET_ variables."""
    shell, option, command, name = container("job.yaml")["command"]
    variables = {entry["name"]: entry["value"] for entry in container("job.yaml")["env"] if entry["name"].startswith("PET_") and "value" in entry}
    variables |= {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": free_port()}
    run(shell, option, command.replace("/runs", "runs"), name, *SHORT, **variables)
    check_run("runs/demo")
    command = command.replace("exec torchrun", "exec echo").replace("/runs", "runs")
    assert subprocess.run([shell, option, command, name], capture_output=True, text=True).stdout == "-m parle resume runs/demo\n"
