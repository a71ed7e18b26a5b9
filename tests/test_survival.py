"""Runs that survive: numbers that are not finite, more or fewer replicas, signals, lost processes, damaged files."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import parle
from parle import checkpoint, config, plans, settling
from parle.config import amount
from parle.random_streams import RandomStream
from parle.resizing import resized
from parle.runs import RunFolder
from parle.training import Training

COUPLED = [name for name, kind in parle.ALGORITHMS.items() if not kind.single]


def training(*sets, joined=None, mine=None):
    settings = config.load(sets=("data=digits", "threads=1", "epochs=3", *sets))
    found = plans.load_data(settings)
    return Training(plans.plan_for(settling.settled(settings, len(found.train)), found), mine=mine)


# Values


def poison(where, run, bad):
    replica = run.replicas._replicas[1]
    if where == "parameter":
        replica.r.params[0, 5] = bad
    elif where == "gradient":
        hook = replica.parameters[0].register_hook(lambda gradient: gradient.fill_(bad) if hook.remove() is None else gradient)
    elif where == "momentum":
        state = replica.optimizer.state[replica.parameters[0]]
        next(value for value in state.values() if isinstance(value, torch.Tensor) and value.dim()).fill_(bad)
    elif where == "buffer":
        next(layer for layer in replica.model.modules() if isinstance(layer, nn.BatchNorm1d)).running_var.fill_(bad)
    else:
        hook = replica.model.register_forward_hook(lambda model, _, outputs: outputs * bad if hook.remove() is None else outputs)  # and so the loss


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize("where", ["parameter", "gradient", "momentum", "buffer", "loss"])
@pytest.mark.parametrize("name", COUPLED)
def test_a_replica_with_numbers_that_are_not_finite_harms_nobody(name, where, bad):
    kind = parle.ALGORITHMS[name]
    if where == "momentum" and kind.steps_at_center:
        pytest.skip("its optimizer has no momentum")
    period = () if kind.round_before_step or name in ("easgd", "one-shot") else ("algorithm.period=5",)
    run = training(f"algorithm={name}", "replicas=3", *period)
    run.advance(12)
    poison(where, run, bad)
    run.advance(60)
    run.replicas.finish()
    assert all(torch.isfinite(run.replicas.vector(its)).all() for its in run.replicas.names())
    assert torch.isfinite(run.replicas.solution_vector()).all() and torch.isfinite(run.replicas.reference).all()
    record = run.record(500)
    assert record["consensus"]["error_pct"] < 60
    if where in ("parameter", "gradient", "loss"):
        assert record["refused"][1] > 0 and record["refused"][0] == record["refused"][2] == 0
    for model in run.replicas.models[::2]:
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_round_is_the_mean_of_those_that_are_finite():
    models = [nn.Linear(3, 1) for _ in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    replicas = parle.join(models, optimizers, parle.LocalSGD(period=2))
    for step in range(2):
        for model, optimizer in zip(models, optimizers, strict=True):
            model(torch.ones(4, 3)).sum().backward()
            if step and model is models[1]:
                replicas.params[1] = float("nan")
            if step == 1 and model is models[2]:
                expected = replicas.params.clone()
            optimizer.step()
            optimizer.zero_grad()
    expected[2] = expected[2] - 0.1 * (1.9 * torch.tensor([4.0, 4.0, 4.0, 4.0]))
    torch.testing.assert_close(replicas.reference, (expected[0] + expected[2]) / 2)
    assert replicas.refusals.counts == [0, 1, 0] and not optimizers[1].state and optimizers[0].state


def test_a_replica_that_never_recovers_ends_the_run():
    run = training("algorithm=local-sgd", "algorithm.period=2", "replicas=3")
    run.replicas._replicas[1].model[1].bias.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(parle.DivergedError, match=r"Replica 1 comes to round 10 .* for the 11th time in a row"):
        run.advance(60)
    assert torch.isfinite(run.replicas.reference).all()


def test_a_round_without_any_finite_numbers_ends_the_run():
    run = training("algorithm=parle", "replicas=2")
    run.advance(20)
    run.replicas.params[:, 3] = float("inf")
    before = run.replicas.reference.clone()
    with pytest.raises(parle.DivergedError, match="Every replica comes to this round"):
        run.advance(10)
    assert torch.equal(run.replicas.reference, before)


# Other numbers of replicas


@pytest.mark.parametrize("name", COUPLED)
def test_surplus_replicas_are_dropped_and_new_ones_start_from_the_reference(name):
    before = training(f"algorithm={name}", "replicas=3")
    before.advance(44)
    state = before.state_dict()
    fewer, more = training(f"algorithm={name}", "replicas=2"), training(f"algorithm={name}", "replicas=5")
    assert resized([state], fewer) == 3 and resized([state], more) == 3
    assert torch.equal(fewer.replicas.params, before.replicas.params[:2]) and torch.equal(more.replicas.params[:3], before.replicas.params)
    if not before.plan.algorithm.means_gradients:
        assert torch.equal(more.replicas.params[3:], before.replicas.reference.expand(2, -1))
    for run in (fewer, more):
        assert (run.step, run.round) == (before.step, before.round)
        run.advance(44)
        assert torch.isfinite(run.replicas.params).all()


def test_replicas_of_several_processes_go_on_in_one():
    whole = training("algorithm=parle", "replicas=3")
    whole.advance(33)
    state = copy.deepcopy(whole.state_dict())
    parts = []
    for mine in (slice(0, 2), slice(2, 3)):
        its = {key: state[key][mine] for key in ("optimizers", "streams", "since", "taken", "losses", "buffers")}
        inner = state["replicas"]
        ours = {key: inner[key][mine] for key in ("steps", "refusals")} | {"vectors": {name: rows[mine] for name, rows in inner["vectors"].items()}}
        ours["pace"] = inner["pace"] | {key: inner["pace"][key][mine] for key in ("losses", "told")}
        parts.append(state | its | {"replicas": inner | ours | {"first": mine.start, "replicas": mine.stop - mine.start}})
    again = training("algorithm=parle", "replicas=3")
    resized(parts, again)
    whole.advance(30)
    again.advance(30)
    assert torch.equal(whole.replicas.params, again.replicas.params)


def test_the_command_goes_on_with_another_number(parle_command):
    assert parle_command("train", "-n", "3", "-e", "2", "--name", "a", "--json").code == 0
    run = RunFolder(Path("runs/a"))
    run.write_json(run.status, {"state": "interrupted"})
    assert parle_command("resume", "runs/a", "-n", "3", "--json").code == 0  # at its end already
    first = sorted(path for path in run.checkpoints.glob("step-*"))[0]
    for path in sorted(run.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(path)
    run.write_json(run.status, {"state": "interrupted"})
    told = parle_command("resume", "runs/a", "-n", "5")
    assert told.code == 0 and "continues with 5 replicas instead of 3, 2 of them new, from the reference" in told.err, (first, told.err)
    assert len(run.records()[-1]["replicas"]) == 5 and config.load(run.config).replicas == 5


# When, and which


def test_checkpoints_are_written_when_asked_and_the_best_is_kept(parle_command):
    assert (
        parle_command("train", "-a", "local-sgd", "--set", "algorithm.period=11", "-e", "6", "--name", "a", "--checkpoint-every", "3rounds", "--json").code == 0
    )
    run = RunFolder(Path("runs/a"))
    errors = {record["step"]: record["consensus"]["error_pct"] for record in run.records()}
    kept = [int(path.name[5:]) for path in checkpoint.all_in(run.checkpoints)]
    assert min(errors, key=errors.get) in kept and len(kept) <= 3
    manifest = json.loads((run.checkpoints / f"step-{kept[-1]:08d}" / "manifest.json").read_text())["manifest"]
    assert manifest["versions"]["parle"] == parle.__version__ and set(manifest["files"]) == {"state.json", "state.safetensors"}
    told = parle_command("train", "--checkpoint-every", "5furlongs", "--name", "b")
    assert told.code == 2 and "checkpoint.every is `5furlongs`" in told.err


@pytest.mark.parametrize(("text", "expected"), [("5rounds", (5, "rounds")), ("1 epoch", (1, "epochs")), ("0.5h", (1800, "seconds")), ("30s", (30, "seconds"))])
def test_amounts_have_units(text, expected):
    assert amount(text) == expected


def test_a_checkpoint_of_another_run_is_refused(parle_command):
    for seed in "01":
        assert parle_command("train", "-a", "sgd", "-e", "1", "-s", seed, "--name", f"r{seed}", "--json").code == 0
    shutil.rmtree("runs/r0/checkpoints")
    shutil.copytree("runs/r1/checkpoints", "runs/r0/checkpoints")
    run = RunFolder(Path("runs/r0"))
    run.write_json(run.status, {"state": "interrupted"})
    told = parle_command("resume", "runs/r0")
    assert told.code == 2 and "belongs to something else" in told.err


# Files


@pytest.mark.parametrize("file", [checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "pickle"])
def test_every_damage_to_every_file_is_noticed_and_the_one_before_used(parle_command, file, damage):
    assert parle_command("train", "-n", "2", "-e", "2", "--name", "a", "--json").code == 0
    run = RunFolder(Path("runs/a"))
    before, newest = checkpoint.all_in(run.checkpoints)[-2:]
    content = bytearray((newest / file).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    if damage == "pickle":  # would make a file, if anybody unpickled it
        content = b"cos\nsystem\n(S'touch executed'\ntR."
    (newest / file).write_bytes(content[: -len(content) // 3] if damage == "truncate" else content)
    if damage == "remove":
        (newest / file).unlink()
    run.write_json(run.status, {"state": "interrupted"})
    assert parle_command("resume", "runs/a", "--json").code == 0
    refused = [json.loads(line) for line in run.events.read_text().splitlines() if "checkpoint refused" in line]
    assert [its["folder"] for its in refused] == [newest.name] and file in refused[0]["reason"]
    assert not Path("executed").exists() and before.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "state.json/../../x", "more.json"])
def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path, name):
    folder = tmp_path / "step-00000001"
    checkpoint.write(folder, {"a": torch.ones(3)})
    told = json.loads((folder / checkpoint.MANIFEST).read_text())["manifest"]
    told["files"][name] = told["files"].pop(checkpoint.STATE)
    (folder / checkpoint.MANIFEST).write_text(json.dumps({"manifest": told, "sha256": checkpoint._digest_of(told)}))
    with pytest.raises(parle.ConfigError, match="names the files"):
        checkpoint.read(folder)


def test_a_crash_between_two_renames_loses_nothing(tmp_path):
    checkpoint.write(tmp_path / "mine", {"a": 1})
    (tmp_path / "mine").rename(tmp_path / "mine.old-7")
    assert checkpoint.read(tmp_path / "mine") == {"a": 1}
    (tmp_path / "step-00000001.tmp-7").mkdir()
    checkpoint.prune(tmp_path, keep=1)
    assert not (tmp_path / "step-00000001.tmp-7").exists()


def test_what_the_disk_refuses_in_the_background_is_raised(tmp_path, monkeypatch):
    writer = checkpoint.Writer()
    writer.write(tmp_path / "step-00000001", {"a": 1}, keep=2)
    writer.flush()
    monkeypatch.setattr(checkpoint, "_flush", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    writer.write(tmp_path / "step-00000002", {"a": 2}, keep=2)
    with pytest.raises(parle.SetupError, match="No space left on device"):
        writer.flush()
    assert [path.name for path in checkpoint.all_in(tmp_path)] == ["step-00000001"] and checkpoint.read(tmp_path / "step-00000001") == {"a": 1}


# A loop of one's own


def test_a_loop_of_ones_own_goes_on_bit_for_bit(tmp_path):
    def loop(cut=None, path=None):
        with RandomStream(3):
            models = [nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)) for _ in range(2)]
            optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
            schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 3) for optimizer in optimizers]
            replicas = parle.join(models, optimizers, parle.Parle(period=4))
            things, first = {f"scheduler{index}": scheduler for index, scheduler in enumerate(schedulers)}, 0
            if path:
                torch.rand(7)
                first = parle.load(path, replicas, **things)["step"]
            for step in range(first, 20):
                if step == cut:
                    parle.save(tmp_path / "now", replicas, **things, step=step)
                    return None
                for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
                    optimizer.zero_grad()
                    model(torch.randn(6, 4)).square().mean().backward()
                    optimizer.step()
                    scheduler.step()
            return replicas.params.clone()

    whole = loop()
    loop(cut=10)
    assert torch.equal(loop(path=tmp_path / "now"), whole)


def test_what_cannot_be_saved_or_was_not_is_said(tmp_path):
    model = nn.Linear(2, 1)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD())
    with pytest.raises(parle.ConfigError, match="cannot hold a set"):
        parle.save(tmp_path / "now", replicas, seen={1, 2})
    parle.save(tmp_path / "now", replicas, epoch=1)
    with pytest.raises(parle.ConfigError, match=r"scaler is not in the checkpoint .* which has epoch"):
        parle.load(tmp_path / "now", replicas, scaler=model)


# Signals and lost processes


def start(*arguments, cwd):
    command = [sys.executable, "-m", "parle", "train", "--json", "--name", "a", "--set", "threads=1", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_signals_end_with_a_checkpoint(tmp_path, number, code):
    process = start("-e", "2000", "-n", "2", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "runs/a/metrics.jsonl").exists())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "the checkpoint" in said and "parle resume runs/a" in said
    status = json.loads((tmp_path / "runs/a/status.json").read_text())
    newest = checkpoint.all_in(tmp_path / "runs/a/checkpoints")[-1]
    assert status["state"] == "interrupted" and newest.name == f"step-{status['step']:08d}" and checkpoint.read(newest)


def test_a_second_interrupt_ends_at_once_and_leaves_the_last_checkpoint_intact(tmp_path):
    process = start("-e", "2000", "-n", "2", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "runs/a/metrics.jsonl").exists())
    before = checkpoint.all_in(tmp_path / "runs/a/checkpoints")[-1]
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    newest = checkpoint.all_in(tmp_path / "runs/a/checkpoints")[-1]
    assert newest.name >= before.name and checkpoint.read(newest)


def children_of(process):
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed]
    found, ours = [], {str(process.pid)}
    for _ in range(3):
        ours |= {pid for pid, parent, _ in rows if parent in ours}
    for pid, _, words in rows:
        if pid in ours and "forkserver" in words and pid != str(process.pid):
            found.append(int(pid))
    return [pid for pid in found if any(str(pid) == child and int(parent) in found for child, parent, _ in rows)]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to find the processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_elastic_processes_start_again_from_the_last_checkpoint_and_end_where_they_would_have(tmp_path, number):
    arguments = ["-n", "3", "--processes", "-e", "40", "--checkpoint-every", "2rounds", "--elastic"]
    process = start(*arguments, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "runs/a/metrics.jsonl").exists())
    children = children_of(process)
    assert len(children) == 3
    os.kill(children[-1], number)
    out, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    events = [json.loads(line) for line in (tmp_path / "runs/a/events.jsonl").read_text().splitlines()]
    assert [its["event"] for its in events].count("lost") == 1
    whole, said = start(*arguments, "--name", "b", cwd=tmp_path).communicate(timeout=150)
    assert whole, said
    first, second = (json.loads(text.splitlines()[-1]) for text in (out, whole))
    assert (first["error_pct"], first["loss"]) == (second["error_pct"], second["loss"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to find the processes")
def test_torchrun_starts_all_again_and_they_go_on_from_the_last_checkpoint(tmp_path):
    def torchrun(name, restarts):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", restarts, "-m", "parle", "train"]
        options = ["-e", "40", "--name", name, "--checkpoint-every", "2rounds", "--set", "threads=1", "--set", "evaluation.every=40", "--json"]
        return subprocess.Popen([*command, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process, run = torchrun("a", "2"), RunFolder(tmp_path / "runs/a")
    wait_for(lambda: len(checkpoint.all_in(run.checkpoints)) > 1)
    pids = [json.loads(line)["pid"] for rank in (0, 1) for line in (run.logs / f"process-{rank}.jsonl").read_text().splitlines() if '"start"' in line]
    os.kill(pids[1], signal.SIGKILL)
    out, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    starts = [line for line in (run.logs / "process-0.jsonl").read_text().splitlines() if '"start"' in line]
    assert len(starts) == 2
    whole, _ = torchrun("b", "0").communicate(timeout=150)
    first, second = (json.loads(text.splitlines()[-1]) for text in (out, whole))
    assert (first["error_pct"], first["loss"], first["rounds"]) == (second["error_pct"], second["loss"], second["rounds"])


# What a second reader found


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize(
    "wrap", [lambda inner: inner, parle.Metered, lambda inner: parle.Metered(parle.Compressed(inner, "int8"))], ids=["plain", "metered", "int8"]
)
def test_the_mean_is_that_of_the_others_whoever_is_left_out(wrap, bad):
    models = [nn.Linear(64, 1, bias=False) for _ in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0) for model in models]
    replicas = parle.join(models, optimizers, parle.LocalSGD(period=1), wrap(parle.InProcess()))
    replicas.move_reference(torch.zeros(64))
    replicas.params.copy_(torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 64))
    replicas.params[bad] = float("nan")
    for model, optimizer in zip(models, optimizers, strict=True):
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
    expected = sum(value for row, value in enumerate((1.0, 2.0, 3.0)) if row != bad) / 2
    torch.testing.assert_close(replicas.reference, torch.full((64,), expected), rtol=0.02, atol=0)


def test_equal_replicas_stay_equal_after_one_was_poisoned_or_came_later():
    run = training("algorithm=data-parallel", "replicas=3")
    run.advance(5)
    run.replicas._replicas[1].r.params[0, 3] = float("nan")
    run.advance(6)
    assert torch.equal(run.replicas.params[0], run.replicas.params[1]) and torch.equal(run.replicas.params[0], run.replicas.params[2])
    more = training("algorithm=data-parallel", "replicas=4")
    resized([copy.deepcopy(run.state_dict())], more)
    more.advance(6)
    assert torch.equal(more.replicas.params, more.replicas.params[:1].expand(4, -1))


def test_saving_never_removes_what_is_not_a_checkpoint(tmp_path):
    model = nn.Linear(2, 1)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years")
    with pytest.raises(parle.ConfigError, match="holds other things"):
        parle.save(tmp_path / "results", replicas)
    assert (tmp_path / "results" / "thesis.txt").read_text() == "years"
    parle.save(tmp_path / "now", replicas, shape=model.weight.shape)
    assert parle.load(tmp_path / "now", replicas) == {"shape": (1, 2)}
    with pytest.raises(parle.ConfigError, match="cannot hold a dict with the key"):
        parle.save(tmp_path / "now", replicas, seen={(1, 2): 3})


def test_nothing_is_changed_by_a_checkpoint_of_another_kind(tmp_path):
    def fresh(kind):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        return parle.join(model, kind(model.parameters(), lr=0.1), parle.LocalSGD())

    parle.save(tmp_path / "now", fresh(torch.optim.SGD))
    other = fresh(torch.optim.Adam)
    before = other.params.clone()
    with pytest.raises(parle.ConfigError, match="The optimizers were"):
        parle.load(tmp_path / "now", other)
    assert torch.equal(other.params, before)


def test_a_model_with_an_infinite_buffer_has_checkpoints(parle_command):
    Path("masked.py").write_text(
        "import torch\nfrom torch import nn\nclass Masked(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "        self.register_buffer('mask', torch.full((2,), float('-inf')))\ndef make():\n    return Masked()\n"
    )
    assert parle_command("train", "-m", "masked.py:make", "-e", "1", "--name", "a", "--json").code == 0
    assert checkpoint.all_in(Path("runs/a/checkpoints"))


def test_a_torn_status_is_that_of_a_run_that_is_not_done(parle_command):
    assert parle_command("train", "-e", "1", "-n", "2", "--name", "a", "--json").code == 0
    Path("runs/a/status.json").write_text("")
    assert parle_command("resume", "runs/a", "--json").code == 0


def test_a_server_goes_on_with_as_many_replicas_as_it_had(parle_command):
    assert parle_command("train", "-a", "server-sgd", "-n", "3", "--quorum", "2", "-e", "1", "--name", "a", "--json").code == 0
    run = RunFolder(Path("runs/a"))
    run.write_json(run.status, {"state": "interrupted"})
    told = parle_command("resume", "runs/a", "-n", "4")
    assert told.code == 2 and "A server goes on with the 3 replicas that it had, got 4" in told.err
    assert parle_command("resume", "runs/a", "--json").code == 0
