"""`--fast`: what is measured is turned on where it pays, recorded, and never measured again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import parle
from parle import config, fast, jobs, plans, settling
from parle.plans import Quiet

PAYS = {"channels_last": 0.7, "precision": 1.3, "fused": 1.05}


@pytest.fixture
def measured(monkeypatch):
    """Ratios as if they had been measured; the list of what was asked for."""
    asked = []

    def ratio(tried, plan):
        field = next(name for name in PAYS if getattr(tried, name) != getattr(plan, name))
        asked.append(field)
        return PAYS[field]

    monkeypatch.setattr(fast, "times_as_fast", ratio)
    return asked


def recorded(name: str) -> dict:
    return yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text())


def test_what_pays_is_turned_on_said_and_written_down(parle_command, measured):
    done = parle_command("train", "--fast", "-e", "1", "--name", "a")
    assert done.code == 0, done.err
    assert measured == ["channels_last", "precision", "fused"]
    assert "model.channels_last: 0.70 times as fast, off" in done.err
    assert "precision bf16: 1.30 times as fast, on" in done.err and "optimizer.fused: 1.05 times as fast, on" in done.err
    its = recorded("a")
    assert (its["model"]["channels_last"], its["precision"], its["optimizer"]["fused"]) == (False, "bf16", True)
    assert its["fast"] == {"model.channels_last": 0.7, "precision": 1.3, "optimizer.fused": 1.05}


def test_less_precision_has_to_pay_more(parle_command, measured, monkeypatch):
    monkeypatch.setitem(PAYS, "precision", 1.06)
    assert parle_command("train", "--fast", "-e", "1", "--name", "a").code == 0
    assert recorded("a")["precision"] == "float32"


def test_what_is_given_stays(parle_command, measured):
    done = parle_command("train", "--fast", "-e", "1", "--set", "precision=float32", "--set", "model.channels_last=true", "--name", "a")
    assert measured == ["fused"] and "precision: given, float32" in done.err and "model.channels_last: given, True" in done.err
    assert (recorded("a")["precision"], recorded("a")["model"]["channels_last"]) == ("float32", True)


def test_a_rerun_and_a_resumed_run_take_what_was_measured(parle_command, measured):
    first = parle_command("train", "--fast", "-e", "1", "--name", "a", "--json").json
    measured.clear()
    again = parle_command("train", "-c", "runs/a/config.yaml", "--name", "b", "--json").json
    assert parle_command("resume", "runs/a", "--json").json == first
    assert not measured and again["loss"] == first["loss"] and recorded("b")["precision"] == "bf16"
    parle_command("train", "-c", "runs/a/config.yaml", "--fast", "--name", "c", "--set", "optimizer.fused=false")
    assert measured == ["channels_last", "precision"] and recorded("c")["optimizer"]["fused"] is False


def test_a_start_that_goes_on_with_a_run_takes_its_settings(measured, monkeypatch, tmp_path):
    """torchrun starts the same command again, with --fast in it."""
    settings = config.load(sets=("fast=true",))
    found = plans.load_data(settings)
    settings = settling.settled(settings, len(found.train))
    decided = jobs.decide(settings, found, Quiet(), 1)
    run = jobs.RunFolder(tmp_path / "run")
    run.create(False)
    run.write_text(run.config, config.to_yaml(decided))
    monkeypatch.setattr(fast, "times_as_fast", lambda *_: pytest.fail("measured again"))
    assert jobs.decide(settings, found, Quiet(), 1, run) == decided


@pytest.mark.parametrize("arguments", [("-m", "mlp"), ("-a", "server-sgd", "-n", "2"), ("-d", "text.txt", "-m", "char-gpt", "--set", "data.context=8")])
def test_it_measures_real_steps_and_leaves_no_trace(arguments):
    Path("text.txt").write_text("how often must replicas speak to each other? " * 60)
    options = dict(zip(("model.name" if arguments[0] == "-m" else "algorithm.name" if arguments[0] == "-a" else "data.name",), arguments[1:2], strict=True))
    if arguments[0] == "-d":
        options |= {"model.name": "char-gpt", "data.context": 8}
    settings = config.load(options=options | {"fast": True})
    found = plans.load_data(settings)
    settings = settling.settled(settling.served(settings), len(found.train))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    decided = fast.decided(settings, found, Quiet(), 1)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    expected = {"precision", "model.channels_last", "optimizer.fused"}
    expected -= {"model.channels_last"} if arguments[0] == "-d" else {"optimizer.fused"} if arguments[0] == "-a" else set()
    assert decided.fast.keys() == expected and all(ratio > 0 for ratio in decided.fast.values())
    assert config.from_text(config.to_yaml(decided)) == decided


def test_what_cannot_be_done_is_off(parle_command, monkeypatch):
    class Steps:
        def __init__(self, plan):
            if plan.channels_last:
                raise RuntimeError("not on this device")

        def seconds(self, count):
            return 0.01

    monkeypatch.setattr(fast, "_Steps", Steps)
    done = parle_command("train", "--fast", "-e", "1", "--name", "a")
    assert "model.channels_last: 0.00 times as fast, off" in done.err and "optimizer.fused: 1.00 times as fast, off" in done.err


def test_fused_steps_are_those_of_the_plain_optimizer_to_rounding():
    def trained(*sets):
        found = plans.load_data(configured := config.load(sets=sets))
        training = parle.training.Training(plans.plan_for(settling.settled(configured, len(found.train)), found))
        training.advance(30)
        return training.replicas.params

    for name in ("sgd", "adamw"):
        plain, fused = trained(f"optimizer={name}"), trained(f"optimizer={name}", "optimizer.fused=true")
        assert not torch.equal(plain, fused) and (plain - fused).norm() < 1e-3 * plain.norm()


PAGES = """
import resource, sys, torch
from parle import fast
if sys.argv[1] == "keep":
    fast.keep_memory()
def step():
    kept = [torch.ones(1 << 20) for _ in range(8)]
step(); step()
fetched = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    fetched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(fetched))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_kept_memory_is_not_fetched_again():
    def pages(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True).stdout)

    assert pages("keep") < 100  # of 8192, when the memory of the process no longer grows
    assert pages("system") >= pages("keep")  # more, as long as glibc has not moved its own limit


def test_keep_memory_can_be_turned_off(parle_command, monkeypatch):
    called = []
    monkeypatch.setattr(fast, "keep_memory", lambda: called.append(True))
    assert parle_command("train", "-e", "1", "--name", "a", "--set", "keep_memory=false").code == 0 and not called
    assert parle_command("train", "-e", "1", "--name", "b").code == 0 and called


def test_steps_in_one_pass_are_no_obstacle():
    settings = config.load(sets=("one_pass=true", "data.samples=64"), options={"algorithm.name": "parle", "replicas": 2})
    found = plans.load_data(settings)
    plan = plans.plan_for(settling.settled(settings, len(found.train)), found)
    assert plan.one_pass and fast.times_as_fast(plan, plan) > 0  # which are measured without a coupling, so without what is compiled into one
