"""A multilayer perceptron for images of any size."""

import math

from torch import nn


def mlp(shape: tuple[int, ...] = (1, 8, 8), classes: int = 10, width: int = 256, dropout: float = 0.25, norm: bool = True) -> nn.Module:
    """Two hidden layers with BatchNorm and dropout: 86,026 parameters for the embedded digits."""
    return nn.Sequential(
        nn.Flatten(),
        *_hidden(math.prod(shape), width, dropout, norm),
        *_hidden(width, width, dropout, norm),
        nn.Linear(width, classes),
    )


def _hidden(inputs: int, width: int, dropout: float, norm: bool) -> list[nn.Module]:
    return [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
