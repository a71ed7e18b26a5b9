"""What a network asks of the images that it is given."""

from parle.errors import ConfigError


def channels_of(name: str, shape: tuple[int, ...], size: int) -> int:
    """The number of channels of square images of that size; ConfigError for samples of another shape."""
    if len(shape) != 3 or shape[1:] != (size, size):
        got = f"{shape[1]} x {shape[2]}" if len(shape) == 3 else f"samples of shape {shape}"
        raise ConfigError(
            f"{name} takes images of {size} x {size}, got {got}. Use -m mlp, which takes images of any size, -m char-gpt for a text, or a model of your own."
        )
    return shape[0]
