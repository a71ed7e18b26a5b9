"""Loggers: what they hear, once each, and that a run does not depend on them."""

import json
import shutil
from pathlib import Path

import pytest

from parle import loggers

HEARS = """
import json, os

class Hears:
    def start(self, folder, settings, step):
        self.file = folder / "heard.jsonl"
        self.tell("start", step, settings["epochs"])

    def record(self, record):
        self.tell("record", record["step"], record["consensus"]["error_pct"])
        record.clear()

    def end(self, status):
        self.tell("end", status["state"], status["exit_code"])

    def tell(self, *what):
        with open(self.file, "a") as file:
            file.write(json.dumps([*what, os.getpid()]) + "\\n")


class Raises(Hears):
    verb = None

    def tell(self, *what):
        if what[0] == self.verb:
            raise RuntimeError("no network\\nand more")
        super().tell(*what)


class RaisesInStart(Raises):
    verb = "start"

class RaisesInRecord(Raises):
    verb = "record"

class RaisesInEnd(Raises):
    verb = "end"
"""


@pytest.fixture
def own_logger():
    Path("mine.py").write_text(HEARS)
    return "mine.py:Hears"


def heard(run: str = "runs/a") -> list[list]:
    return [json.loads(line) for line in (Path(run) / "heard.jsonl").read_text().splitlines()]


def records(run: str = "runs/a") -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def go_back_to(step: int, run: str = "runs/a") -> None:
    """As if the run had been killed before it wrote the checkpoints of later steps, but after it wrote their records."""
    for folder in Path(run, "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    Path(run, "status.json").write_text('{"state": "running"}')


def test_a_logger_hears_the_configuration_every_record_and_the_end(parle_command, own_logger):
    done = parle_command("train", "-e", "2", "--name", "a", "--logger", own_logger, "--json")
    assert done.code == 0, done.err
    told = [line[:-1] for line in heard()]
    assert told == [["start", 0, 2.0], *(["record", its["step"], its["consensus"]["error_pct"]] for its in records()), ["end", "done", 0]]
    assert [its["step"] for its in records()] == [44, 88] and done.json["steps"] == 88  # although the logger has cleared the record


def test_a_resumed_run_says_where_it_goes_on(parle_command, own_logger):
    parle_command("train", "-e", "2", "--name", "a", "--set", f"loggers={own_logger}")
    go_back_to(44)
    Path("runs/a/heard.jsonl").unlink()
    assert parle_command("resume", "runs/a").code == 0
    assert [line[:2] for line in heard()] == [["start", 44], ["record", 88], ["end", "done"]]
    assert [its["step"] for its in records()] == [44, 88]


def test_only_the_first_of_several_processes_logs(parle_command, own_logger):
    done = parle_command("train", "-e", "1", "-n", "2", "--processes", "--name", "a", "--logger", own_logger)
    assert done.code == 0, done.err
    assert [line[0] for line in heard()] == ["start", "record", "end"] and len({line[-1] for line in heard()}) == 1


def test_a_logger_hears_that_a_run_has_failed(parle_command, own_logger):
    done = parle_command("train", "-e", "1", "-a", "local-sgd", "--lr", "1e30", "--name", "a", "--logger", own_logger)
    assert done.code == 4
    assert [line[:-1] for line in heard()] == [["start", 0, 1.0], ["end", "failed", 4]]


@pytest.mark.parametrize("verb", ["start", "record", "end"])
def test_a_run_goes_on_without_a_logger_that_raises(parle_command, own_logger, verb):
    plain = parle_command("train", "-e", "2", "--name", "plain", "--json").json
    done = parle_command("train", "-e", "2", "--name", "a", "--logger", f"mine.py:RaisesIn{verb.capitalize()}", "--logger", own_logger, "--json")
    assert done.code == 0
    assert (done.json["error_pct"], done.json["loss"]) == (plain["error_pct"], plain["loss"])
    warnings = [line for line in done.err.splitlines() if "caution" in line]
    assert len(warnings) == 1 and f"failed in {verb} (RuntimeError: no network) and hears nothing more" in warnings[0]
    assert [its["step"] for its in records()] == [44, 88]
    events = [json.loads(line) for line in Path("runs/a/events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "caution" for event in events) == 1
    its = [line[0] for line in heard()]  # of both loggers, the second of which hears all
    assert its.count("start") == 2 - (verb == "start") and its.count("end") == 1 and its.count("record") == (4 if verb == "end" else 2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "`tensorbord` is not a logger. Did you mean tensorboard?"),
        ("math:pi", "Logger `math:pi` is 3.14"),
        ("mine.py:Nothing", "has no attribute `Nothing`"),
        ("builtins:open", "cannot be made: TypeError"),
        ("builtins:object", "has no start and no record and no end"),
    ],
)
def test_what_is_no_logger_is_refused_before_the_run_begins(parle_command, own_logger, name, words):
    done = parle_command("train", "--name", "a", "--logger", name)
    assert done.code == 2 and words in done.err and not Path("runs/a").exists()


def test_a_missing_package_is_named(monkeypatch, parle_command):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = parle_command("train", "--name", "a", "--logger", "tensorboard")
    assert done.code == 3 and "pip install 'parle-sgd[tensorboard]'" in done.err and not Path("runs/a").exists()


def test_tensorboard_shows_every_number_of_every_record_once(parle_command):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert parle_command("train", "-e", "3", "--name", "a", "--logger", "tensorboard").code == 0
    go_back_to(88)
    assert parle_command("resume", "runs/a").code == 0
    assert len(list(Path("runs/a/tensorboard").iterdir())) == 2
    seen = EventAccumulator("runs/a/tensorboard").Reload()
    expected = {}
    for record in records():
        for name, number in loggers.numbers(record).items():
            expected.setdefault(name, []).append((record["step"], pytest.approx(number, rel=1e-6)))
    del expected["step"]
    assert {name: [(event.step, event.value) for event in seen.Scalars(name)] for name in seen.Tags()["scalars"]} == expected
    assert {"consensus/error_pct", "train_loss/2", "algorithm/rho", "replicas/0/loss"} <= expected.keys()
    assert b"batch_size" in seen.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]
