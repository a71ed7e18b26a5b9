"""What happens to the optimizers' own vectors (momentum, second moments) at a round."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

POLICIES = ("keep", "average", "reset")


def apply(policy: str, members: list[tuple[Optimizer, list[nn.Parameter]]], mean: Callable[[Iterable[Tensor]], Tensor]) -> None:
    """Carry out a policy for optimizers with their parameters; `mean` is the communicator's."""
    if policy == "reset":
        for optimizer, _ in members:
            optimizer.state.clear()
    elif policy == "average":
        for name in _vector_names(*members[0]):
            merged = mean(torch.cat([_part(optimizer, p, name).reshape(-1) for p in parameters]) for optimizer, parameters in members)
            for optimizer, parameters in members:
                for p, part in zip(parameters, merged.split([p.numel() for p in parameters]), strict=True):
                    if name in optimizer.state.get(p, {}):
                        optimizer.state[p][name].copy_(part.view(p.shape))


def _vector_names(optimizer: Optimizer, parameters: list[nn.Parameter]) -> list[str]:
    """The entries of the state that have the shape of their parameter, such as `momentum_buffer`."""
    names = {}
    for p in parameters:
        entries = optimizer.state.get(p, {}).items()
        names |= {name: None for name, value in entries if isinstance(value, Tensor) and value.shape == p.shape and value.is_floating_point()}
    return sorted(names)


def _part(optimizer: Optimizer, p: nn.Parameter, name: str) -> Tensor:
    value = optimizer.state.get(p, {}).get(name)
    return torch.zeros_like(p) if value is None else value
