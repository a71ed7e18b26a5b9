"""The card of an exported solution: what it is, how good it is, how it was made, and how to load it again."""

import re

import yaml

from parle.models import MODELS
from parle.reports.tables import size

FIGURES = {  # of a run's summary, with the words and the form of each on a card
    "error_pct": ("test error of the solution, %", "{:.2f}"),
    "loss": ("test loss of the solution", "{:.4f}"),
    "replica_error_pct": ("test error of each replica, %", "{:.2f}"),
    "gradient_evaluations": ("gradient evaluations, of all replicas", "{:,}"),
    "bytes_sent_per_replica": ("sent by each replica", ""),
    "seconds": ("seconds of training", "{:,.1f}"),
    "steps": ("steps of each replica", "{:,}"),
    "rounds": ("rounds", "{:,}"),
    "params": ("parameters", "{:,}"),
}


def page(about: dict) -> str:
    """The card as Markdown, with the head that model hubs read.

    >>> from parle.reports.card import code
    >>> code("a|b"), code("a`b")
    ('`a\\\\|b`', '`` a`b ``')
    """
    training, model, figures = about["training"], about["model"], about["figures"]
    algorithm, replicas = training["algorithm"]["name"], training["replicas"]
    who = f"the consensus of {replicas} replicas" if replicas > 1 else "the solution of one replica"
    head = {"library_name": "parle", "tags": list(dict.fromkeys(["parle", algorithm])), "pipeline_tag": _pipeline(about)}
    sections = [
        f"---\n{yaml.safe_dump({key: value for key, value in head.items() if value}, sort_keys=False)}---",
        f"# {code(model['name'])} on {code(about['data']['name'])}, trained by parle",
        f"Weights of {code(model['name'])}: {who}, trained with the algorithm {code(algorithm)} on {code(about['data']['name'])}. "
        f"Test error {figures['error_pct']:.2f} %, one run with seed {training['seed']}, on {about['data']['test_samples']:,} test samples.",
        "## Figures",
        _table([(words, _figure(form, figures[key])) for key, (words, form) in FIGURES.items() if figures.get(key) not in (None, [])]),
        "## Input and output",
        _shapes(about),
        "## Load it again",
        f"`pip install parle-sgd`, and in this folder:{_file_needed(model['name'])}",
        f"```python\n{snippet(about)}```",
        "## How it was trained",
        "The same training again: `parle train -c training.yaml`. That file has every setting; these say most:",
        _table(_settings(about)),
        "Versions: " + ", ".join(f"{code(name)} {code(version)}" for name, version in about["versions"].items() if version) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def snippet(about: dict) -> str:
    """Python that loads the network in the folder of the card, and prepares samples for it."""
    text = about["input"]["kind"] == "text"
    lines = [
        "import json",
        "from pathlib import Path",
        "",
        "import torch",
        "from safetensors.torch import load_file",
        "",
        "from parle.models import builder",
        "",
        'about = json.loads(Path("config.json").read_text())',
        'shape, its = tuple(about["input"]["shape"][1:]), about["model"]',
        'model = builder(its["name"], shape, about["classes"], its["options"])()',
        'model.load_state_dict(load_file("model.safetensors"))',
        "model.eval()",
        "",
        "",
        *(_reading_text() if text else _preparing(about["preprocessing"])),
        "",
        "",
        "with torch.no_grad():",
        *(
            ['    scores = model(prepare("Once upon a time"))[0, :, -1]  # of the character that follows', "print(chr(int(scores.argmax())))"]
            if text
            else ["    scores = model(prepare(torch.zeros(1, *shape)))  # put your images here", "print(scores.argmax(1))"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _reading_text() -> list[str]:
    return [
        "def prepare(text):",
        '    """The last characters of a text, as the network takes them."""',
        "    return torch.tensor([list(text.encode()[-shape[0] :])])",
    ]


def _preparing(its: dict) -> list[str]:
    """The steps of the preprocessing as code."""
    lines = ["def prepare(images):", '    """Images as they are in the data, (samples, channels, height, width), as the network takes them."""']
    lines += [f"    images = images.float() / {its['scale']:g}" if its["scale"] != 1.0 else "    images = images.float()"]
    if "mean" in its:
        lines += ['    mean, std = (torch.tensor(about["preprocessing"][key])[:, None, None] for key in ("mean", "std"))', "    images = (images - mean) / std"]
    if its["normalize"] in ("contrast", "zca"):
        lines += [
            "    mean, std = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)",
            "    images = (images - mean) / std.clamp_min(1e-8)",
        ]
    if its["normalize"] == "zca":
        lines += ['    its = load_file("preprocessing.safetensors")', '    images = ((images.flatten(1) - its["mean"]) @ its["matrix"]).view_as(images)']
    return [*lines, "    return images"]


def code(text) -> str:
    """Any text on one line, shown as it is: nothing in it is Markdown, neither in a paragraph nor in a cell of a table."""
    text = " ".join(str(text).split()) or " "
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " if "`" in text else ""
    return f"{fence}{room}{text}{room}{fence}".replace("|", "\\|")


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _figure(form: str, value) -> str:
    if isinstance(value, list):
        return ", ".join(form.format(its) for its in value)
    return form.format(value) if form else size(value)


def _shapes(about: dict) -> str:
    given, made, classes = about["input"], about["output"], about["classes"]
    names = ", ".join(map(code, about["class_names"]))
    lines = [
        f"- input: {given['kind']}, {given['dtype']}, {code(_shape(given['shape']))}",
        f"- output: {made['kind']}, {code(_shape(made['shape']))}; {classes} classes{': ' + names if names else ''}",
        "- preprocessing, with its numbers in `config.json`:",
        *(f"  {number}. {step}" for number, step in enumerate(about["preprocessing"]["steps"], 1)),
    ]
    return "\n".join(lines)


def _shape(sizes: list) -> str:
    return f"({', '.join(map(str, sizes))})"


def _settings(about: dict) -> list[tuple[str, str]]:
    training, model = about["training"], about["model"]
    rows = [("network", code(model["name"])), *((f"its option {code(key)}", code(value)) for key, value in model["options"].items())]
    rows += [("replicas", training["replicas"]), ("epochs of each", f"{training['epochs']:g}"), ("batch of each", training["batch_size"])]
    rows += [("seed", training["seed"]), ("precision", training["precision"]), ("augmentation", training["augment"])]
    rows += [(f"algorithm: {code(key)}", code(value)) for key, value in training["algorithm"].items()]
    return rows + [(f"optimizer: {code(key)}", code(value)) for key, value in training["optimizer"].items()]


def _file_needed(name: str) -> str:
    """What to say of a network that is not one of parle's."""
    if name in MODELS:
        return ""
    return f" The network itself is {code(name)}, which its author has to give you beside these files; the formats pt2 and onnx need no such code."


def _pipeline(about: dict) -> str | None:
    """The task as model hubs call it."""
    if about["input"]["kind"] == "text":
        return "text-generation"
    return "image-classification" if min(about["input"]["shape"][-2:]) > 1 else None
