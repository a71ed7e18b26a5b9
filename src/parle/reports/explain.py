"""The page of an algorithm, made from its class alone: what `parle explain` prints."""

import dataclasses
import inspect
import re

import torch
from torch import nn

import parle
from parle.algorithm import Algorithm
from parle.algorithms import VARIANTS


def page(name: str, kind: type[Algorithm], steps: int = 10_000, replicas: int = 3, parameters: int = 1_000_000) -> str:
    """The page as Markdown: equations, settings, vectors kept, bytes per round, what the theory promises a run, special cases."""
    text = re.split(r"\n\s*>>>", inspect.getdoc(kind))[0].rstrip()
    each, once = vectors_kept(kind)
    sections = [
        f"# {name}  ({kind.__name__})",
        text,
        f"Paper: {kind.paper}.",
        "## Settings",
        "\n".join(_setting(field) for field in dataclasses.fields(kind)),
        "## Vectors",
        f"- each replica keeps, of N numbers each: {', '.join(['optimizer state (yours)', *each])}\n"
        f"- kept once: {', '.join(once)}, and the mean while a round is being formed\n"
        f"- partial rounds: {'yes' if kind.partial_rounds else 'no, every round needs all replicas'}",
        "## Bytes",
        _bytes(kind, parameters),
        *_promise(kind, steps, replicas),
        "## Special cases",
        "\n".join(f"- {case}" for case in kind.special_cases),
    ]
    if name in VARIANTS:
        sections += ["## Variants", _variants(VARIANTS[name])]
    return "\n\n".join(sections) + "\n"


def _promise(kind: type[Algorithm], steps: int, replicas: int) -> list[str]:
    """The bound on the period, where the paper has one."""
    promised = kind().promised_period(steps, replicas)
    if promised is None:
        return []
    return [
        "## How long a period may be",
        "For f with an L-Lipschitz gradient, not necessarily convex, gradients of variance s^2 and second moment G^2, N replicas, T steps and a rate eta up to "
        "1/L (derived in docs/family.md):\n\n"
        "    mean_t E |grad f(x_t)|^2  <=  2 (f(x_0) - f*) / (eta T)  +  4 eta^2 I^2 G^2 L^2  +  eta L s^2 / N\n\n"
        "With eta = sqrt(N / T) / L this is O(1 / sqrt(N T)), as good as N times the steps of one replica, as long as I is at most T^(1/4) / N^(3/4).\n\n"
        f"T^(1/4) / N^(3/4) = {promised:.3g} for N = {replicas} replicas and T = {steps:,} steps (-n and --steps): "
        f"`--set algorithm.period='restart({steps}, replicas={replicas})'` takes {max(1, int(promised))}. It is a promise up to a constant, which nobody knows "
        "beforehand; longer periods often do as well, and trials decide.",
    ]


def _variants(variants: dict[str, type[Algorithm]]) -> str:
    lines = [f"- {variant}: {inspect.getdoc(kind).splitlines()[0]}" for variant, kind in variants.items()]
    return "\n".join(lines) + f"\n\n`train` takes {next(iter(variants))} in a short run; choose with --set algorithm.variant=NAME or --set schedule=paper."


def vectors_kept(kind: type[Algorithm]) -> tuple[list[str], list[str]]:
    """The names of the vectors of each replica, and of those that exist once, found by starting the algorithm on a tiny network."""
    model = nn.Linear(1, 1)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), kind())
    return replicas.names(), list(replicas.center.shared.tensors())


def _setting(field: dataclasses.Field) -> str:
    limits = field.metadata
    allowed = [f"{word.replace('_', ' ')} {limits[word]}" for word in ("above", "at_least", "below") if limits.get(word) is not None]
    allowed += [f"one of {', '.join(map(str, limits['choices']))}"] if limits.get("choices") else []
    notes = [f"default {field.default}", *allowed]
    notes += ["`train` scopes it down to " + str(limits["clip"])] if limits.get("clip") is not None else []
    notes += ["`train` ties it to --lr and drops it"] if limits.get("rate") else []
    return f"- {field.name}: {limits['meaning']} ({'; '.join(notes)})"


def _bytes(kind: type[Algorithm], parameters: int) -> str:
    if not kind.vectors_sent:
        return "nothing is sent: there is one replica"
    exchanged = len(range(*kind().fragment(0, parameters).indices(parameters)))
    size, what = kind.vectors_sent * exchanged * 4, f"{kind.vectors_sent} vector of N numbers" if exchanged == parameters else "1 fragment of a vector"
    when = "step" if kind.round_before_step else "round, that is every `period` steps"
    more = "; one vector more whenever the solution is formed" if "solution" in vars(kind) else ""
    return (
        f"{what} from each replica per {when}: {size:,} bytes for N = {parameters:,} in float32 in one process, "
        f"2 (n - 1)/n times that by a ring all-reduce{more}"
    )
