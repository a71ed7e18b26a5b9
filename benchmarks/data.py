"""How long CIFAR-10 takes to load, to whiten and to augment.

    PARLE_DATA_DIR=path/to/data python benchmarks/data.py [--zca]

Decoding from parquet into an empty cache, loading again from the cache, and one batch of 128 shifted and mirrored on one thread,
beside drawing the same batch without it.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from parle.data import Batches, augmented, load


def seconds(work) -> tuple[float, object]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zca", action="store_true")
    how = parser.parse_args()
    folder = Path(os.environ["PARLE_DATA_DIR"])
    with tempfile.TemporaryDirectory() as cache:
        first, _ = seconds(lambda: load("cifar10", folder, Path(cache)))
        again, found = seconds(lambda: load("cifar10", folder, Path(cache)))
        print(f"CIFAR-10 decoded in {first:.1f} s, from the cache in {again:.2f} s")
        if how.zca:
            first, _ = seconds(lambda: load("cifar10", folder, Path(cache), normalize="zca"))
            again, _ = seconds(lambda: load("cifar10", folder, Path(cache), normalize="zca"))
            print(f"whitened in {first:.1f} s, from the cache in {again:.2f} s")
    torch.set_num_threads(1)
    plain = Batches(found.train, 128, seed=0, replica=0)
    changed = Batches(found.train, 128, seed=0, replica=0, augment=lambda images, generator: augmented(images, generator, "mirror-shift"))
    times = {"plain": [], "changed": []}
    for step in range(200):
        for name, batches in (("plain", plain), ("changed", changed)):
            times[name].append(seconds(lambda batches=batches, step=step: batches.at(step))[0] * 1000)
    before, after = (statistics.median(times[name]) for name in ("plain", "changed"))
    print(f"a batch of 128 on one thread: drawn in {before:.2f} ms, drawn and augmented in {after:.2f} ms, so {after - before:.2f} ms for that")


if __name__ == "__main__":
    main()
