"""Images/s of `train` against a hand-written plain PyTorch loop on the same model, batches, data and threads.

    PARLE_DATA_DIR=DIR python benchmarks/overhead.py [--replicas 1 3] [--algorithm parle] [--blocks 7] [--steps 25] [--threads 1]

The two take turns in blocks of `--steps` steps of every replica, so that a drift of the machine hits both; the ratio is formed
block by block. The null is the plain loop against itself. The plain loop trains as many separate models as there are replicas,
one after the other, and draws its batches by indexing the same tensors.
"""

import argparse
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from parle import config, plans, settling
from parle.models import builder
from parle.training import Training


class Plain:
    """The loop that one would write without parle."""

    def __init__(self, data, batch_size: int, replicas: int):
        self.data, self.batch_size = data, batch_size
        self.models = [builder("lenet", data.shape, data.classes)().train() for _ in range(replicas)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--algorithm", default="parle")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for replicas in options.replicas:
        settings = config.load(sets=("model=lenet", "data=mnist", f"algorithm={options.algorithm}", f"replicas={replicas}"))
        data = plans.load_data(settings)
        settings = settling.settled(settings, len(data.train))
        ours, plain, null = Training(plans.plan_for(settings, data)), Plain(data, settings.batch_size, replicas), Plain(data, settings.batch_size, replicas)
        for advance in (ours.advance, plain.advance, null.advance):
            advance(options.steps)  # warm up
        rows = [[timed(advance, options.steps) for advance in (plain.advance, ours.advance, null.advance)] for _ in range(options.blocks)]
        images = options.steps * replicas * settings.batch_size
        speeds = [images / statistics.median(column) for column in zip(*rows, strict=True)]
        for name, column in (("train / plain", 1), ("plain / plain", 2)):
            ratios = sorted(row[0] / row[column] for row in rows)
            print(
                f"{options.algorithm} n={replicas} threads={options.threads} {name}: median {statistics.median(ratios):.3f} "
                f"(range {ratios[0]:.3f} to {ratios[-1]:.3f}, {options.blocks} blocks); {speeds[0]:,.0f} plain, {speeds[column]:,.0f} images/s"
            )


if __name__ == "__main__":
    main()
