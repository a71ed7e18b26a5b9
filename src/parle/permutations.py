"""Which channels of a network may change places: found by following them from layer to layer."""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from parle.errors import ConfigError

State = dict[str, Tensor]

PASSING = (nn.ReLU, nn.GELU, nn.Tanh, nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
PASSING_CALLS = (torch.relu, functional.relu, functional.gelu, torch.tanh, functional.dropout, functional.max_pool2d, functional.avg_pool2d)


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor along which channels lie, each `repeat` numbers in a row; `makes` them, rather than reading them."""

    tensor: str
    axis: int
    repeat: int = 1
    makes: bool = False


@dataclass(frozen=True)
class Symmetry:
    """The groups of axes whose channels may be permuted together without changing what the network computes, in its order."""

    groups: tuple[tuple[Axis, ...], ...]
    sizes: tuple[int, ...]

    def permuted(self, state: State, places: list[Tensor]) -> State:
        """The state of the same network with channel places[g][i] of group g moved to place i."""
        state = dict(state)
        for group, its in zip(self.groups, places, strict=True):
            for axis in group:
                state[axis.tensor] = move(state[axis.tensor], axis, its)
        return state

    def identity(self) -> list[Tensor]:
        """Every channel where it is."""
        return [torch.arange(size) for size in self.sizes]


def move(tensor: Tensor, axis: Axis, places: Tensor) -> Tensor:
    """A tensor with the channels along an axis taken from those places."""
    if axis.repeat > 1:
        places = (places[:, None] * axis.repeat + torch.arange(axis.repeat)).flatten()
    return tensor.index_select(axis.axis, places.to(tensor.device))


class _Groups:
    """Sets of axes that are joined where channels are added to each other; those that are fixed stay out."""

    def __init__(self):
        self.parent: list[int] = []
        self.axes: list[list[Axis]] = []
        self.sizes: list[int] = []
        self.fixed: set[int] = set()

    def new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.axes.append([])
        self.sizes.append(size)
        return self.parent[-1]

    def root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.root(first), self.root(second)))
        if first != second:
            self.parent[second] = first
            self.axes[first] += self.axes[second]
            self.fixed |= {first} if second in self.fixed else set()

    def fix(self, group: int) -> None:
        self.fixed.add(self.root(group))


def symmetry_of(network: nn.Module) -> Symmetry:
    """The symmetry of a network of convolutions, linear layers, BatchNorm, and what acts on each channel by itself; chains and residual networks.

    Inputs and outputs stay in place, and so do channels that are cut or filled with zeros on the way. Raises ConfigError, naming
    the layer, for one that is not known.
    """
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:
        raise ConfigError(f"A {type(network).__name__} cannot be aligned: its layers cannot be followed ({type(error).__name__}).") from error
    groups, layers = _Groups(), dict(traced.named_modules())
    at: dict[fx.Node, tuple[int, int]] = {}  # of every node, the group of its channels and how many numbers each of them is
    for node in traced.graph.nodes:
        at[node] = _follow(node, at, layers, groups)
    kept = [group for group in range(len(groups.parent)) if groups.root(group) == group and group not in groups.fixed and groups.axes[group]]
    return Symmetry(tuple(tuple(groups.axes[group]) for group in kept), tuple(groups.sizes[group] for group in kept))


def _follow(node: fx.Node, at: dict, layers: dict, groups: _Groups) -> tuple[int, int]:
    before = [at[argument] for argument in node.args if isinstance(argument, fx.Node)]
    if node.op == "placeholder":
        group = groups.new(0)
        groups.fix(group)
        return group, 1
    if node.op == "output":
        groups.fix(before[0][0])
        return before[0]
    if node.op == "call_module":
        return _through(node.target, layers[node.target], *before[0], groups)
    if node.target in (operator.add, torch.add):
        groups.join(before[0][0], before[1][0])
        return before[0]
    if node.target in PASSING_CALLS or node.target in ("relu", "mean", "contiguous"):
        return before[0]
    if node.target in (torch.flatten, "flatten"):
        return before[0][0], 0  # the layer that reads it knows how many
    if node.target in (operator.getitem, functional.pad):
        groups.fix(before[0][0])
        return before[0]
    raise ConfigError(
        f"`{getattr(node.target, '__name__', node.target)}` is not a step that channels can be followed through, so the network cannot be aligned."
    )


def _through(name: str, layer: nn.Module, group: int, repeat: int, groups: _Groups) -> tuple[int, int]:
    """A layer reads the channels of a group; the group of those that it makes."""
    if isinstance(layer, PASSING):
        return group, repeat
    if isinstance(layer, nn.Flatten):
        return group, 0
    if isinstance(layer, _BatchNorm):
        names = [key for key in ("weight", "bias", "running_mean", "running_var") if getattr(layer, key, None) is not None]
        groups.axes[groups.root(group)] += [Axis(f"{name}.{key}", 0) for key in names]
        return group, repeat
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
        inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
        size = groups.sizes[groups.root(group)]
        if size:
            groups.axes[groups.root(group)].append(Axis(f"{name}.weight", 1, repeat or inputs // size))
        made = groups.new(outputs)
        groups.axes[made] += [Axis(f"{name}.weight", 0, makes=True)] + ([Axis(f"{name}.bias", 0)] if layer.bias is not None else [])
        return made, 1
    raise ConfigError(
        f"`{name}` is a {type(layer).__name__}, which this cannot align. It knows convolutions, linear layers, BatchNorm, and what acts on each channel."
    )
