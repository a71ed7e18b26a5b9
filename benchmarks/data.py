"""How long CIFAR-10 takes to load, to whiten and to augment.

    PARLE_DATA_DIR=path/to/data python benchmarks/data.py [--zca] [--name cifar10] [--json FILE]

Decoding from parquet into an empty cache, loading again from the cache, and one batch of 128 shifted and mirrored on one thread,
beside drawing the same batch without it.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import side_by_side
import torch

from parle.data import Batches, augmented, load

NAME = "data"


def seconds(work) -> tuple[float, object]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def rows_of(options: argparse.Namespace) -> list[dict]:
    if "PARLE_DATA_DIR" not in os.environ:
        return [side_by_side.skipped(NAME, options.name, "PARLE_DATA_DIR is not set")]
    folder, rows = Path(os.environ["PARLE_DATA_DIR"]), []
    with tempfile.TemporaryDirectory() as cache:
        for normalize, target in (("scale", "<= 20"), *((("zca", None),) if options.zca else ())):
            first, found = seconds(lambda normalize=normalize: load(options.name, folder, Path(cache), normalize=normalize))
            again, _ = seconds(lambda normalize=normalize: load(options.name, folder, Path(cache), normalize=normalize))
            counted = {"images": len(found.train) + len(found.test)}
            rows.append(side_by_side.row(NAME, f"{options.name} ({normalize}), decoded", [first], "s", target, **counted))
            rows.append(side_by_side.row(NAME, f"{options.name} ({normalize}), from the cache", [again], "s", "<= 1", **counted))
    torch.set_num_threads(1)
    plain = Batches(found.train, 128, seed=0, replica=0)
    changed = Batches(found.train, 128, seed=0, replica=0, augment=lambda images, generator: augmented(images, generator, "mirror-shift"))
    pairs = [[seconds(lambda batches=batches, step=step: batches.at(step))[0] for batches in (plain, changed)] for step in range(200)]
    extra = sorted(1000 * (changed - plain) for plain, changed in pairs)[10:-10]
    return [*rows, side_by_side.row(NAME, "a batch of 128 shifted and mirrored, beyond drawing it", extra, "ms", "<= 5")]


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--zca", action="store_true")
    side_by_side.run(parser, rows_of)


if __name__ == "__main__":
    main()
