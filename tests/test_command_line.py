"""The command line: what it prints, writes and promises."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import parle

SHORT = ["train", "-e", "1", "--json"]
KEYS = [
    "run",
    "algorithm",
    "model",
    "data",
    "replicas",
    "epochs",
    "seed",
    "error_pct",
    "loss",
    "seconds",
    "images_per_second",
    "steps",
    "rounds",
    "gradient_evaluations",
    "bytes_sent_per_replica",
    "params",
    "exit_code",
]


def test_train_prints_one_json_object_and_fills_the_run_folder(parle_command):
    done = parle_command(*SHORT, "--name", "a")
    assert done.code == 0, done.err
    result, run = done.json, Path("runs/a")
    assert set(KEYS) <= result.keys()
    assert (result["algorithm"], result["model"], result["data"], result["replicas"], result["params"]) == ("parle", "mlp", "digits", 3, 86_026)
    assert result["gradient_evaluations"] == 3 * result["steps"] == 3 * 44
    assert result["rounds"] == 2 and result["bytes_sent_per_replica"] == 2 * 86_026 * 4  # the second one at the end
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "env.json", "metrics.jsonl", "events.jsonl", "status.json", "checkpoints", "final"}
    assert json.loads((run / "status.json").read_text())["result"] == result
    assert json.loads((run / "env.json").read_text())["torch"] == torch.__version__
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["consensus"]["error_pct"] == result["error_pct"]
    assert len(record["replicas"]) == len(record["distance"]) == len(record["train_loss"]) == 3
    assert {"gamma", "rho", "lr", "period", "alpha", "momentum"} == record["algorithm"].keys()
    assert {"epoch", "step", "round", "seconds", "images_per_second", "inner_lr"} <= record.keys()


def test_the_resolved_configuration_reruns_to_the_same_numbers(parle_command):
    first = parle_command(*SHORT, "--name", "a", "--set", "algorithm.rho=0.5").json
    text = Path("runs/a/config.yaml").read_text()
    assert "rho: 0.5" in text and "gamma: scoping(100.0, batches=" in text and "lr: steps(0.1, at=[1], factor=3.0)" in text
    again = parle_command("train", "-c", "runs/a/config.yaml", "--name", "b", "--json").json
    assert (again["error_pct"], again["loss"]) == (first["error_pct"], first["loss"])
    assert Path("runs/a/final/model.safetensors").read_bytes() == Path("runs/b/final/model.safetensors").read_bytes()


def test_an_option_beats_a_setting_beats_a_file_beats_a_default(parle_command):
    Path("c.yaml").write_text("epochs: 0.3\nseed: 5\nreplicas: 4\nalgorithm: {name: local-sgd, period: 7}\n")
    result = parle_command("train", "-c", "c.yaml", "--set", "seed=6", "--set", "replicas=2", "-n", "1", "--json", "--name", "a").json
    assert (result["epochs"], result["seed"], result["replicas"], result["algorithm"]) == (0.3, 6, 1, "local-sgd")
    assert "period: 7" in Path("runs/a/config.yaml").read_text()


def test_another_algorithm_leaves_the_settings_of_the_former_behind(parle_command):
    Path("c.yaml").write_text("epochs: 0.2\nalgorithm: {name: parle, rho: 0.7}\n")
    assert parle_command("train", "-c", "c.yaml", "-a", "local-sgd", "--set", "algorithm.period=5", "--json", "--name", "a").code == 0
    assert "period: 5" in Path("runs/a/config.yaml").read_text() and "rho" not in Path("runs/a/config.yaml").read_text()


def test_the_papers_own_schedule_is_one_option_away(parle_command):
    """44 batches in an epoch: springs by equation (9) with B = 44, outer rate dropped after 2 B rounds, the paper's variant."""
    import yaml

    parle_command("train", "-e", "0.2", "--set", "schedule=paper", "--name", "a")
    algorithm = yaml.safe_load(Path("runs/a/config.yaml").read_text())["algorithm"]
    assert algorithm == {
        "name": "parle",
        "variant": "paper",
        "period": 25,
        "gamma": "scoping(100.0, batches=44, floor=1.0)",
        "rho": "scoping(1.0, batches=44, floor=0.1)",
        "alpha": 0.75,
        "lr": "steps(0.1, at=[88], factor=10.0)",
        "momentum": 0.9,
    }
    parle_command("train", "-e", "0.2", "--set", "algorithm.variant=paper", "--name", "b")
    algorithm = yaml.safe_load(Path("runs/b/config.yaml").read_text())["algorithm"]
    assert algorithm["variant"] == "paper" and algorithm["lr"] == "steps(0.1, at=[1], factor=3.0)"


def test_a_fraction_of_an_epoch_is_trained(parle_command):
    assert parle_command("train", "-e", "0.2", "-n", "1", "--json").json["steps"] == 9


def test_every_algorithm_trains_from_the_command_line(parle_command):
    import parle

    for name, kind in parle.ALGORITHMS.items():
        result = parle_command("train", "-a", name, "-e", "0.5", "--json", "--name", name).json
        assert result["replicas"] == (1 if kind.single else 3) and result["error_pct"] < 90, name


def test_eval_gives_the_error_that_train_printed(parle_command):
    result = parle_command(*SHORT, "--name", "a").json
    tested = parle_command("eval", "runs/a", "--json").json
    assert tested["error_pct"] == result["error_pct"] and tested["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert tested["samples"] == 360
    assert "runs/a" in parle_command("eval", "runs/a").out


def test_compare_shows_runs_at_equal_budgets(parle_command):
    parle_command("train", "-e", "2", "-n", "2", "--name", "two")
    parle_command("train", "-e", "1", "-a", "sgd", "--name", "one")
    table = parle_command("compare", "runs/two", "runs/one")
    assert table.code == 0 and "two" in table.out and "gradient evaluations <= 44" in table.out
    compared = parle_command("compare", "runs/two", "runs/one", "--json").json
    assert compared["equal"]["epochs"]["budget"] == 1.0
    record = json.loads(Path("runs/two/metrics.jsonl").read_text().splitlines()[0])
    assert compared["equal"]["epochs"]["error_pct"]["two"] == record["consensus"]["error_pct"]
    assert compared["equal"]["gradient evaluations"]["error_pct"]["two"] is None  # its first evaluation is at 88
    sent = compared["equal"]["bytes sent per replica"]
    assert sent["budget"] == compared["final"][0]["bytes sent per replica"] > 0
    assert sent["error_pct"]["one"] == compared["final"][1]["error_pct"]  # it sends nothing, within any budget


def test_resuming_a_run_that_is_done_gives_its_result_again(parle_command):
    result = parle_command(*SHORT, "--name", "a").json
    lines = Path("runs/a/metrics.jsonl").read_text()
    assert parle_command("resume", "runs/a", "--json").json == result
    assert Path("runs/a/metrics.jsonl").read_text() == lines


def test_an_option_on_a_resolved_configuration_changes_what_follows_from_it(parle_command):
    import yaml

    parle_command("train", "-e", "0.2", "--set", "algorithm.rho=0.5", "--name", "a")
    parle_command("train", "-c", "runs/a/config.yaml", "--lr", "0.01", "--name", "b")
    first, second = (yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text())["algorithm"] for name in "ab")
    assert first["lr"].startswith("steps(0.1,") and second["lr"].startswith("steps(0.01,")
    assert first["rho"] == second["rho"] == 0.5


def test_compare_tells_variants_apart(parle_command):
    parle_command("train", "-e", "0.2", "--name", "a")
    parle_command("train", "-e", "0.2", "--set", "algorithm.variant=paper", "--name", "b")
    table = parle_command("compare", "runs/a", "runs/b").out
    assert "parle (dev2017)" in table and "parle (paper)" in table


def test_list_and_explain_speak_from_the_classes(parle_command):
    listed = parle_command("list", "--json").json
    assert listed["algorithms"].keys() == parle.ALGORITHMS.keys() and "lenet" in listed["models"] and "digits" in listed["data"]
    assert "local-sgd" in parle_command("list", "algorithms").out
    for name, kind in parle.ALGORITHMS.items():
        page = parle_command("explain", name).out
        for heading in ("Paper:", "## Settings", "## Under `parle train`", "## Cost", "## Where it runs", "## Special cases"):
            assert heading in page, name
        assert kind.special_cases[0] in page
    page = parle_command("explain", "parle").out
    assert "(8a)" in page and "params, x, z, m" in page and "4,000,000 bytes" in page and ">>>" not in page
    assert "| `rho` | 1.0 | spring between x^a and the reference; large is loose | above 0 |" in page
    assert "any quorum: asynchronous, partial rounds | no: Parle needs all replicas in every round" in page
    assert "any quorum: asynchronous, partial rounds | yes |" in parle_command("explain", "easgd").out


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_explain_names_the_settings_that_train_derives(name):
    from parle import config, settling
    from parle.reports import explain

    made = settling.algorithm_for(config.parse({"algorithm": {"name": name}, "replicas": 1, "epochs": 20}), batches=100)
    derived = {field.name for field in dataclasses.fields(made) if getattr(made, field.name) != field.default}
    assert set(re.findall(r"^- `(\w+)`:", explain.under_train(name, parle.ALGORITHMS[name]), re.MULTILINE)) == derived


def test_doctor_names_what_is_missing(parle_command, monkeypatch):
    from parle.reports import doctor

    report = parle_command("doctor", "--json").json
    assert report["torch"] == torch.__version__ and report["packages"]["pyarrow"]
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert 'pip install "parle-sgd[data]"' in parle_command("doctor").out


def test_train_shows_a_table_with_the_baseline(parle_command):
    done = parle_command("train", "-e", "1", "--baseline", "--name", "a")
    assert done.code == 0
    for word in ("consensus", "replica 0", "replica 2", "one plain SGD"):
        assert word in done.out
    plain = json.loads(Path("runs/a-plain-sgd/status.json").read_text())["result"]
    assert plain["gradient_evaluations"] == 3 * 44 and plain["replicas"] == 1


def test_a_spring_that_overshoots_is_warned_of(parle_command):
    err = parle_command("train", "-e", "4", "--lr", "0.2", "--json").err  # too much where rho is at its clip and lr has not dropped
    assert "settle only below 1.36" in err and "From round" in err and err.count("caution") == 1
    assert "caution" not in parle_command("train", "-e", "4", "--json").err


def test_help_shows_examples():
    done = subprocess.run([sys.executable, "-m", "parle", "train", "--help"], capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == 0 and "parle train -m lenet -d mnist -a parle -n 3 -e 5" in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_resume_ends_as_if_never_stopped(parle_command, number, code):
    whole = parle_command("train", "-e", "40", "-n", "2", "--name", "whole", "--json")
    command = [sys.executable, "-m", "parle", "train", "-e", "40", "-n", "2", "--name", "cut", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Path("runs/cut/metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Continue with `parle resume runs/cut`" in err and "Traceback" not in err
    resumed = parle_command("resume", "runs/cut", "--json")
    assert resumed.code == 0, resumed.err
    assert Path("runs/cut/final/model.safetensors").read_bytes() == Path("runs/whole/final/model.safetensors").read_bytes()
    lines = [json.loads(line) for line in Path("runs/cut/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == whole.json["steps"]
    timed = ("seconds", "images_per_second", "seconds_waited", "seconds_exchanged")
    expected = [json.loads(line) for line in Path("runs/whole/metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [{k: v for k, v in line.items() if k not in timed} for line in expected]
