"""The digits that scikit-learn carries: 1,797 real images of 8 x 8, no download."""

import torch

from parle.data.dataset import Data, Split
from parle.errors import SetupError

TEST = 360


def digits() -> Data:
    """The embedded digits in a fixed split of 1,437 for training and 360 for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SetupError('The embedded digits need scikit-learn: pip install "parle-sgd[data]"') from None
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Data("digits", Split(images[TEST:], labels[TEST:], 16.0), Split(images[:TEST], labels[:TEST], 16.0), 10)
