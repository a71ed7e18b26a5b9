"""Several processes of our own on this machine, which find each other as under torchrun, on loopback alone."""

import json
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection, sharedctypes
from pathlib import Path

from parle import launch
from parle.errors import ParleError, ReplicaLost
from parle.together import Ended

BEAT, SILENCE = 0.2, 5.0  # seconds between two signs of life, and without one after which a child counts as lost
GRACE = 10.0  # seconds that the others have to end after one has failed
STORE_TIMEOUT = 60.0
LONGEST = 4000  # characters of a message: more might not fit the pipe, which is read when all have ended


def run(count: int, work: Callable[..., dict], arguments: tuple, impatient: bool = False) -> dict:
    """Call `work(*arguments)` in so many processes, and return what the first one returned.

    SIGINT and SIGTERM are passed on to all of them. When one fails, the others have a short time to end by themselves; what
    is left is killed. The `impatient` kill what is left at once when a process was killed, and one that was stopped or
    shows no sign of life. Raises Ended with the message and exit code of the one that failed first, ReplicaLost where one was killed or no
    longer answered.
    """
    context = multiprocessing.get_context("forkserver")  # fork is quick, but not safe beside the threads of a process that works
    context.set_forkserver_preload(["torch._dynamo", work.__module__])  # every optimizer imports the first, which takes seconds
    store = launch.loopback_store(0, STORE_TIMEOUT)
    children, ears, beats = [], [], [sharedctypes.RawValue("d", 0.0) for _ in range(count)]
    for rank in range(count):
        ear, mouth = context.Pipe(duplex=False)
        children.append(context.Process(target=_child, args=(rank, count, store.port, launch.surroundings(), work, arguments, mouth, beats[rank])))
        ears.append(ear)
    asked: list[int] = []
    try:
        with launch.signals_to(lambda number, _: asked.append(number)):
            for child in children:
                if not asked:
                    child.start()
            stuck = [] if children[-1].pid is None else _wait(children, ears, asked, beats if impatient else [])
    finally:
        for child in children:
            if child.pid and child.exitcode is None:
                child.kill()
                child.join()
    told = [_read(ear) for ear in ears]
    return _verdict(told, [child.exitcode for child in children], stuck, asked)


def _wait(children: list, ears: list, asked: list[int], beats: list) -> list[int]:
    """Wait until all have ended, and pass on the signals asked of this process; the numbers of those that had to be killed.

    Where there are `beats`, the times at which each child was last alive, nobody waits for a child that is silent, nor after one was killed.
    """
    deadline, passed = None, {}
    while alive := [child for child in children if child.exitcode is None]:
        connection.wait([child.sentinel for child in alive], timeout=0.2)
        for child, beat in zip(children, beats, strict=False):
            if child.exitcode is None and beat.value and (launch.is_stopped(child.pid) or time.monotonic() - beat.value > SILENCE):
                child.kill()
                child.join()
        if beats and any((child.exitcode or 0) < 0 for child in children):
            for child in alive:
                child.kill()
                child.join()
            return []
        for rank, (child, ear) in enumerate(zip(children, ears, strict=True)):
            if rank not in passed and ear.poll():  # it says that it listens: a signal before that would be lost
                passed[rank] = 0
                _hear(ear)
            for number in asked[passed.get(rank, len(asked)) :]:
                if child.exitcode is None:
                    os.kill(child.pid, number)
                passed[rank] += 1
        if deadline is None and any(child.exitcode for child in children):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            stuck = [number for number, child in enumerate(children) if child.exitcode is None]
            for number in stuck:
                children[number].kill()
                children[number].join()
            return stuck
    return []


def _verdict(told: list[dict], codes: list[int | None], stuck: list[int], asked: list[int]) -> dict:
    """What the first process returned, or the error that matters."""
    if codes == [0] * len(codes):
        return told[0]["result"]
    interrupted = [its["message"] for its in told if its.get("exit_code", 0) > 128]
    if asked:
        raise Ended(interrupted[0] if interrupted else "Interrupted before the first step.", 128 + asked[0])
    lost = [f"process {rank} was ended by {signal.Signals(-code).name}" for rank, code in enumerate(codes) if code < 0 and rank not in stuck]
    lost += [f"process {rank} no longer answered" for rank in stuck]
    failures = [(rank, its) for rank, its in enumerate(told) if its.get("exit_code")]
    causes = [(rank, its) for rank, its in failures if its["exit_code"] != ReplicaLost.exit_code]
    if lost and not causes:
        raise ReplicaLost(f"Of {len(codes)} processes, {', '.join(lost)}.")
    rank, its = (causes or failures or [(next(rank for rank, code in enumerate(codes) if code), {})])[0]
    raise Ended(its.get("message", f"Process {rank} ended with exit code {codes[rank]}."), its.get("exit_code", 1))


def _read(ear) -> dict:
    """What a process that has ended said last."""
    told = {}
    while (heard := _hear(ear)) is not None:
        told = heard
    return told


def _hear(ear) -> dict | None:
    try:
        return json.loads(ear.recv_bytes()) if ear.poll() else None
    except EOFError:
        return None


def _child(rank: int, count: int, port: int, around: tuple, work: Callable[..., dict], arguments: tuple, mouth, beat) -> None:
    """One of the processes, from its first line to its last."""
    os.setsid()  # Ctrl-C comes from the parent, once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))  # until the training is there, which writes a checkpoint
    mouth.send_bytes(json.dumps({}).encode())
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True).start()
    threading.Thread(target=_beat, args=(beat,), daemon=True).start()
    launch.as_child(rank, count, port, around)
    code = 0
    try:
        told = {"result": work(*arguments)}
    except ParleError as error:
        code, told = error.exit_code, {"message": str(error)[:LONGEST], "exit_code": error.exit_code}
    except BaseException as error:
        traceback.print_exc()
        code, told = 1, {"message": f"Process {rank} failed unexpectedly: {type(error).__name__}: {str(error)[:LONGEST]}", "exit_code": 1}
    mouth.send_bytes(json.dumps(told).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    multiprocessing.util._run_finalizers(0)  # semaphores of libraries, such as torch's compiler makes: else python warns of them at the end
    os._exit(code)  # after a lost process, torch's threads may abort an ordinary exit


def _beat(beat) -> None:
    """Show that this process is alive."""
    while True:
        beat.value = time.monotonic()
        time.sleep(BEAT)


def _end_with(sentinel: int) -> None:
    """End this process when its parent has ended."""
    connection.wait([sentinel])
    os._exit(1)


def print_into(path: Path) -> None:
    """Send what this process prints from now on into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
