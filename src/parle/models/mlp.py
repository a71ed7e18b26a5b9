"""A multilayer perceptron for images of any size."""

import math

from torch import nn


def mlp(shape: tuple[int, ...] = (1, 8, 8), classes: int = 10, width: int = 256, dropout: float = 0.25) -> nn.Module:
    """Two hidden layers with BatchNorm and dropout: 86,026 parameters for the embedded digits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, classes),
    )
