"""Test errors after equal epochs, of local SGD whose rounds come late or shortened, against the same with exact rounds at once.

    PARLE_DATA_DIR=DIR python benchmarks/late_rounds.py [--data mnist] [--train 4000] [--epochs 5] [--seeds 3] [--json FILE]

A fast round that trains worse is no gain: this stands beside slow_network.py. Two replicas of LeNet in one process, which does what
two processes do to the last digit; each sees the first `--train` images in an order of its own, in batches of 64, with a rate that
falls from 0.1 to 0 along a cosine, and a round every 25 steps. All ways take their turn with every seed.
"""

import argparse
import statistics

import side_by_side
import torch
from slow_network import BEST, PERIOD, Ours
from torch.nn.functional import cross_entropy

import parle
from parle import config, plans
from parle.models import builder

NAME = "late rounds"
REPLICAS, BATCH, RATE = 2, 64, 0.1
AT_ONCE = Ours()
WAYS = [AT_ONCE, Ours(codec="bf16"), Ours(codec="int8"), Ours(codec="int4"), Ours(delay=20), BEST["100mbit"], Ours(codec="int8", delay=24), BEST["20mbit"]]


def error_of(way: Ours, model: str, data, epochs: int, seed: int) -> tuple[float, parle.Metered]:
    """The test error of the solution, in percent."""
    torch.manual_seed(seed)
    images, labels = data["train"]
    models = [builder(model, tuple(images.shape[1:]), 10)().train() for _ in range(REPLICAS)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True) for model in models]
    steps = len(images) // BATCH
    rates = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps) for optimizer in optimizers]
    meter = parle.Metered(way.communicator(parle.InProcess()))
    replicas = parle.join(models, optimizers, way.algorithm(period=PERIOD), meter)
    for _ in range(epochs):
        orders = [torch.randperm(len(images)).split(BATCH)[:steps] for _ in models]
        for step in range(steps):
            for model, optimizer, rate, order in zip(models, optimizers, rates, orders, strict=True):
                optimizer.zero_grad()
                cross_entropy(model(images[order[step]]), labels[order[step]]).backward()
                optimizer.step()
                rate.step()
    replicas.finish()
    with replicas.solution(images.split(BATCH)) as solution, torch.no_grad():
        images, labels = data["test"]
        wrong = sum(int((solution(its).argmax(1) != own).sum()) for its, own in zip(images.split(1000), labels.split(1000), strict=True))
    return 100 * wrong / len(images), meter


def rows_of(options: argparse.Namespace) -> list[dict]:
    found = plans.load_data(config.load(sets=(f"data={options.data}",)))
    parts = {"train": found.train.take(slice(options.train)), "test": found.test.take(slice(None))}
    errors, meters = {way: [] for way in WAYS}, {}
    for seed in range(options.seeds):
        for way in WAYS:
            error, meters[way] = error_of(way, options.model, parts, options.epochs, seed)
            errors[way].append(error)
    rows = []
    for way, its in errors.items():
        counted = {"rounds": meters[way].rounds, "bytes_sent_per_replica": meters[way].bytes_sent_per_replica}
        row = side_by_side.row(NAME, f"{way}", side_by_side.ratios(its, errors[AT_ONCE]), "x the error of exact rounds at once", None, **counted)
        spread = f" +- {statistics.stdev(its):.2f}" if len(its) > 1 else ""
        rows.append(row | {"errors": its, "remark": f"test error {statistics.mean(its):.2f}{spread} %"})
    return rows


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
