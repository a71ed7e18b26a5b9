"""BatchNorm statistics and other buffers: what happens to them at a round and before the solution is evaluated.

Averaged weights do not fit anybody's running statistics, so by default they are estimated again from training data.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from parle.errors import ConfigError, first_line

POLICIES = ("recompute", "average", "keep")


def with_statistics(model: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers of the model that keep running statistics."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back the buffers and the training or evaluation mode of every layer at the end, also after an exception."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(layer, layer.training) for layer in model.modules()]
    momenta = [(layer, layer.momentum) for layer in with_statistics(model)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for layer, mode in modes:
            layer.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum


def to_be_estimated(model: nn.Module, policy: str, loader: Iterable | None) -> bool:
    """Whether a solution needs statistics of its own; ConfigError where it does and there is no loader."""
    needed = policy == "recompute" and with_statistics(model)
    if needed and loader is None:
        raise ConfigError(
            "solution() needs a loader of training data here: the model has BatchNorm, and a replica's running statistics do not fit the "
            'solution. Call solution(loader), or join with buffers="average" or buffers="keep".'
        )
    return bool(needed)


def recompute(model: nn.Module, loader: Iterable) -> None:
    """Estimate the running statistics again, as the plain average over the batches of `loader`, with dropout off.

    A batch is a tensor of inputs, or a tuple or list whose first member is one. Leaves the model in evaluation mode.
    """
    layers = with_statistics(model)
    model.eval()
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # None: the cumulative average over all batches
        layer.train()
    device, batches = layers[0].running_mean.device, 0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a shuffling loader draws from the global generator
        for batch in loader:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(inputs, Tensor):
                raise ConfigError(f"solution(loader) needs batches of tensors or tuples that begin with one, got {type(inputs).__name__}.")
            try:
                model(inputs.to(device))
            except ValueError as error:
                raise ConfigError(f"A batch of {len(inputs)} from the loader of solution(loader) cannot be used: {first_line(error)}") from error
            batches += 1
    model.eval()
    if not batches:
        raise ConfigError("solution(loader) got a loader without batches; BatchNorm statistics need at least one batch of training data.")


def mend(model: nn.Module) -> None:
    """Let BatchNorm layers begin their statistics anew that are not finite."""
    for layer in with_statistics(model):
        if not torch.isfinite(layer.running_mean.sum() + layer.running_var.sum()):
            layer.reset_running_stats()


def average(models: list[nn.Module], mean) -> None:
    """Give all models the mean of their floating-point buffers; `mean` is the communicator's. Integer buffers stay as they are."""
    for model in models:
        mend(model)
    rows = [[buffer for buffer in model.buffers() if buffer.is_floating_point()] for model in models]
    if not rows[0]:
        return
    merged = mean([torch.cat([buffer.detach().reshape(-1) for buffer in row]) for row in rows])
    with torch.no_grad():
        for row in rows:
            for buffer, part in zip(row, merged.split([buffer.numel() for buffer in row]), strict=True):
                buffer.copy_(part.view_as(buffer))
