"""The papers' tables: recipes that say what the papers say, and runs that are kept, resumed and never mixed up."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from parle import config, recipes, reproduce, settling
from parle.errors import ConfigError
from parle.plans import load_data
from parle.recipes import TABLES, Comparison, Row, Table
from parle.runs import RunFolder

MLP = {"model.name": "mlp", "model.options.width": 16, "data.name": "digits", "optimizer.lr": 0.1, "threads": 1}
ROWS = (
    Row("plain", "SGD", {**MLP, "algorithm.name": "sgd"}, 4, (2,), paper="3.0 ± 0.1", trained="0.5"),
    Row("coupled", "Parle", {**MLP, "algorithm.name": "parle", "algorithm.variant": "paper", "algorithm.period": 5, "replicas": 2}, 4, (), (3,), 5),
    Row("part", "SGD, half", {**MLP, "algorithm.name": "sgd"}, 4, part=0.5),
)
LONG = {**MLP, "algorithm.name": "sgd", "batch_size": 32}
SERVER = {**MLP, "algorithm.name": "server-sgd", "algorithm.reduce": "sum", "replicas": 3, "optimizer.lr": 0.05}
ALIGNED = {"each": "8.04", "ensemble": "7.84", "mean": "89.9", "aligned mean": "18.7", "overlap plain": "0.18", "overlap coupled": "0.22"}
SMALL = {
    "errors": Table("Errors", ROWS, notes=("A note.",)),
    "curves": Table("Curves", ROWS[:2], "curves"),
    "trained": Table("Training errors", ROWS[:1], "training errors"),
    "apart": Table("Apart", ROWS[:1], "alignment", paper=ALIGNED),
    "switch": Table("Switch", (Comparison("digits-30-32-0.25", "digits", SERVER, 30, paper="+1.0 / -0.1"),), "differences"),
    "missing": Table("Missing", (Row("svhn", "SVHN", {**MLP, "data.name": "svhn", "algorithm.name": "sgd"}, 4),)),
}


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(reproduce, "TABLES", SMALL)


def test_a_table_holds_the_errors_of_its_runs(tables, tmp_path):
    found = reproduce.reproduce("errors", tmp_path, seeds=2)
    plain, coupled, part = found["rows"]
    for row in found["rows"]:
        errors = [RunFolder(Path(path)).result()["error_pct"] for path in row["runs"]]
        assert row["errors"] == errors and len(errors) == 2
        assert row["mean"] == pytest.approx(sum(errors) / 2) and row["deviation"] == pytest.approx(abs(errors[0] - errors[1]) / math.sqrt(2))
    assert plain["paper"] == "3.0 ± 0.1" and coupled["replicas"] == 2
    assert plain["gradient_evaluations"] == 4 * (1437 // 32) and coupled["gradient_evaluations"] == 2 * plain["gradient_evaluations"]
    assert part["gradient_evaluations"] == 4 * (718 // 32)
    assert Path(found["picture"]).read_text().lstrip().startswith("<?xml") and json.loads((tmp_path / "scale-1" / "errors.json").read_text()) == found


def test_the_drops_of_a_recipe_fall_where_it_says_at_every_scale(tables, tmp_path):
    for scale in (1.0, 0.25):
        work = reproduce._Work(tmp_path, scale, 1, (), False, reproduce.Quiet())
        settings, batches = work.settings(ROWS[1], 0), 44 if scale == 1 else 22
        assert settings.epochs == 4 * math.sqrt(scale) and settings.data.samples == (None if scale == 1 else 718)
        rounds = int(settings.epochs * batches) // 5
        algorithm = settling.algorithm_for(settling.settled(settings, 1437 if scale == 1 else 718), batches)
        assert algorithm.lr(int(0.75 * rounds) - 1) == 0.1 and algorithm.lr(int(0.75 * rounds)) == pytest.approx(0.02)
        assert algorithm.rho.batches == batches * math.sqrt(scale) and algorithm.rho.floor == 0.1 and algorithm.gamma.floor == 1.0
        assert settling.milestones(settings, batches) == ()


def test_what_is_finished_can_be_shown_without_training(tables, tmp_path):
    reproduce.reproduce("errors", tmp_path, seeds=1, only="plain,part")
    found = reproduce.reproduce("errors", tmp_path, seeds=2, finished=True)
    assert [len(row["errors"]) for row in found["rows"]] == [1, 0, 1] and found["rows"][1]["missing"] == "No run is finished."
    assert not (tmp_path / "scale-1" / "coupled-0").exists()
    assert reproduce.reproduce("switch", tmp_path, seeds=1, finished=True)["rows"][0]["missing"] == "No run is finished."


def test_finished_runs_are_kept_and_others_go_on(tables, tmp_path, monkeypatch):
    reproduce.reproduce("errors", tmp_path, seeds=1, only="plain")
    events = (tmp_path / "scale-1" / "plain-0" / "events.jsonl").read_text()
    trained = []
    train = reproduce.jobs.train
    monkeypatch.setattr(reproduce.jobs, "train", lambda settings, path, **more: trained.append((path.name, more["resume"])) or train(settings, path, **more))
    reproduce.reproduce("curves", tmp_path, seeds=1)
    assert trained == [("coupled-0", False)] and (tmp_path / "scale-1" / "plain-0" / "events.jsonl").read_text() == events

    run = RunFolder(tmp_path / "scale-1" / "coupled-0")
    before = run.result()["error_pct"]
    run.write_json(run.status, {"state": "interrupted"})
    found = reproduce.reproduce("curves", tmp_path, seeds=1)
    assert trained[1:] == [("coupled-0", True)] and found["rows"][1]["errors"] == [before]


def test_a_run_with_other_settings_is_not_taken_for_this_one(tables, tmp_path):
    reproduce.reproduce("errors", tmp_path, seeds=1, only="plain")
    with pytest.raises(ConfigError, match=r"other settings: model is .*'width': 16.*here .*'width': 8.*--runs-dir"):
        reproduce.reproduce("errors", tmp_path, seeds=1, only="plain", sets=("model.options.width=8",))


def test_a_setting_given_has_the_last_word(tables, tmp_path):
    work = reproduce._Work(tmp_path, 1.0, 1, ("epochs=2", "algorithm.rho=0.7"), False, reproduce.Quiet())
    settings = work.settings(ROWS[1], 0)
    assert settings.epochs == 2 and settings.algorithm["rho"] == 0.7 and "scoping" in settings.algorithm["gamma"]


def test_training_errors_are_those_of_the_training_samples(tables, parle_command, tmp_path):
    found = reproduce.reproduce("trained", tmp_path, seeds=1)
    (row,) = found["rows"]
    told = parle_command("eval", row["runs"][0], "--training", "--json").json
    assert told["error_pct"] == row["mean"] and told["samples"] == 1437 and row["paper"] == "0.5"


def test_networks_trained_apart_are_aligned(tables, tmp_path):
    found = reproduce.reproduce("apart", tmp_path, seeds=3)
    (row,) = found["rows"]
    assert row["aligned_overlap_greedy"][0] > row["overlap"][0] and len(row["matrix"]) == 3
    assert row["paper"]["aligned mean"] == "18.7" and row["paper"]["overlap"] == "0.18"
    with pytest.raises(ConfigError, match="at least two"):
        reproduce.reproduce("apart", tmp_path, seeds=1)


def test_simulated_differences_are_hybrid_minus_asynchronous(tables, tmp_path):
    found = reproduce.reproduce("switch", tmp_path, scale=0.1, seeds=1)
    (row,) = found["rows"]
    curves = {path.stem: json.loads(path.read_text())["curve"] for path in (tmp_path / "scale-0.1").glob("digits*.json")}
    assert sorted(curves) == ["digits-32-0.25-quorum-1-0", "digits-32-0.25-ramp-30-0"]
    plain, hybrid = ([its["error_pct"] for its in curves[name]] for name in sorted(curves))
    assert row["mean"] == pytest.approx(sum(plain) / len(plain) - sum(hybrid) / len(hybrid))
    assert curves["digits-32-0.25-ramp-30-0"][-1]["quorum"] > 1 and reproduce.reproduce("switch", tmp_path, scale=0.1, seeds=1)["rows"] == found["rows"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("error",), "`error` is not a table. Did you mean errors?"),
        (("errors", "--scale", "0"), "--scale is 0, but it must be above 0"),
        (("errors", "--scale", "2"), "at most 1"),
        (("errors", "--scale", "0.00001"), "leaves 5 samples of digits, none of class"),
        (("errors", "--only", "resnet"), "--only resnet is in no row of errors. They are plain, coupled, part."),
        (("missing",), "hf download"),
    ],
)
def test_mistakes_are_answered_in_a_line(tables, parle_command, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.setenv("PARLE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = parle_command("reproduce", *arguments, "--runs-dir", tmp_path / "runs", "--set", "threads=1")
    assert told.code in (2, 3) and expected in told.err and told.err.count("\n") == 1


@pytest.mark.parametrize(("table", "expected"), [("errors", "3.0 ± 0.1"), ("apart", "aligned greedily"), ("switch", "+1.0 / -0.1")])
def test_the_command_shows_ours_beside_the_published(tables, parle_command, tmp_path, table, expected):
    arguments = ["reproduce", table, "--seeds", "2", "--scale", "0.25", "--runs-dir", tmp_path]
    told = parle_command(*arguments)
    assert (
        told.code == 0
        and expected in told.out
        and f"Scale 0.25: {'25.0% of the virtual seconds' if table == 'switch' else '50.0% of the training samples'}" in told.out
    )
    assert parle_command(*arguments, "--json").json["table"] == table


def test_the_command_stops_after_its_minutes_and_goes_on(tmp_path):
    arguments = [sys.executable, "-m", "parle", "reproduce", "pr-sgd", "--only", "nothing"]
    assert subprocess.run(arguments, capture_output=True, text=True, timeout=120).returncode == 2
    program = (
        "import sys; from parle import cli, reproduce, recipes; "
        f"row = recipes.Row('long', 'long', {LONG}, 4000); reproduce.TABLES = {{'long': recipes.Table('Long', (row,))}}; cli.main()"
    )
    arguments = [sys.executable, "-c", program, "reproduce", "long", "--seeds", "1", "--runs-dir", str(tmp_path), "--minutes", "0.2"]
    told = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert told.returncode == 143 and ("Interrupted; the checkpoint" in told.stderr or "minutes are over" in told.stderr)


def test_every_recipe_is_one_that_parle_takes():
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows) and table.shows in reproduce.KINDS
        for row in table.rows:
            settings = config.load(None, (), dict(row.settings))
            config.algorithm_class(settings).from_settings({key: its for key, its in settings.algorithm.items() if key not in ("name", "variant")})
    rows = [row for table in TABLES.values() for row in table.rows]
    assert len(rows) - len({id(row) for row in rows}) > 10  # tables and figures share their runs


def test_lenet_is_trained_as_the_paper_says(mnist, tmp_path):
    work = reproduce._Work(tmp_path, 1.0, 1, (f"data.name={mnist}",), False, reproduce.Quiet())
    rows = {row.name: row for row in recipes.MNIST_ROWS}
    for name in ("lenet-parle-paper", "lenet-parle-dev2017"):
        settings = work.settings(rows[name], 0)
        count = len(load_data(settings).train)
        settings = settling.settled(settings, count)
        algorithm = settling.algorithm_for(settings, count // 128)
        assert (settings.replicas, settings.epochs, settings.batch_size, settings.data.samples) == (3, 75, 128, None)
        assert algorithm.rounds_in(75 * 468) == 1404 and (algorithm.lr(935), algorithm.lr(936)) == (0.1, 0.01)
        assert algorithm.gamma(468) == pytest.approx(100 * (1 - 1 / 936) ** 468)
    settings = settling.settled(work.settings(rows["lenet-sgd"], 0), count)
    assert settling.milestones(settings, 468) == (30 * 468, 60 * 468, 90 * 468) and settings.schedule.factor == 10
