"""What is measured of a model and of the replicas around their reference."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from parle.replicas import Replicas


@dataclass(frozen=True)
class Score:
    """The error in percent and the mean cross-entropy of a classifier; of a text, those of the next character."""

    error_pct: float
    loss: float


@torch.no_grad()
def score(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """The score of a model over batches of samples and labels, in evaluation mode; its mode is put back."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    wrong, loss, count = 0, 0.0, 0
    for images, labels in batches:
        output = model(images)
        wrong += int((output.argmax(1) != labels).sum())
        loss += float(cross_entropy(output, labels, reduction="sum"))
        count += labels.numel()
    for layer, mode in modes:
        layer.training = mode
    return Score(round(100.0 * wrong / count, 4), loss / count)


@torch.no_grad()
def distances(replicas: Replicas) -> list[float]:
    """The Euclidean distance of each local replica's parameters from the reference."""
    return [float(torch.dist(row, replicas.reference.to(row.device))) for row in replicas.params]
