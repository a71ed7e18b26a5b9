"""The network of the language task: char-gpt, made small enough for hundreds of runs on one core."""

from torch import nn

from parle.models.char_gpt import char_gpt


def small_gpt(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two layers of width 64: 120,576 parameters for windows of 64 characters."""
    return char_gpt(shape, classes, width=64, layers=2, heads=4)
