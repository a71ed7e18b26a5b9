"""What is done to images before they are drawn: contrast, whitening, mean and deviation; and what is done to a batch: mirrors and shifts."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parle.data.cache import Cache
from parle.data.dataset import Data, Split
from parle.errors import ConfigError

NORMALIZATIONS = ("scale", "mean-std", "contrast", "zca")
AUGMENTATIONS = ("none", "shift", "mirror-shift")
PADDINGS = ("reflect", "zero")
REGULARIZER = 1e-5  # of the eigenvalues


@dataclass(frozen=True)
class MeanStd:
    """Subtracts the mean of each channel and divides by its deviation."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return images.sub_(self.mean.to(images.device)).div_(self.std.to(images.device))


def contrast(images: Tensor) -> Tensor:
    """Every image (samples, channels, height, width) without its own mean, divided by its own deviation (ddof 1): global contrast normalization."""
    mean, std = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
    return images.sub_(mean).div_(std.clamp_min_(1e-8))


def prepared(data: Data, how: str, cache: Cache) -> Data:
    """The data whose images are drawn as `how` says: scaled to [0, 1], and then mean-std, contrast, or contrast and whitened (zca).

    Mean, deviation and whitening come from the training images. ConfigError where there are too few of them.
    """
    if how == "scale":
        return data
    if data.train.scale is None:
        raise ConfigError(f"data.normalize={how} is for images, but `{data.name}` is a text. Leave it away.")
    if how == "mean-std":
        sums = sum(part.to(torch.float64).div_(data.train.scale).sum((0, 2, 3)) for part in data.train.images.split(1000))
        count = data.train.images.numel() // data.train.images.shape[1]
        mean = (sums / count)[:, None, None]
        squares = sum((part.to(torch.float64).div_(data.train.scale) - mean).square_().sum((0, 2, 3)) for part in data.train.images.split(1000))
        prepare = MeanStd(mean.float(), (squares / count).sqrt().clamp_min(1e-8)[:, None, None].float())
    else:
        prepare = contrast
    found = replace(data, train=replace(data.train, prepare=prepare), test=replace(data.test, prepare=prepare))
    return _whitened(found, cache) if how == "zca" else found


def _whitened(data: Data, cache: Cache) -> Data:
    """ZCA: rotated, divided by the root of the eigenvalues of the training images' covariance, and rotated back."""
    size = data.train.images[0].numel()
    if len(data.train) <= size:
        raise ConfigError(f"ZCA needs more training images than the {size:,} numbers of one, got {len(data.train):,}. Use data.normalize=contrast.")

    def whiten() -> dict[str, Tensor]:
        mean, matrix = zca(data.train)
        return {
            part: torch.cat([(drawn.flatten(1) - mean) @ matrix for drawn, _ in _in_order(split)]).view(-1, *data.shape)
            for part, split in (("train", data.train), ("test", data.test))
        }

    images = cache.get((), (data.digest(), "zca", str(REGULARIZER)), whiten)
    splits = [Split(images[part], split.labels, 1.0) for part, split in (("train", data.train), ("test", data.test))]
    return replace(data, train=splits[0], test=splits[1])


def zca(split: Split) -> tuple[Tensor, Tensor]:
    """Mean (D,) and whitening matrix (D, D) of the images: U diag(1 / sqrt(S + 1e-5)) U^T, of the covariance U S U^T in float64."""
    size, count = split.images[0].numel(), len(split)
    mean = sum(drawn.flatten(1).to(torch.float64).sum(0) for drawn, _ in _in_order(split)) / count
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for drawn, _ in _in_order(split):
        centered = drawn.flatten(1) - mean.float()
        covariance += (centered.T @ centered).to(torch.float64)
    values, vectors = torch.linalg.eigh(covariance / count)
    return mean.float(), ((vectors * (values.clamp_min(0) + REGULARIZER).rsqrt()) @ vectors.T).float()


def _in_order(split: Split):
    return (split.take(slice(begin, begin + 1000)) for begin in range(0, len(split), 1000))


def augmented(images: Tensor, generator: torch.Generator, how: str, pad: int = 4, padding: str = "reflect") -> Tensor:
    """The images shifted by up to `pad` pixels in both directions, with what comes in mirrored at the border or zero; half of them mirrored, if so.

    All of it takes place on the device of the images; `generator` is that of the host.
    """
    count, channels, height, width = images.shape
    rows, columns = torch.randint(-pad, pad + 1, (2, count, 1), generator=generator)
    rows, columns = rows + torch.arange(height), columns + torch.arange(width)
    if how == "mirror-shift":
        columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns.flip(1), columns)
    places = (_reflected(rows, height)[:, :, None] * width + _reflected(columns, width)[:, None, :]).view(count, 1, -1).to(images.device)
    changed = images.flatten(2).gather(2, places.expand(-1, channels, -1)).view_as(images)
    if padding == "zero":
        inside = _is_inside(rows, height)[:, None, :, None] & _is_inside(columns, width)[:, None, None, :]
        changed *= inside.to(images.device)
    return changed


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places beyond the border, mirrored at the outermost pixel."""
    return size - 1 - (size - 1 - places.abs()).abs()


def _is_inside(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
