"""Images/s of `train` against a hand-written plain PyTorch loop on the same model, batches, data and threads.

    PARLE_DATA_DIR=DIR python benchmarks/overhead.py [--replicas 1 3] [--algorithm parle] [--blocks 7] [--steps 25] [--threads 1] [--json FILE]

The two take turns in blocks of `--steps` steps of every replica, so that a drift of the machine hits both; the ratio is formed
block by block. The null is the plain loop against itself. The plain loop trains as many separate models as there are replicas,
one after the other, and draws its batches by indexing the same tensors.
"""

import argparse
import statistics
import time

import side_by_side
import torch
from torch.nn.functional import cross_entropy

from parle import config, plans, settling
from parle.models import builder
from parle.training import Training

NAME = "images per second"


class Plain:
    """The loop that one would write without parle."""

    def __init__(self, data, batch_size: int, replicas: int, model: str = "lenet"):
        self.data, self.batch_size = data, batch_size
        self.models = [builder(model, data.shape, data.classes)().train() for _ in range(replicas)]
        self.optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True) for m in self.models]
        self.orders = [torch.randperm(len(data.train)) for _ in range(replicas)]
        self.step = 0

    def advance(self, steps: int) -> None:
        images, labels, scale = self.data.train.images, self.data.train.labels, self.data.train.scale
        for model, optimizer, order in zip(self.models, self.optimizers, self.orders, strict=True):
            for step in range(self.step, self.step + steps):
                begin = step * self.batch_size % (len(order) - self.batch_size)
                index = order[begin : begin + self.batch_size]
                optimizer.zero_grad()
                loss = cross_entropy(model(images[index].float() / scale), labels[index])
                loss.backward()
                optimizer.step()
        self.step += steps


def timed(advance, steps: int) -> float:
    began = time.perf_counter()
    advance(steps)
    return time.perf_counter() - began


def rows_of(options: argparse.Namespace) -> list[dict]:
    """A row for each number of replicas, and one for the null."""
    torch.set_num_threads(options.threads)
    rows = []
    for replicas in options.replicas:
        settings = config.load(sets=(f"model={options.model}", f"data={options.data}", f"algorithm={options.algorithm}", f"replicas={replicas}"))
        data = plans.load_data(settings)
        settings = settling.settled(settings, len(data.train))
        ours = Training(plans.plan_for(settings, data))
        plain, null = (Plain(data, settings.batch_size, replicas, options.model) for _ in range(2))
        for advance in (ours.advance, plain.advance, null.advance):
            advance(options.steps)  # warm up
        times = [[timed(advance, options.steps) for advance in (plain.advance, ours.advance, null.advance)] for _ in range(options.blocks)]
        images = options.steps * replicas * settings.batch_size
        for name, column, target in (("train", 1, ">= 0.97"), ("plain loop again (null)", 2, None)):
            case = f"{name}, {options.algorithm}, {replicas} replica{'s' if replicas > 1 else ''}"
            speed = images / statistics.median(its[column] for its in times)
            row = side_by_side.row(NAME, case, [its[0] / its[column] for its in times], "x plain", target, steps=ours.step)
            rows.append(row | {"remark": f"{speed:,.0f} images/s"})
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--algorithm", default="parle")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
