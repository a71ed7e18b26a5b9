"""Networks that were trained apart, brought into the same order of channels, so that their mean is a network (Parle paper, section 1.2)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from parle.errors import ConfigError, SetupError
from parle.permutations import Axis, State, Symmetry, move

SWEEPS, GAIN = 100, 1e-12


def overlap(first: State, second: State) -> float:
    """How alike two networks are: the cosine of their weights along the channels, mean over coordinates and then over tensors; 1 of equal ones."""
    names = [name for name in first if name.endswith("weight")]
    rows = [(first[name].double().reshape(len(first[name]), -1), second[name].double().reshape(len(second[name]), -1)) for name in names]
    return float(torch.stack([cosine_similarity(a, b, dim=0).mean() for a, b in rows]).mean())


def greedy(similarity: Tensor) -> Tensor:
    """For each row the column that it takes, when the largest of what is left (n, n) is taken again and again."""
    left, taken = similarity.clone(), torch.empty(len(similarity), dtype=torch.long)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        taken[row] = column
        left[row, :] = left[:, column] = -torch.inf
    return taken


def optimal(similarity: Tensor) -> Tensor:
    """For each row the column that it takes, so that the sum of what is taken is largest (Hungarian method)."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise SetupError('Optimal matching needs SciPy: pip install "parle-sgd[data]"') from None
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def layer_by_layer(symmetry: Symmetry, first: State, second: State, assign: Callable[[Tensor], Tensor] = greedy) -> list[Tensor]:
    """The places in `second` of each channel of `first`, found from the inputs on: by the cosine of the weights that make two channels.

    `first[i]` is brought together with `second[places[i]]`; what reads a channel follows it. `assign` is `greedy`, as in the paper, or `optimal`.
    """
    places, moved = symmetry.identity(), dict(second)
    for group, axes in enumerate(symmetry.groups):
        makers = [axis for axis in axes if axis.makes]
        places[group] = assign(sum(normalize(_rows(first, axis), dim=1) @ normalize(_rows(moved, axis), dim=1).T for axis in makers))
        for axis in axes:
            moved[axis.tensor] = move(moved[axis.tensor], axis, places[group])
    return places


def weight_matching(symmetry: Symmetry, first: State, second: State, seed: int = 0) -> list[Tensor]:
    """The places in `second` of each channel of `first` for which the sum of products of all weights is largest, one group after the other.

    Coordinate descent over the groups in random order, each step optimal, until none gains (Git Re-Basin, arXiv 2209.04836, Algorithm 1).
    """
    places, generator = symmetry.identity(), torch.Generator().manual_seed(seed)
    for _ in range(SWEEPS):
        gained = False
        for group in torch.randperm(len(symmetry.groups), generator=generator).tolist():
            others = [its if index != group else torch.arange(len(its)) for index, its in enumerate(places)]
            moved = symmetry.permuted(second, others)
            products = sum(_rows(first, axis) @ _rows(moved, axis).T for axis in symmetry.groups[group])
            found, here = optimal(products), torch.arange(len(products))
            if products[here, found].sum() > products[here, places[group]].sum() + GAIN:
                places[group], gained = found, True
        if not gained:
            break
    return places


METHODS = {
    "greedy": layer_by_layer,
    "hungarian": lambda symmetry, first, second: layer_by_layer(symmetry, first, second, optimal),
    "weights": weight_matching,
}


def aligned(symmetry: Symmetry, first: State, second: State, method: str = "greedy") -> State:
    """The second network with its channels in the order of the first; it computes what it computed before.

    >>> from torch import nn
    >>> from parle.permutations import symmetry_of
    >>> network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    >>> shuffled = symmetry_of(network).permuted(state, [torch.tensor([2, 0, 3, 1])])
    >>> overlap(state, aligned(symmetry_of(network), state, shuffled)) > 0.999
    True
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise ConfigError("Networks of different architecture cannot be aligned. Give runs of the same model on data of the same shape.")
    return symmetry.permuted(second, METHODS[method](symmetry, first, second))


def mean_of(states: list[State]) -> State:
    """The mean of networks; whole numbers are those of the first."""
    return {name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor for name, tensor in states[0].items()}


def _rows(state: State, axis: Axis) -> Tensor:
    """The numbers of a tensor that belong to each channel along an axis, in float64."""
    tensor = state[axis.tensor].double().movedim(axis.axis, 0)
    return tensor.reshape(len(tensor) // axis.repeat, -1)
