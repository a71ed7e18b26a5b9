"""`parle.save` and `parle.load`: a training loop of one's own on disk, so that it goes on as if never stopped."""

from pathlib import Path
from typing import Any

import torch

from parle import checkpoint
from parle.errors import ConfigError
from parle.random_streams import RandomStream
from parle.replicas import Replicas


def save(path: str | Path, replicas: Replicas, **more: Any) -> None:
    """Write a checkpoint of joined replicas: vectors, reference, counters, optimizers, buffers, and the random generators.

    `more` are other things by name, with a `state_dict()`, such as a scheduler or a GradScaler, or plain numbers, texts, tensors,
    lists and dicts of them, such as the position in the data. An older checkpoint of that name is replaced only when the new one
    is on the disk. Of several processes, each writes a folder of its own below `path`, and all of them have to call it. Raises ConfigError
    for what cannot be written, SetupError where the disk refuses.

    >>> import parle, tempfile
    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> replicas = parle.join(model, optimizer, parle.LocalSGD())
    >>> folder = tempfile.mkdtemp()
    >>> parle.save(f"{folder}/now", replicas, step=7)
    >>> parle.load(f"{folder}/now", replicas)
    {'step': 7}
    """
    state = {
        "replicas": replicas.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in replicas.optimizers],
        "kinds": _kinds(replicas),
        "buffers": [dict(model.named_buffers()) for model in replicas.models],
        "random": RandomStream.of_now(replicas.reference.device).state_dict(),
        "more": {name: its.state_dict() if hasattr(its, "state_dict") else its for name, its in more.items()},
    }
    folder = _folder(path, replicas)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / checkpoint.MANIFEST).is_file():
        raise ConfigError(f"{folder} holds other things than a checkpoint, which would be lost. Give another path.")
    try:
        checkpoint.write(folder, state)
    except TypeError as error:
        raise ConfigError(
            f"This cannot be saved: {error}. Give numbers, texts, tensors, lists and dicts of them, or things with a state_dict() of such."
        ) from None


@torch.no_grad()
def load(path: str | Path, replicas: Replicas, **more: Any) -> dict[str, Any]:
    """Put joined replicas where `save` left them, and the things given by name, with a `load_state_dict`, too; the plain values by name.

    Nothing is changed before the files have been checked: ConfigError where they are damaged, missing, or of another algorithm, model
    or number of replicas, or something was given that was not saved.

    >>> import parle, tempfile
    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    >>> replicas = parle.join(model, optimizer, parle.LocalSGD())
    >>> folder = tempfile.mkdtemp()
    >>> parle.save(f"{folder}/now", replicas, scheduler=scheduler, epoch=3)
    >>> parle.load(f"{folder}/now", replicas, scheduler=scheduler)
    {'epoch': 3}
    """
    state = checkpoint.read(_folder(path, replicas))
    saved = state["more"]
    if unknown := sorted(set(more) - set(saved)):
        raise ConfigError(f"{unknown[0]} is not in the checkpoint {path}, which has {', '.join(sorted(saved)) or 'nothing beside the replicas'}.")
    _check_fits(replicas, state)
    replicas.load_state_dict(state["replicas"])
    for optimizer, its in zip(replicas.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(its)
    for model, its in zip(replicas.models, state["buffers"], strict=True):
        for name, buffer in model.named_buffers():
            buffer.copy_(its[name])
    for name, its in more.items():
        try:
            its.load_state_dict(saved[name])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{name} does not fit what was saved under that name ({type(error).__name__}: {error}).") from error
    RandomStream.of_now(replicas.reference.device).put_in_place(state["random"])
    return {name: value for name, value in saved.items() if name not in more}


def _kinds(replicas: Replicas) -> list:
    """What optimizers and buffers there are, and what the communicator keeps."""
    optimizers = [[type(its).__name__, [len(group["params"]) for group in its.param_groups]] for its in replicas.optimizers]
    buffers = [[[name, list(buffer.shape)] for name, buffer in model.named_buffers()] for model in replicas.models]
    return [optimizers, buffers, sorted(replicas.communicator.state_dict())]


def _check_fits(replicas: Replicas, state: dict) -> None:
    """ConfigError before anything is changed, where something is of another kind than it was."""
    saved, here = len(state["optimizers"]), len(replicas.optimizers)
    if saved != here:
        raise ConfigError(
            f"This checkpoint holds {saved} replicas of this process, but {here} are joined. Join as many; other numbers are for `parle resume -n`."
        )
    for what, saved, here in zip(("optimizers", "buffers", "state of the communicator"), state["kinds"], _kinds(replicas), strict=True):
        if saved != here:
            raise ConfigError(f"The {what} were {str(saved)[:200]} when this was saved, and are {str(here)[:200]}. Join as it was then.")


def _folder(path: str | Path, replicas: Replicas) -> Path:
    its, path = replicas.communicator, Path(path).absolute()
    return path if its.size == its.local else path / f"replica-{its.first}"
