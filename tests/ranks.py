"""Several processes for a test: forked from a clean server, so that they start in a moment, and joined over gloo by a file."""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from datetime import timedelta
from typing import NamedTuple

TIMEOUT = 10.0  # of the group, in seconds


class Rank(NamedTuple):
    """How a process ended: exit code, what its work returned, and the text of an exception."""

    code: int
    result: object
    error: str


def run(count: int, work, *arguments, timeout: float = 90.0, group: bool = True) -> list[Rank]:
    """Call `work(rank, *arguments)` in so many processes; what has not ended in time is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.distributed", "parle.testing", "parle.training"])
    path = tempfile.mktemp() if group else None
    started = []
    for rank in range(count):
        ear, mouth = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(rank, count, path, work, arguments, mouth), daemon=False)
        process.start()
        mouth.close()
        started.append((process, ear))
    deadline, told = time.monotonic() + timeout, []
    for _, ear in started:
        told.append((None, ""))
        with contextlib.suppress(EOFError):
            if ear.poll(max(0.0, deadline - time.monotonic())):
                told[-1] = ear.recv()
    for process, _ in started:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    return [Rank(process.exitcode, *its) for (process, _), its in zip(started, told, strict=True)]


def results(count: int, work, *arguments, **options) -> list:
    """What the work returns in every process; AssertionError with its error where one fails."""
    ended = run(count, work, *arguments, **options)
    for rank, its in enumerate(ended):
        assert its.code == 0, f"process {rank} ended with {its.code}: {its.error}"
    return [its.result for its in ended]


def _main(rank: int, count: int, path: str | None, work, arguments: tuple, mouth) -> None:
    import torch
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if path:
        dist.init_process_group("gloo", store=dist.FileStore(path, count), rank=rank, world_size=count, timeout=timedelta(seconds=TIMEOUT))
    code, told = 0, (None, "")
    try:
        told = (work(rank, *arguments), "")
    except Exception as error:
        code, told = getattr(error, "exit_code", 1), (None, str(error) if hasattr(error, "exit_code") else traceback.format_exc())
    mouth.send(told)
    if code == 0 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    os._exit(code)
