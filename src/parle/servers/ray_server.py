"""A server in a Ray actor, with replicas in Ray tasks, on one machine or a cluster."""

import asyncio
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from parle import checkpoint
from parle.algorithm import Algorithm
from parle.errors import ParleError, ReplicaLost, SetupError, first_line
from parle.servers.desk import Answer, Desk
from parle.servers.rules import Quorum, Rules
from parle.servers.seat import Host, Seat
from parle.servers.threads import GLANCE, Over

LOOPBACK = "127.0.0.1"


class Keeper:
    """What the actor runs: a desk whose callers wait without keeping others from calling; it goes on from its last snapshot."""

    def __init__(self, rules: dict, folder: str, every: float):
        self.desk, self._folder, self._every = Desk(Rules(**rules), time.monotonic), Path(folder) / "center", every
        self._bells: dict[int, asyncio.Event] = {}
        self._written = 0.0
        self._before = checkpoint.read(self._folder) if self._folder.exists() else None

    async def ask(self, replica: int, algorithm: Algorithm, call: str, *arguments) -> Answer | None:
        """As `Host.ask`; None when the server has come to its end."""
        desk = self.desk
        if self._before is not None:  # this is a second life
            desk.load_state_dict(self._before, algorithm)
            self._before = None
        center, updates = desk.center, desk.updates
        self._ring(getattr(desk, call)(replica, *arguments))
        if desk.center is not center or (desk.updates != updates and time.monotonic() - self._written > self._every):
            checkpoint.write(self._folder, desk.state_dict())
            self._written = time.monotonic()
        while replica not in desk.answers and not desk.over:
            bell = self._bells[replica] = asyncio.Event()
            try:
                await asyncio.wait_for(bell.wait(), GLANCE)
            except TimeoutError:
                self._ring(desk.notice())
        return None if desk.over else desk.answers.pop(replica)

    async def leave(self, replica: int) -> None:
        """As `Host.leave`."""
        self._ring(self.desk.leave(replica))

    async def end(self) -> None:
        """Let nobody wait any more."""
        self.desk.end()
        self._ring(range(self.desk.rules.replicas))

    async def status(self) -> dict:
        """As `Host.status`."""
        return self.desk.status()

    async def reference(self) -> Tensor | None:
        """As `Host.reference`."""
        return self.desk.reference()

    async def state_dict(self) -> dict:
        """As `Host.state_dict`."""
        return self.desk.state_dict()

    async def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        """As `Host.load_state_dict`."""
        self.desk.load_state_dict(state, algorithm)

    def _ring(self, released) -> None:
        for replica in released:
            if bell := self._bells.pop(replica, None):
                bell.set()


class RayHost(Host):
    """The actor of a server as any process of the Ray cluster sees it; it may be sent to tasks and actors."""

    def __init__(self, rules: Rules, keeper):
        self.rules, self._keeper, self._algorithms = rules, keeper, {}

    def __reduce__(self) -> tuple:
        return RayHost, (self.rules, self._keeper)

    def ask(self, replica: int, call: str, *arguments) -> Answer:
        if call == "enter":
            self._algorithms[replica] = arguments[0]
        answer = self.call("ask", replica, self._algorithms[replica], call, *arguments)
        if answer is None:
            raise Over
        return answer

    def leave(self, replica: int) -> None:
        self.call("leave", replica)

    def status(self) -> dict:
        return self.call("status")

    def reference(self) -> Tensor | None:
        return self.call("reference")

    def state_dict(self) -> dict:
        return self.call("state_dict")

    def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        self.call("load_state_dict", state, algorithm)

    def call(self, method: str, *arguments):
        """Call a method of the actor and wait for what it returns."""
        import ray

        try:
            return ray.get(getattr(self._keeper, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise _ours(error) from None
        except ray.exceptions.RayError as error:
            raise ReplicaLost(f"The server's Ray actor does not answer: {first_line(error)}. Its last snapshot is in the folder `snapshots`.") from None


class RayServer(RayHost):
    """A server that is a Ray actor; `run` starts a Ray task for every replica.

    Arguments as for `Server`. `address` is that of a Ray cluster; without one a Ray of its own is started on loopback and
    stopped by `close`, or the running one is used. The center is written into the folder `snapshots` every `snapshot_every`
    seconds (one that all machines see, in a cluster), from which an actor that died is restarted; a proposal that Ray sends twice is
    merged once. `resources` are Ray's options of a replica's task, such as {"num_cpus": 4}. Ray's own token authentication
    (RAY_AUTH_MODE=token) is honoured. Raises SetupError without Ray, or where the cluster cannot be reached.

    >>> RayServer.__mro__[1].__name__          # docs/communicators/ray.md runs one
    'RayHost'
    """

    def __init__(
        self,
        quorum: Quorum = 1,
        replicas: int = 1,
        *,
        address: str | None = None,
        snapshots: Path | None = None,
        snapshot_every: float = 10.0,
        resources: dict | None = None,
        **rules,
    ):
        checked, ray = Rules(quorum, replicas, **rules), _ray()
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, address)
        self._folder, self._temporary = (Path(snapshots), False) if snapshots else (Path(tempfile.mkdtemp(prefix="parle-center-")), True)
        self._resources = {"num_cpus": 0, **(resources or {})}
        own = self._folder / uuid.uuid4().hex[:8]  # another server's snapshot is never taken for this one's
        life = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2 * replicas + 16, "num_cpus": 0}
        super().__init__(checked, ray.remote(Keeper).options(**life).remote(asdict(checked), str(own), snapshot_every))

    def run(self, work: Callable[[Seat], object], watch: Callable[["RayServer"], bool | None] | None = None) -> list:
        """Call `work(seat)` for every replica, each in a Ray task of its own; what they return, in their order, None for those that were lost.

        The first exception of one ends all and is raised; a replica whose process dies is not waited for. `watch(server)` is
        called again and again meanwhile; if it returns True, the replicas are ended. Raises ReplicaLost if all were lost.
        """
        import ray

        task = ray.remote(_live).options(max_retries=0, **self._resources)
        host = RayHost(self.rules, self._keeper)
        waiting = {task.remote(host, replica, work): replica for replica in range(self.rules.replicas)}
        results, lost, failure = [None] * self.rules.replicas, [], None
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=0.1)
            for its in done:
                replica = waiting.pop(its)
                try:
                    results[replica] = ray.get(its)
                except ray.exceptions.RayTaskError as error:
                    failure = failure or _ours(error)
                    self.call("end")
                except ray.exceptions.RayError:  # its process or its machine is gone
                    lost.append(replica)
                    self.leave(replica)
            if waiting and watch and watch(self):
                self.call("end")
        if failure:
            raise failure
        if len(lost) == self.rules.replicas:
            raise ReplicaLost(f"All {len(lost)} replicas were lost. Ray's log says why; the center is in {self._folder}.")
        return results

    def end(self) -> None:
        """Let no replica wait any more."""
        self.call("end")

    def close(self) -> None:
        """End the actor, and the Ray that was started here."""
        import ray

        if ray.is_initialized():
            ray.kill(self._keeper)
            if self._started:
                ray.shutdown()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "RayServer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _live(host: RayHost, replica: int, work: Callable[[Seat], object]) -> object:
    """The task of one replica."""
    try:
        return work(host.seat(replica))
    except Over:
        return None
    finally:
        host.leave(replica)


def _ray():
    try:
        import ray
    except ImportError:
        raise SetupError("RayServer needs Ray. Install it with: pip install 'parle-sgd[ray]'") from None
    return ray


def _start(ray, address: str | None) -> None:
    options = {"address": address}
    if not address:  # what this program can import, its tasks can
        paths = ray.job_config.JobConfig(_py_driver_sys_path=[path for path in sys.path if path])
        options = {"address": "local", "include_dashboard": False, "_node_ip_address": LOOPBACK, "job_config": paths}
    try:
        if address:
            _knock(address)
        ray.init(**options, log_to_driver=True, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"The Ray cluster {address} cannot be reached" if address else "Ray cannot be started"
        raise SetupError(
            f"{where}: {first_line(error)}. Start one with `ray start --head`, give its address, and its token if it asks for one (RAY_AUTH_MODE=token)."
        ) from None


def _knock(address: str) -> None:
    """Raise ``OSError`` at once where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10.0).close()


def _ours(error) -> Exception:
    """The exception that was raised in a task, where it can be had."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, ParleError) else error
