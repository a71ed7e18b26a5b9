"""Processes under `mpiexec` or `srun`, over MPI."""

import atexit
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from parle.communicators.collective import Collective
from parle.errors import ReplicaLost, SetupError

ALIVE = 7  # tag of the message by which the processes that are left tell each other so
PATIENCE = 3.0  # seconds in which they do


class MPI(Collective):
    """The replicas of all processes of an MPI communicator (mpi4py), by default COMM_WORLD.

    `ordered` and `shared_memory` are those of `TorchDistributed`. `timeout` is in seconds: a process that does not answer for so
    long is lost, and the others raise ReplicaLost; of a process that has died, MPI itself ends the whole job. `launched` is the
    number of processes that the launcher started, where it is known. Messages go through the host's memory.
    Raises SetupError without mpi4py or an MPI library, and where the library does not belong to the launcher: such processes
    each find themselves alone.

    >>> MPI(timeout=60).ordered
    False
    """

    def __init__(self, comm=None, *, ordered: bool = False, timeout: float = 300.0, launched: int | None = None, shared_memory: bool = True):
        super().__init__(ordered, timeout, shared_memory)
        self._given, self._launched, self._comm = comm, launched, None

    def connect(self, device: torch.device) -> None:
        if self._comm is not None:
            return
        self._mpi = library()
        given = self._mpi.COMM_WORLD if self._given is None else self._given
        if self._launched not in (None, given.size) or (self._launched is None and given.size == 1):
            started = "its launcher started several" if self._launched is None else f"its launcher started {self._launched}"
            raise SetupError(
                f"MPI sees {given.size} process where {started}: either the program was not started by mpiexec, or mpiexec belongs to another MPI than the "
                f"library that mpi4py has loaded ({self._mpi.Get_library_version().splitlines()[0].strip()}). Use the mpiexec of that library, as "
                "`python -m pip install mpich` brings it, or load your cluster's MPI module and reinstall mpi4py."
            )
        self._comm = given.Dup()  # messages of its own
        self.ranks, self.rank, self.device = self._comm.size, self._comm.rank, torch.device("cpu")

    def _begin_sum(self, vector: Tensor) -> Callable[[], None]:
        request = self._comm.Iallreduce(self._mpi.IN_PLACE, vector.numpy())
        return lambda: self._wait_for(request, vector)

    def _begin_gather(self, vector: Tensor) -> Callable[[], list[Tensor]]:
        gathered = torch.empty(self.ranks, vector.numel(), dtype=vector.dtype)
        request = self._comm.Iallgather(vector.numpy(), gathered.numpy())
        return lambda: self._wait_for(request, vector) or list(gathered)

    def _spread(self, vector: Tensor) -> None:
        self._wait_for(self._comm.Ibcast(vector.numpy()), vector)

    def _wait_for(self, request, *_kept: Tensor) -> None:
        """Wait for a request, whose memory is the caller's to keep until then."""
        deadline = time.monotonic() + self.timeout
        while not request.Test():
            if time.monotonic() > deadline:
                raise self._lost()
            time.sleep(0)  # lets the other processes of this core work

    def _lost(self) -> ReplicaLost:
        missing, deadline = set(range(self.ranks)) - {self.rank}, time.monotonic() + PATIENCE
        sent = [self._comm.Isend(b"", other, ALIVE) for other in missing]
        while missing and time.monotonic() < deadline:
            missing = {other for other in missing if not self._comm.Iprobe(other, ALIVE)}
            time.sleep(0.02)
        del sent
        who = "A process was" if not missing else f"Process {', '.join(map(str, sorted(missing)))} was"
        round = self.center.round if self.center is not None else 0
        self.lost = True
        atexit.register(self._abort)  # an ordinary end would wait for the lost one
        return ReplicaLost(
            f"{who} lost, process {self.rank} of {self.ranks} noticed in round {round}: no answer within {self.timeout:g} s. "
            "The reference is that of the last round."
        )

    def _abort(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(ReplicaLost.exit_code)

    def close(self) -> None:
        """Leave the communicator when all processes have come to this point."""
        if self._comm is not None and self.center is not None:
            self.meet()
            self._comm.Free()
            self._comm = None
        super().close()


def library():
    """mpi4py's MPI; SetupError where it or an MPI library is missing."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the mistake that `connect` finds out and explains
            from mpi4py import MPI as found
    except ImportError as error:
        raise SetupError(f'mpi4py is not installed. Install it: pip install "parle-sgd[mpich]", or [mpi] where an MPI is there already. ({error})') from None
    except RuntimeError:
        raise SetupError('mpi4py finds no MPI library. Install one: pip install "parle-sgd[mpich]", or load your cluster\'s MPI module.') from None
    return found
