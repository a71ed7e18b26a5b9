"""LeNet as in the released program of Parle."""

from torch import nn

from parle.errors import ConfigError


def lenet(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10) -> nn.Module:
    """LeNet with BatchNorm and dropout 0.25 for 28 x 28 images: 132,220 parameters for one channel and ten classes."""
    if len(shape) != 3 or shape[1:] != (28, 28):
        sizes = " x ".join(map(str, shape[-2:])) if len(shape) == 3 else f"samples of shape {shape}"
        raise ConfigError(f"lenet takes images of 28 x 28, got {sizes}. Use -m mlp, which takes any size, -m char-gpt for a text, or a model of your own.")
    return nn.Sequential(
        nn.Conv2d(shape[0], 20, 5),  # 28 -> 24
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(3),  # 24 -> 8
        nn.Dropout(0.25),
        nn.Conv2d(20, 50, 5),  # 8 -> 4
        nn.BatchNorm2d(50),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 4 -> 2
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(200, 500),
        nn.BatchNorm1d(500),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(500, classes),
    )
