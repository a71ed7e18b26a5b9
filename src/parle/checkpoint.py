"""A checkpoint: a folder with the tensors of a state in safetensors form and everything else as JSON.

It is written aside, flushed and renamed into place, so a crash leaves the earlier ones intact; SHA-256 digests of both files
are checked when it is read. Nothing in it is ever executed.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from parle.errors import ConfigError, SetupError

TENSORS, STATE = "state.safetensors", "state.json"
FORMAT = 3


def write(folder: Path, state: dict) -> None:
    """Write a state of nested dicts, lists, tuples, numbers, texts and tensors; SetupError where the disk refuses."""
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, tensors)
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        safetensors.torch.save_file(tensors, aside / TENSORS)
        text = json.dumps(tree)
        manifest = {"format": FORMAT, "tensors_sha256": _digest(aside / TENSORS), "state_sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text}
        (aside / STATE).write_text(json.dumps(manifest))
        for path in (aside / TENSORS, aside / STATE, aside):
            _flush(path)
        before = folder.with_name(f"{folder.name}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise SetupError(
            f"The checkpoint {folder} cannot be written: {error}. Earlier checkpoints are untouched; free some space or choose another --runs-dir."
        ) from error


def read(folder: Path) -> dict:
    """The state in a checkpoint; ConfigError where a file is missing or not as it was written."""
    try:
        manifest = json.loads((folder / STATE).read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"it has format {manifest['format']}, expected {FORMAT}")
        if manifest["tensors_sha256"] != _digest(folder / TENSORS):
            raise ValueError(f"{TENSORS} is not what was written")
        if manifest["state_sha256"] != hashlib.sha256(manifest["state"].encode()).hexdigest():
            raise ValueError(f"{STATE} is not what was written")
        return _decode(json.loads(manifest["state"]), safetensors.torch.load_file(folder / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ConfigError(f"The checkpoint {folder} cannot be used: {error}. Use an earlier one.") from error


def all_in(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdigit())


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints."""
    for path in all_in(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_encode(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_decode(item, tensors) for item in content)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_finite(state: Any) -> bool:
    """Whether every floating-point tensor in a state is finite."""
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    members = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return all(is_finite(member) for member in members)
