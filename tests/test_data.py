"""Data: decoded once and checked, drawn without a loop over samples, each replica in its own order."""

import pytest
import torch

import parle
from parle import data
from parle.data import Batches, Split
from parle.data.cache import Cache


def test_the_embedded_digits_are_split_once_and_for_all():
    first, again = data.load("digits"), data.load("digits")
    assert (len(first.train), len(first.test), first.shape, first.classes) == (1437, 360, (1, 8, 8), 10)
    assert torch.equal(first.test.images, again.test.images)
    images, labels = first.train.take(slice(0, 5))
    assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1 and labels.dtype == torch.int64


def test_a_folder_of_shards_is_read_in_order(make_shards, tmp_path):
    folder = make_shards(shards=3, train=60, test=30)
    found = data.load(str(folder), cache_dir=tmp_path / "decoded")
    assert found.train.images.shape == (60, 1, 28, 28) and found.train.images.dtype == torch.uint8
    assert found.train.labels.tolist() == [index % 10 for index in range(60)]
    assert found.classes == 10


def test_colour_images_and_other_column_names_are_found(make_shards):
    folder = make_shards(shape=(6, 5, 3), columns=("img", "fine_label"))
    found = data.load(str(folder))
    assert found.shape == (3, 6, 5)
    named = data.load(str(folder), image_column="img", label_column="fine_label")
    assert torch.equal(found.train.images, named.train.images)
    with pytest.raises(parle.ConfigError, match="has no image column picture; its columns are img, fine_label"):
        data.load(str(folder), image_column="picture")


def test_a_name_is_looked_up_in_the_data_folder(make_shards):
    folder = make_shards(name="mine")
    assert data.load("mnist" if folder.name == "mnist" else str(folder), folder.parent).name == "mine"
    make_shards(name="mnist", train=30)
    assert len(data.load("mnist", folder.parent).train) == 30


def test_shards_may_lie_one_folder_deeper_as_the_hub_keeps_them(make_shards, tmp_path):
    (tmp_path / "downloads" / "mnist").mkdir(parents=True)
    make_shards().rename(tmp_path / "downloads" / "mnist" / "plain_text")
    found = data.load("mnist", tmp_path / "downloads")
    assert len(found.train) == 60 and found.name == "mnist"


def test_decoding_happens_once_and_a_damaged_cache_is_decoded_again(make_shards, tmp_path):
    folder, cache = make_shards(), tmp_path / "decoded"
    calls = []

    def decode():
        calls.append(1)
        return {"images": torch.arange(8, dtype=torch.uint8)}

    shards = sorted(folder.glob("*.parquet"))
    for _ in range(2):
        assert torch.equal(Cache(cache).get(shards, ["k"], decode)["images"], torch.arange(8, dtype=torch.uint8))
    assert len(calls) == 1
    (kept,) = cache.glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1  # one flipped bit
    kept.write_bytes(content)
    assert torch.equal(Cache(cache).get(shards, ["k"], decode)["images"], torch.arange(8, dtype=torch.uint8))
    assert len(calls) == 2
    shards[0].write_bytes(shards[0].read_bytes() + b"x")
    Cache(cache).get(shards, ["k"], decode)
    assert len(calls) == 3


def test_an_unwritable_cache_is_no_error(make_shards, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert len(data.load(str(make_shards()), cache_dir=tmp_path / "file").train) == 60


def test_a_last_batch_of_one_joins_the_one_before():
    for count, sizes in ((7, [3, 4]), (8, [3, 3, 2]), (6, [3, 3]), (1, [1]), (4, [4])):
        split = Split(torch.arange(count).reshape(count, 1, 1, 1), torch.arange(count))
        batches = [labels for _, labels in data.in_turn(split, 3)]
        assert [len(labels) for labels in batches] == sizes
        assert torch.cat(batches).tolist() == list(range(count))


def test_every_epoch_visits_each_sample_once_in_a_new_order():
    split = Split(torch.arange(12).reshape(12, 1, 1, 1), torch.arange(12))
    batches = Batches(split, 4, seed=0, replica=0)
    epochs = [torch.cat([batches.at(step)[1] for step in range(first, first + 3)]).tolist() for first in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert torch.equal(Batches(split, 4, seed=0, replica=0).at(4)[1], batches.at(4)[1])  # a function of the step
    assert torch.cat([Batches(split, 4, 0, replica=1).at(step)[1] for step in range(3)]).tolist() != epochs[0]


def test_mnist_is_the_mnist(mnist, tmp_path):
    found = data.load("mnist", mnist.parent, tmp_path / "decoded")
    assert found.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    scaled = found.train.images.double() / 255
    assert round(scaled.mean().item(), 4) == 0.1307 and round(scaled.std().item(), 4) == 0.3081
    assert len(found.test) == 10_000


def test_data_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def tensors():\n    return torch.rand(20, 1, 4, 4), torch.arange(20) % 3, torch.rand(6, 1, 4, 4), torch.arange(6) % 3\n"
        "def wrong():\n    return torch.rand(20, 16), torch.arange(20), torch.rand(6, 16), torch.arange(6)\n"
        "def columns():\n    return torch.rand(20, 1, 4, 4), torch.zeros(20, 1), torch.rand(6, 1, 4, 4), torch.zeros(6, 1)\n"
        "def bytes_():\n    return (torch.full((9, 1, 4, 4), 255, dtype=torch.uint8), torch.arange(9) % 3) * 2\n"
        "def broken():\n    return 1 / 0\n"
    )
    found = data.load(f"{tmp_path}/mine.py:tensors")
    assert found.classes == 3 and found.shape == (1, 4, 4)
    with pytest.raises(parle.ConfigError, match=r"have shape \(20, 16\) for 20 labels"):
        data.load(f"{tmp_path}/mine.py:wrong")
    with pytest.raises(parle.ConfigError, match=r"labels of .* have shapes \[\(20, 1\), \(6, 1\)\]"):
        data.load(f"{tmp_path}/mine.py:columns")
    assert data.load(f"{tmp_path}/mine.py:bytes_").train.take(slice(None))[0].max() == 1.0
    with pytest.raises(parle.ConfigError, match="ZeroDivisionError"):
        data.load(f"{tmp_path}/mine.py:broken")


def test_the_hub_is_asked_for_the_namespaced_id_and_kept_as_shards(tmp_path, monkeypatch, make_shards):
    """There is no network in the tests: a stand-in for load_dataset hands out what the hub would."""
    import datasets

    folder, asked = make_shards(), []

    def load_dataset(*arguments, download_config):
        asked.append(arguments)
        files = {part: str(next(folder.glob(f"{part}-*.parquet"))) for part in ("train", "test")}
        return {part: datasets.Dataset.from_parquet(file, cache_dir=str(tmp_path / "hf")) for part, file in files.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = data.load("mnist", None, tmp_path / "kept")
    assert asked == [("ylecun/mnist", None)] and len(found.train) == 60 and found.shape == (1, 28, 28)
    data.load("mnist", None, tmp_path / "kept")
    assert len(asked) == 1


def test_without_a_network_the_command_that_fetches_is_named(tmp_path, monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(parle.SetupError, match="hf download --repo-type dataset uoft-cs/cifar10 --local-dir DIR/cifar10"):
        data.load("cifar10", None, tmp_path)


def test_data_in_the_layout_of_cifar_100_gives_its_fine_labels(make_shards):
    folder = make_shards(name="cifar100", shape=(32, 32, 3), train=200, test=100, columns=("img", "fine_label"), classes=100, coarse=True)
    found = data.load("cifar100", data_dir=folder.parent)
    assert (found.classes, found.shape, int(found.train.labels.max())) == (100, (3, 32, 32), 99)


def test_data_in_the_layout_of_svhn_may_be_trained_on_its_extra_split(make_shards):
    folder = make_shards(name="svhn", shape=(32, 32, 3), train=40, test=20, extra=70)
    plain, more = (data.load("svhn", data_dir=folder.parent, extra=extra) for extra in (False, True))
    assert (len(plain.train), len(more.train), len(plain.test), len(more.test)) == (40, 110, 20, 20)
    assert torch.equal(more.train.images[:40], plain.train.images)
    other = make_shards(name="cifar10", shape=(32, 32, 3))
    with pytest.raises(parle.ConfigError, match=r"There is no extra-\*.parquet"):
        data.load("cifar10", data_dir=other.parent, extra=True)
