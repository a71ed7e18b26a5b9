"""Data that scikit-learn carries: the digits, 1,797 real images of 8 x 8, and a made-up classification; no download."""

import torch

from parle.data.dataset import Data, Split
from parle.errors import SetupError

TEST = 360


def digits() -> Data:
    """The embedded digits in a fixed split of 1,437 for training and 360 for testing."""
    bunch = _datasets().load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Data("digits", Split(images[TEST:], labels[TEST:], 16.0), Split(images[:TEST], labels[:TEST], 16.0), 10)


def classification() -> Data:
    """A made-up task of 20 features and 10 classes, 8,000 samples for training and 2,000 for testing, as of the hybrid approach's paper."""
    features, labels = _datasets().make_classification(10_000, 20, n_informative=10, n_redundant=2, n_classes=10, n_clusters_per_class=1, random_state=0)
    samples, labels = torch.from_numpy(features).float().reshape(-1, 1, 1, 20), torch.from_numpy(labels).long()
    return Data("classification", Split(samples[:8000], labels[:8000], 1.0), Split(samples[8000:], labels[8000:], 1.0), 10)


def _datasets():
    try:
        import sklearn.datasets
    except ImportError:
        raise SetupError('The embedded data need scikit-learn: pip install "parle-sgd[data]"') from None
    return sklearn.datasets
