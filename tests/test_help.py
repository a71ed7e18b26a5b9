"""Help, errors and completion: what a user sees before a training, and what a shell offers."""

import functools
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parle import config
from parle.algorithms import ALGORITHMS
from parle.cli import app, completion
from parle.cli.application import PANELS
from parle.cli.configuration import commands as config_commands
from parle.data import EMBEDDED
from parle.data.hub import HUB_IDS
from parle.exporting import ENDINGS
from parle.models import MODELS

COMMANDS = {info.name or info.callback.__name__: info for info in app.registered_commands}
COMMANDS |= {f"config {info.name or info.callback.__name__}": info for info in config_commands.registered_commands}
EXAMPLE = re.compile(r"^ *- `([^`]+)`", re.MULTILINE)
EXAMPLES = [(name, text) for name, info in COMMANDS.items() for text in EXAMPLE.findall(inspect.getdoc(info.callback))]
RUN = ["eval", "compare", "report", "align", "flatness", "export", "config show", "config diff", "config schema", "list", "explain", "doctor"]  # in seconds


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_two_examples(name):
    first, examples, *_ = inspect.getdoc(COMMANDS[name].callback).split("\n\n")
    assert first.endswith(".") and "\n" not in first
    assert len(EXAMPLE.findall(examples)) >= 2
    assert all(f"parle {name}" in text for text in EXAMPLE.findall(examples))


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[text for _, text in EXAMPLES])
def test_the_examples_of_the_help_are_understood(name, text, parle_command, monkeypatch):
    """Each is taken apart by the application; the command itself is replaced by one that notes that it was reached."""
    reached = []
    info = COMMANDS[name]
    noting = functools.wraps(info.callback)(lambda **arguments: reached.append(arguments))
    monkeypatch.setattr(info, "callback", noting)
    words = shlex.split(text)
    if words[0] in ("torchrun", "mpiexec"):  # which start the same command
        words = words[words.index("parle") :]
    assert words[0] == "parle"
    done = parle_command(*(words[1:] if ">" not in words else words[1 : words.index(">")]))
    assert done.code == 0 and len(reached) == 1, done.err


def test_the_examples_that_take_no_training_run(parle_command):
    for run in ("mine", "a", "b"):
        assert parle_command("train", "-e", "0.1", "-n", "2", "--name", run).code == 0
    Path("my.yaml").write_text("epochs: 1\n")
    ran = 0
    for name, text in EXAMPLES:
        if name in RUN:
            words = shlex.split(text)
            done = parle_command(*(words[1:] if ">" not in words else words[1 : words.index(">")]))
            assert done.code == 0, (text, done.err)
            ran += 1
    assert ran >= 2 * len(RUN)


def test_every_command_is_in_a_panel_and_train_comes_first(parle_command):
    assert all(info.rich_help_panel in PANELS for info in app.registered_commands)
    page = parle_command("--help").out
    places = [page.index(f"│ {name} ") for name in ("train", "resume", "eval", "compare", "export", "reproduce", "simulate", "list", "explain", "config")]
    assert places == sorted(places)
    assert [page.index(f"─ {panel} ") for panel in PANELS] == sorted(page.index(f"─ {panel} ") for panel in PANELS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_and_its_default(name):
    for parameter in inspect.signature(COMMANDS[name].callback).parameters.values():
        (its,) = parameter.annotation.__metadata__
        assert its.help and its.help.endswith("."), parameter.name
        is_flag = parameter.annotation.__origin__ is bool
        required = parameter.default is inspect.Parameter.empty
        assert is_flag or required or "Default: " in its.help, parameter.name


def test_the_options_of_train_are_in_panels_with_the_defaults_of_the_configuration():
    options = {p.name: p.annotation.__metadata__[0] for p in inspect.signature(COMMANDS["train"].callback).parameters.values()}
    assert all(its.rich_help_panel for name, its in options.items() if name != "as_json")
    settings = config.RunConfig()
    assert f"Default: {settings.model.name}." in options["model"].help and f"Default: {settings.data.name}." in options["data"].help
    assert f"Default: {settings.algorithm['name']}." in options["algorithm"].help and f"Default: {settings.seed}." in options["seed"].help
    assert f"{config.SMALL:,} samples" in options["epochs"].help and f"{config.SMALL:,} samples" in options["batch_size"].help


def test_names_are_completed_without_torch(tmp_path):
    code = """
import sys
sys.argv = ["parle"]
from parle.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text("")
    for words, expected in (
        ("parle train -a slow", ["slowmo"]),
        ("parle train -m len", ["lenet", "lenet-dev"]),
        ("parle train -d digi", ["digits"]),
        ("parle train --set optimizer.m", ["optimizer.momentum="]),
        ("parle explain lookah", ["lookahead"]),
        ("parle eval runs/", ["runs/mine"]),
        ("parle eval ", ["runs/mine"]),
        ("parle export runs/mine --format sa", ["safetensors"]),
        ("parle flatn", ["flatness"]),
    ):
        environment = {**os.environ, "_PARLE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == expected, words
        assert done.stderr.strip().endswith("False"), words


def test_completion_knows_the_catalogues():
    assert completion.algorithms("") == list(ALGORITHMS)
    assert completion.models("") == list(MODELS)
    assert completion.data("") == [*EMBEDDED, *HUB_IDS]
    assert completion.formats("") == list(ENDINGS)
    assert {"model.name=", "epochs=", "communicator.codec=", "checkpoint.every="} <= set(completion.settings(""))


def test_typer_writes_the_completion_of_a_shell(parle_command):
    script = parle_command("--show-completion", "bash").out
    assert "=complete_bash" in script and "complete -o default" in script


DAMAGED = {  # what somebody has done to a run, the command, and what it answers
    "no solution": (lambda run: (run / "final/model.safetensors").unlink(), ["eval"], 2, "has no usable final/model.safetensors"),
    "a broken solution": (lambda run: (run / "final/model.safetensors").write_text("x"), ["eval"], 2, "has no usable final/model.safetensors"),
    "an interrupted run": (
        lambda run: ((run / "final/model.safetensors").unlink(), (run / "status.json").write_text('{"state": "interrupted"}')),
        ["eval"],
        2,
        "is not finished; its state is `interrupted`",
    ),
    "a broken status": (lambda run: (run / "status.json").write_text("{"), ["export", "--to", "x"], 2, "its state is `unreadable`"),
    "no env.json": (lambda run: (run / "env.json").unlink(), ["export", "--to", "x"], 0, ""),
    "foreign metrics": (lambda run: (run / "metrics.jsonl").write_text('[]\n{"a": 1}\n'), ["compare"], 2, "has no evaluations yet"),
    "a broken configuration": (lambda run: (run / "config.yaml").write_text(": ["), ["config", "show"], 2, "is not valid YAML"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_run_is_answered_in_one_line(what, parle_command):
    damage, (command, *more), code, says = DAMAGED[what]
    assert parle_command("train", "-e", "0.1", "-n", "1", "--name", "a").code == 0
    damage(Path("runs/a"))
    before = [command] if command != "config" else [command, more.pop()]
    done = parle_command(*before, "runs/a", *more)
    assert done.code == code and says in done.err
    assert code == 0 or done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "-d", ""], 2, "The name of the data is empty"),
        (["train", "--name", ".."], 2, "--name .. is not a plain name"),
        (["train", "-c", "."], 2, "config.yaml cannot be read"),
        (["train", "--set", ".=3"], 2, "--set .=3 has no key"),
        (["train", "--set", "model=3"], 2, "model is 3, but it should be a group of settings or a name"),
        (["reproduce", "parle-table-1", "--minutes", "-1", "--finished"], 2, "--minutes is -1, but it must be above 0"),
        (["export", "runs"], 2, "Missing option '--to'"),
        (["config", "shwo"], 2, "No such command"),
    ],
    ids=str,
)
def test_a_clumsy_command_is_answered(arguments, code, says, parle_command):
    done = parle_command(*arguments)
    assert done.code == code and says in " ".join(done.err.replace("│", " ").split()) and "Traceback" not in done.err


def test_a_run_that_has_only_its_configuration_goes_on(parle_command):
    Path("half").mkdir()
    Path("half/config.yaml").write_text("epochs: 0.1\nreplicas: 1\n")
    done = parle_command("resume", "half", "--json")
    assert done.code == 0 and Path("half/final/model.safetensors").is_file(), done.err


def test_a_run_may_stand_for_its_configuration(parle_command):
    first = parle_command("train", "-e", "0.1", "-n", "1", "--name", "a", "--json").json
    assert parle_command("train", "-c", "runs/a", "--name", "b", "--json").json["loss"] == first["loss"]


def test_a_list_of_no_runs_says_so(parle_command):
    assert parle_command("list", "runs").out == "There are no runs in runs.\n"
