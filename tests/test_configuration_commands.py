"""`parle config` and `parle train --dry-run`: what is configured, key by key, and what it would take."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import parle
from parle import config, schema

SHORT = ["train", "-e", "0.5", "--json"]


def by_key(done) -> dict:
    return {entry["key"]: entry for entry in done.json}


def test_show_has_every_key_with_its_meaning(parle_command):
    found = by_key(parle_command("config", "show", "--json"))

    def leaves(group, path=""):
        for name, value in group:
            if name == "algorithm":
                continue
            yield from leaves(value, f"{path}{name}.") if isinstance(value, config.Strict) else [f"{path}{name}"]

    assert set(leaves(config.RunConfig())) - {"derived"} == {key for key in found if not key.startswith("algorithm.")}
    assert all(entry["meaning"] for entry in found.values())
    assert found["optimizer.momentum"]["value"] == found["optimizer.momentum"]["default"] == 0.9
    table = parle_command("config", "show").out
    assert "optimizer.sharpness" in table and "radius of SAM" in table and "follows from the run *" in table


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_show_has_the_settings_of_every_algorithm(name, parle_command):
    found = by_key(parle_command("config", "show", "--set", f"algorithm={name}", "--json"))
    settings = config.algorithm_class(config.load(sets=(f"algorithm={name}",)))().settings()
    assert {key.removeprefix("algorithm.") for key in found if key.startswith("algorithm.")} - {"name", "variant"} == settings.keys()
    assert all(found[f"algorithm.{key}"]["default"] == value for key, value in settings.items())


def test_show_marks_what_follows_from_the_rest(parle_command):
    assert parle_command(*SHORT, "--name", "a", "--set", "algorithm.rho=0.5").code == 0
    found = by_key(parle_command("config", "show", "runs/a", "--json"))
    assert {key for key, entry in found.items() if entry["derived"]} >= {"algorithm.gamma", "algorithm.lr", "algorithm.variant", "optimizer.lr"}
    assert found["algorithm.rho"]["value"] == 0.5 and not found["algorithm.rho"]["derived"]
    assert found["algorithm.gamma"]["value"].startswith("scoping(") and found["algorithm.gamma"]["default"] == 100.0
    assert found["replicas"]["value"] == 3


def test_diff_shows_only_what_differs(parle_command):
    assert parle_command(*SHORT, "--name", "a", "-s", "1").code == 0
    assert parle_command(*SHORT, "--name", "b", "-s", "2", "-a", "local-sgd").code == 0
    done = parle_command("config", "diff", "runs/a", "runs/b", "--json").json
    found = {its["key"]: (its["a"], its["b"]) for its in done["differences"]}
    assert found["seed"] == (1, 2) and found["algorithm.name"] == ("parle", "local-sgd")
    assert found["algorithm.weigh"] == (None, "uniform") and "epochs" not in found and "derived" not in found
    table = parle_command("config", "diff", "runs/a", "runs/b").out
    assert "seed" in table and "batch_size" not in table
    Path("c.yaml").write_text(Path("runs/a/config.yaml").read_text())
    assert "are configured alike" in parle_command("config", "diff", "runs/a", "c.yaml").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["config", "show", "nowhere"], "nowhere cannot be read"),
        (["config", "show", "."], ". is not a run"),
        (["config", "show", "--set", "algorithm.peroid=1"], "Did you mean period?"),
        (["config", "show", "--set", "algorithm.period=-1"], "ParleDev2017.period must be a whole number at least 1"),
        (["config", "show", "--set", "=1"], "--set =1 has no key"),
        (["config", "diff", "nowhere", "nowhere"], "nowhere cannot be read"),
    ],
    ids=str,
)
def test_a_mistake_is_answered_in_one_line(arguments, says, parle_command):
    done = parle_command(*arguments)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1


@pytest.fixture
def validator(parle_command):
    found = json.loads(parle_command("config", "schema").out)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_schema_accepts_what_train_writes_and_what_people_write(validator, parle_command):
    for name in parle.ALGORITHMS:
        settled = parle_command("train", "-a", name, "-e", "0.1", "--dry-run", "--json").json["configuration"]
        validator.validate(settled)
    for text in (
        "{}",
        "algorithm: local-sgd\nmodel: lenet\ndata: mnist\nepochs: 2\nschedule: paper",
        "algorithm: {name: parle, variant: paper, rho: 'scoping(1.0, batches=44, floor=0.1)'}",
        "algorithm: {rho: 0.5}",
        "algorithm: {name: local-sgd, period: [3, 4, 5], weigh: steps}",
        "algorithm: {name: bmuf, nesterov: true}",
        "model: {name: nets.py:make, options: {width: 3}}\ncommunicator: {quorum: n}",
    ):
        tree = yaml.safe_load(text)
        validator.validate(tree)
        config.parse(tree)


@pytest.mark.parametrize(
    "text",
    [
        "epohcs: 3",
        "replicas: 0",
        "algorithm: parl",
        "algorithm: {name: local-sgd, rho: 1}",
        "algorithm: {name: parle, rho: 0}",
        "algorithm: {rhoo: 1}",
        "algorithm: {name: parle, alpha: 1.0}",
        "algorithm: {name: local-sgd, period: 0.5}",
        "algorithm: {name: local-sgd, weigh: heavy}",
        "optimizer: {lrr: 1}",
        "schedule: shrot",
        "data: {normalize: sclae}",
    ],
)
def test_the_schema_refuses_what_train_refuses(validator, text):
    tree = yaml.safe_load(text)
    assert not validator.is_valid(tree)
    with pytest.raises(parle.ConfigError):
        settings = config.parse(tree)
        config.algorithm_class(settings).from_settings(config.algorithm_settings(settings))


def test_the_schema_knows_each_setting_by_its_class():
    its = schema.json_schema()["$defs"]["algorithm-slowmo"]["properties"]
    assert its["momentum"]["description"] == "slow momentum, beta" and its["momentum"]["anyOf"][0] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    assert its["period"]["anyOf"][0] == {"type": "integer", "minimum": 1}


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_a_dry_run_counts_what_the_run_then_counts(name, parle_command, monkeypatch):
    from parle import estimating

    monkeypatch.setattr(estimating, "SECONDS", 0.0)
    arguments = ["train", "-a", name, "-e", "1.2", "--json"]
    if name not in ("data-parallel", "server-sgd", "one-shot", "ema"):  # whose period is no choice
        arguments += ["--set", "algorithm.period=7"]
    if name == "server-sgd":
        arguments += ["--quorum", "n"]
    told = parle_command(*arguments, "--dry-run")
    assert told.code == 0, told.err
    assert not Path("runs").exists()
    found, result = told.json, parle_command(*arguments, "--name", "a").json
    for key in ("params", "steps", "gradient_evaluations", "rounds"):
        assert found[key] == result[key], key
    assert found["bytes_sent_per_replica"] == result["bytes_sent_per_replica"]
    assert (found["bytes_sent_per_replica"] == 0) == parle.ALGORITHMS[name].single
    resolved = yaml.safe_load(Path("runs/a/config.yaml").read_text())
    assert found["configuration"] == resolved


def test_a_dry_run_states_memory_as_explain_does(parle_command):
    found = parle_command("train", "--dry-run", "--json").json
    assert found["vectors_of_each_replica"] == {"optimizer state": 1, "params": 1, "x": 1, "z": 1, "m": 1}
    assert found["bytes_of_each_replica"] == 5 * 86_026 * 4 and found["vectors_once"][0] == "reference"
    assert "params, x, z, m" in parle_command("explain", "parle").out
    assert parle_command("train", "--dry-run", "--json", "--set", "optimizer.name=adamw").json["vectors_of_each_replica"]["optimizer state"] == 2


def test_a_dry_run_estimates_the_time_from_steps_that_it_takes(parle_command):
    found = parle_command("train", "--dry-run", "--json").json
    spent, measured = found["seconds"], found["measured"]
    assert spent["all"] == pytest.approx(spent["steps"] + spent["rounds"] + spent["evaluations"])
    assert spent["steps"] == pytest.approx(3 * 2200 * measured["seconds"] / measured["steps"]) and measured["steps"] >= 1 and measured["seconds"] >= 1.5
    page = parle_command("train", "--dry-run").out
    assert "scoping: null" in page and "88" in page and "30.3 MB" in page and "estimated time" in page and "steps of one replica in " in page
    assert not Path("runs").exists()


def test_a_dry_run_says_that_it_estimates_processes_from_one(parle_command):
    found = parle_command("train", "--dry-run", "--json", "--processes", "-n", "2").json
    assert found["estimated_for"].startswith("2 processes on ") and found["configuration"]["processes"] is True
    ring = parle_command("train", "--dry-run", "--json", "--processes", "-n", "4").json
    assert ring["bytes_per_round_per_replica"] == round(2 * 3 / 4 * 86_026) * 4
    ordered = parle_command(
        "train", "--dry-run", "--json", "--processes", "-n", "4", "--set", "communicator.ordered=true", "--set", "communicator.shared_memory=false"
    ).json
    assert ordered["bytes_per_round_per_replica"] == 3 * 86_026 * 4


def test_a_dry_run_measures_replicas_together_where_they_step_at_once(parle_command, monkeypatch):
    from parle import estimating

    monkeypatch.setattr(estimating, "SECONDS", 0.0)
    found = parle_command("train", "--dry-run", "--json", "--set", "stepping=batched", "-n", "2").json
    measured = found["measured"]
    assert measured["steps_of"] == 2 and measured["seconds_per_step"] == pytest.approx(measured["seconds"] / measured["steps"] / 2)


def test_a_dry_run_makes_the_mistakes_of_the_run(parle_command):
    for arguments, says in (
        (["-m", "lenet"], "lenet takes images of 28 x 28"),
        (["--set", "communicator.codec=foo"], "`foo` is not a codec"),
        (["--quorum", "1"], "which a server does not have"),
        (["--resume", "--name", "a"], "give --name, and no other setting"),
    ):
        done = parle_command("train", "--dry-run", *arguments)
        assert done.code == 2 and says in done.err and done.err.count("\n") == 1
