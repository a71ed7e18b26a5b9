"""Peak memory of coupled replicas, in vectors of N numbers, against what `parle explain` names.

    python benchmarks/memory.py [--size 16_000_000] [--replicas 3] [--algorithms NAME ...] [--json FILE]

Each case runs in a process of its own: a model of one large vector, SGD with momentum, with and without parle. The difference of
their peaks (resident memory) divided by the size of one vector is compared with the vectors that `explain` lists beside the
parameters: those of each replica, the reference, and the mean while a round is being formed; plus one.
"""

import argparse
import dataclasses
import resource
import subprocess
import sys

import side_by_side
import torch
from torch import nn

import parle
from parle.reports.explain import vectors_kept

NAME = "memory"


class Large(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))

    def forward(self) -> torch.Tensor:
        return self.w.sum()


def run(name: str, size: int, replicas: int) -> list:
    """One case: prints the peak of this process, in bytes."""
    models = [Large(size) for _ in range(replicas)]
    kind, coupled = parle.ALGORITHMS[name.removeprefix("without ")], None
    momentum = {} if kind.steps_at_center else {"momentum": 0.9, "nesterov": True}
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, foreach=False, **momentum) for m in models]
    if not name.startswith("without"):
        period = next(field for field in dataclasses.fields(kind) if field.name == "period")
        coupled = parle.join(models, optimizers, kind(**({"period": 2} if period.metadata["each"] else {})))
    for _ in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model().backward()
            optimizer.step()
    if coupled is not None:
        coupled.finish()
    del coupled
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return []


def peak(name: str, size: int, replicas: int) -> int:
    command = [sys.executable, __file__, "--case", name, "--size", str(size), "--replicas", str(replicas)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def rows_of(options: argparse.Namespace) -> list[dict]:
    """A row for each algorithm."""
    rows = []
    for name in options.algorithms:
        kind = parle.ALGORITHMS[name]
        replicas = 1 if kind.single else options.replicas
        extra = (peak(name, options.size, replicas) - peak(f"without {name}", options.size, replicas)) / (4 * options.size)
        each, once = vectors_kept(kind)
        named = (len(each) - 1) * replicas + len(once) + 1  # params are there without parle; the mean exists once
        rows.append(side_by_side.row(NAME, f"{name}, n={replicas}", [extra], "vectors", f"<= {named + 1}", vectors_named=named))
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--algorithms", nargs="+", choices=parle.ALGORITHMS, default=list(parle.ALGORITHMS))
    parser.add_argument("--size", type=int, default=16_000_000)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    side_by_side.run(parser, lambda options: run(options.case, options.size, options.replicas) if options.case else rows_of(options))


if __name__ == "__main__":
    main()
