"""Labelled samples in memory, and the batches drawn from them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parle.errors import ConfigError
from parle.random_streams import derive


@dataclass(frozen=True)
class Split:
    """Images (samples, channels, height, width), divided by `scale` and `prepare`d when drawn, and labels (samples,).

    Without a scale they are windows of a text (samples, length), whose labels (samples, length) are the characters that follow.
    """

    images: Tensor
    labels: Tensor
    scale: float | None = 1.0
    prepare: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images of those samples as float32, or the characters as whole numbers, and their labels."""
        if self.scale is None:
            return self.images[index].long(), self.labels[index].long()
        images = self.images[index].to(torch.float32, copy=True).div_(self.scale)
        return images if self.prepare is None else self.prepare(images), self.labels[index]

    def to(self, device: torch.device) -> "Split":
        """The same samples on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, index: Tensor | slice) -> "Split":
        """Those samples."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def first(self, count: int | None) -> "Split":
        """The first samples."""
        return self if count is None else self.subset(slice(0, count))


@dataclass(frozen=True)
class Data:
    """A classification task: a training and a test split; of a text, the class of a character is the next one.

    `names` are those of the classes, where the data give them.
    """

    name: str
    train: Split
    test: Split
    classes: int
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image, or the length of a window."""
        return tuple(self.train.images.shape[1:])

    def digest(self) -> str:
        """A short text that differs, but for chance, where labels or images differ."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.labels.cpu().numpy().tobytes())
            digest.update(repr([float(part.double().sum()) for part in split.images.split(1000)]).encode())
        return digest.hexdigest()[:16]

    def checked(self) -> "Data":
        """This data; ConfigError unless images and labels fit together."""
        for part, split in (("training", self.train), ("test", self.test)):
            if split.images.dim() != 4 or len(split) == 0 or len(split.images) != len(split.labels):
                raise ConfigError(
                    f"The {part} images of `{self.name}` have shape {tuple(split.images.shape)} for {len(split.labels)} labels; "
                    "expected (samples, channels, height, width) and one label for each, at least one."
                )
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise ConfigError(f"The test images of `{self.name}` have shape {tuple(split.images.shape[1:])}, the training images {self.shape}.")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                wrong = low if low < 0 else high
                raise ConfigError(
                    f"A {part} label of `{self.name}` is {wrong}, expected 0 to {self.classes - 1}. Correct the file, or its list of class names."
                )
        return self


class Batches:
    """The endless stream of one replica's mini-batches: a new order in every epoch, the last incomplete batch left out.

    It is a function of the step, so a run resumes at any step without having saved anything. `augment(images, generator)` changes
    the images of a batch at random.
    """

    def __init__(self, split: Split, size: int, seed: int, replica: int, augment: Callable[[Tensor, torch.Generator], Tensor] | None = None):
        self.split, self.size, self.seed, self.replica, self.augment = split, min(size, len(split)), seed, replica, augment
        self._epoch, self._order = -1, None

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.split) // self.size

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of that step, counted from 0: images (size, channels, height, width) and labels (size,)."""
        epoch, position = divmod(step, len(self))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, "order", self.replica, epoch))
            self._order = torch.randperm(len(self.split), generator=generator).to(self.split.labels.device)
            self._epoch = epoch
        images, labels = self.split.take(self._order[position * self.size : (position + 1) * self.size])
        if self.augment is not None:
            images = self.augment(images, torch.Generator().manual_seed(derive(self.seed, "augment", self.replica, step)))
        return images, labels


def in_turn(split: Split, size: int = 1000):
    """All samples in their order, in batches of up to `size`; a last batch of one, too few for BatchNorm, joins the one before."""
    if split.scale is None:  # as many characters as fit
        size = max(1, 16 * size // split.labels.shape[1])
    for begin in range(0, max(len(split) - 1, 1), size):
        end = begin + size
        yield split.take(slice(begin, end + 1 if end == len(split) - 1 else end))
