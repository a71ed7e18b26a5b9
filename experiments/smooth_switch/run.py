"""The comparison of the hybrid approach to parallel SGD on a virtual clock: asynchronous, synchronous, Smooth Switch.

    python experiments/smooth_switch/run.py mnist            # or cifar10, synthetic, sensitivity
    python experiments/smooth_switch/run.py mnist --seeds 1  # a first look

Appends a line per run to results/<name>.jsonl and passes over runs that are there; `tables.py` makes the tables of README.md.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import parle
from parle.data import load
from parle.launch import Environment
from parle.random_streams import RandomStream, derive

REPLICAS, SECONDS, COMPUTE, LR, EVERY, SAMPLES = 25, 100.0, 0.35, 0.01, 2.0, 1000
RESULTS = Path(__file__).parent / "results"


def network(task: str) -> nn.Sequential:
    """The paper names no network: the small convolutional one of PyTorch's tutorial for images, an MLP for the synthetic task."""
    if task == "synthetic":
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    channels, flat = (1, 256) if task == "mnist" else (3, 400)
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def tensors(task: str, seed: int) -> tuple[torch.Tensor, ...]:
    """Inputs and labels for training and for testing."""
    if task == "synthetic":  # 20 features, 10 classes, 10,000 samples, 80:20
        from sklearn.datasets import make_classification

        inputs, labels = make_classification(10_000, 20, n_informative=10, n_redundant=2, n_classes=10, n_clusters_per_class=1, random_state=seed)
        inputs, labels = torch.from_numpy(inputs).float(), torch.from_numpy(labels)
        return inputs[:8000], labels[:8000], inputs[8000:], labels[8000:]
    environment = Environment.read()
    found = load(task, environment.data_dir, environment.cache_dir)
    (inputs, labels), (tests, test_labels) = found.train.take(slice(None)), found.test.take(slice(None))
    return inputs.sub_(0.5).mul_(2), labels, tests.sub_(0.5).mul_(2), test_labels


def curve(task: str, data: tuple, seed: int, quorum, reduce: str, batch: int, compute: float = COMPUTE, std: float = 0.25) -> dict:
    """One run of 100 virtual seconds: what the reference scores every two of them, and what the server counted."""
    inputs, labels, tests, test_labels = data
    shares = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive(seed, "shares"))).tensor_split(REPLICAS)
    seen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    clock = parle.Clock(compute=compute, delay=f"half:normal(0, {std})", seed=seed)
    server = parle.Simulated(quorum, replicas=REPLICAS, clock=clock)

    def fresh() -> nn.Module:
        with RandomStream(derive(seed, "network")):
            return network(task)

    def work(seat) -> None:
        share, draw = shares[seat.first], torch.Generator().manual_seed(derive(seed, "batches", seat.first))
        model = fresh()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        with parle.join(model, optimizer, parle.ServerSGD(lr=LR, reduce=reduce), seat):
            while True:
                index = share[torch.randint(len(share), (batch,), generator=draw)]
                optimizer.zero_grad()
                cross_entropy(model(inputs[index]), labels[index]).backward()
                optimizer.step()

    judge, records = fresh(), []

    @torch.no_grad()
    def watch(server) -> None:
        nn.utils.vector_to_parameters(server.desk.center.shared.reference, judge.parameters())
        tested, trained = judge(tests[:SAMPLES]), judge(inputs[seen])
        accuracy = 100 * (tested.argmax(1) == test_labels[:SAMPLES]).float().mean().item()
        losses = cross_entropy(tested, test_labels[:SAMPLES]).item(), cross_entropy(trained, labels[seen]).item()
        records.append([server.now, accuracy, *losses, server.desk.received, server.desk.updates, server.desk.quorum])

    began = time.time()
    server.run(work, SECONDS, watch=watch, every=EVERY)
    late = sorted(server.desk.staleness.elements())
    names = ["second", "accuracy", "test_loss", "train_loss", "gradients", "updates", "quorum"]
    told = [dict(zip(names, record, strict=True)) for record in records]
    return {"curve": told, "staleness_p50": late[len(late) // 2], "real": round(time.time() - began, 1)}


def hybrid(step: int) -> str:
    return f"ramp(1, n, every={step})"


def grid(name: str) -> list[dict]:
    """The runs of a table, without their seeds."""
    if name == "synthetic":
        batches = [dict(batch=batch, step=500) for batch in (8, 16, 32, 64, 128)]
        steps = [dict(batch=32, step=step) for step in (100, 300, 700, 1000)]
        delays = [dict(batch=32, step=500, std=std) for std in (0.5, 0.75, 1.0, 1.25)]
        hybrids = [dict(its, reduce=reduce) for its in batches + steps + delays for reduce in ("sum", "mean")]
        plain = [dict(batch=batch, step=1) for batch in (8, 16, 32, 64, 128)] + [dict(batch=32, step=1, std=std) for std in (0.5, 0.75, 1.0, 1.25)]
    elif name == "sensitivity":
        hybrids = [dict(batch=32, step=300, reduce="sum", compute=compute) for compute in (0.1, 1.0)]
        plain = [dict(batch=32, step=1, compute=compute) for compute in (0.1, 1.0)]
    else:
        hybrids = [dict(batch=batch, step=step, reduce=reduce) for batch, step, reduce in itertools.product((32, 64), (300, 500), ("sum", "mean"))]
        plain = [dict(batch=batch, step=1) for batch in (32, 64)]
    runs = [dict(its, method="hybrid") for its in hybrids] + [dict(its, method="asynchronous", reduce="mean") for its in plain]
    return runs + [dict(its, method="synchronous", reduce=reduce) for its in plain for reduce in ("sum", "mean")]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=("mnist", "cifar10", "synthetic", "sensitivity"))
    options.add_argument("--seeds", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{arguments.name}.jsonl"
    done = {json.dumps(json.loads(line)["run"]) for line in file.read_text().splitlines()} if file.exists() else set()
    task = "mnist" if arguments.name == "sensitivity" else arguments.name
    for seed in range(arguments.seeds):
        data = tensors(task, seed)
        for its in grid(arguments.name):
            run = dict(its, seed=seed)
            if json.dumps(run) in done:
                continue
            settings = {key: value for key, value in run.items() if key not in ("method", "step", "seed")}
            quorum = {"asynchronous": 1, "synchronous": "n", "hybrid": hybrid(its["step"])}[its["method"]]
            result = curve(task, data, seed, quorum, **settings)
            with open(file, "a") as lines:
                lines.write(json.dumps({"run": run, **result}) + "\n")
            last = result["curve"][-1]
            print(run, f"accuracy {last['accuracy']:.1f} %, gradients {last['gradients']}, {result['real']} s", flush=True)


if __name__ == "__main__":
    main()
