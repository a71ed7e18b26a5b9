"""Every mistake is answered in one line with the cure and its exit code, without a traceback."""

import os

import pytest

NETS = """
from torch import nn
import torch
def good(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def narrow(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
def raises(): raise ValueError("no net today")
def text(): return "not a module"
value = 3
def asserts():
    class Picky(nn.Linear):
        def forward(self, x): assert x.shape[1] == 3
    return Picky(2, 2)
def frozen(): return good().requires_grad_(False)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def pair():
    class Pair(nn.Linear):
        def forward(self, x): return super().forward(x.flatten(1)), 1
    return Pair(64, 10)
class Explodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(64, 10))
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        return x.flatten(1) @ self.w * (float("nan") if self.calls > 60 else 1.0)
"""

# arguments of `parle`, exit code, what the line must say
MISTAKES = [
    (["train", "-a", "parl"], 2, "`parl` is not an algorithm. Did you mean parle?"),
    (["explain", "locl-sgd"], 2, "Did you mean local-sgd?"),
    (["list", "algoritms"], 2, "Did you mean algorithms?"),
    (["train", "-m", "lenett"], 2, "`lenett` is not a model. Did you mean lenet?"),
    (["train", "-d", "digit"], 2, "`digit` is not a data set. Did you mean digits?"),
    (["train", "--set", "algorithm.peroid=3"], 2, "algorithm.peroid is not a setting of ParleDev2017. Did you mean period?"),
    (["train", "--set", "epohcs=3"], 2, "epohcs is not a setting. Did you mean epochs?"),
    (["train", "--set", "optimizer.lrr=3"], 2, "optimizer.lrr is not a setting of optimizer. Did you mean lr?"),
    (["train", "--set", "epochs"], 2, "has no value"),
    (["train", "--set", "seed.x=1"], 2, "seed is a group of settings, but it should be a valid integer"),
    (["train", "-s", "-1"], 2, "seed is -1, but it should be greater than or equal to 0"),
    (["train", "--set", "schedule.drops=[2]"], 2, "each drop must lie between 0 and 1"),
    (["train", "--set", "algorithm.period=0"], 2, "ParleDev2017.period must be a whole number at least 1, got 0"),
    (["train", "--set", "algorithm.rho=0"], 2, "ParleDev2017.rho must be a number above 0, got 0"),
    (["train", "--set", "algorithm.gamma=-1"], 2, "ParleDev2017.gamma must be a number above 0, got -1"),
    (["train", "--set", "algorithm.gamma=.nan"], 2, "ParleDev2017.gamma must be a number or a schedule, got nan"),
    (["train", "--set", "algorithm.gamma=scping(1)"], 2, "`scping` is not a schedule. Did you mean scoping?"),
    (["train", "--set", "algorithm.variant=papre"], 2, "algorithm.variant is `papre`, which `parle` does not have. Did you mean paper?"),
    (["train", "-a", "sgd", "--set", "algorithm.variant=x"], 2, "algorithm.variant is `x`, which `sgd` does not have"),
    (["train", "--set", "schedule=shrot"], 2, "schedule.name is 'shrot', but it should be 'short' or 'paper'"),
    (["train", "-n", "0"], 2, "replicas is 0, but it should be greater than or equal to 1"),
    (["train", "-n", "2", "-a", "entropy-sgd"], 2, "EntropySGD trains one replica, got 2"),
    (["train", "-b", "1"], 2, "Model `mlp` cannot take a batch of 1 images of shape (1, 8, 8): Expected more than 1 value per channel"),
    (["train", "-m", "nets.py:asserts"], 2, "cannot take a batch of 32 images of shape (1, 8, 8): AssertionError"),
    (["train", "-m", "nets.py:frozen"], 2, "The model has no trainable parameters"),
    (["train", "-m", "nets.py:lazy"], 2, "has no shape yet"),
    (["train", "-m", "nets.py:pair"], 2, "returns a tuple per sample, expected (10,): one number for each class"),
    (["train", "--set", "algorithm.variant=[a]"], 2, "which `parle` does not have"),
    (["train", "--set", "algorithm.name=[a]"], 2, "is not an algorithm"),
    (["train", "--set", 'algorithm.gamma=scoping("a", batches=3)'], 2, "is not a number or a schedule"),
    (["train", "--set", "evaluation.refresh=1"], 2, "evaluation.refresh is 1, but it should be greater than or equal to 2"),
    (["train", "--device", "meta"], 3, "Device meta is not usable"),
    (["train", "--name", "../escape"], 2, "--name ../escape is not a plain name"),
    (["train", "--resume", "--name", "a", "--overwrite"], 2, "give --name, and no other setting"),
    (["train", "-n", "two"], 2, "Invalid value for '-n'"),
    (["train", "-e", "0"], 2, "epochs is 0.0, but it should be greater than 0"),
    (["train", "--lr", "nan"], 2, "optimizer.lr is nan"),
    (["train", "-m", "lenet"], 2, "lenet takes images of 28 x 28, got 8 x 8"),
    (["train", "-m", "no_such_module:net"], 2, "No module named 'no_such_module'"),
    (["train", "-m", "missing.py:net"], 2, "there is no file missing.py"),
    (["train", "-m", "nets.py:absent"], 2, "nets.py has no attribute `absent`"),
    (["train", "-m", "nets.py:raises"], 2, "Building model `nets.py:raises` failed: ValueError: no net today"),
    (["train", "-m", "nets.py:text"], 2, "returned a str, expected a torch.nn.Module"),
    (["train", "-m", "nets.py:value"], 2, "is a int; give a function or class"),
    (["train", "-m", "nets.py:narrow"], 2, "returns (7,) per sample, expected (10,): one number for each class"),
    (["train", "-d", "nets.py:value"], 2, "is a int, expected four tensors"),
    (["train", "-d", "./nowhere"], 2, "There is no train-*.parquet in ./nowhere"),
    (["train", "-c", "absent.yaml"], 2, "absent.yaml cannot be read"),
    (["train", "-c", "nets.py"], 2, "is not valid YAML"),
    (["train", "--device", "gpu"], 2, "`gpu` is not a device"),
    (["train", "--device", "cuda:99"], 3, "Device cuda:99 is not usable on this machine"),
    (["train", "--resume"], 2, "give --name, and no other setting"),
    (["train", "--resume", "--name", "absent"], 2, "runs/absent is not a run"),
    (["resume", "runs/absent"], 2, "is not a run"),
    (["eval", "runs/absent"], 2, "is not a run"),
    (["compare", "runs/absent"], 2, "is not a run"),
    (["trian"], 2, "Did you mean"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), MISTAKES, ids=[" ".join(arguments) for arguments, _, _ in MISTAKES])
def test_a_mistake_is_answered_in_one_line(parle_command, arguments, code, says):
    with open("nets.py", "w") as file:
        file.write(NETS)
    done = parle_command(*arguments)
    assert done.code == code, done.err
    assert says in " ".join(done.err.replace("│", " ").split()), done.err
    assert "Traceback" not in done.err
    if done.err.startswith("parle:"):
        assert done.err.count("\n") == 1
    assert not os.path.exists("runs") or not os.listdir("runs")


def test_a_missing_shard_is_named(parle_command, make_shards):
    folder = make_shards()
    next(folder.glob("test-*")).unlink()
    done = parle_command("train", "-d", folder)
    assert done.code == 2 and f"There is no test-*.parquet in {folder}" in done.err and done.err.count("\n") == 1


def test_a_truncated_shard_is_named(parle_command, make_shards):
    folder = make_shards()
    shard = next(folder.glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:500])
    done = parle_command("train", "-d", folder)
    assert done.code == 2 and f"{shard} cannot be read" in done.err and "truncated" in done.err and done.err.count("\n") == 1


def test_labels_that_are_no_numbers_are_named(parle_command, make_shards):
    done = parle_command("train", "-d", make_shards(labels=["cat"] * 60))
    assert done.code == 2 and "are string or missing, expected whole numbers" in done.err and done.err.count("\n") == 1


def test_a_file_may_have_dataclasses_and_neighbours(parle_command, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "parts_of_mine.py").write_text("from torch import nn\ndef layer(): return nn.Linear(64, 10)\n")
    (folder / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\nfrom parts_of_mine import layer\n"
        "@dataclass\nclass Shape:\n    width: int = 3\n"
        "def net(): return nn.Sequential(nn.Flatten(), layer())\n"
    )
    done = parle_command("train", "-e", "0.1", "-m", folder / "mine.py:net", "--json")
    assert done.code == 0, done.err


def test_a_crash_is_noted_in_the_status(parle_command, monkeypatch):
    from pathlib import Path

    from parle.training import Training

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Training, "advance", broken)
    with pytest.raises(RuntimeError):
        parle_command("train", "--name", "a")
    assert '"state": "failed"' in Path("runs/a/status.json").read_text()


def test_a_damaged_image_is_named(parle_command, make_shards):
    import pyarrow
    import pyarrow.parquet

    folder = make_shards()
    shard = next(folder.glob("train-*"))
    table = pyarrow.parquet.read_table(shard)
    cells = table.column("image").to_pylist()
    cells[7]["bytes"] = cells[7]["bytes"][:20]
    pyarrow.parquet.write_table(table.set_column(0, "image", pyarrow.array(cells)), shard)
    done = parle_command("train", "-d", folder)
    assert done.code == 2 and f"Image 7 of {shard} cannot be decoded" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("wrong", [10, -1])
def test_a_label_out_of_range_is_named(parle_command, make_shards, wrong):
    folder = make_shards(labels=[*range(10)] * 5 + [wrong] * 10)
    done = parle_command("train", "-d", folder)
    assert done.code == 2 and f"A training label of `made` is {wrong}, expected 0 to 9" in done.err and done.err.count("\n") == 1


def test_an_image_size_that_the_model_cannot_take_is_named(parle_command, make_shards):
    done = parle_command("train", "-m", "lenet", "-d", make_shards(shape=(32, 32)))
    assert done.code == 2 and "lenet takes images of 28 x 28, got 32 x 32" in done.err and done.err.count("\n") == 1


def test_an_existing_run_is_left_alone(parle_command):
    first = parle_command("train", "-e", "0.2", "-n", "2", "--name", "mine", "--json")
    assert first.code == 0, first.err
    before = {path: path.read_bytes() for path in sorted(__import__("pathlib").Path("runs/mine").rglob("*")) if path.is_file()}
    done = parle_command("train", "-e", "0.2", "--name", "mine")
    assert done.code == 2 and "The run runs/mine exists" in done.err and "--overwrite" in done.err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert parle_command("train", "-e", "0.2", "-n", "2", "--name", "mine", "--overwrite", "--json").code == 0


def test_overwriting_spares_a_folder_that_is_no_run(parle_command, tmp_path):
    (tmp_path / "work" / "runs" / "thesis").mkdir(parents=True)
    (tmp_path / "work" / "runs" / "thesis" / "chapter1.tex").write_text("precious")
    done = parle_command("train", "-e", "0.2", "--name", "thesis", "--overwrite")
    assert done.code == 2 and "is not a run of parle" in done.err
    assert (tmp_path / "work" / "runs" / "thesis" / "chapter1.tex").read_text() == "precious"


def test_an_unwritable_folder_is_named(parle_command, tmp_path):
    (tmp_path / "occupied").write_text("a file where the folder should be")  # permissions do not stop root
    done = parle_command("train", "-e", "0.2", "--runs-dir", tmp_path / "occupied" / "runs", "--name", "x")
    assert done.code == 3 and "cannot be made" in done.err and "--runs-dir" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("extra", [["-m", "nets.py:Explodes", "-n", "2"], ["--lr", "1e20"]], ids=["loss", "rate"])
def test_a_loss_that_is_not_finite_ends_with_the_last_finite_state(parle_command, extra):
    from pathlib import Path

    from parle import checkpoint

    with open("nets.py", "w") as file:
        file.write(NETS)
    done = parle_command("train", "--name", "bad", *extra)
    assert done.code == 4 and "Traceback" not in done.err
    line = done.err.strip().splitlines()[-1]
    assert "not finite" in line and "The last finite state is runs/bad/checkpoints/step-" in line
    kept = Path(line.rpartition("The last finite state is ")[2].rstrip("."))
    assert checkpoint.is_finite(checkpoint.read(kept))
    assert (kept.name == "step-00000044") == ("-m" in extra)  # one epoch was good, or none
    assert '"state": "failed"' in Path("runs/bad/status.json").read_text()


def test_a_missing_extra_is_named_with_its_command(parle_command, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    done = parle_command("train")
    assert done.code == 3 and 'pip install "parle-sgd[data]"' in done.err and done.err.count("\n") == 1
