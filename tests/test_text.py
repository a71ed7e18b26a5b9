"""Training on a text of one's own: windows, the transformer, and what is wrong with a file."""

import math

import pytest
import torch

import parle
from parle import data
from parle.data import in_turn
from parle.models import MODELS, builder

ALPHABET = bytes(range(97, 123))
SMALL = "char_gpt(shape, classes, width=32, layers=1, heads=2)"


@pytest.fixture
def text(tmp_path):
    """The alphabet, again and again: who knows a letter knows the next one."""
    path = tmp_path / "alphabet.txt"
    path.write_bytes(ALPHABET * 400)
    return path


@pytest.fixture
def small(tmp_path):
    """A transformer of one layer."""
    path = tmp_path / "small.py"
    path.write_text(f"from parle.models.char_gpt import char_gpt\n\ndef net(shape, classes):\n    return {SMALL}\n")
    return f"{path}:net"


def test_a_window_goes_with_the_characters_that_follow(text):
    found = data.load(str(text), context=10)
    windows, following = found.train.take(torch.tensor([0, 3]))
    assert (windows.shape, found.shape, found.classes) == ((2, 10), (10,), 256)
    assert bytes(windows[1].tolist()) == (ALPHABET * 3)[30:40] and bytes(following[1].tolist()) == (ALPHABET * 3)[31:41]
    trained, tested = (b"".join(bytes(row.tolist()) for row in split.images) for split in (found.train, found.test))
    assert len(trained) + len(tested) <= 26 * 400 and len(tested) == 1030  # the last tenth
    assert (ALPHABET * 400)[: len(trained)] == trained and (ALPHABET * 400)[-1040:][: len(tested)] == tested
    assert sum(len(labels) for _, labels in in_turn(found.test, size=10)) == len(found.test)


def test_the_transformer_sees_no_character_that_follows():
    torch.manual_seed(0)
    network = MODELS["char-gpt"](shape=(16,), width=32, layers=2, heads=2).eval()
    text = torch.randint(0, 256, (3, 16))
    changed = text.clone()
    changed[:, 9:] = 7
    with torch.no_grad():
        before, after = network(text), network(changed)
    assert before.shape == (3, 256, 16)
    torch.testing.assert_close(before[:, :, :9], after[:, :, :9])
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().max() > 1e-3
    assert network.scores.weight is network.characters.weight  # one replica's vector holds it once


def test_it_has_as_many_parameters_as_it_says():
    assert sum(p.numel() for p in MODELS["char-gpt"]().parameters()) == 1_298_880


def test_training_on_a_text_learns_its_next_character(parle_command, text, small):
    command = ("train", "-m", small, "-d", text, "-a", "diloco", "-n", "2", "-b", "8", "-e", "5", "--set", "data.context=20", "--set", "algorithm.period=10")
    done = parle_command(*command, "--set", "optimizer.lr=0.01", "--json", "--name", "a")
    assert done.code == 0, done.err
    assert done.json["error_pct"] < 20 and done.json["loss"] < 0.5 * math.log(26)
    again = parle_command("eval", "runs/a", "--json").json
    assert again["error_pct"] == done.json["error_pct"] and again["loss"] == pytest.approx(done.json["loss"])
    other = text.with_name("backwards.txt")
    other.write_bytes(ALPHABET[::-1] * 400)
    assert parle_command("eval", "runs/a", "-d", other, "--json").json["error_pct"] > 90  # any other text has the same characters


def test_char_gpt_is_trained_by_adamw_where_nothing_else_is_asked_for():
    from parle import config, settling

    for sets, expected in (
        (("model=char-gpt", "algorithm=local-sgd"), ("adamw", 0.001)),
        (("algorithm=diloco",), ("adamw", 0.001)),
        (("algorithm=diloco", "optimizer=sgd"), ("sgd", 0.1)),
        (("algorithm=local-sgd",), ("sgd", 0.1)),
        (("model=char-gpt", "algorithm=server-sgd"), ("sgd", 0.1)),
        (("model=char-gpt", "optimizer.lr=0.003"), ("adamw", 0.003)),
    ):
        found = settling.settled(config.load(sets=sets), 1000).optimizer
        assert (found.name, found.lr) == expected, sets


def test_outer_rates_follow_the_rate_of_sgd_and_not_that_of_adamw():
    from parle import config, settling

    def algorithm(*sets):
        return settling.algorithm_for(settling.settled(config.load(sets=("epochs=10", *sets)), 1000), 31)

    assert algorithm("algorithm=parle", "optimizer.lr=0.05").at(0).lr == 0.05
    assert algorithm("algorithm=parle", "optimizer.name=adamw").at(0).lr == 0.1
    slow = algorithm("algorithm=slowmo", "optimizer.lr=0.05", "algorithm.period=10")
    assert [slow.at(round).lr for round in (0, 15, 23)] == [0.05, 0.05 / 10, 0.05 / 100]  # as the inner rate, at 155 and 232 of 310 steps


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"short", (), "has 5 characters, too few for windows of 128"),
        (b"", (), "cannot be read: it is empty"),
        (ALPHABET * 400, ("-m", "mlp"), ". Use -m char-gpt for a text"),
        (ALPHABET * 400, ("-m", "char-gpt", "--set", "model.options.width=32"), "width 32 is no multiple of heads 5"),
        (ALPHABET * 400, ("-m", "lenet"), "Use -m mlp"),
    ],
)
def test_what_does_not_fit_a_text_is_said_in_one_line(parle_command, tmp_path, content, arguments, words):
    (tmp_path / "text.txt").write_bytes(content)
    done = parle_command("train", "-d", tmp_path / "text.txt", *arguments)
    assert done.code == 2 and words in " ".join(done.err.split()) and "Traceback" not in done.err


def test_char_gpt_does_not_take_images():
    with pytest.raises(parle.ConfigError, match=r"Use -d path/to/text.txt"):
        builder("char-gpt", (1, 8, 8), 10)()
