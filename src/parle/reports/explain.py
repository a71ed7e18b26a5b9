"""The page of an algorithm, made from its class alone: what `parle explain` prints, and docs/algorithms holds."""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable

import torch
from torch import nn

import parle
from parle.algorithm import Algorithm
from parle.algorithms import VARIANTS
from parle.errors import ConfigError


def page(
    name: str, kind: type[Algorithm], steps: int = 10_000, replicas: int = 3, parameters: int = 1_000_000, root: str | None = None, measured: str = ""
) -> str:
    """The page as Markdown: equations, settings, cost, where it runs, what `train` makes of it, what the theory promises, special cases.

    `root` is the way from the page to the repository, for links; without it, there are none. `measured` is what experiments say.
    """
    text = re.split(r"\n\s*>>>", inspect.getdoc(kind))[0].rstrip()
    sections = [f"# {name}  ({kind.__name__})", text, f"Paper: {_paper(kind, root)}.", f"Code: {_link(inspect.getfile(kind).partition('src/')[2], root)}"]
    sections += ["## Use", _use(name, kind, root), "## Settings", _settings(kind), "## Under `parle train`", under_train(name, kind, root)]
    sections += ["## Cost", _cost(kind, parameters), "## Where it runs", _where(kind)]
    sections += [*_promise(kind, steps, replicas, root), "## Special cases", "\n".join(f"- {case}" for case in kind.special_cases)]
    if name in VARIANTS:
        sections += ["## Variants", _variants(VARIANTS[name], root)]
    if measured:
        sections += ["## Measured", measured]
    return "\n\n".join(sections) + "\n"


def catalogue(kinds: dict[str, type[Algorithm]], code: Callable[[str], str]) -> str:
    """The table of all algorithms: what they do, what they cost, where they run; `code` makes the first cell of a name."""
    rows = []
    for name, kind in kinds.items():
        runs = setups(kind)
        marks = ["yes" if runs[setup].startswith("yes") else "-" for setup in (SERVER, LATE)]
        what = re.sub(r" \([^()]*\)\.$", "", summary(kind)).rstrip(".")
        rows.append([code(name), f"`{kind.__name__}`", what, "1" if kind.single else "n", _sent(kind), *marks])
    return table(["name", "class", "what the replicas do", "replicas", "each sends", "at a server of any quorum", "overlapped with steps"], rows)


def summary(kind: type[Algorithm]) -> str:
    """The first line of the docstring."""
    return inspect.getdoc(kind).splitlines()[0]


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *rows])


def _link(path: str, root: str | None, text: str | None = None) -> str:
    path = f"src/{path}" if path.startswith("parle/") else path
    return (text or f"`{path}`") if root is None else f"[{text or f'`{path}`'}]({root}/{path})"


def _paper(kind: type[Algorithm], root: str | None) -> str:
    return kind.paper if root is None else re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", kind.paper)


# Settings and use


def _use(name: str, kind: type[Algorithm], root: str | None) -> str:
    values = [(f.name, f.default) for f in dataclasses.fields(kind) if not callable(f.default) and len(f.metadata["choices"] or "12") > 1]
    settings = ", ".join(f"{key}={json.dumps(value) if isinstance(value, str) else value}" for key, value in values)
    count, optimizer = (
        (1 if kind.single else 3),
        "AdamW(model.parameters(), lr=0.001)" if kind.inner_optimizer == "adamw" else "SGD(model.parameters(), lr=0.1)",
    )
    return (
        f"```sh\nparle train -a {name} -e 1 --name {name}\n```\n\nIn {_link('docs/own_loop.md', root, 'a loop of your own')}:\n\n"
        f"```python\nimport torch\n\nimport parle\n\n"
        f"models = [torch.nn.Linear(2, 1) for _ in range({count})]\noptimizers = [torch.optim.{optimizer} for model in models]\n"
        f"replicas = parle.join(models, optimizers, parle.{kind.__name__}({settings}))\n```"
    )


def _settings(kind: type[Algorithm]) -> str:
    rows = [[f"`{field.name}`", str(field.default), field.metadata["meaning"], _allowed(field)] for field in dataclasses.fields(kind)]
    return table(["setting", "default", "meaning", "values"], rows) + (
        "\n\nA number may also be a schedule of the round, such as `parle.Steps(0.1, at=(50, 75))`, or a function of it; on the command line "
        "`--set algorithm.NAME=VALUE`, and schedules as text: `steps(0.1, at=(50, 75))`."
    )


def _allowed(field: dataclasses.Field) -> str:
    limits = field.metadata
    if limits["choices"]:
        return f"one of {', '.join(map(str, limits['choices']))}" if len(limits["choices"]) > 1 else f"only {limits['choices'][0]}"
    words = [f"{word.replace('_', ' ')} {limits[word]}" for word in ("above", "at_least", "below") if limits[word] is not None]
    words += ["a whole number"] if limits["whole"] else []
    return ", ".join(words + (["or one for each replica, or by time"] if limits["each"] else []))


def under_train(name: str, kind: type[Algorithm], root: str | None = None) -> str:
    """What the command line makes of the settings that are not given."""
    if name in VARIANTS:
        kind = next(iter(VARIANTS[name].values()))
    optimizer = "AdamW with the rate 0.001" if kind.inner_optimizer == "adamw" else "SGD with the rate 0.1 (`--lr`) and Nesterov's momentum 0.9"
    optimizer = "the server's own steps (`algorithm.lr`, `algorithm.momentum`)" if kind.steps_at_center else optimizer
    lines = [f"{'one replica' if kind.single else 'three replicas (`-n`)'}, {optimizer}, unless you or the model say otherwise"]
    if name in VARIANTS:
        lines += [f"a short run takes the variant `{next(iter(VARIANTS[name]))}`; `--set schedule=paper` takes the class above"]
    for field in dataclasses.fields(kind):
        clip, tail = field.metadata["clip"], field.metadata["tail"]
        if clip is not None:
            lines += [
                f"`{field.name}`: equation (9) of the Parle paper, from {field.default} down to {clip}, which it reaches in the last round; with `--set "
                f"schedule=paper` it falls by 1/2B in a round, B being the batches of a data epoch. In a loop of your own it is constant unless you give "
                f"`parle.Scoping({field.default}, batches=B, floor={clip})`"
            ]
        if field.metadata["rate"] == "outer":
            lines += [f"`{field.name}`: begins at `--lr` (beside AdamW at {field.default}) and is divided by 3 after three quarters of the rounds"]
        if field.metadata["rate"] == "inner":
            lines += [f"`{field.name}`: follows the inner rate, which is divided by 10 after half and three quarters of the run"]
        if tail is not None:
            lines += [f"`{field.name}`: begins after {tail:.0%} of the rounds"]
    if kind.fixed_inner_rate:
        lines += ["the inner rate is divided by 10 after half and three quarters of the run, although the paper keeps it; `--set schedule=paper` keeps it, too"]
    why = f"\n\nWhy: {_link('docs/decisions/0002-defaults-of-a-short-run.md', root)}." if kind.fixed_inner_rate else ""
    return "\n".join(f"- {line}" for line in lines) + why


# Cost


def vectors_kept(kind: type[Algorithm]) -> tuple[list[str], list[str]]:
    """The names of the vectors of each replica, and of those that exist once, found by starting the algorithm on a tiny network."""
    model = nn.Linear(1, 1)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), kind())
    return replicas.names(), list(replicas.center.shared.tensors())


def _cost(kind: type[Algorithm], parameters: int) -> str:
    each, once = vectors_kept(kind)
    rows = [
        ["each replica keeps, of N numbers each", ", ".join(["optimizer state (yours)", *each])],
        ["kept once", ", ".join(once) + ", and the mean while a round is being formed"],
        ["each replica sends", _bytes(kind, parameters)],
        ["gradient evaluations", "one for each step of each replica; a round computes none"],
    ]
    return table(["what", "how much"], rows)


def _sent(kind: type[Algorithm]) -> str:
    """What a replica sends, in a few words."""
    algorithm = kind()
    if not kind.vectors_sent:
        return "nothing"
    if not isinstance(algorithm.period, int) or algorithm.period > 10**9:
        return f"{kind.vectors_sent} vector, once"
    parts = f"1/{algorithm.fragments} vector" if algorithm.in_fragments else f"{kind.vectors_sent} vector"
    return f"{parts} every {f'{algorithm.period} steps' if algorithm.period > 1 else 'step'}"


def _bytes(kind: type[Algorithm], parameters: int) -> str:
    if not kind.vectors_sent:
        return "nothing: there is one replica"
    exchanged = len(range(*kind().fragment(0, parameters).indices(parameters)))
    size, what = kind.vectors_sent * exchanged * 4, f"{kind.vectors_sent} vector of N numbers" if exchanged == parameters else "1 fragment of a vector"
    when = "step" if kind.round_before_step else "round, that is every `period` steps"
    more = "; one vector more whenever the solution is formed" if "solution" in vars(kind) else ""
    return f"{what} per {when}: {size:,} bytes for N = {parameters:,} in float32 in one process, 2 (n - 1)/n times that by a ring all-reduce{more}"


# Where it runs, found out by trying

ONE, SEVERAL, SERVER, ALL, LATE, SHORT = (
    "several replicas in one process",
    "several processes (torch.distributed, MPI)",
    "a server of any quorum: asynchronous, partial rounds",
    "a server that waits for all",
    "rounds that overlap with steps (`Overlapped`)",
    "proposals in few bits (`Compressed`)",
)


def setups(kind: type[Algorithm]) -> dict[str, str]:
    """In which setups the algorithm can be joined: yes, or no with the reason, as `join` gives it."""
    if kind.single:
        return dict.fromkeys((ONE, SEVERAL, SERVER, ALL, LATE, SHORT), "no, it trains one replica")
    together = _trial(lambda: _join(kind, 3, parle.InProcess()))
    return {
        ONE: together,
        SEVERAL: together,  # tests/test_torch_distributed_processes.py holds every algorithm to the numbers of one process
        SERVER: _trial(lambda: parle.Server(quorum=1, replicas=2).run(lambda seat: _join(kind, 1, seat))),
        ALL: _trial(lambda: parle.Server(quorum="n", replicas=2).run(lambda seat: _join(kind, 1, seat))),
        LATE: _trial(lambda: _join(kind, 3, parle.Overlapped(parle.InProcess(), 1))),
        SHORT: _trial(lambda: _join(kind, 3, parle.Compressed(parle.InProcess(), "int8"))),
    }


def _where(kind: type[Algorithm]) -> str:
    if kind.single:
        return "In one process, with one replica. `join` refuses more."
    return table(["setup", "runs?"], [list(row) for row in setups(kind).items()])


def _join(kind: type[Algorithm], count: int, communicator: parle.Communicator) -> None:
    models = [nn.Linear(32, 8) for _ in range(count)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with parle.join(models, optimizers, kind(), communicator) as replicas:
        for model, optimizer in zip(models, optimizers, strict=True):
            model(torch.ones(1, 32)).sum().backward()
            optimizer.step()
        replicas.finish()


def _trial(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except ConfigError as error:
        return f"no: {error}"
    return "yes"


# What is promised, and what else there is


def _promise(kind: type[Algorithm], steps: int, replicas: int, root: str | None) -> list[str]:
    """The bound on the period, where the paper has one."""
    promised = kind().promised_period(steps, replicas)
    if promised is None:
        return []
    return [
        "## How long a period may be",
        "For f with an L-Lipschitz gradient, not necessarily convex, gradients of variance s^2 and second moment G^2, N replicas, T steps and a rate eta up to "
        f"1/L (derived in {_link('docs/family.md', root)}):\n\n"
        "    mean_t E |grad f(x_t)|^2  <=  2 (f(x_0) - f*) / (eta T)  +  4 eta^2 I^2 G^2 L^2  +  eta L s^2 / N\n\n"
        "With eta = sqrt(N / T) / L this is O(1 / sqrt(N T)), as good as N times the steps of one replica, as long as I is at most T^(1/4) / N^(3/4).\n\n"
        f"T^(1/4) / N^(3/4) = {promised:.3g} for N = {replicas} replicas and T = {steps:,} steps (-n and --steps): "
        f"`--set algorithm.period='restart({steps}, replicas={replicas})'` takes {max(1, int(promised))}. It is a promise up to a constant, which nobody knows "
        "beforehand; longer periods often do as well, and trials decide.",
    ]


def _variants(variants: dict[str, type[Algorithm]], root: str | None) -> str:
    lines = [f"- {_link(inspect.getfile(kind).partition('src/')[2], root, f'`{variant}`')}: {summary(kind)}" for variant, kind in variants.items()]
    return "\n".join(lines) + f"\n\n`train` takes {next(iter(variants))} in a short run; choose with --set algorithm.variant=NAME or --set schedule=paper."
