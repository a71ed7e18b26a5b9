"""What the processes of a test do under mpiexec: `mpiexec -n 3 python mpi_program.py NAME`."""

import os
import signal
import sys

import torch
from rank_programs import THREE, train_wide, wide, wrapped

import parle
from parle import testing


def check(rank: int) -> None:
    """The checks for every communicator, and the wrappers around it."""
    for shared in (True, False):
        testing.check_communicator(lambda shared=shared: parle.MPI(ordered=True, shared_memory=shared), THREE[rank])
    testing.check_communicator(lambda: parle.MPI(shared_memory=False), THREE[rank], exact=False)
    for how in ({"codec": "int8"}, {"codec": "topk(0.1)"}, {"delay": 3}, {"delay": 3, "shared_memory": False}, {}, {"shared_memory": False}):
        ended = []
        for transport, mine in ((parle.MPI(ordered=True, shared_memory=how.get("shared_memory", True)), THREE[rank]), (parle.InProcess(), range(3))):
            models = [wide(40) for _ in mine]
            optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) for model in models]
            replicas = parle.join(models, optimizers, parle.LocalSGD(period=4), wrapped(transport, how))
            train_wide(replicas, 11)
            replicas.finish()
            ended.append(replicas)
        if not torch.equal(ended[0].params[0], ended[1].params[rank]) or not torch.equal(ended[0].reference, ended[1].reference):
            raise SystemExit(f"{how}: the trajectory differs from that of one process")
        ended[0].close()
    print(f"checked {rank}", flush=True)


def stop(rank: int) -> None:
    """Process 1 no longer answers."""
    model = wide(40)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=1e-5), parle.LocalSGD(period=4), parle.MPI(timeout=2))
    train_wide(replicas, 5)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        train_wide(replicas, 3, first=5)
    except parle.ReplicaLost as error:
        print(error, flush=True)
        os._exit(error.exit_code)


def unequal(rank: int) -> None:
    """Process 1 comes with another period."""
    model = wide(40)
    try:
        parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(period=4 + rank % 2), parle.MPI())
    except parle.ConfigError as error:
        print(error, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    from mpi4py import MPI

    {"check": check, "stop": stop, "unequal": unequal}[sys.argv[1]](MPI.COMM_WORLD.rank)
