"""Which samples a replica sees, where the data is split between replicas."""

import numpy as np
import torch
from torch import Tensor

from parle.errors import ConfigError
from parle.random_streams import derive


def share_of(labels: Tensor, replica: int, replicas: int, fraction: float | None, skew: float | None, seed: int) -> Tensor | None:
    """The indices of a replica's samples, sorted; None for all of them.

    With a `fraction`, each replica gets an equal window of one shared shuffle, from its place on, so that together they cover the
    data, and the windows are disjoint where replicas times fraction is 1. With a `skew`, each class is divided by a draw from
    Dirichlet(skew, ..., skew): the smaller, the more unequal. ConfigError where the shares cannot cover the data, or one is empty.
    """
    if fraction is None and skew is None:
        return None
    count = len(labels)
    if skew is not None:
        if fraction is not None:
            raise ConfigError("data.split and data.skew are two ways to divide the data. Give one of them.")
        return _skewed(labels, replica, replicas, skew, seed)
    if fraction * replicas < 1 - 1e-9:
        raise ConfigError(f"{replicas} replicas with {fraction:g} of the data each cannot cover it. Use --split {1 / replicas:.4g} or more, or more replicas.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "split")))
    first, size = replica * count // replicas, max(round(fraction * count), -(-count // replicas))
    return order[torch.arange(first, first + min(size, count)) % count].sort().values


def _skewed(labels: Tensor, replica: int, replicas: int, skew: float, seed: int) -> Tensor:
    draw, mine = np.random.default_rng(derive(seed, "skew")), []
    for label in labels.unique().tolist():
        members = draw.permutation((labels.cpu() == label).nonzero().flatten().numpy())
        bounds = (draw.dirichlet([skew] * replicas).cumsum() * len(members)).round().astype(int)
        mine.append(np.split(members, bounds[:-1])[replica])
    found = torch.from_numpy(np.sort(np.concatenate(mine)))
    if len(found) < 2:
        raise ConfigError(f"With data.skew={skew:g}, replica {replica} of {replicas} gets {len(found)} samples. Use a larger skew, or another seed.")
    return found
