"""Peak memory of coupled replicas, in vectors of N numbers, against what `parle explain` names.

    python benchmarks/memory.py [--size 16_000_000] [--replicas 3]

Each case runs in a process of its own: a model of one large vector, SGD with momentum, with and without parle. The difference of
their peaks (resident memory) divided by the size of one vector is compared with the vectors that `explain` lists beside the
parameters: those of each replica, the reference, and the mean while a round is being formed; plus one.
"""

import argparse
import dataclasses
import resource
import subprocess
import sys

import torch
from torch import nn

import parle
from parle.reports.explain import vectors_kept


class Large(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))

    def forward(self) -> torch.Tensor:
        return self.w.sum()


def run(name: str, size: int, replicas: int) -> None:
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


def peak(name: str, size: int, replicas: int) -> int:
    command = [sys.executable, __file__, "--case", name, "--size", str(size), "--replicas", str(replicas)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16_000_000)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        run(options.case, options.size, options.replicas)
        return
    vector = options.size * 4
    for name, kind in parle.ALGORITHMS.items():
        replicas = 1 if kind.single else options.replicas
        extra = (peak(name, options.size, replicas) - peak(f"without {name}", options.size, replicas)) / vector
        each, once = vectors_kept(kind)
        named = (len(each) - 1) * replicas + len(once) + 1  # params are there without parle; the mean exists once
        print(f"{name:18} n={replicas}: {extra:5.2f} vectors more than without; explain names {named}, plus one is {named + 1}")


if __name__ == "__main__":
    main()
