"""The step of Parle with SGD, Nesterov momentum and weight decay, in copies of a vector of that size: readable, and in one pass.

    python benchmarks/update.py [--shapes one-20M wide-resnet all-cnn lenet] [--repetitions R] [--threads 2] [--json FILE]

A copy, torch's own fused SGD without Parle, Parle as its file has it and Parle in one pass take turns; no gradient is computed. A step
in one pass reads the parameters, x^a, z, the momentum and the gradient and writes three of them: 8 vectors, where a copy has 2.
"""

import argparse
import time

import side_by_side
import torch
from rounds import SHAPES, Bare
from torch._dynamo.utils import counters

import parle

NAME = "update"
NETWORKS = {"one-20M": lambda: Bare([(20_000_000,)])} | {name: SHAPES[name].build for name in ("wide-resnet", "all-cnn", "lenet")}
TARGET = "<= 2.5"


def stepping(build, one_pass: bool | None, **sgd) -> callable:
    """A call that takes one step of a network with made-up gradients; alone where `one_pass` is None."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4, **sgd)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    if one_pass is not None:
        parle.join(model, optimizer, parle.Parle(period=1_000_000), one_pass=one_pass)
    return optimizer.step


def milliseconds(call: callable) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def rows_of(options: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(options.threads)
    rows = []
    for shape in options.shapes:
        build = NETWORKS[shape]
        source = torch.randn(sum(p.numel() for p in build().parameters()))
        target = torch.empty_like(source)
        methods = {
            "copy": lambda target=target, source=source: target.copy_(source),
            "torch SGD, fused, alone": stepping(build, None, fused=True),
            "readable": stepping(build, False),
            "one pass": stepping(build, True),
        }
        counters.clear()
        for call in methods.values():
            call(), call()
        compiled = counters["stats"]["unique_graphs"]
        times = {name: [] for name in methods}
        for _ in range(options.repetitions):
            for name, call in methods.items():
                times[name].append(milliseconds(call))
        for name in list(methods)[1:]:
            counted = {"numbers": len(source)} | (
                {"compiled": compiled, "compiled_again": counters["stats"]["unique_graphs"] - compiled} if name == "one pass" else {}
            )
            held = TARGET if (shape, name) == ("one-20M", "one pass") else None
            rows.append(side_by_side.row(NAME, f"{shape}, {name}", side_by_side.ratios(times[name], times["copy"]), "copies", held, **counted))
        faster = side_by_side.ratios(times["readable"], times["one pass"])
        rows.append(side_by_side.row(NAME, f"{shape}, one pass against readable", faster, "times as fast"))
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
