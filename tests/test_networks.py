"""The papers' networks: as many parameters as they have, and what they do to a batch."""

import pytest
import torch

import parle
from parle.models import MODELS, builder

COUNTS = {  # ALGORITHMS, section 10.1: parameters, tensors
    "lenet": (132_220, 14),
    "lenet-dev": (131_220, 12),
    "small-cnn": (44_426, 10),
    "allcnn": (1_667_166, 36),
    "allcnn-c": (1_369_738, 18),
    "resnet20": (269_722, 59),
    "wrn-16-4": (2_748_890, 44),
    "wrn-28-10": (36_479_194, 80),
    "mlp": (86_026, 10),
    "char-gpt": (1_298_880, 52),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_has_as_many_parameters_as_its_paper_or_its_docstring_says(name):
    network = MODELS[name]()
    assert (sum(p.numel() for p in network.parameters()), len(list(network.parameters()))) == COUNTS[name]
    assert f"{COUNTS[name][0]:,}" in MODELS[name].__doc__


@pytest.mark.parametrize("name", ["allcnn", "allcnn-c", "resnet20", "wrn-16-4"])
def test_a_batch_of_images_becomes_one_number_per_class(name):
    network = builder(name, (3, 32, 32), 100)()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 100)
    with pytest.raises(parle.ConfigError, match=f"{name} takes images of 32 x 32, got 28 x 28"):
        builder(name, (1, 28, 28), 10)()


def test_the_class_map_of_all_cnn_is_normalized_and_rectified_too():
    layers = list(MODELS["allcnn"]())
    assert [type(layer).__name__ for layer in layers[-5:]] == ["Conv2d", "BatchNorm2d", "ReLU", "AvgPool2d", "Flatten"]


def test_the_shortcut_of_a_residual_network_passes_over_places_and_adds_channels_of_zeros():
    block = MODELS["resnet20"]()[6]  # the first of the second group
    with torch.no_grad():
        block.norm2.weight.zero_()
        out = block.eval()(x := torch.rand(1, 16, 8, 8))
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()


def test_options_reach_the_network_and_unknown_ones_are_named(parle_command):
    dropouts = [layer.p for layer in builder("allcnn", (3, 32, 32), 10, {"dropout": 0.0})() if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [0.0, 0.0, 0.0]
    done = parle_command("train", "--set", "model.options.width=32", "-e", "0.2", "--json", "--name", "a")
    assert done.json["params"] < 10_000 and parle_command("eval", "runs/a", "--json").json["error_pct"] == done.json["error_pct"]
    wrong = parle_command("train", "--set", "model.options.widht=32")
    assert wrong.code == 2 and "model.options.widht is not an option of `mlp`. Did you mean width?" in " ".join(wrong.err.split())


def test_channels_last_and_bf16_train_the_same_task(parle_command, make_shards):
    folder = make_shards(shape=(28, 28), train=120, test=40)
    plain = ("train", "-m", "lenet", "-d", folder, "-a", "local-sgd", "-n", "2", "-e", "2", "--json", "--set", "model.options.dropout=0")
    ours = parle_command(*plain, "--set", "model.channels_last=true", "--name", "a")
    assert ours.code == 0, ours.err
    assert ours.json["loss"] == pytest.approx(parle_command(*plain, "--name", "b").json["loss"], rel=1e-3)
    half = parle_command(*plain, "--set", "precision=bf16", "--name", "c")
    assert half.code == 0, half.err
    assert 0 < abs(half.json["loss"] - ours.json["loss"]) < 0.3
