"""`accelerate`: the loop stays as it is, and one line prepares replicas in the place of copies that are kept equal.

replicas, model, optimizer, loader = prepare(accelerator, parle.Parle(period=25), model, optimizer, loader)
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.errors import ConfigError, SetupError
from parle.integrations import FOLDER, couple, own_memory, solution_state
from parle.replicas import Replicas
from parle.saving import load, save

try:
    from accelerate import Accelerator, DistributedType
except ImportError:
    raise SetupError("parle.integrations.accelerate needs accelerate. Install it with `pip install 'parle-sgd[accelerate]'`.") from None


def prepare(
    accelerator: Accelerator,
    algorithm: Algorithm,
    *objects: Any,
    communicator: Communicator | None = None,
    loader: Iterable | None = None,
    start: str = "common",
    optimizer_state: str = "keep",
) -> tuple:
    """The replicas, and what `accelerator.prepare(*objects)` returns: the model is one of the replicas, which no gradients are averaged for.

    The objects are one model with its optimizer, and data loaders and schedulers. `accelerator.save_state` writes the solution as the
    model, and `load_state` goes on as if never stopped. For `loader`, `start` and `optimizer_state` see `couple` and `parle.join`.
    Raises ConfigError for a launcher or plugin that shards the model, JoinError for a model that is wrapped already.

    >>> import parle, torch
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> replicas, model, optimizer = prepare(Accelerator(cpu=True), parle.Parle(period=5), model, optimizer)
    >>> replicas.params.shape
    torch.Size([1, 3])
    """
    kind = accelerator.distributed_type
    if kind != DistributedType.NO and not kind.value.startswith("MULTI_"):
        raise ConfigError(
            f"accelerate is configured for {kind.value}, which divides the model among the processes. Use plain processes: MULTI_CPU or MULTI_GPU."
        )
    models, optimizers = ([place for place, its in enumerate(objects) if isinstance(its, wanted)] for wanted in (nn.Module, Optimizer))
    if len(models) != 1 or len(optimizers) != 1:
        raise ConfigError(f"prepare got {len(models)} models and {len(optimizers)} optimizers. Give one model with its optimizer.")
    model = accelerator.prepare_model(objects[models[0]], evaluation_mode=True)  # on its device, with mixed precision, not in DistributedDataParallel
    prepared = accelerator.prepare(*(model if place in models else its for place, its in enumerate(objects)))
    optimizer = prepared[optimizers[0]].optimizer  # whose hooks are called; accelerate's own only passes on
    replicas = couple(model, optimizer, algorithm, communicator, loader, start=start, optimizer_state=optimizer_state)
    model.register_state_dict_post_hook(lambda module, state, prefix, _: state.update(own_memory(state)))  # for accelerator.save_model
    _Checkpoints(accelerator, replicas, loader)
    return replicas, *prepared


class _Checkpoints:
    """What `accelerator.save_state` and `load_state` do about replicas; they call it first and, since it is registered with them, last."""

    def __init__(self, accelerator: Accelerator, replicas: Replicas, loader: Iterable | None):
        self._replicas, self._loader, self._folder = replicas, loader, None
        self._more = {"scaler": accelerator.scaler} if accelerator.scaler is not None else {}  # of this process, too
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._begin_to_load)
        accelerator.register_for_checkpointing(self)

    def _save(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        ours = self._replicas.models[0]
        weights[next(place for place, model in enumerate(models) if model is ours)] = solution_state(self._replicas, self._loader)
        save(Path(folder) / FOLDER, self._replicas, **self._more)

    def _begin_to_load(self, models: list[nn.Module], folder: str) -> None:
        self._folder = Path(folder) / FOLDER
        models[:] = [model for model in models if model is not self._replicas.models[0]]  # which accelerate would give the solution

    def state_dict(self) -> dict:
        """All of it lies in the folder beside."""
        return {}

    def load_state_dict(self, _: dict) -> None:
        """Go on from the folder beside, when accelerate has given every process the optimizer of the first one."""
        load(self._folder, self._replicas, **self._more)
