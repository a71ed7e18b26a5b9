"""LeNet as in the two published programs of Parle."""

from torch import nn

from parle.models.shapes import channels_of


def lenet(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, dropout: float = 0.25) -> nn.Module:
    """LeNet of the released program, with BatchNorm and dropout 0.25 for 28 x 28 images: 132,220 parameters for one channel and ten classes."""
    return nn.Sequential(
        nn.Conv2d(channels_of("lenet", shape, 28), 20, 5),  # 28 -> 24
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(3),  # 24 -> 8
        nn.Dropout(dropout),
        nn.Conv2d(20, 50, 5),  # 8 -> 4
        nn.BatchNorm2d(50),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 4 -> 2
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(200, 500),
        nn.BatchNorm1d(500),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(500, classes),
    )


def lenet_dev(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, dropout: float = 0.25) -> nn.Module:
    """LeNet of the development program, which made the paper's numbers, with BatchNorm after pooling: 131,220 parameters."""
    return nn.Sequential(
        nn.Conv2d(channels_of("lenet-dev", shape, 28), 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(3),
        nn.BatchNorm2d(20),
        nn.Dropout(dropout),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(50),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(200, 500),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(500, classes),
    )
