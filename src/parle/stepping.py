"""How the replicas on one device take their steps: in turn, all at once, or side by side on CUDA streams."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from parle.batched import Batched
from parle.sharpness import ascended

if TYPE_CHECKING:
    from parle.training import Training


class InTurn:
    """Each replica takes all its steps up to the next round before the next replica begins."""

    def __init__(self, training: "Training", team: list[int]):
        self.training, self.team = training, team

    def advance(self, count: int) -> None:
        """Take so many steps with every replica; the last may hold a round."""
        for index in self.team:
            with self.training.stream(index):
                for step in range(count):
                    self.training.end_step(index, self.gradient(index, step))

    def gradient(self, index: int, step: int) -> Tensor:
        """Compute the gradient of a replica's next step; its loss."""
        training, model = self.training, self.training.replicas.models[index]
        samples, labels = training.draw(index)
        training.begin_step(index, step)
        if training.plan.channels_last:
            samples = samples.contiguous(memory_format=torch.channels_last)
        loss = self.loss(model, samples, labels)
        loss.backward()
        if training.plan.sharpness:
            with ascended(model.parameters(), training.plan.sharpness):
                self.loss(model, samples, labels).backward()
        return loss.detach()

    def loss(self, model: nn.Module, samples: Tensor, labels: Tensor) -> Tensor:
        """The loss of a model on a batch."""
        with _precision(self.training, samples):
            return cross_entropy(model(samples), labels)


class OnStreams(InTurn):
    """The replicas step side by side, each on a CUDA stream of its own; before a round, the stream that holds it waits for the others.

    The numbers are those of taking turns. On a CPU, which has no streams, the replicas take turns step by step.
    """

    def __init__(self, training: "Training", team: list[int]):
        super().__init__(training, team)
        self.device = training.batches[team[0]].split.labels.device
        self.streams = [torch.cuda.Stream(self.device) for _ in team] if self.device.type == "cuda" else [None] * len(team)

    def advance(self, count: int) -> None:
        """Take so many steps with every replica; the last may hold a round, in the stream of the last replica."""
        now = torch.cuda.current_stream(self.device) if self.streams[0] else None
        _wait(self.streams, [now])
        for step in range(count):
            for index, stream in zip(self.team, self.streams, strict=True):
                with self.training.stream(index), torch.cuda.stream(stream) if stream else nullcontext():
                    loss = self.gradient(index, step)
                    if step == count - 1 and index == self.team[-1]:
                        _wait([stream], self.streams[:-1])
                    self.training.end_step(index, loss)
        _wait([now], self.streams)


class AllAtOnce:
    """One pass gives the gradients of all replicas, and their optimizers step one after the other."""

    def __init__(self, training: "Training", team: list[int]):
        self.training, self.team = training, team
        self.batched = Batched(training.replicas, cross_entropy)

    def advance(self, count: int) -> None:
        """Take so many steps with every replica; the last may hold a round."""
        with self.training.stream(self.team[0]):
            for step in range(count):
                samples, labels = map(torch.stack, zip(*map(self.training.draw, self.team), strict=True))
                for index in self.team:
                    self.training.begin_step(index, step)
                losses = self.gradients(samples, labels)
                for index, loss in zip(self.team, losses, strict=True):
                    self.training.end_step(index, loss)

    def gradients(self, samples: Tensor, labels: Tensor) -> Tensor:
        """Compute the gradients of all replicas on their batches, shape (replicas, batch, ...); their losses, shape (replicas,)."""
        losses = self.losses(samples, labels)
        self.batched.backward(losses)
        if radius := self.training.plan.sharpness:
            with ExitStack() as stack:
                for index in self.team:
                    stack.enter_context(ascended(self.training.replicas.models[index].parameters(), radius))
                self.batched.backward(self.losses(samples, labels))
        return losses.detach()

    def losses(self, samples: Tensor, labels: Tensor) -> Tensor:
        """The losses of all replicas."""
        with _precision(self.training, samples):
            return self.batched(samples, labels)


def _precision(training: "Training", samples: Tensor) -> AbstractContextManager:
    """Autocast, where the plan asks for it."""
    if training.plan.precision == "float32":
        return nullcontext()
    return torch.autocast(samples.device.type, dtype=torch.bfloat16)


def _wait(these: list, others: list) -> None:
    """Let what these streams do next begin after what the others have been given so far; without streams, nothing."""
    for stream in these:
        for other in others:
            if stream and other:
                stream.wait_stream(other)


STEPPINGS: dict[str, Callable] = {"in-turn": InTurn, "batched": AllAtOnce, "streams": OnStreams}
