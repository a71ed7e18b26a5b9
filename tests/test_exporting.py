"""`parle export`: what is written gives the scores of the run again, in every form, by whatever loads that form."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from parle import config, exporting, models
from parle.plans import load_data, solution_of
from parle.reports import card
from parle.runs import RunFolder

TEXT = "the replicas meet at every round, and speak rarely. " * 60
SHORT = ["train", "-e", "0.1", "-n", "2", "--json", "--name", "a"]
NETS = {  # arguments of train; {shards} is a folder of made-up images
    "mlp": [],
    "lenet": ["-m", "lenet", "-d", "{shards}", "-b", "20", "-e", "1"],
    "resnet20, channels last, mean and deviation": [
        *("-m", "resnet20", "-d", "{shards}", "-b", "20", "-e", "1"),
        *("--set", "model.channels_last=true", "--set", "data.normalize=mean-std"),
    ],
    "mlp, contrast": ["--set", "data.normalize=contrast"],
    "mlp, whitened": ["--set", "data.normalize=zca", "--set", "data.samples=500"],
    "char-gpt": [
        "-m",
        "char-gpt",
        "-d",
        "text.txt",
        "--set",
        "data.context=16",
        *(f"--set=model.options.{its}" for its in ("width=20", "layers=1", "heads=2")),
    ],
}


@pytest.fixture(params=NETS, ids=NETS)
def solved(request, parle_command, make_shards):
    """A finished run of each kind of network in runs/a, its network, and prepared test samples."""
    Path("text.txt").write_text(TEXT)
    options = NETS[request.param]
    if "{shards}" in options:
        options = [str(make_shards(shape=(28, 28) if "lenet" in options else (32, 32, 3))) if its == "{shards}" else its for its in options]
    done = parle_command(*SHORT, *options)
    assert done.code == 0, done.err
    return opened()


def opened():
    run = RunFolder(Path("runs/a"))
    settings = config.load(run.config)
    found = load_data(settings)
    return settings, found, solution_of(run, settings, found), found.test.take(slice(0, 8))[0]


def same(scores, expected):
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_form_gives_the_scores_of_the_run(solved, parle_command, monkeypatch):
    settings, found, model, samples = solved
    expected, alone = model(samples), model(samples[:1])
    for to in ("a.safetensors", "a.pt2", "a.onnx", "hub"):
        done = parle_command("export", "runs/a", "--to", to, "--json")
        assert done.code == 0, done.err
        assert done.json["largest_difference"] < 1e-4 and done.json["samples"] == len(samples)
    again = models.builder(settings.model.name, found.shape, found.classes, settings.model.options)().eval()
    again.load_state_dict(load_file("a.safetensors"))  # by name, with the statistics of BatchNorm
    same(again(samples), expected)

    program = torch.export.load("a.pt2").module()
    same(program(samples), expected)
    same(program(samples[:1]), alone)  # any size of a batch

    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator("a.onnx")
    for given, wanted in ((samples, expected), (samples[:1], alone)):
        same(torch.from_numpy(evaluator.run(None, {"samples": given.numpy()})[0]), wanted)

    monkeypatch.chdir("hub")
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1], namespace)
    same(namespace["model"](samples), expected)
    raw = load_data(settings.model_copy(update={"data": settings.data.model_copy(update={"normalize": "scale"})})) if found.test.scale else None
    if raw:  # from the values that the data have
        same(namespace["model"](namespace["prepare"](raw.test.images[: len(samples)])), expected)
    else:
        last = bytes(samples[0].tolist()).decode()
        same(namespace["model"](namespace["prepare"]("and before " + last)), alone)


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime, which is not in the extra `test`: 68 MB")
def test_onnxruntime_gives_the_scores_too(parle_command):
    import onnxruntime

    assert parle_command(*SHORT).code == 0
    assert parle_command("export", "runs/a", "--to", "a.onnx").code == 0
    _, _, model, samples = opened()
    session = onnxruntime.InferenceSession("a.onnx")
    with torch.no_grad():
        same(torch.from_numpy(session.run(None, {"samples": samples.numpy()})[0]), model(samples))


def test_a_text_model_takes_windows_of_other_lengths(parle_command):
    Path("text.txt").write_text(TEXT)
    assert parle_command(*SHORT, *NETS["char-gpt"]).code == 0
    assert parle_command("export", "runs/a", "--to", "a.pt2").code == 0
    _, _, model, samples = opened()
    with torch.no_grad():
        same(torch.export.load("a.pt2").module()(samples[:, :5]), model(samples[:, :5]))


def test_every_form_says_what_the_network_takes(parle_command):
    assert parle_command(*SHORT, "--set", "data.normalize=mean-std").code == 0
    for to in ("a.safetensors", "a.pt2", "a.onnx", "hub"):
        assert parle_command("export", "runs/a", "--to", to).code == 0
    import onnx
    import safetensors

    with safetensors.safe_open("a.safetensors", "pt") as file:
        told = [json.loads(file.metadata()["parle"])]
    extra = {"config.json": ""}
    torch.export.load("a.pt2", extra_files=extra)
    told += [json.loads(extra["config.json"]), json.loads({its.key: its.value for its in onnx.load("a.onnx").metadata_props}["parle"])]
    told += [json.loads(Path("hub/config.json").read_text())]
    found = opened()[1]
    for about in told:
        assert about == told[0]
        assert about["preprocessing"]["scale"] == 16.0 and about["preprocessing"]["mean"] == found.test.prepare.mean.flatten().tolist()
        assert about["classes"] == 10 and about["class_names"] == list("0123456789") and about["input"]["shape"] == ["samples", 1, 8, 8]


def test_the_card_has_the_figures_of_the_run_and_the_command_that_repeats_it(parle_command):
    result = parle_command(*SHORT).json
    assert parle_command("export", "runs/a", "--format", "hf", "--to", "hub").code == 0
    page = Path("hub/README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert head["pipeline_tag"] == "image-classification" and "parle" in head["tags"]
    for words in (
        f"| test error of the solution, % | {result['error_pct']:.2f} |",
        f"| test error of each replica, % | {', '.join(f'{its:.2f}' for its in result['replica_error_pct'])} |",
        f"| gradient evaluations, of all replicas | {result['gradient_evaluations']:,} |",
        "| sent by each replica | 344.1 kB |",
        "| replicas | 2 |",
        "| algorithm: `name` | `parle` |",
        f"`torch` `{torch.__version__}`",
        "Divide the values of an image, 0 to 16, by 16.",
    ):
        assert words in page, words
    command = re.search(r"`parle (train -c [^`]+)`", page)[1].split()
    again = parle_command(command[0], "-c", f"hub/{command[2]}", "--name", "b", "--json").json
    assert (again["error_pct"], again["loss"]) == (result["error_pct"], result["loss"])


def test_names_cannot_break_the_card():
    about = {"name": "a|b`c` <script>\n# title"}
    shown = card.code(about["name"])
    assert shown == "`` a\\|b`c` <script> # title ``"  # one code span, in which nothing is Markdown or HTML


def test_a_network_of_ones_own_is_exported(parle_command):
    Path("nets.py").write_text(
        "from torch import nn\ndef make(classes, width=5): return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))\n"
    )
    assert parle_command(*SHORT, "-m", "nets.py:make", "--set", "model.options.width=7").code == 0
    for to in ("a.pt2", "hub"):
        assert parle_command("export", "runs/a", "--to", to).code == 0
    page = Path("hub/README.md").read_text()
    assert "The network itself is `nets.py:make`, which its author has to give you" in page
    namespace = {}
    Path("config.json").write_text(Path("hub/config.json").read_text())
    Path("model.safetensors").write_bytes(Path("hub/model.safetensors").read_bytes())
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], namespace)  # in a folder that has nets.py
    _, _, model, samples = opened()
    with torch.no_grad():
        same(namespace["model"](samples), model(samples))


BRANCHES = """
from torch import nn
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        scores = self.layer(x.flatten(1))
        return scores if scores.sum() > 0 else -scores
"""


def test_what_cannot_be_exported_leaves_everything_as_it_was(parle_command):
    Path("nets.py").write_text(BRANCHES)
    assert parle_command(*SHORT, "-m", "nets.py:Branches").code == 0
    Path("a.pt2").write_bytes(b"an earlier one")
    done = parle_command("export", "runs/a", "--to", "a.pt2", "--overwrite")
    assert done.code == 2 and "The network cannot be exported so" in done.err and "--format safetensors or hf" in done.err and done.err.count("\n") == 1
    assert Path("a.pt2").read_bytes() == b"an earlier one"
    assert sorted(path.name for path in Path().iterdir()) == ["a.pt2", "nets.py", "runs"]
    assert parle_command("export", "runs/a", "--to", "a.safetensors").code == 0


def test_nothing_is_overwritten_unless_asked(parle_command):
    assert parle_command(*SHORT).code == 0
    Path("notes").mkdir()
    Path("notes/chapter.tex").write_text("precious")
    Path("file").write_text("precious")
    for to in ("a.safetensors", "hub"):
        assert parle_command("export", "runs/a", "--to", to).code == 0
        done = parle_command("export", "runs/a", "--to", to)
        assert done.code == 2 and f"{to} exists" in done.err and "--overwrite" in done.err
        assert parle_command("export", "runs/a", "--to", to, "--overwrite").code == 0
    done = parle_command("export", "runs/a", "--to", "notes", "--overwrite")
    assert done.code == 2 and "holds other things than an export, such as chapter.tex" in done.err
    done = parle_command("export", "runs/a", "--to", "file", "--overwrite")
    assert done.code == 2 and "file is a file, where a folder is to be written" in done.err
    assert Path("notes/chapter.tex").read_text() == Path("file").read_text() == "precious"
    assert sorted(path.name for path in Path("hub").iterdir()) == ["README.md", "config.json", "model.safetensors", "training.yaml"]
    done = parle_command("export", "runs/a", "--to", "file/a.pt2")
    assert done.code == 3 and "file/a.pt2 cannot be written" in done.err and done.err.count("\n") == 1


def test_a_run_that_is_not_finished_is_refused(parle_command):
    Path("half").mkdir()
    Path("half/config.yaml").write_text("epochs: 1\n")
    Path("half/status.json").write_text('{"state": "interrupted"}')
    done = parle_command("export", "half", "--to", "a.pt2")
    assert done.code == 2 and "The run half is not finished; its state is `interrupted`" in done.err and "parle resume half" in done.err
    assert parle_command("export", "nowhere", "--to", "a.pt2").code == 2


def test_a_form_that_does_not_fit_the_path_is_refused(parle_command):
    assert "`torch` is not a format" in parle_command("export", "runs/a", "--to", "a", "--format", "torch").err
    assert "Give a path that ends in .onnx" in parle_command("export", "runs/a", "--to", "a.pt2", "--format", "onnx").err
    assert "files that end in .pth execute what is in them" in parle_command("export", "runs/a", "--to", "a.pth").err
    assert "Give the name of a folder" in parle_command("export", "runs/a", "--to", "a.pt2", "--format", "hf").err


def test_without_onnx_the_cure_is_named(parle_command, monkeypatch):
    import sys

    assert parle_command(*SHORT).code == 0
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    done = parle_command("export", "runs/a", "--to", "a.onnx")
    assert done.code == 3 and 'pip install "parle-sgd[onnx]"' in done.err and done.err.count("\n") == 1


def test_scores_that_differ_are_not_shipped(parle_command, monkeypatch):
    assert parle_command(*SHORT).code == 0
    monkeypatch.setitem(exporting.WRITERS, "safetensors", lambda to, model, samples, about: to.write_bytes(b"") or (lambda samples: model(samples) + 0.1))
    done = parle_command("export", "runs/a", "--to", "a.safetensors")
    assert done.code == 2 and "gives other scores than in the run" in done.err and not Path("a.safetensors").exists()


def test_the_document_reads_what_its_commands_wrote(parle_command):
    text = (Path(exporting.__file__).parents[2] / "docs" / "sharing.md").read_text()
    for line in re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].splitlines():
        assert parle_command(*shlex.split(line, comments=True)[1:]).code == 0, line
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
