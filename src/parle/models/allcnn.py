"""Networks of convolutions alone for images of 32 x 32."""

from torch import nn

from parle.errors import ConfigError
from parle.models.shapes import channels_of


def allcnn(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, dropout: float = 0.5, width: float = 1.0) -> nn.Module:
    """All-CNN as its authors' program for Parle has it, with BatchNorm after every convolution: 1,667,166 parameters at width 1."""
    channels, narrow, wide = channels_of("allcnn", shape, 32), max(1, round(96 * width)), max(1, round(192 * width))
    return nn.Sequential(
        nn.Dropout(min(dropout, 0.2)),  # of the input: 0.2, or none where there is none
        *_convolution(channels, narrow, norm=True),
        *_convolution(narrow, narrow, norm=True),
        *_convolution(narrow, narrow, stride=2, norm=True),
        nn.Dropout(dropout),
        *_convolution(narrow, wide, norm=True),
        *_convolution(wide, wide, norm=True),
        *_convolution(wide, wide, stride=2, norm=True),
        nn.Dropout(dropout),
        *_convolution(wide, wide, norm=True),
        *_convolution(wide, wide, norm=True),
        *_convolution(wide, classes, size=1, norm=True),
        nn.AvgPool2d(8),
        nn.Flatten(),
    )


def allcnn_c(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, dropout: float = 0.5) -> nn.Module:
    """All-CNN-C of Springenberg et al. (arXiv 1412.6806), without BatchNorm: 1,369,738 parameters."""
    channels = channels_of("allcnn-c", shape, 32)
    return nn.Sequential(
        nn.Dropout(min(dropout, 0.2)),
        *_convolution(channels, 96),
        *_convolution(96, 96),
        *_convolution(96, 96, stride=2),
        nn.Dropout(dropout),
        *_convolution(96, 192),
        *_convolution(192, 192),
        *_convolution(192, 192, stride=2),
        nn.Dropout(dropout),
        *_convolution(192, 192),
        *_convolution(192, 192, size=1),
        *_convolution(192, classes, size=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def small_cnn(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10) -> nn.Module:
    """Two convolutions and three layers, the network of our Smooth Switch experiments: 44,426 parameters for 28 x 28, 62,006 for 32 x 32 in colour."""
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise ConfigError(f"small-cnn takes images of at least 16 x 16, got samples of shape {shape}. Use -m mlp.")
    height, width = ((size - 4) // 2 for size in shape[1:])
    flat = 16 * ((height - 4) // 2) * ((width - 4) // 2)
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, norm: bool = False) -> list[nn.Module]:
    layers = [nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)]
    return [*layers, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]
