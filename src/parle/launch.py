"""How this process was started, and how it finds the others of its run. The only reader of the environment."""

import os
import platform
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

import parle
from parle.communicators import MPI, Communicator, Compressed, InProcess, Overlapped, TorchDistributed
from parle.config import RunConfig
from parle.errors import ConfigError, ParleError, SetupError
from parle.servers import RayServer, Server

LOOPBACK = "127.0.0.1"
# Rank, number of processes, rank on this machine, number on this machine. torchrun comes first: it may itself be started by the others.
VARIABLES = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "mpi": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


@dataclass(frozen=True)
class World:
    """The processes of a run as their launcher counts them; `launcher` is None for a process on its own."""

    launcher: str | None = None
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def read(cls) -> "World":
        """What torchrun, mpiexec or srun has written into the environment; SetupError where it makes no sense."""
        for launcher, names in VARIABLES.items():
            rank, size, local_rank, local_size = (os.environ.get(name) for name in names)
            if not rank or not size or (launcher == "slurm" and os.environ.get("PMI_SIZE", size) != size):  # mpiexec, which srun has started
                continue
            try:
                local_size = re.match(r"\d+", local_size or "1").group()  # srun writes 4(x2)
                world = cls(launcher, int(rank), int(size), int(local_rank or 0), int(local_size))
            except (ValueError, AttributeError):
                raise SetupError(f"{names[0]}={rank}, {names[1]}={size} in the environment are not numbers. Unset them, or start with torchrun.") from None
            if not 0 <= world.rank < world.size:
                raise SetupError(f"{names[0]}={rank} and {names[1]}={size} in the environment do not fit together. Unset them, or start with torchrun.")
            return world if world.size > 1 else cls()
        return cls()

    @property
    def restarts(self) -> int:
        """How often torchrun has started the processes again, after one of them was lost."""
        count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return int(count) if count.isdigit() else 0

    @property
    def launch_id(self) -> str:
        """What all starts of one call of torchrun, or of `train --processes`, have in common, and no other has; empty where nobody says."""
        its = os.environ.get("PARLE_LAUNCH_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "")
        return "" if its == "none" else its

    @property
    def ours(self) -> bool:
        """Whether the processes were started by parle itself, on this machine."""
        return os.environ.get("PARLE_LAUNCHED") == "1"


@dataclass(frozen=True)
class Environment:
    """What the environment variables say."""

    data_dir: Path | None
    cache_dir: Path

    @classmethod
    def read(cls) -> "Environment":
        """PARLE_DATA_DIR, and the folder for caches by XDG_CACHE_HOME."""
        folder, cache = os.environ.get("PARLE_DATA_DIR"), os.environ.get("XDG_CACHE_HOME")
        return cls(Path(folder).expanduser() if folder else None, (Path(cache) if cache else Path.home() / ".cache") / "parle")


def communicator(world: World, settings: RunConfig) -> Communicator:
    """The configured communicator between the processes of a world, not yet open."""
    its = settings.communicator
    if world.launcher is None:
        made: Communicator = InProcess()
    elif its.transport == "mpi" or (its.transport == "auto" and world.launcher in ("mpi", "openmpi")):
        made = MPI(ordered=its.ordered, timeout=its.timeout, launched=world.size, shared_memory=its.shared_memory)
    else:
        _prepare_rendezvous(world, its.timeout)
        made = TorchDistributed(ordered=its.ordered, timeout=its.timeout, shared_memory=its.shared_memory)
    if its.codec:
        made = Compressed(made, its.codec)
    return Overlapped(made, its.delay) if its.delay else made


def server(settings: RunConfig, snapshots: Path) -> Server | RayServer:
    """The configured server."""
    its = settings.communicator
    rules = dict(quorum=its.quorum, replicas=settings.replicas, count=its.count, wait=its.wait, bound=its.bound, timeout=its.timeout)
    if its.transport == "ray":
        return RayServer(address=its.address, snapshots=snapshots, **rules)
    return Server(**rules)


def loopback_store(port: int, timeout: float) -> torch.distributed.TCPStore:
    """A store for a rendezvous that listens on loopback alone; torch's own listens on every interface. Port 0 takes a free one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise SetupError(f"Port {port} of {LOOPBACK} cannot be used: {error.strerror}. Choose another MASTER_PORT.") from None
    listener.listen(128)
    port = listener.getsockname()[1]
    return torch.distributed.TCPStore(
        LOOPBACK, port, is_master=True, timeout=timedelta(seconds=timeout), wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=True
    )


_held = []  # stores that this process holds for the others, until it ends


def _prepare_rendezvous(world: World, timeout: float) -> None:
    """Complete the environment in which torch.distributed finds the other processes."""
    if world.launcher != "torchrun":
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or ""
        alone = world.size == world.local_size or os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES")) == "1"
        os.environ.setdefault("MASTER_ADDR", LOOPBACK if alone else first_host(nodes))
        job, step = (int(re.sub(r"\D", "", os.environ.get(name, "")) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        os.environ.setdefault("MASTER_PORT", str(20_000 + (job + 101 * step) % 20_000))
        os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.local_rank))
    if os.environ.get("MASTER_ADDR") not in (LOOPBACK, "localhost"):
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # else the launcher holds the store
        if world.rank == 0:
            _held.append(loopback_store(int(os.environ.get("MASTER_PORT", "29500")), timeout))
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it.

    >>> first_host("node[003-005,9],gpu1"), first_host("gpu1,gpu2")
    ('node003', 'gpu1')
    """
    found = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if not found:
        raise SetupError("The processes are on several machines, and SLURM_STEP_NODELIST does not name the first. Set MASTER_ADDR to the first host.")
    return found.group(1) + (found.group(2) or "")


def begin_launch() -> None:
    """Give the processes that this one starts from now on a launch of their own."""
    os.environ["PARLE_LAUNCH_ID"] = uuid.uuid4().hex


def surroundings() -> tuple[str, dict[str, str]]:
    """The working folder and the environment of this process, for a child that is not forked from it."""
    return os.getcwd(), dict(os.environ)


def as_child(rank: int, size: int, port: int, around: tuple[str, dict[str, str]]) -> None:
    """Make this process one of those that parle starts itself: as under torchrun, but on loopback alone."""
    folder, environment = around
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size), PARLE_LAUNCHED="1")
    os.environ.update(MASTER_ADDR=LOOPBACK, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because of a signal, where the system says so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(processes: int) -> int:
    """The share of the cores that falls to one of so many processes on this machine, at least one."""
    return max(1, cores() // processes)


@contextmanager
def signals_to(handler: Callable) -> Iterator[None]:
    """Inside `with`, SIGINT and SIGTERM go to the handler, and as SIGTERM also SIGUSR1, by which Slurm announces the end.

    In a thread other than the first, which cannot, nothing changes.
    """
    before = {}

    def announced(_: int, frame) -> None:
        handler(signal.SIGTERM, frame)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGUSR1"):
            before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, announced)
    try:
        yield
    finally:
        for number, its in before.items():
            signal.signal(number, its)


def end_after(seconds: float, error: ParleError) -> None:
    """Ask this process to end, as SIGTERM does, after so many seconds; where nothing else answers to that, with an error."""

    def stop(*_) -> None:
        raise error

    signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


def set_threads(world: World, wanted: int | None) -> None:
    """Set torch's threads: as many as wanted, or the share of the cores that falls to one process of several."""
    bound = world.launcher in ("slurm", "openmpi", "mpi") and cores() < (os.cpu_count() or 1)  # the launcher has dealt the cores out
    if wanted or world.size > 1:
        torch.set_num_threads(wanted or threads_of(1 if bound else world.local_size))


def devices_of(world: World, found: tuple[torch.device, ...]) -> tuple[torch.device, ...]:
    """The devices of this process; SetupError where several processes of a machine would have to share a GPU."""
    if world.size == 1 or found[0].type == "cpu":
        return found
    if len(found) < world.local_size:
        raise SetupError(
            f"{world.local_size} processes on this machine need a GPU each, but there are {len(found)}. Start fewer processes (several replicas of one "
            "process share a GPU: -n), name more devices, or use --device cpu."
        )
    return found[world.local_rank :: world.local_size]


def devices(names: str) -> tuple[torch.device, ...]:
    """The devices that a text names, separated by commas; `auto` is every CUDA device, or the CPU. SetupError where one is missing."""
    if names == "auto":
        count = torch.cuda.device_count()
        return tuple(torch.device("cuda", index) for index in range(count)) or (torch.device("cpu"),)
    found = []
    for name in names.split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise ConfigError(f"`{name}` is not a device. Use auto, cpu, cuda, or several such as cuda:0,cuda:1.") from None
        if device.type == "cuda":
            device = torch.device("cuda", device.index or 0)
        try:
            torch.zeros(1, device=device).item()
        except Exception:
            raise SetupError(
                f"Device {name} is not usable on this machine, which has {torch.cuda.device_count()} CUDA devices. Use --device cpu or auto."
            ) from None
        found.append(device)
    if len({device.type for device in found}) > 1:
        raise ConfigError(f"--device {names} mixes kinds of devices. Use one kind, such as cuda:0,cuda:1.")
    return tuple(found)


def describe_machine() -> dict:
    """Versions and hardware, for env.json."""
    return {
        "parle": parle.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": ["parle", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
