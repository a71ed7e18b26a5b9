"""From one command to several processes: our own, torchrun's, and what the environment says; and what happens when one is lost."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import parle
from parle import config, jobs, launch, plans, processes
from parle.launch import World

PARLE = [sys.executable, "-m", "parle"]
TRAIN = ["train", "-n", "3", "-e", "2", "--json", "--set", "communicator.ordered=true"]

# A model that ends or stops its own process in a forward pass of process 1, in the middle of the training, once.
FATAL = """
import os, signal
from pathlib import Path
from torch import nn

class Fatal(nn.Sequential):
    calls = 0
    def forward(self, inputs):
        if self.training and os.environ.get("RANK") == "1":
            Fatal.calls += 1
            if Fatal.calls == {call} and not Path("fired").exists():
                Path("fired").touch()
                os.kill(os.getpid(), signal.{signal})
        return super().forward(inputs)

def make():
    return Fatal(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


# A model whose evaluation takes its time in the first process.
SLOW = """
import os, time
from torch import nn

class Slow(nn.Sequential):
    def forward(self, inputs):
        if not self.training and os.environ.get("RANK") == "0":
            time.sleep(1.2)
        return super().forward(inputs)

def make():
    return Slow(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
"""

MANY = """
import os, torch

def data():
    torch.manual_seed(0)
    images = torch.rand(10_000, 1, 4, 4)
    labels = (images.sum((1, 2, 3)) > 8).long()
    return images, labels, images[:50], labels[:50]
"""


def command(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([*PARLE, *arguments], capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})


def pids(run: str) -> list[int]:
    return [json.loads(path.read_text().splitlines()[0])["pid"] for path in sorted(Path(run, "logs").glob("*.jsonl"))]


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waits for its parent to take notice of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_and_one_process_give_the_same_to_the_last_digit(parle_command):
    one = parle_command(*TRAIN, "--name", "one", "--no-processes").json
    several = parle_command(*TRAIN, "--name", "several", "--processes")
    assert several.code == 0, several.err
    timed = ("run", "seconds", "images_per_second", "bytes_sent_per_replica")
    assert {k: v for k, v in several.json.items() if k not in timed} == {k: v for k, v in one.items() if k not in timed}
    assert Path("runs/one/final/model.safetensors").read_bytes() == Path("runs/several/final/model.safetensors").read_bytes()
    for rank in range(3):
        events = [json.loads(line) for line in Path(f"runs/several/logs/process-{rank}.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["start", "record", "record", "done"]
        assert events[0]["replicas"] == [rank] and events[0]["threads"] >= 1
        assert events[1]["bytes_sent_per_replica"] > 0 and {"seconds_waited", "seconds_exchanged"} <= events[1].keys()
    assert json.loads(Path("runs/several/env.json").read_text())["processes"] == 3
    assert not any(is_alive(pid) for pid in pids("runs/several"))


def test_train_takes_processes_by_itself_where_that_pays_and_says_so(parle_command):
    Path("big.py").write_text(MANY)
    arguments = ["train", "-n", "2", "-d", "big.py:data", "-e", "0.1"]
    done = parle_command(*arguments, "--name", "a")
    several = launch.cores() > 1
    assert done.code == 0 and ("training in 2 processes" in done.err) == several
    settings = config.load(Path("runs/a/config.yaml"))
    assert settings.processes == settings.communicator.ordered == several
    assert parle_command(*arguments, "--name", "b", "--no-processes").code == 0
    assert Path("runs/a/final/model.safetensors").read_bytes() == Path("runs/b/final/model.safetensors").read_bytes()
    assert "processes" not in parle_command("train", "-n", "2", "-e", "0.1", "--name", "small").err


def test_a_killed_process_ends_the_run_and_resume_ends_as_if_nothing_had_happened(parle_command):
    Path("fatal.py").write_text(FATAL.format(call=70, signal="SIGKILL"))
    arguments = ["train", "-m", "fatal.py:make", "-n", "3", "-e", "3", "--processes", "--json", "--set", "communicator.ordered=true"]
    began = time.monotonic()
    done = command(*arguments, "--name", "cut")
    assert done.returncode == 5, done.stderr
    assert Path("fired").exists() and time.monotonic() - began < 60
    assert done.stderr.strip().splitlines() == [
        "parle: Of 3 processes, process 1 was ended by SIGKILL. Continue from the last checkpoint with `parle resume runs/cut`."
    ]
    assert json.loads(Path("runs/cut/status.json").read_text())["exit_code"] == 5
    assert not any(is_alive(pid) for pid in pids("runs/cut"))
    last = [json.loads(line) for line in Path("runs/cut/logs/process-0.jsonl").read_text().splitlines()][-1]
    assert last["event"] == "failed" and last["message"].startswith("Process 1 was lost")
    resumed = parle_command("resume", "runs/cut", "--json")
    assert resumed.code == 0, resumed.err
    whole = parle_command(*arguments, "--name", "whole").json
    assert resumed.json["error_pct"] == whole["error_pct"] and resumed.json["loss"] == whole["loss"]
    assert Path("runs/cut/final/model.safetensors").read_bytes() == Path("runs/whole/final/model.safetensors").read_bytes()


def test_a_stopped_process_ends_the_run_after_the_timeout_and_is_not_left_behind():
    Path("fatal.py").write_text(FATAL.format(call=10, signal="SIGSTOP"))
    done = command("train", "-m", "fatal.py:make", "-n", "2", "--processes", "--name", "a", "--set", "communicator.timeout=3")
    assert done.returncode == 5 and Path("fired").exists()
    assert "process 1 no longer answered" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not any(is_alive(pid) for pid in pids("runs/a"))


def test_a_process_that_diverges_speaks_for_all(parle_command):
    Path("nan.py").write_text(
        "import os, torch\nfrom torch import nn\nclass Odd(nn.Sequential):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return y * float('nan') if self.training and os.environ.get('RANK') == '1' else y\n"
        "def make():\n    return Odd(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = parle_command("train", "-m", "nan.py:make", "-n", "2", "--processes", "--name", "a", "--set", "algorithm.period=3")
    assert done.code == 4 and "Replica 1 comes to round 10 with numbers that are not finite, for the 11th time" in done.err


def test_a_mistake_is_one_line_whatever_the_number_of_processes(parle_command):
    Path("small.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n")
    done = parle_command("train", "-m", "small.py:make", "-n", "2", "--processes", "--name", "a")
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1, done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_all_processes_and_resume_ends_as_if_never_stopped(parle_command, number):
    arguments = ["train", "-n", "2", "-e", "20", "--processes", "--json"]
    process = subprocess.Popen([*PARLE, *arguments, "--name", "cut"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not Path("runs/cut/metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 128 + number, err
    assert err.count("Continue with `parle resume runs/cut`") == 1 and "Traceback" not in err
    resumed = parle_command("resume", "runs/cut", "--json")
    assert resumed.code == 0, resumed.err
    assert parle_command(*arguments, "--name", "whole").code == 0
    assert Path("runs/cut/final/model.safetensors").read_bytes() == Path("runs/whole/final/model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.0), (signal.SIGINT, 2.5)])
def test_a_signal_before_the_first_step_ends_all_processes_with_one_line(number, after):
    process = subprocess.Popen(
        [*PARLE, "train", "-n", "2", "-e", "3000", "--processes", "--name", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():  # while it imports torch, Ctrl-C is Python's own affair
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err and "SIGTERM" not in err


def test_an_evaluation_may_take_longer_than_the_timeout(parle_command):
    Path("slow.py").write_text(SLOW)
    arguments = ["-m", "slow.py:make", "-n", "2", "-e", "0.1", "--processes", "--name", "a", "--set", "communicator.timeout=2"]
    assert parle_command("train", *arguments).code == 0  # BatchNorm from two batches, and a test of one: 3.6 s


def test_what_fails_in_one_process_alone_is_said_by_all(parle_command):
    Path("odd.py").write_text(
        "import os\nfrom torch import nn\ndef make():\n    if os.environ.get('RANK') == '1':\n        raise ValueError('x' * 200_000)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = parle_command("train", "-m", "odd.py:make", "-n", "2", "--processes", "--name", "a")
    assert done.code == 2 and "Process 1: " in done.err and "ValueError" in done.err


def test_a_run_of_several_processes_is_resumed_in_one_as_if_never_stopped(parle_command):
    assert parle_command("train", "-n", "2", "-e", "2", "--processes", "--name", "a").code == 0
    before = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()][-1]
    for process in ("", "process-1/"):
        shutil.rmtree(f"runs/a/checkpoints/{process}step-00000088")
    status = Path("runs/a/status.json")
    status.write_text(json.dumps({"state": "interrupted"}))
    text = Path("runs/a/config.yaml").read_text()
    Path("runs/a/config.yaml").write_text(text.replace("processes: true", "processes: false"))
    done = parle_command("resume", "runs/a")
    after = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()][-1]
    assert done.code == 0 and after["consensus"] == before["consensus"] and after["replicas"] == before["replicas"]
    assert json.loads(Path("runs/a/env.json").read_text())["processes"] == 1


def test_the_end_of_the_parent_is_the_end_of_its_processes():
    process = subprocess.Popen([*PARLE, "train", "-n", "2", "-e", "5000", "--processes", "--name", "a"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (Path("runs/a/metrics.jsonl").is_file()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(is_alive(pid) for pid in pids("runs/a")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in pids("runs/a"))


def made_a_lock() -> dict:
    global lock
    lock = multiprocessing.RLock()
    return {"name": lock._semlock.name}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a semaphore is no file")
def test_locks_that_a_library_makes_in_a_process_are_given_back():
    name = processes.run(1, made_a_lock, ())["name"]
    assert name.startswith("/mp-") and not Path(f"/dev/shm/sem.{name[1:]}").exists()


def test_the_rendezvous_listens_on_loopback_alone():
    store = launch.loopback_store(0, 5.0)
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    port = f"{store.port:04X}"
    assert [its for its in listening if its.endswith(f":{port}")] == [f"0100007F:{port}"]
    everywhere = [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]] if Path("/proc/net/tcp6").exists() else []
    assert not any(its.endswith(f":{port}") for its in everywhere)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind((launch.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("train", "--name", "a", RANK="0", WORLD_SIZE="2", MASTER_ADDR=launch.LOOPBACK, MASTER_PORT=str(port))
    assert done.returncode == 3 and f"Port {port} of 127.0.0.1 cannot be used: Address already in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_interface_that_is_missing_is_named():
    around = dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR=launch.LOOPBACK, MASTER_PORT="0", GLOO_SOCKET_IFNAME="nosuch0")
    code = (
        "import torch, parle\nfrom parle import launch\nmodel = torch.nn.Linear(2, 1)\nstore = launch.loopback_store(0, 5.0)\n"
        "import os; os.environ.update(MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE='True')\n"
        "try:\n    parle.join(model, torch.optim.SGD(model.parameters(), lr=1), parle.LocalSGD(), parle.TorchDistributed(timeout=5))\n"
        "except parle.SetupError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **around})
    assert "GLOO_SOCKET_IFNAME must name one of lo" in done.stdout, done.stdout + done.stderr


def test_more_gpus_than_there_are_is_an_error_of_the_setup():
    with pytest.raises(parle.SetupError, match="4 processes on this machine need a GPU each, but there are 1"):
        launch.devices_of(World("torchrun", 0, 4, 0, 4), (torch.device("cuda", 0),))
    assert launch.devices_of(World("torchrun", 1, 2, 1, 2), tuple(torch.device("cuda", i) for i in range(4))) == tuple(torch.device("cuda", i) for i in (1, 3))
    done = command("train", "--device", "cuda:7", "-n", "2", "--processes", "--name", "a")
    assert done.returncode == 3 and "cuda:7 is not usable" in done.stderr and not Path("runs/a").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, World()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, World("torchrun", 1, 4, 1, 2)),
        (
            {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
            World("openmpi", 2, 3, 0, 1),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, World("mpi", 0, 2, 0, 2)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, World("slurm", 3, 8, 3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, World()),  # a batch script without srun
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "5", "PMI_SIZE": "8"}, World("mpi", 5, 8, 0, 1)),  # mpiexec, whose daemons srun started
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
    ],
    ids=str,
)
def test_the_environment_says_who_started_this_process(monkeypatch, variables, expected):
    for names in launch.VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert World.read() == expected


def test_cores_are_shared_unless_the_launcher_has_dealt_them_out(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for cores, launcher in ((16, "slurm"), (4, "slurm"), (4, "torchrun")):
        monkeypatch.setattr(launch, "cores", lambda cores=cores: cores)
        launch.set_threads(World(launcher, 0, 4, 0, 4), None)
    launch.set_threads(World(), None)
    launch.set_threads(World(), 3)
    assert chosen == [4, 4, 1, 3]


def test_an_environment_that_makes_no_sense_is_named(monkeypatch):
    for rank, size in (("x", "2"), ("2", "2")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(parle.SetupError, match=f"RANK={rank}.*WORLD_SIZE={size}"):
            World.read()


def test_data_that_differ_between_processes_are_refused(parle_command):
    Path("loose.py").write_text(MANY.replace("manual_seed(0)", "manual_seed(os.getpid())"))
    done = parle_command("train", "-n", "2", "-d", "loose.py:data", "--processes", "--name", "a")
    assert done.code == 2 and "Process 1 has data with digest" in done.err and len(done.err.strip().splitlines()) == 1


def test_fewer_replicas_than_processes_are_refused():
    done = [
        subprocess.Popen(
            [*PARLE, "train", "-n", "1", "--name", "a"], stderr=subprocess.PIPE, text=True, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in done]
    assert [process.returncode for process in done] == [2, 2]
    assert "2 processes cannot share 1 replicas" in said[0] and said[1] == ""  # the first speaks for all


def srun(count: int, *arguments: str) -> list[subprocess.CompletedProcess]:
    """Start processes with the variables that srun gives them on one machine."""
    around = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_TASKS_PER_NODE": str(count), "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": str(os.getpid())}
    started = [
        subprocess.Popen(
            [*PARLE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **around, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=120) for process in started]
    return [subprocess.CompletedProcess(arguments, process.returncode, *its) for process, its in zip(started, said, strict=True)]


def test_srun_is_recognised_and_different_configurations_are_refused(parle_command):
    first, second = srun(2, *TRAIN, "--name", "a")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    one = parle_command(*TRAIN, "--name", "one", "--no-processes").json
    assert json.loads(first.stdout)["error_pct"] == one["error_pct"] and second.stdout == ""
    logs = [json.loads(Path(f"runs/a/logs/process-{rank}.jsonl").read_text().splitlines()[0]) for rank in range(2)]
    assert [its["replicas"] for its in logs] == [[0, 1], [2]]  # three replicas in two processes


def test_torchrun_runs_the_example_of_an_own_loop():
    """Three processes, one added line."""
    example = Path(parle.__file__).parent.parent.parent / "examples" / "own_loop.py"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(example)],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "consensus" in line]
    assert len(said) == 1 and float(said[0].split(":")[1].split("%")[0]) < 5
    assert len(example.read_text().splitlines()) <= 40


def test_jobs_are_spread_only_where_nothing_says_otherwise(monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 4)
    many = config.SMALL

    def decided(samples=many, **given) -> bool:
        settings = config.parse({"replicas": 3, "device": "cpu", **given})
        return bool(jobs.spread(settings, samples, plans.Quiet()).processes)

    assert decided() and decided(processes=True, threads=2)
    assert not decided(samples=many - 1) and not decided(replicas=1) and not decided(threads=2) and not decided(processes=False)
    monkeypatch.setattr(launch, "cores", lambda: 1)
    assert not decided()
