"""Flat vectors: the parameters of a network as one row, and named rows per replica.

A `Layout` says where each parameter lies in the row; `Vectors` holds rows by name, as the algorithms see them.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parle.errors import JoinError


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter of a network lies in its flat vector of `size` numbers."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """The layout of a model's trainable parameters, tied ones counted once; JoinError where one vector cannot hold them."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise JoinError("The model has no trainable parameters. Join it before freezing, or unfreeze the parameters to be trained.")
        first = next((p for p in parameters.values() if not is_lazy(p)), None)
        for name, p in parameters.items():
            if is_lazy(p):
                raise JoinError(f"Parameter `{name}` has no shape yet: it is lazy. Pass one batch through the model before joining.")
            if type(p.data).__name__ == "DTensor" or hasattr(p, "_is_flat_param"):
                kind = "a FlatParameter" if hasattr(p, "_is_flat_param") else "a DTensor"
                raise JoinError(
                    f"Parameter `{name}` is {kind}, sharded over processes (FSDP, tensor parallelism), which keeps its memory to itself, so that no flat "
                    "vector can hold it. Use DistributedDataParallel inside a replica, over the other dimension of the mesh; or several smaller replicas."
                )
            if not isinstance(p.data, Tensor) or type(p.data) is not Tensor or p.is_sparse:
                raise JoinError(f"Parameter `{name}` is a {type(p.data).__name__}, not a plain dense tensor. parle keeps all parameters in one flat vector.")
            if (p.dtype, p.device) != (first.dtype, first.device):
                raise JoinError(
                    f"Parameter `{name}` is {p.dtype} on {p.device}, but the first one is {first.dtype} on {first.device}. All trainable parameters "
                    "of a replica share one flat vector: convert the model with model.to(...) before making its optimizer, or freeze the odd ones."
                )
            if not p.is_floating_point():
                raise JoinError(f"Parameter `{name}` is {p.dtype}; only real floating-point parameters can be averaged.")
        strides = tuple(p.stride() if _dense(p) else torch.empty(p.shape, device="meta").stride() for p in parameters.values())
        size = sum(p.numel() for p in parameters.values())
        return cls(tuple(parameters), tuple(tuple(p.shape) for p in parameters.values()), strides, first.dtype, size)

    def require(self, other: "Layout", replica: int) -> None:
        """Raise JoinError, naming the first difference, unless the other replica has the same parameters."""
        same = "All replicas must be built by the same model function."
        if len(self.names) != len(other.names):
            odd = sorted(set(self.names) ^ set(other.names))
            where = "missing" if odd and odd[0] in self.names else "extra"
            difference = f"; the first difference is `{odd[0]}` ({where})" if odd else ""
            raise JoinError(f"Replica {replica} has {len(other.names)} tensors, replica 0 has {len(self.names)}{difference}. {same}")
        for name, shape, its_name, its_shape in zip(self.names, self.shapes, other.names, other.shapes, strict=True):
            if (name, shape) != (its_name, its_shape):
                raise JoinError(f"Replica {replica} has `{its_name}` {its_shape} where replica 0 has `{name}` {shape}. {same}")
        if self.dtype != other.dtype:
            raise JoinError(f"Replica {replica} has {other.dtype} parameters, replica 0 has {self.dtype}. {same}")

    def views(self, row: Tensor) -> list[Tensor]:
        """The parts of a flat row of shape (N,) in the shapes of the parameters, without a copy."""
        views, offset = [], row.storage_offset()
        for shape, stride in zip(self.shapes, self.strides, strict=True):
            views.append(row.as_strided(shape, stride, offset))
            offset += views[-1].numel()
        return views

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the model that this layout names, in its order."""
        return [model.get_parameter(name) for name in self.names]

    def digest(self) -> str:
        """A short text that differs wherever two layouts differ."""
        return hashlib.sha256(repr((self.names, self.shapes, self.strides, self.dtype)).encode()).hexdigest()[:16]


class Part(NamedTuple):
    """A part of a vector that is exchanged in a round, in which several may follow each other."""

    place: slice = slice(None)
    first: bool = True
    last: bool = True


WHOLE = Part()


class Vectors:
    """Named vectors: reading `v.x` gives the tensor, assigning `v.x = t` writes t into it, or adds it the first time.

    `count` is the number of replicas whose rows these are, or of proposals in the mean which a center merges, `size` that of
    all replicas which may propose to it. `weight` is the number of steps of a replica since the last round, divided by the mean of
    all replicas.

    >>> v = Vectors(params=torch.zeros(2, 3))
    >>> v.x = v.params                          # a copy, not the same memory
    >>> v.x += 1.0
    >>> v.params.sum().item(), v.x.sum().item()
    (0.0, 6.0)
    """

    __slots__ = ("_sealed", "_tensors", "count", "size", "weight")

    def __init__(self, count: int = 1, **tensors: Tensor):
        object.__setattr__(self, "_tensors", tensors)
        object.__setattr__(self, "_sealed", False)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "size", count)
        object.__setattr__(self, "weight", 1.0)

    def __getattr__(self, name: str) -> Tensor:
        try:
            return object.__getattribute__(self, "_tensors")[name]
        except KeyError:
            raise AttributeError(f"there is no vector {name!r}; there are {', '.join(self._tensors)}") from None

    def __setattr__(self, name: str, value: Tensor) -> None:
        if name in ("count", "size", "weight"):
            if isinstance(value, Tensor):
                raise AttributeError(f"{name!r} is a number that every algorithm sees; give your vector another name")
            object.__setattr__(self, name, value)
        elif name not in self._tensors:
            if self._sealed:  # it would be missing from checkpoints
                raise AttributeError(f"vector {name!r} is assigned but was not added in start(); there are {', '.join(self._tensors)}")
            self._tensors[name] = value.detach().clone()
        elif self._tensors[name] is not value:
            self._tensors[name].copy_(value)

    def seal(self) -> "Vectors":
        """Refuse new names from now on."""
        object.__setattr__(self, "_sealed", True)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The vectors by name."""
        return dict(self._tensors)

    def share(self, name: str, tensor: Tensor) -> None:
        """Add a vector that lies in the memory of `tensor` where this device allows it; on another device it is a copy."""
        self._tensors[name] = tensor.to(self.params.device)

    def part(self, part: Part) -> "Vectors":
        """A part of the same vectors, in the same memory."""
        its = Vectors(self.count, **{name: tensor[..., part.place] for name, tensor in self._tensors.items()}).seal()
        its.weight = self.weight
        return its

    def row(self, index: int) -> "Vectors":
        """The vectors of one replica, shape (1, N) each, in the same memory; the reference (N,) is everybody's."""
        rows = {name: tensor if name == "reference" else tensor[index : index + 1] for name, tensor in self._tensors.items()}
        return Vectors(1, **rows).seal()


def nesterov(direction: Tensor, velocity: Tensor, momentum: float) -> Tensor:
    """Nesterov's direction d + mu v with v <- mu v + d, as torch.optim.SGD has it; overwrites both arguments."""
    velocity.mul_(momentum).add_(direction)
    return direction.add_(velocity, alpha=momentum)


def _dense(tensor: Tensor) -> bool:
    """Whether the tensor fills its memory without gaps or overlaps, in any order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
