"""Images/s of several replicas of a small network in one process on one GPU: in turn, `batched`, and on `streams`.

    python benchmarks/gpu_replicas.py [--replicas 1 2 4 8 16] [--models lenet mlp] [--set precision=bf16 ...] [--blocks 5] [--device cuda] [--json FILE]

Training steps of `parle train` on made-up images of MNIST's shape, rounds included, in blocks that take turns with those of one replica alone. A ratio is
images/s divided by n times those of the one replica: 1 is a chip with room for all of them, and 1/n is one that was full before. Settings are
those of `--set`, and the fused optimizer. `--device cpu` shows that it runs, and that batched steps are slower there.
"""

import argparse
import dataclasses
import statistics
import time

import side_by_side
import torch

from parle import config, plans, settling
from parle.data import Data, Split
from parle.stepping import STEPPINGS
from parle.training import Training

NAME, AIM = "gpu-replicas", ">= 0.9"


def made_up(count: int) -> Data:
    """Images and labels without meaning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(0, 10, (count,), generator=generator), 255.0)
    return Data("made-up", split, split.first(1000), 10)


def training(model: str, replicas: int, stepping: str, options: argparse.Namespace, data: Data) -> Training:
    sets = (f"model={model}", f"algorithm={options.algorithm}", f"replicas={replicas}", f"device={options.device}", "optimizer.fused=true", *options.set)
    settings = settling.settled(config.load(sets=sets, options={"stepping": stepping, "epochs": 100}), len(data.train))
    made = Training(dataclasses.replace(plans.plan_for(settings, data), evaluate_every=10**9))
    made.advance(options.steps)  # warm up, a round too
    return made


def speed(made: Training, steps: int) -> float:
    """Images/s of all replicas."""
    wait(made)
    began = time.perf_counter()
    made.advance(steps)
    wait(made)
    return steps * made.plan.replicas * made.plan.batch_size / (time.perf_counter() - began)


def wait(made: Training) -> None:
    if made.plan.devices[0].type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--models", nargs="+", default=["lenet", "mlp"])
    parser.add_argument("--algorithm", default="parle")
    parser.add_argument("--steppings", nargs="+", default=list(STEPPINGS))
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        side_by_side.tell(
            [side_by_side.skipped(NAME, "several replicas on one GPU", "this machine has no CUDA device; --device cpu shows that it runs")], options.json
        )
        return
    data, rows = made_up(options.samples), []
    print(torch.cuda.get_device_name() if options.device != "cpu" else f"CPU, {torch.get_num_threads()} threads", f"torch {torch.__version__}")
    for model in options.models:
        one = training(model, 1, "in-turn", options, data)
        for replicas in options.replicas:
            several = {stepping: training(model, replicas, stepping, options, data) for stepping in options.steppings}
            for stepping, made in several.items():
                pairs = [(speed(one, options.steps), speed(made, options.steps)) for _ in range(options.blocks)]
                case, target = f"{model}, {replicas} replicas, {stepping}", AIM if stepping == "batched" else None
                its = side_by_side.row(NAME, case, [its / alone / replicas for alone, its in pairs], "of n times one replica", target)
                rows.append(its | {"remark": f"{statistics.median(its for _, its in pairs):,.0f} images/s"})
    side_by_side.tell(rows, options.json)


if __name__ == "__main__":
    main()
