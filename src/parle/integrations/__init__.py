"""Replicas inside other people's training loops: one file for each, and what they have in common.

The loop of a framework owns model, optimizer and checkpoints; here is how it takes up replicas and lets go of them. A checkpoint of
the framework has the solution for its weights, and beside it a folder of `parle.save` for what each process has of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from parle import buffers, joining
from parle.algorithm import Algorithm
from parle.communicators import Communicator, InProcess, TorchDistributed
from parle.errors import JoinError
from parle.replicas import Replicas, join

FOLDER = "parle"  # in a checkpoint of a framework that is a folder itself


def require_plain(model: nn.Module) -> None:
    """Raise JoinError for a model that DistributedDataParallel would keep equal in all processes.

    >>> require_plain(nn.Linear(2, 1))
    """
    if any(isinstance(layer, DistributedDataParallel) for layer in model.modules()):
        raise JoinError(
            "The model is wrapped in DistributedDataParallel, which averages the gradients of all processes at every step, so that all replicas would be "
            "equal and none could go its own way. Give the plain model, before it is prepared or wrapped."
        )


def couple(
    model: nn.Module,
    optimizer: Optimizer,
    algorithm: Algorithm,
    communicator: Communicator | None = None,
    loader: Iterable | None = None,
    *,
    start: str = "common",
    optimizer_state: str = "keep",
) -> Replicas:
    """Join the model of this process, with the processes of torch.distributed where there are any.

    BatchNorm's statistics are estimated again for the solution from `loader`, batches of training data; where there is none, they
    are averaged at every round. Raises JoinError for a model that is wrapped.

    >>> import parle
    >>> model = nn.Linear(2, 1)
    >>> couple(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(period=5)).params.shape
    torch.Size([1, 3])
    """
    require_plain(model)
    if communicator is None:
        communicator = TorchDistributed() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else InProcess()
    policy = "keep" if not buffers.with_statistics(model) else "average" if loader is None else "recompute"
    return join(model, optimizer, algorithm, communicator, start=start, optimizer_state=optimizer_state, buffers=policy)


def own_memory(state: dict[str, Any]) -> OrderedDict[str, Any]:
    """A model's state with every tensor in memory of its own, tied ones once: joined parameters share one vector, which writers of files mistake for ties.

    >>> vector = torch.arange(3.0)
    >>> [its.untyped_storage().nbytes() for its in own_memory({"weight": vector[:2], "bias": vector[2:]}).values()]
    [8, 4]
    """
    copies: dict[tuple, torch.Tensor] = {}

    def copy(its: Any) -> Any:
        return copies.setdefault((its.data_ptr(), its.shape, its.stride()), its.detach().clone()) if isinstance(its, torch.Tensor) and its.numel() else its

    return OrderedDict((name, copy(its)) for name, its in state.items())  # of which accelerate finds the ties


def solution_state(replicas: Replicas, loader: Iterable | None = None) -> dict[str, Any]:
    """The state dict of the solution, for a file. Every process has to call it."""
    with replicas.solution(loader) as model:
        return own_memory(model.state_dict())


@torch.no_grad()
def conclude(replicas: Replicas, loader: Iterable | None = None) -> None:
    """Hold a last round, uncouple, and leave the solution in the model, in memory of its own. Every process has to call it, and has the same then.

    >>> import parle
    >>> model = nn.Linear(2, 1)
    >>> conclude(couple(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(period=5)))
    """
    replicas.finish()
    with replicas.solution(loader) as model:
        solved = [tensor.clone() for tensor in chain(model.parameters(), model.buffers())]
    for tensor, its in zip(chain(model.parameters(), model.buffers()), solved, strict=True):
        tensor.copy_(its)
    if replicas.communicator.size > 1:
        joining.share_untrained([model], replicas.layout, replicas.communicator)  # statistics of BatchNorm from the first one's loader
    replicas.close()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
