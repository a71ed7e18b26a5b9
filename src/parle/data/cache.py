"""Decoded tensors on disk, found by the digest of the files they came from and checked by a digest of their own."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor


class Cache:
    """A folder of decoded tensors; `None` keeps nothing. A damaged or unwritable cache is the same as an empty one."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def get(self, sources: Iterable[Path], key: Iterable[str], decode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors decoded from those files, from the cache if they were decoded before."""
        if self.folder is None:
            return decode()
        name = hashlib.sha256(repr(tuple(key)).encode())
        for source in sources:
            with open(source, "rb") as file:
                name.update(hashlib.file_digest(file, "sha256").digest())
        path = self.folder / f"{name.hexdigest()[:32]}.safetensors"
        tensors = _read(path)
        if tensors is None:
            tensors = decode()
            _write(path, tensors)
        return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = file.metadata()["sha256"]
    except (OSError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    return tensors if _digest(tensors) == expected else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    aside = path.with_suffix(f".{os.getpid()}-{id(tensors)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, aside, metadata={"sha256": _digest(tensors)})
        aside.replace(path)
    except (OSError, safetensors.SafetensorError):
        with contextlib.suppress(OSError):
            aside.unlink()
