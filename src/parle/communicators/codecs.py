"""Shorter forms of a vector for the way: lossy, deterministic, and of a length that depends on the vector's alone."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from parle.errors import ConfigError, did_you_mean


class Codec(ABC):
    """Turns a vector of shape (N,) into bytes and back, on the device of the vector."""

    @abstractmethod
    def encode(self, vector: Tensor) -> Tensor:
        """The bytes to send, uint8 of shape (B,)."""

    @abstractmethod
    def decode(self, payload: Tensor, size: int) -> Tensor:
        """The vector that the bytes stand for, float32 of shape (size,)."""


class BF16(Codec):
    """Two bytes for a number: float32 without its last 16 bits, rounded to nearest.

    >>> BF16().decode(BF16().encode(torch.tensor([1.0, 3.14159])), 2)
    tensor([1.0000, 3.1406])
    """

    def encode(self, vector: Tensor) -> Tensor:
        return vector.to(torch.bfloat16).view(torch.uint8)

    def decode(self, payload: Tensor, size: int) -> Tensor:
        return payload.view(torch.bfloat16).to(torch.float32)

    def __repr__(self) -> str:
        return "bf16"


class Int8(Codec):
    """One byte for a number, and a scale in float32 for every `chunk` of them: the largest magnitude becomes 127.

    >>> Int8().decode(Int8().encode(torch.tensor([127.0, -2.0, 0.4])), 3)
    tensor([127.,  -2.,   0.])
    """

    def __init__(self, chunk: int = 256):
        self.chunk = _checked(chunk)

    def encode(self, vector: Tensor) -> Tensor:
        chunks = torch.nn.functional.pad(vector.to(torch.float32), (0, -len(vector) % self.chunk)).view(-1, self.chunk)
        scales = chunks.abs().amax(1).div_(127)
        codes = (chunks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_().to(torch.int8)
        return torch.cat([scales.view(torch.uint8), codes.view(torch.uint8).reshape(-1)[: len(vector)]])

    def decode(self, payload: Tensor, size: int) -> Tensor:
        scales = payload[: 4 * -(-size // self.chunk)].clone().view(torch.float32)
        codes = payload[4 * len(scales) :].view(torch.int8).to(torch.float32)
        return torch.nn.functional.pad(codes, (0, -size % self.chunk)).view(-1, self.chunk).mul_(scales[:, None]).view(-1)[:size]

    def __repr__(self) -> str:
        return f"int8({self.chunk})"


class Int4(Codec):
    """Half a byte for a number, and a scale in float32 for every `chunk` of them: the largest magnitude becomes 7.

    >>> Int4().decode(Int4().encode(torch.tensor([7.0, -2.0, 0.4])), 3)
    tensor([ 7., -2.,  0.])
    """

    def __init__(self, chunk: int = 64):
        self.chunk = _checked(chunk) + chunk % 2

    def encode(self, vector: Tensor) -> Tensor:
        chunks = torch.nn.functional.pad(vector.to(torch.float32), (0, -len(vector) % self.chunk)).view(-1, self.chunk)
        scales = chunks.abs().amax(1).div_(7)
        codes = (chunks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_().add_(8).to(torch.uint8).view(-1, 2)
        return torch.cat([scales.view(torch.uint8), (codes[:, 0] + 16 * codes[:, 1])[: (len(vector) + 1) // 2]])

    def decode(self, payload: Tensor, size: int) -> Tensor:
        scales = payload[: 4 * -(-size // self.chunk)].clone().view(torch.float32)
        pairs = payload[4 * len(scales) :]
        codes = torch.stack([pairs % 16, pairs // 16], 1).view(-1).to(torch.float32).sub_(8)
        return torch.nn.functional.pad(codes, (0, -len(codes) % self.chunk)).view(-1, self.chunk).mul_(scales[:, None]).view(-1)[:size]

    def __repr__(self) -> str:
        return f"int4({self.chunk})"


class TopK(Codec):
    """The largest magnitudes alone, a `fraction` of them, each as a float32 and its place as an int32.

    >>> TopK(0.5).decode(TopK(0.5).encode(torch.tensor([0.1, -3.0, 2.0, 0.2])), 4)
    tensor([ 0., -3.,  2.,  0.])
    """

    def __init__(self, fraction: float = 0.01):
        if not 0 < fraction < 1:
            raise ConfigError(f"topk({fraction}) must keep a fraction between 0 and 1 of the numbers, such as topk(0.01).")
        self.fraction = fraction

    def encode(self, vector: Tensor) -> Tensor:
        kept = max(1, round(self.fraction * len(vector)))
        places = vector.abs().topk(kept, sorted=False).indices.sort().values
        return torch.cat([places.to(torch.int32).view(torch.uint8), vector[places].to(torch.float32).view(torch.uint8)])

    def decode(self, payload: Tensor, size: int) -> Tensor:
        places, values = payload.view(2, -1)
        vector = torch.zeros(size, device=payload.device)
        vector[places.view(torch.int32).long()] = values.view(torch.float32)
        return vector

    def __repr__(self) -> str:
        return f"topk({self.fraction})"


def _checked(chunk: int) -> int:
    """The numbers that share a scale; ConfigError unless there is one at least."""
    if chunk < 1:
        raise ConfigError(f"A codec with a scale for every {chunk} numbers is none. Give 1 or more, such as int8(256).")
    return chunk


CODECS = {"bf16": BF16, "int8": Int8, "int4": Int4, "topk": TopK}


def codec(text: str) -> Codec:
    """The codec that a text names, with its number in parentheses where it takes one.

    >>> codec("bf16"), codec("int8"), codec("topk(0.02)")
    (bf16, int8(256), topk(0.02))
    """
    name, _, rest = text.replace(" ", "").partition("(")
    if name not in CODECS:
        raise ConfigError(f"`{text}` is not a codec. {did_you_mean(name, CODECS)}")
    number = rest.removesuffix(")")
    try:
        return CODECS[name](*([float(number) if name == "topk" else int(number)] if number else []))
    except (TypeError, ValueError):
        raise ConfigError(f"`{text}` is not a codec. Write bf16, int8, int8(256), int4 or topk(0.01).") from None
