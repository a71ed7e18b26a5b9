"""A text of one's own, to predict its next character."""

from pathlib import Path

import torch

from parle.data.dataset import Data, Split
from parle.errors import ConfigError

CHARACTERS = 256  # the bytes of UTF-8: every text has the same, and plain English has one for each letter
LARGEST_TEST = 2**17  # characters


def read_text(path: Path, context: int) -> Data:
    """The text in windows of `context` characters, each with the characters that follow; the last tenth, up to 131,072, is the test.

    Characters are bytes of UTF-8. Raises ConfigError where the text is too short or cannot be read.
    """
    if path.suffix == ".parquet":
        raise ConfigError(f"{path} is one shard. Give the folder that holds train-*.parquet and test-*.parquet.")
    try:
        text = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The text {path} cannot be read: {getattr(error, 'strerror', None) or 'it is empty'}.") from None
    tested = min(len(text) // 10, LARGEST_TEST)
    if tested <= context:
        raise ConfigError(
            f"The text {path} has {len(text):,} characters, too few for windows of {context}. Give at least {20 * context:,}, or set data.context."
        )
    return Data(path.name, _windows(text[:-tested], context), _windows(text[-tested:], context), CHARACTERS)


def _windows(text: torch.Tensor, context: int) -> Split:
    windows = text.unfold(0, context + 1, context)
    return Split(windows[:, :-1], windows[:, 1:], None)
