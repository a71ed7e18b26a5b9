"""Bringing networks into the same order of channels: nothing they compute changes, and a permuted copy is found again."""

import numpy as np
import pytest
import torch
from torch import nn

import parle
from parle.alignment import METHODS, aligned, greedy, layer_by_layer, mean_of, optimal, overlap, weight_matching
from parle.models import MODELS
from parle.permutations import symmetry_of


def network(name, seed=0):
    """A network with numbers in its BatchNorm, in evaluation mode."""
    torch.manual_seed(seed)
    made = {
        "allcnn": lambda: MODELS["allcnn"](),
        "lenet": lambda: MODELS["lenet"](),
        "mlp": lambda: MODELS["mlp"](),
        "resnet20": lambda: MODELS["resnet20"](),
        "wrn-16-4": lambda: MODELS["wrn-16-4"](),
    }[name]().double()
    for layer in made.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5)
    return made.eval()


def inputs(name):
    shape = {"lenet": (3, 1, 28, 28), "mlp": (3, 1, 8, 8)}.get(name, (3, 3, 32, 32))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def state_of(made):
    return {key: tensor.clone() for key, tensor in made.state_dict().items()}


def shuffled(symmetry, state, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return symmetry.permuted(state, [torch.randperm(size, generator=generator) for size in symmetry.sizes])


NAMES = ["allcnn", "lenet", "mlp", "resnet20", "wrn-16-4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_legal_permutation_changes_nothing_that_is_computed(name):
    made = network(name)
    symmetry, before = symmetry_of(made), made(inputs(name))
    other = shuffled(symmetry, state := state_of(made))
    assert overlap(state, other) < 0.95
    made.load_state_dict(other)
    torch.testing.assert_close(made(inputs(name)), before, rtol=1e-9, atol=1e-11)


def test_every_channel_between_input_and_output_may_move():
    assert symmetry_of(network("lenet")).sizes == (20, 50, 500)
    assert symmetry_of(network("allcnn")).sizes == (96,) * 3 + (192,) * 5
    wide = symmetry_of(network("wrn-16-4"))
    assert sorted(wide.sizes) == sorted([16, 64, 64, 64, 128, 128, 128, 256, 256, 256])  # the first, each stream, and one inside each block
    assert symmetry_of(network("resnet20")).sizes == (16,) * 3 + (32,) * 3 + (64,) * 3  # streams that are filled with zeros stay


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_a_permuted_copy_is_found_again_exactly(name, method):
    made = network(name)
    symmetry, state = symmetry_of(made), state_of(made)
    found = aligned(symmetry, state, shuffled(symmetry, state), method)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_the_optimal_matching_scores_at_least_as_much_as_the_greedy_one():
    for seed in range(20):
        similarity = torch.randn(30, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        here = torch.arange(30)
        best, fast = optimal(similarity), greedy(similarity)
        assert sorted(best.tolist()) == sorted(fast.tolist()) == list(range(30))
        assert similarity[here, best].sum() >= similarity[here, fast].sum()
    assert greedy(torch.tensor([[3.0, 2.0], [2.9, 0.0]])).tolist() == [0, 1] and optimal(torch.tensor([[3.0, 2.0], [2.9, 0.0]])).tolist() == [1, 0]


def test_coordinate_descent_makes_the_sum_of_products_larger_than_layers_one_by_one():
    first, second = network("mlp", 1), network("mlp", 2)
    symmetry, a, b = symmetry_of(first), state_of(first), state_of(second)

    def product(places):
        moved = symmetry.permuted(b, places)
        return sum((a[key] * moved[key]).sum() for key in a if moved[key].is_floating_point())

    best, layered = product(weight_matching(symmetry, a, b)), product(layer_by_layer(symmetry, a, b, optimal))
    assert best > product(symmetry.identity()) and best >= layered


def test_the_overlap_is_the_cosine_along_the_channels():
    a, b = ({"w.weight": torch.randn(4, 3, 2, dtype=torch.float64), "x.weight": torch.randn(5, dtype=torch.float64)} for _ in range(2))
    expected = []
    for name in a:
        x, y = (tensor[name].numpy().reshape(len(tensor[name]), -1) for tensor in (a, b))
        expected.append(np.mean([(x[:, j] @ y[:, j]) / np.linalg.norm(x[:, j]) / np.linalg.norm(y[:, j]) for j in range(x.shape[1])]))
    assert overlap(a, b) == pytest.approx(np.mean(expected)) and overlap(a, a) == pytest.approx(1.0)


def test_the_mean_of_states_keeps_whole_numbers():
    states = [{"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(7)}, {"w": torch.tensor([3.0, 5.0]), "n": torch.tensor(9)}]
    assert mean_of(states)["w"].tolist() == [2.0, 4.0] and mean_of(states)["n"] == 7


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), "`0` is a Conv2d"),
        (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), "`1` is a LayerNorm"),
        (MODELS["char-gpt"](), "cannot be aligned"),
    ],
    ids=["groups", "LayerNorm", "char-gpt"],
)
def test_a_layer_that_is_not_known_is_named(made, words):
    with pytest.raises(parle.ConfigError, match=words):
        symmetry_of(made)


def test_networks_of_different_architecture_are_refused():
    with pytest.raises(parle.ConfigError, match="different architecture"):
        aligned(symmetry_of(network("mlp")), state_of(network("mlp")), state_of(network("lenet")))
