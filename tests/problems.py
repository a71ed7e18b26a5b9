"""A small noisy problem whose gradient is known in closed form, for NumPy and for torch."""

import numpy as np
import torch
from torch import nn

import parle

SIZE = 7  # parameters
ROWS = 5  # samples in a mini-batch


def batch(replica: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The mini-batch of a replica at a step: A (ROWS, SIZE) and b (ROWS,)."""
    generator = np.random.default_rng([17, replica, step])
    return generator.normal(size=(ROWS, SIZE)), generator.normal(size=ROWS)


def gradient(w: np.ndarray, replica: int, step: int) -> np.ndarray:
    """The gradient of mean(log cosh(A w - b)), by hand."""
    a, b = batch(replica, step)
    return a.T @ np.tanh(a @ w - b) / ROWS


def start(replica: int = 0) -> np.ndarray:
    """The parameters that a replica starts from."""
    return np.random.default_rng([29, replica]).normal(size=SIZE)


class Vector(nn.Module):
    """A model that is one vector of parameters, in two tensors."""

    def __init__(self, values: np.ndarray):
        super().__init__()
        self.head = nn.Parameter(torch.tensor(values[:3].copy()))
        self.tail = nn.Parameter(torch.tensor(values[3:].copy()).reshape(2, 2))

    def loss(self, replica: int, step: int) -> torch.Tensor:
        """The loss whose gradient is `gradient`."""
        a, b = (torch.from_numpy(part) for part in batch(replica, step))
        return torch.log(torch.cosh(a @ torch.cat([self.head, self.tail.reshape(-1)]) - b)).mean()


def torch_sgd(parameters):
    """The inner optimizer of the papers."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)


def plain_sgd(parameters):
    """An optimizer for algorithms that step where the reference is."""
    return torch.optim.SGD(parameters, lr=0.05)


def coupled(algorithm: parle.Algorithm, replicas: int = 3, optimizer=None, own_starts: bool = False, communicator=None, **policies) -> parle.Replicas:
    """Replicas of the problem, joined."""
    models = [Vector(start(index if own_starts else 0)) for index in range(replicas)]
    optimizer = optimizer or (plain_sgd if algorithm.steps_at_center else torch_sgd)
    policies = {"start": "own" if own_starts else "common", **policies}
    return parle.join(models, [optimizer(model.parameters()) for model in models], algorithm, communicator or parle.InProcess(), **policies)


def advance(replicas: parle.Replicas, steps: int, first: int = 0, offset: int = 0) -> parle.Replicas:
    """Take steps with all replicas in turn; replica i draws the mini-batches of number offset + i."""
    for step in range(first, first + steps):
        for index, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
            optimizer.zero_grad()
            model.loss(offset + index, step).backward()
            optimizer.step()
    return replicas
