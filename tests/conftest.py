"""Fixtures: a command line in this process, made-up parquet folders, and where the real data lie."""

import io
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

torch.set_num_threads(1)
DATA_DIR = Path(os.environ["PARLE_DATA_DIR"]).resolve() if "PARLE_DATA_DIR" in os.environ else None  # tests change the folder


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The last line of standard output."""
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with a cache of its own and no settings from outside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("PARLE_DATA_DIR", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield DATA_DIR
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_reports(request, monkeypatch):
    """Trainings write no report, which would cost every one of them a second, except in tests that are marked `reports`."""
    if "reports" not in request.keywords:
        from parle import jobs

        monkeypatch.setattr(jobs._Job, "_report", lambda its: None)


@pytest.fixture
def parle_command(monkeypatch, capsys):
    """`parle_command("train", "-n", "2")` in this process."""
    from parle import cli

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["parle", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def make_shards(tmp_path):
    """A folder of parquet shards in the Hugging Face layout, with made-up images."""

    def make(name="made", shape=(28, 28), train=60, test=20, labels=None, columns=("image", "label"), classes=10, shards=1, extra=0, coarse=False) -> Path:
        import numpy as np
        import pyarrow
        import pyarrow.parquet
        from PIL import Image

        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for part, count in (("train", train), ("test", test), *([("extra", extra)] if extra else [])):
            cells = []
            for _ in range(count):
                encoded = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(encoded, format="PNG")
                cells.append({"bytes": encoded.getvalue(), "path": None})
            its = labels if labels is not None and part == "train" else [index % classes for index in range(count)]
            table = pyarrow.table({columns[0]: cells, columns[1]: its, **({"coarse_label": [0] * count} if coarse else {})})
            features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": [str(c) for c in range(classes)], "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
            for shard in range(shards):
                rows = table.slice(shard * count // shards, count // shards)
                pyarrow.parquet.write_table(rows, folder / f"{part}-{shard:05d}-of-{shards:05d}.parquet")
        return folder

    return make


@pytest.fixture
def mnist(own_folders):
    """The folder that holds MNIST, or a skip that says so."""
    if own_folders is None or not (own_folders / "mnist").is_dir():
        pytest.skip("needs MNIST: set PARLE_DATA_DIR to a folder with mnist/train-*.parquet")
    return (own_folders / "mnist").resolve()
