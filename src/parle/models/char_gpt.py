"""A small transformer that predicts the next character of a text."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from parle.errors import ConfigError


class _Block(nn.Module):
    """Causal self-attention and a hidden layer, each added to what comes in, normalized before."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.attention, self.projection = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        queries, keys, values = self.attention(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.projection(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.hidden(x)


class CharGPT(nn.Module):
    """From characters (samples, length) to the scores of the next ones (samples, classes, length)."""

    def __init__(self, length: int, classes: int, width: int, layers: int, heads: int):
        super().__init__()
        self.characters, self.places = nn.Embedding(classes, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.scores = nn.Linear(width, classes, bias=False)
        self.scores.weight = self.characters.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        places = self.places(torch.arange(text.shape[1], device=text.device))
        return self.scores(self.blocks(self.characters(text) + places)).transpose(1, 2)


def char_gpt(shape: tuple[int, ...] = (128,), classes: int = 256, width: int = 160, layers: int = 4, heads: int = 5) -> nn.Module:
    """A transformer of four layers for windows of a text: 1,298,880 parameters for windows of 128 characters."""
    if len(shape) != 1:
        raise ConfigError(f"char-gpt takes windows of a text, got samples of shape {shape}. Use -d path/to/text.txt, or -m mlp for images.")
    if width % heads:
        raise ConfigError(f"char-gpt shares its width among its heads, but width {width} is no multiple of heads {heads}. Change model.options.")
    return CharGPT(shape[0], classes, width, layers, heads)
