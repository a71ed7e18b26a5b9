"""A checkpoint: a folder with the tensors of a state in safetensors form, everything else as JSON, and a manifest of both.

It is written aside, flushed and renamed into place, so a crash leaves the earlier ones intact. The manifest holds the size and the
SHA-256 digest of every file, and its own; sizes are compared before anything is read, names of files cannot leave the folder, and
nothing in it is ever executed.
"""

import hashlib
import json
import os
import platform
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from parle.errors import ConfigError, SetupError

MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "state.safetensors"
FORMAT = 4
LONGEST = 2**20  # bytes of a manifest


def write(folder: Path, state: dict, fingerprint: str = "") -> None:
    """Write a state of nested dicts, lists, tuples, numbers, texts and tensors; SetupError where the disk refuses.

    The fingerprint says what the state belongs to; `read` compares it.
    """
    _write(folder, *_taken_apart(state), fingerprint)


def _write(folder: Path, text: str, tensors: dict[str, Tensor], fingerprint: str) -> None:
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    before = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        safetensors.torch.save_file(tensors, aside / TENSORS)
        (aside / STATE).write_text(text)
        (aside / MANIFEST).write_text(_manifest(aside, fingerprint))
        for path in (aside / TENSORS, aside / STATE, aside / MANIFEST, aside):
            _flush(path)
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


def _manifest(folder: Path, fingerprint: str) -> str:
    from parle import __version__

    files = {name: {"size": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in (TENSORS, STATE)}
    versions = {"parle": __version__, "torch": torch.__version__, "python": platform.python_version()}
    content = {"format": FORMAT, "fingerprint": fingerprint, "versions": versions, "files": files}
    return json.dumps({"manifest": content, "sha256": _digest_of(content)}, indent=1) + "\n"


def read(folder: Path, fingerprint: str | None = None) -> dict:
    """The state in a checkpoint; ConfigError where a file is missing or not as it was written, or it belongs to something else."""
    where = _where(folder)
    try:
        manifest = _checked_manifest(where / MANIFEST)
        if fingerprint is not None and manifest["fingerprint"] != fingerprint:
            raise ValueError(f"it belongs to something else ({manifest['fingerprint']}, not {fingerprint})")
        for name, its in manifest["files"].items():
            _check(where, name, its)
        return _decode(json.loads((where / STATE).read_text()), safetensors.torch.load_file(where / TENSORS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise ConfigError(f"The checkpoint {folder} cannot be used: {error}. Use an earlier one.") from error


def _where(folder: Path) -> Path:
    """The folder, or the one that a crash left aside just when it was to be replaced."""
    aside = [] if folder.exists() else sorted(folder.parent.glob(f"{folder.name}.old-*"))
    return aside[0] if aside else folder


def _checked_manifest(path: Path) -> dict:
    if path.stat().st_size > LONGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, at most {LONGEST:,} are read")
    try:
        told = json.loads(path.read_text())
        content = told["manifest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not what was written ({error})") from error
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']}, expected {FORMAT}")
    if told["sha256"] != _digest_of(content):
        raise ValueError(f"{path.name} is not what was written")
    if set(content["files"]) != {STATE, TENSORS}:  # and so no path that leaves the folder
        raise ValueError(f"{path.name} names the files {', '.join(map(repr, content['files']))}, expected {STATE} and {TENSORS}")
    return content


def _check(folder: Path, name: str, its: dict) -> None:
    size = (folder / name).stat().st_size
    if size != its["size"]:
        raise ValueError(f"{name} has {size:,} bytes, {its['size']:,} were written")
    if _digest(folder / name) != its["sha256"]:
        raise ValueError(f"{name} is not what was written")


class Writer:
    """Writes checkpoints in the background: a state is copied at once, and goes to disk while the training goes on.

    One at a time: the next one waits for the one before. What the disk refuses is raised then, or by `flush`, as SetupError.
    """

    def __init__(self, fingerprint: str = ""):
        self.fingerprint = fingerprint
        self._pool, self._going = ThreadPoolExecutor(1), None

    def write(self, folder: Path, state: dict, keep: int, spared: Path | None = None) -> None:
        """Write a checkpoint, then remove all but the last `keep` of its kind and the one that is `spared`."""
        apart = _taken_apart(state)
        self.flush()
        self._going: Future | None = self._pool.submit(self._write, folder, *apart, keep, spared)

    def _write(self, folder: Path, text: str, tensors: dict[str, Tensor], keep: int, spared: Path | None) -> None:
        _write(folder, text, tensors, self.fingerprint)
        prune(folder.parent, keep, spared)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        going, self._going = self._going, None
        if going:
            going.result()


def all_in(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdigit())


def prune(folder: Path, keep: int, spared: Path | None = None) -> None:
    """Remove all but the last `keep` checkpoints and the one that is spared, and what a crash left half written."""
    for path in [its for its in all_in(folder)[:-keep] if its != spared] + list(folder.glob("step-*.tmp-*")) + list(folder.glob("step-*.old-*")):
        shutil.rmtree(path, ignore_errors=True)


def _taken_apart(state: dict) -> tuple[str, dict[str, Tensor]]:
    """A state as text, and copies of its tensors by name."""
    tensors: dict[str, Tensor] = {}
    return json.dumps(_encode(state, tensors)), tensors


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        if odd := [key for key in value if not (key is None or isinstance(key, (str, int, float)))]:
            raise TypeError(f"a checkpoint cannot hold a dict with the key {odd[0]!r}")
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"tuple" if isinstance(value, tuple) else "list": [_encode(item, tensors) for item in value]}
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


def _digest_of(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
