"""Data by name: the embedded digits, folders of parquet shards, a text, the hub, or anybody's `module:attribute`."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from parle.data.cache import Cache
from parle.data.dataset import Batches, Data, Split, in_turn
from parle.data.embedded import classification, digits
from parle.data.hub import HUB_IDS, fetch
from parle.data.parquet import folder_of_shards, read_folder
from parle.data.preparation import AUGMENTATIONS, NORMALIZATIONS, PADDINGS, augmented, prepared
from parle.data.shares import share_of
from parle.data.text import read_text
from parle.errors import ConfigError, did_you_mean
from parle.named import is_reference, resolve

__all__ = ["AUGMENTATIONS", "NORMALIZATIONS", "PADDINGS", "Batches", "Data", "Split", "augmented", "in_turn", "load", "prepared", "share_of"]

EMBEDDED = {"digits": digits, "classification": classification}
KNOWN = (*EMBEDDED, *HUB_IDS)


def load(
    name: str,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    extra: bool = False,
    context: int = 128,
    normalize: str = "scale",
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """The data of that name: `digits`, `classification`, a folder in `data_dir`, a path, a hub id, or `module:attribute`.

    A folder holds parquet shards, with `extra` those of a third split too; a file is a text, cut into windows of `context` characters.

    Images are drawn as `normalize` says: scale, mean-std, contrast or zca. Decoded tensors are kept in `cache_dir`. Raises
    ConfigError or SetupError, with the cure, where there are none.

    >>> load("digits").train.images.shape
    torch.Size([1437, 1, 8, 8])
    """
    cache = Cache(cache_dir)
    return prepared(_found(name, data_dir, cache, (image_column, label_column, extra, progress), context), normalize, cache)


def _found(name: str, data_dir: Path | None, cache: Cache, columns: tuple, context: int) -> Data:
    if not name.strip():
        raise ConfigError(f"The name of the data is empty. Use one of {', '.join(KNOWN)}, a folder of parquet shards, a text file or module:attribute.")
    if name in EMBEDDED:
        return EMBEDDED[name](cache)
    if is_reference(name):
        return _own(name)
    folders = [Path(name).expanduser()] + ([data_dir / name] if data_dir else [])
    for folder in folders:
        if found := folder_of_shards(folder):
            return read_folder(folder.name, found, cache, *columns)
    if (text := Path(name).expanduser()).is_file():
        return read_text(text, context)
    if _is_path(name):
        raise ConfigError(
            f"There is no train-*.parquet in {name}. Give a folder with shards in the Hugging Face layout, a text file, or one of {', '.join(KNOWN)}."
        )
    if name not in KNOWN and "/" not in name:
        raise ConfigError(
            f"`{name}` is not a data set. {did_you_mean(name, KNOWN)} A folder of parquet shards, a text file, a hub id or module:attribute does as well."
        )
    fetched = (cache.folder or Path.home() / ".cache" / "parle") / "hub" / name.replace("/", "--")
    return read_folder(name, folder_of_shards(fetched) or fetch(name, fetched, data_dir), cache, *columns)


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()


def _own(name: str) -> Data:
    """Data from `module:attribute`: a Data, or a function that returns one, or (train images, labels, test images, labels)."""
    made = resolve(name, "data")
    if callable(made):
        try:
            made = made()
        except Exception as error:
            raise ConfigError(f"Data `{name}` failed: {type(error).__name__}: {error}") from error
    if isinstance(made, tuple) and len(made) == 4 and all(isinstance(part, Tensor) for part in made):
        if any(labels.dim() != 1 or labels.is_floating_point() or not len(labels) for labels in made[1::2]):
            raise ConfigError(
                f"The labels of `{name}` have shapes {[tuple(labels.shape) for labels in made[1::2]]}; expected one whole number for each sample."
            )
        parts = [Split(images, labels.long(), 255.0 if images.dtype == torch.uint8 else 1.0) for images, labels in (made[:2], made[2:])]
        made = Data(name, *parts, int(parts[0].labels.max()) + 1)
    if not isinstance(made, Data):
        raise ConfigError(f"Data `{name}` is a {type(made).__name__}, expected four tensors (train images, labels, test images, labels) or a parle Data.")
    return made.checked()
