"""Folders of parquet shards in the Hugging Face layout: `train-*.parquet` and `test-*.parquet` with images and labels."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from parle.data.cache import Cache
from parle.data.dataset import Data, Split
from parle.errors import ConfigError, SetupError, first_line


def folder_of_shards(folder: Path) -> Path | None:
    """The folder itself if it holds training shards, else the first of its folders that does: the hub keeps them one deeper."""
    return next((path.parent for pattern in ("train-*.parquet", "*/train-*.parquet") for path in sorted(folder.glob(pattern))), None)


def read_folder(
    name: str, folder: Path, cache: Cache, image_column: str | None = None, label_column: str | None = None, extra: bool = False, progress=None
) -> Data:
    """The data of a folder of shards, decoded once and kept in the cache.

    Without column names, the column of encoded images and the column named `label` (or ending in it) are taken. With `extra`, the
    shards `extra-*.parquet` count as training data too, as with SVHN.
    Raises ConfigError for a shard that is missing or cannot be read, SetupError without the packages for it.
    """
    splits, names, classes = [], (), 0
    for part in ("train", "test"):
        shards = sorted(folder.glob(f"{part}-*.parquet"))
        if not shards:
            raise ConfigError(f"There is no {part}-*.parquet in {folder}. Expected shards in the Hugging Face layout, train-*.parquet and test-*.parquet.")
        if extra and part == "train":
            if not (more := sorted(folder.glob("extra-*.parquet"))):
                raise ConfigError(f"There is no extra-*.parquet in {folder}, but data.extra asks for it. Leave it away, or fetch that split as well.")
            shards += more
        columns = _columns(shards[0], image_column, label_column)
        tensors = cache.get(shards, columns[:2], lambda shards=shards, columns=columns: _decode(shards, *columns[:2], progress))
        splits.append(Split(tensors["images"], tensors["labels"], 255.0))
        names = names or columns[2]
        classes = classes or len(names) or int(tensors["labels"].max()) + 1
    return Data(name, *splits, classes, names).checked()


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError:
        raise SetupError('Parquet files need pyarrow: pip install "parle-sgd[data]"') from None
    return pyarrow


def _columns(shard: Path, image_column: str | None, label_column: str | None) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image and the label column, and those of the classes where the file says them."""
    pyarrow = _pyarrow()
    schema = _reading(shard, lambda: pyarrow.parquet.read_schema(shard))
    encoded = [name for name in schema.names if pyarrow.types.is_struct(schema.field(name).type)]
    image = image_column or (encoded[0] if encoded else None)
    label = label_column or next((name for name in schema.names if name == "label" or name.endswith("_label")), None)
    for name, kind in ((image, "image"), (label, "label")):
        if name not in schema.names:
            raise ConfigError(f"{shard} has no {kind} column {name or ''}; its columns are {', '.join(schema.names)}. Use --set data.{kind}_column=NAME.")
    return image, label, _reading(shard, lambda: _names(schema, label))


def _names(schema, label: str) -> tuple[str, ...]:
    """The classes that the metadata name."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return tuple(map(str, features.get(label, {}).get("names", [])))


def _decode(shards: list[Path], image: str, label: str, progress) -> dict[str, Tensor]:
    pyarrow = _pyarrow()
    tables = [_reading(shard, lambda shard=shard: pyarrow.parquet.read_table(shard, columns=[image, label])) for shard in shards]
    images, total = [], sum(table.num_rows for table in tables)
    for shard, table in zip(shards, tables, strict=True):
        for cell in table.column(image):
            images.append(_pixels(cell.as_py(), shard, len(images)))
            if progress and len(images) % 500 == 0:
                progress(len(images), total)
        if images and any(item.shape != images[0].shape for item in images):
            raise ConfigError(f"The images in {shard.parent} have different sizes; all must have the same.")
    if wrong := [
        table.schema.field(label).type for table in tables if not pyarrow.types.is_integer(table.schema.field(label).type) or table.column(label).null_count
    ]:
        raise ConfigError(
            f"The labels in {shards[0].parent} are {wrong[0]} or missing, expected whole numbers from 0. Choose with --set data.label_column=NAME."
        )
    labels = torch.cat([torch.tensor(table.column(label).to_pylist(), dtype=torch.long) for table in tables])
    return {"images": torch.stack(images), "labels": labels}


def _pixels(cell, shard: Path, row: int) -> Tensor:
    """An encoded image as a tensor of bytes (channels, height, width)."""
    try:
        from PIL import Image
    except ImportError:
        raise SetupError('Images in parquet files need Pillow: pip install "parle-sgd[data]"') from None
    try:
        picture = Image.open(io.BytesIO(cell["bytes"]))
        picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    except Exception as error:
        raise ConfigError(f"Image {row} of {shard} cannot be decoded ({type(error).__name__}). Fetch the file again.") from error
    return flat.view(picture.height, picture.width, -1).permute(2, 0, 1).contiguous()


def _reading(shard: Path, read):
    pyarrow = _pyarrow()
    try:
        return read()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{shard} cannot be read: {first_line(error)} It may be truncated: fetch it again.") from error
