"""What runs survive: kills, damaged files, full disks, lost processes, and what checkpoints cost.

    python benchmarks/faults.py [kills|files|processes|cost] [--kills 50] [--losses 20]

Every run trains two or four Parle replicas on the embedded digits, from the same seed, and its final parameters are compared with
those of a run that nothing happened to, bit for bit. Prints what docs/faults.md holds.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import side_by_side
import torch

from parle import checkpoint, config, jobs, plans, settling
from parle.errors import ParleError
from parle.runs import RunFolder
from parle.training import Training

SETTINGS = {"replicas": 2, "epochs": 12, "threads": 1, "processes": False, "checkpoint.every": "1rounds"}


def work(path: str, resume: bool) -> None:
    """A run from its start, or from its last checkpoint, in a process of its own."""
    os.setsid()
    try:
        jobs.train(config.load(None, (), SETTINGS), Path(path), resume=resume)
    except ParleError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
    os._exit(0)


def started(context, path: Path, resume: bool = False):
    process = context.Process(target=work, args=(str(path), resume))
    process.start()
    return process


def solution(path: Path) -> str:
    return hashlib.sha256(RunFolder(path).model.read_bytes()).hexdigest()


def kills(folder: Path, count: int) -> None:
    """SIGKILL at a random moment; every fourth while a checkpoint is being written."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "parle.jobs", "benchmarks.faults"])
    whole = folder / "whole"
    process, began = started(context, whole), 0.0
    while not RunFolder(whole).status.exists() or RunFolder(whole).status.read_text().count("running") == 0:
        time.sleep(0.01)
    began = time.monotonic()
    process.join()
    length, expected, draw = time.monotonic() - began, solution(whole), random.Random(0)
    same = begun = writing = 0
    for number in range(count):
        path = folder / f"run-{number}"
        process, run = started(context, path), RunFolder(path)
        while not run.status.exists():
            time.sleep(0.002)
        end, half_written = time.monotonic() + draw.uniform(0, 0.9 * length), False
        while process.is_alive() and (time.monotonic() < end or (number % 4 == 0 and not half_written)):
            half_written = number % 4 == 0 and time.monotonic() >= end and any(run.checkpoints.glob("*.tmp-*"))
            time.sleep(0.0005)
        process.kill()
        process.join()
        writing += bool(list(run.checkpoints.glob("*.tmp-*")))
        begun += not run.is_done()
        again = started(context, path, resume=True)
        again.join()
        same += again.exitcode == 0 and solution(path) == expected
        shutil.rmtree(path)
    print(f"killed {count} times, {begun} before their end and {writing} while a checkpoint was being written: {same} of {count} resumed to the same bits")


def files(folder: Path) -> None:
    """Damage to every file of the newest checkpoint; a full disk; a folder that cannot be written."""
    settings = config.load(None, (), SETTINGS | {"epochs": 2})
    base = folder / "base"
    jobs.train(settings, base)
    for file in (checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS):
        for damage in ("truncated", "a byte flipped", "missing", "a pickle instead", "naming ../x"):
            if damage == "naming ../x" and file != checkpoint.MANIFEST:
                continue
            path = folder / "damaged"
            shutil.copytree(base, path)
            run = RunFolder(path)
            newest = checkpoint.all_in(run.checkpoints)[-1]
            hurt(newest / file, damage)
            run.write_json(run.status, {"state": "interrupted"})
            jobs.train(settings, path, resume=True)
            refused = [json.loads(line) for line in run.events.read_text().splitlines() if "checkpoint refused" in line]
            fine = len(refused) == 1 and refused[0]["folder"] == newest.name and solution(path) == solution(base) and not Path("executed").exists()
            print(f"{file}, {damage}: {'noticed, the one before used, same bits at the end' if fine else 'NOT AS PROMISED'}")
            shutil.rmtree(path)
    for name, options in (("a full disk of 2 MB", "size=2m"), ("a folder that cannot be written", "size=2m,ro")):
        mount = folder / "mount"
        mount.mkdir(exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", mount], capture_output=True).returncode:
            print(f"{name}: not tried, since this user may not mount")
            continue
        try:
            jobs.train(config.load(None, (), SETTINGS | {"epochs": 2, "replicas": 3, "model.options.width": 100}), mount / "run")
            print(f"{name}: NOT noticed")
        except ParleError as error:
            usable = [its for its in checkpoint.all_in(mount / "run" / "checkpoints") if checkpoint.read(its)]
            print(f"{name}: exit code {error.exit_code}, {len(usable)} earlier checkpoints still load: {str(error)[:150]}")
        finally:
            subprocess.run(["umount", mount], check=False)


def hurt(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
        return
    if damage == "a byte flipped":
        content[len(content) // 2] ^= 4
    if damage == "a pickle instead":  # would make a file, if anybody unpickled it
        content = bytearray(b"cos\nsystem\n(S'touch executed'\ntR.")
    if damage == "naming ../x":
        told = json.loads(content)["manifest"]
        told["files"]["../x"] = told["files"].pop(checkpoint.STATE)
        content = json.dumps({"manifest": told, "sha256": checkpoint._digest_of(told)}).encode()
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)


def processes(folder: Path, count: int) -> None:
    """Random kills and stops of one of four processes of an elastic run: seconds until all train again."""
    arguments = [
        "-n",
        "4",
        "--processes",
        "--elastic",
        "--checkpoint-every",
        "1rounds",
        "--set",
        "threads=1",
        "--set",
        "communicator.ordered=true",
        "--set",
        "evaluation.every=20",
        "--json",
    ]
    draw, seconds, epochs = random.Random(0), [], 60 * count

    def command(name: str) -> subprocess.Popen:
        line = [sys.executable, "-m", "parle", "train", "-e", str(epochs), "--name", name, "--runs-dir", str(folder), *arguments]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process, run = command("elastic"), RunFolder(folder / "elastic")

    def pids() -> list[int]:
        """The processes of the last start, by their logs."""
        started = []
        for rank in range(4):
            log = run.logs / f"process-{rank}.jsonl"
            lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            its = [line for line in lines if line["event"] == "start"]
            started.append((len(its), its[-1]["pid"]) if its else (0, 0))
        return [pid for _, pid in started] if len({number for number, _ in started}) == 1 and started[0][0] else []

    def newest() -> str:
        return max((path.name for path in checkpoint.all_in(run.checkpoints)), default="")

    for _ in range(count):
        while not pids():
            time.sleep(0.01)
        mine, before = pids(), newest()
        while newest() <= before or time.monotonic() % 1 > 0.5:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))
        began, number = time.monotonic(), draw.choice((signal.SIGKILL, signal.SIGSTOP))
        os.kill(draw.choice(mine), number)
        while process.poll() is None and (not pids() or pids() == mine):
            time.sleep(0.005)
        seconds.append(time.monotonic() - began)
        print(f"{signal.Signals(number).name}: all train again after {seconds[-1]:.2f} s", flush=True)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    step = json.loads(run.status.read_text())["step"]
    same = agree(folder, step)
    print(f"{len(seconds)} of {count} went on; median {median(seconds):.2f} s, worst {max(seconds):.2f} s; at step {step} {same}")


def agree(folder: Path, step: int) -> str:
    """Whether every process of the elastic run has, at that step, what an undisturbed one has."""
    settings = config.load(folder / "elastic" / "config.yaml")
    found = plans.load_data(settings)
    torch.set_num_threads(1)
    whole = Training(plans.plan_for(settling.settled(settings, len(found.train)), found))
    whole.advance(step)
    run = RunFolder(folder / "elastic")
    states = [checkpoint.read(run.checkpoints_of(rank) / f"step-{step:08d}")["training"]["replicas"] for rank in range(4)]
    equal = all(torch.equal(state["shared"]["reference"], whole.replicas.reference) for state in states)
    equal = equal and torch.equal(torch.cat([state["vectors"]["params"] for state in states]), whole.replicas.params)
    return "all four have the bits of an undisturbed run" if equal else "they DIFFER from an undisturbed run"


def cost(folder: Path) -> list[dict]:
    """What a checkpoint costs a training of three Parle replicas: the time it waits, and what the background takes."""
    rows = []
    for model, shape, classes in (("lenet", (1, 28, 28), 10), ("allcnn", (3, 32, 32), 10)):
        from parle import join, models
        from parle.algorithms import Parle

        nets = [models.builder(model, shape, classes, {})() for _ in range(3)]
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
        replicas = join(nets, optimizers, Parle())
        for net, optimizer in zip(nets, optimizers, strict=True):
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        writer, waits, wholes = checkpoint.Writer(), [], []
        for number in range(7):
            began = time.perf_counter()
            state = {"replicas": replicas.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            writer.write(folder / f"step-{number:08d}", state, keep=2)
            waits.append(time.perf_counter() - began)
            writer.flush()
            wholes.append(time.perf_counter() - began)
        whole = median(wholes[1:])
        size = sum(path.stat().st_size for path in (folder / "step-00000006").iterdir()) / 1e6
        remark = f"{size:.1f} MB, on the disk after {1000 * whole:.0f} ms, {whole / 60:.3%} of one core's minute"
        row = side_by_side.row("checkpoint", f"three Parle replicas of {model}: the training waits", [1000 * its for its in waits[1:]], "ms")
        rows.append(row | {"remark": remark})
    return rows


def rows_of(options: argparse.Namespace) -> list[dict]:
    tasks = {"kills": lambda at: kills(at, options.kills), "files": files, "processes": lambda at: processes(at, options.losses), "cost": cost}
    rows = []
    for name, task in tasks.items():
        if options.what in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                rows += task(Path(folder)) or []  # the others print what docs/faults.md holds
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("what", nargs="?", choices=("kills", "files", "processes", "cost"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--losses", type=int, default=20)
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
