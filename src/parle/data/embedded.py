"""Data that scikit-learn carries: the digits, 1,797 real images of 8 x 8, and a made-up classification; no download."""

import torch
from torch import Tensor

from parle.data.cache import Cache
from parle.data.dataset import Data, Split
from parle.errors import SetupError

TEST = 360


def digits(cache: Cache) -> Data:
    """The embedded digits in a fixed split of 1,437 for training and 360 for testing."""

    def make() -> dict[str, Tensor]:
        bunch = _datasets().load_digits()
        order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
        return {"images": torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)[order], "labels": torch.from_numpy(bunch.target).long()[order]}

    return _parted("digits", cache.get((), ("digits", TEST), make), TEST, 16.0)


def classification(cache: Cache) -> Data:
    """A made-up task of 20 features and 10 classes, 8,000 samples for training and 2,000 for testing, as of the hybrid approach's paper."""

    def make() -> dict[str, Tensor]:
        made = {"n_informative": 10, "n_redundant": 2, "n_classes": 10, "n_clusters_per_class": 1, "random_state": 0}
        features, labels = _datasets().make_classification(10_000, 20, **made)
        return {"images": torch.from_numpy(features).float().reshape(-1, 1, 1, 20), "labels": torch.from_numpy(labels).long()}

    return _parted("classification", cache.get((), ("classification",), make), 2000, 1.0)


def _parted(name: str, its: dict[str, Tensor], test: int, scale: float) -> Data:
    """The first `test` samples for testing, the others for training."""
    images, labels = its["images"], its["labels"]
    names = tuple(map(str, range(10))) if name == "digits" else ()
    return Data(name, Split(images[test:], labels[test:], scale), Split(images[:test], labels[:test], scale), 10, names)


def _datasets():
    try:
        import sklearn.datasets  # which takes a second
    except ImportError:
        raise SetupError('The embedded data need scikit-learn: pip install "parle-sgd[data]"') from None
    return sklearn.datasets
