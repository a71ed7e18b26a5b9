"""One process or several per machine, over torch.distributed: gloo for processors, nccl for GPUs."""

import atexit
import contextlib
import itertools
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from parle.communicators.collective import Collective
from parle.errors import ReplicaLost, SetupError, first_line

PATIENCE = 5.0  # seconds in which the processes that are left tell each other so: the news may go from one to the next, on crowded cores

_groups = itertools.count()  # groups made in this process, as many as in every other one
_rendezvous = None  # the store in which the processes meet, the rank of this one, and how many there are


class TorchDistributed(Collective):
    """The replicas of all processes of a torch.distributed group, under `torchrun` or wherever the group was made.

    `group` is a process group, a one-dimensional device mesh, or None for the default group, which is made when there is none
    yet: over nccl where the replicas lie on GPUs, else over gloo. `ordered` adds up in the order of the replicas, bit for bit
    as `InProcess`. `timeout`, in seconds, becomes that of the group: a process that does not answer for so long is lost, and the
    others close the group and raise ReplicaLost. With `shared_memory`, the processes of one machine read each other's proposals
    there, which is faster than to send them, and add them up in the order of the replicas. A replica may itself be
    data-parallel: give `mesh["replica"]` of a mesh whose other dimension is the DistributedDataParallel's. Raises SetupError
    where no group can be made.

    >>> TorchDistributed(timeout=60).ordered
    False
    """

    def __init__(self, group=None, *, ordered: bool = False, timeout: float = 300.0, shared_memory: bool = True):
        super().__init__(ordered, timeout, shared_memory)
        self._given, self._group, self._made = group, None, False

    def connect(self, device: torch.device) -> None:
        if self._group is not None:
            return
        if not dist.is_initialized():
            self._make_group("nccl" if device.type == "cuda" else "gloo")
        given = self._given
        if hasattr(given, "get_group"):  # a device mesh
            if given.ndim != 1:
                raise SetupError(f"TorchDistributed needs one dimension of a device mesh, got {given}. Give the one of the replicas, as mesh['replica'].")
            given = given.get_group()
        self._group = dist.group.WORLD if given is None else given
        atexit.register(self._leave)  # a group that outlives the interpreter's end may abort the process
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=self.timeout), self._group)  # a shorter wait would leave torch's threads behind
        self._name = dist.get_global_rank(self._group, 0)  # of the first process, which no other group of a mesh has
        self.ranks, self.rank = dist.get_world_size(self._group), dist.get_rank(self._group)
        self.device = device if dist.get_backend(self._group) == "nccl" else torch.device("cpu")

    def _make_group(self, backend: str) -> None:
        """Make the default group, from the environment that torchrun leaves; a later one after a former was closed, too."""
        global _rendezvous
        timeout = timedelta(seconds=self.timeout)
        try:
            if _rendezvous is None:
                store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
                _rendezvous = dist.PrefixStore(_name_of_this_start(store, rank, size, self.timeout), store), rank, size
            store, rank, size = _rendezvous
            named = dist.PrefixStore(f"parle/{next(_groups)}", store)  # the addresses of a former group are still in the store
            dist.init_process_group(backend, store=named, rank=rank, world_size=size, timeout=timeout)
        except ValueError as error:
            raise SetupError(
                f"No process group can be made: {_plain(error)}. Start the program with `torchrun --nproc-per-node 3 program.py`, or call "
                "torch.distributed.init_process_group before join."
            ) from None
        except RuntimeError as error:
            if "ifa" in str(error):  # gloo's word for an interface
                names = ", ".join(name for _, name in socket.if_nameindex())
                raise SetupError(f"gloo does not find the network interface that it was told. GLOO_SOCKET_IFNAME must name one of {names}.") from None
            raise SetupError(
                f"The processes do not find each other: {_plain(error)}. Have all of them been started within {self.timeout:g} s of each other, can they "
                "reach MASTER_ADDR:MASTER_PORT, and is that port free?"
            ) from None
        self._made = True

    def _begin_sum(self, vector: Tensor) -> Callable[[], None]:
        return self._begun(lambda: dist.all_reduce(vector, group=self._group, async_op=True))

    def _begin_gather(self, vector: Tensor) -> Callable[[], list[Tensor]]:
        gathered = [torch.empty_like(vector) for _ in range(self.ranks)]
        wait = self._begun(lambda: dist.all_gather(gathered, vector, group=self._group, async_op=True))
        return lambda: wait() or gathered

    def _spread(self, vector: Tensor) -> None:
        self._begun(lambda: dist.broadcast(vector, self._name, group=self._group, async_op=True))()

    def _begun(self, begin: Callable) -> Callable[[], None]:
        """Begin a collective call; waiting for it, or beginning it, raises ReplicaLost where a process is gone."""
        if self._group is None:
            raise ReplicaLost("This communicator has lost a process before, and its group is closed. Join again, in a new group.")
        work, reason = [], None
        try:
            work.append(begin())
        except RuntimeError as error:
            if not re.search("onnect|timed out|timeout|closed|reset|peer", str(error)):
                raise  # not about the others: a tensor that the backend does not know, for example
            reason = _plain(error)
        if reason:
            raise self._lost(reason)

        def wait() -> None:
            reason = None
            try:
                work.pop().wait()
            except RuntimeError as error:
                reason = _plain(error)
            if reason:  # outside of `except`, so that nothing keeps the sockets open
                raise self._lost(reason)

        return wait

    def _lost(self, reason: str) -> ReplicaLost:
        """Close the group, so that the news reaches everybody, and find out who is gone."""
        round, store, self._sums = self.center.round if self.center is not None else 0, _store(), []
        self.lost, key = True, f"parle/{self._name}/{round}"
        asked = _Missing(store, key, self.rank, self.ranks)  # reports before closing, which may take a while
        self._leave()
        asked.news_is_out()
        missing = asked.answer()
        who = "A process was" if not missing else f"Process {missing[0]} was" if len(missing) == 1 else f"Processes {', '.join(map(str, missing))} were"
        return ReplicaLost(f"{who} lost, process {self.rank} of {self.ranks} noticed in round {round}: {reason}. The reference is that of the last round.")

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is None or not dist.is_initialized():
            return
        with contextlib.suppress(ValueError, RuntimeError):  # its owner has destroyed it already
            dist.destroy_process_group(None if group is dist.group.WORLD else group)

    def close(self) -> None:
        """Release the group, if it was made here, when all processes have come to this point."""
        if self._group is not None and self.center is not None:
            if self._made:
                self.meet()
                self._leave()
            self._group = None
        atexit.unregister(self._leave)
        super().close()


def _name_of_this_start(store, rank: int, size: int, timeout: float) -> str:
    """A name that all processes of this start know, and none of an earlier one: torchrun's store still holds what those have written."""
    mine, deadline = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"parle/{rank}", mine)
    while time.monotonic() < deadline:
        if rank == 0:
            others = [number for number in range(1, size) if store.check([f"parle/{number}"])]
            store.set("parle/start", " ".join([mine, *(store.get(f"parle/{number}").decode() for number in others)]))
            if all(store.check([f"parle/{mine}/{number}"]) for number in range(1, size)):
                return mine
        elif store.check(["parle/start"]):
            name, *known = store.get("parle/start").decode().split()
            if mine in known:  # so it is a word of now
                store.set(f"parle/{name}/{rank}", "here")
                return name
        time.sleep(0.005)
    raise RuntimeError(f"not all of {size} processes have come")


def _store():
    """Where the processes of the default group left their addresses: it outlives the group."""
    try:
        return dist.distributed_c10d._get_default_store()
    except (AttributeError, ValueError, RuntimeError):
        return None


class _Missing:
    """Who does not report in the store: asked in a thread of its own, since a store whose process was stopped never answers."""

    def __init__(self, store, key: str, rank: int, ranks: int):
        self.store, self.key, self.rank = store, key, rank
        self.others, self.found, self.reported = set(range(ranks)) - {rank}, None, threading.Event()
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        if store is not None:
            self._thread.start()
            self.reported.wait(PATIENCE)

    def news_is_out(self) -> None:
        """From now on, whoever waited for this process knows that it has left."""
        self._since = time.monotonic()

    def answer(self) -> list[int]:
        """The missing processes; that of the store where it does not answer; none where nobody can be asked."""
        if self.store is None:
            return []
        self._thread.join(2 * PATIENCE + len(self.others))
        return [0] if self.found is None and self.rank else self.found or []

    def _ask(self) -> None:
        try:
            self.store.set(f"{self.key}/{self.rank}", "here")
            self.reported.set()
            while self.others and time.monotonic() < self._since + PATIENCE:
                here = {other for other in self.others if self.store.check([f"{self.key}/{other}"])}
                if here:
                    self.others, self._since = self.others - here, time.monotonic()
                time.sleep(0.02)
        except RuntimeError:  # the process that held the store is gone
            self.reported.set()
            return
        time.sleep(0.2)  # the others may still want to read the store, which may be this process's
        self.found = sorted(self.others)


def _plain(error: Exception) -> str:
    """The first sentence of an error, without the place in torch's source."""
    return re.sub(r"^\[.*?\]\s*", "", first_line(error)).partition(". ")[0].rstrip(".")
