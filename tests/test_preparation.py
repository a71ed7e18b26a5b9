"""What is done to images: contrast, whitening, mirrors and shifts; and how data is divided between replicas."""

import numpy as np
import pytest
import torch

import parle
from parle.data import Batches, Data, Split, augmented, load, prepared, share_of
from parle.data.cache import Cache


def made(count=300, shape=(3, 6, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    splits = [Split(torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8), torch.arange(size) % 5, 255.0) for size in (count, 50)]
    return Data("made", *splits, 5)


def test_mean_and_deviation_are_those_of_the_training_images():
    data = prepared(found := made(), "mean-std", Cache(None))
    images, _ = data.train.take(slice(None))
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 2, 3), correction=0), 1, rtol=1e-4)
    raw = found.train.images.double().numpy() / 255
    expected = (found.test.images.double().numpy() / 255 - raw.mean((0, 2, 3))[:, None, None]) / raw.std((0, 2, 3))[:, None, None]
    np.testing.assert_allclose(data.test.take(slice(None))[0], expected, atol=1e-5)
    assert torch.equal(found.train.images, made().train.images)  # nothing was changed in place


def test_contrast_is_of_every_image_by_itself():
    images, _ = prepared(found := made(), "contrast", Cache(None)).train.take(slice(0, 4))
    for image, raw in zip(images.double().numpy(), found.train.images.double().numpy() / 255, strict=False):
        np.testing.assert_allclose(image, (raw - raw.mean()) / raw.std(ddof=1), atol=1e-5)


def test_whitening_leaves_uncorrelated_numbers(tmp_path):
    data = prepared(found := made(2000), "zca", Cache(tmp_path / "cache"))
    flat = data.train.take(slice(None))[0].flatten(1).double().numpy()
    covariance = flat.T @ flat / len(flat)
    raw = prepared(found, "contrast", Cache(None)).train.take(slice(None))[0].flatten(1).double().numpy()
    values, vectors = np.linalg.eigh((raw - raw.mean(0)).T @ (raw - raw.mean(0)) / len(raw))
    expected = (raw - raw.mean(0)) @ (vectors / np.sqrt(np.maximum(values, 0) + 1e-5)) @ vectors.T
    np.testing.assert_allclose(flat, expected, atol=2e-3)
    np.testing.assert_allclose(covariance, vectors @ np.diag(values / (values + 1e-5)) @ vectors.T, atol=1e-3)  # the identity, but for the mean of an image
    again = prepared(found, "zca", Cache(tmp_path / "cache"))
    assert torch.equal(again.test.images, data.test.images) and [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_whitening_needs_more_images_than_numbers_in_one():
    with pytest.raises(parle.ConfigError, match="ZCA needs more training images than the 108 numbers of one, got 100"):
        prepared(made(100), "zca", Cache(None))


def test_a_text_cannot_be_normalized(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc" * 2000)
    with pytest.raises(parle.ConfigError, match="is for images"):
        load(str(tmp_path / "a.txt"), normalize="contrast")


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("how", ["shift", "mirror-shift"])
def test_shifts_and_mirrors_are_those_of_numpy(how, padding):
    images = torch.rand(20, 3, 11, 11)
    got = augmented(images, torch.Generator().manual_seed(3), how, padding=padding).numpy()
    mode = {"mode": "reflect"} if padding == "reflect" else {"mode": "constant"}
    seen = set()
    for image, its in zip(images.numpy(), got, strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), **mode)
        crops = {(row, column, 0): padded[:, row : row + 11, column : column + 11] for row in range(9) for column in range(9)}
        crops |= {(row, column, 1): crop[:, :, ::-1] for (row, column, _), crop in crops.items()}
        found = [place for place, crop in crops.items() if np.array_equal(crop, its)]
        assert len(found) == 1
        seen.add(found[0])
    assert {mirror for *_, mirror in seen} == ({0, 1} if how == "mirror-shift" else {0}) and len(seen) > 10


def test_a_batch_is_changed_alike_at_the_same_step_and_otherwise_at_another():
    def batches(replica):
        return Batches(made().train, 10, seed=1, replica=replica, augment=lambda images, generator: augmented(images, generator, "mirror-shift", pad=2))

    first, again = batches(0), batches(0)
    again.at(7)
    assert torch.equal(first.at(3)[0], again.at(3)[0])
    plain = Batches(made().train, 10, seed=1, replica=0)
    assert not torch.equal(first.at(3)[0], plain.at(3)[0]) and torch.equal(first.at(3)[1], plain.at(3)[1])


@pytest.mark.parametrize(("replicas", "fraction"), [(2, 0.5), (3, 0.5), (6, 0.25), (4, 0.25), (3, 1 / 3), (1, 1.0), (7, 0.15)])
def test_shares_cover_the_data_and_are_equal(replicas, fraction):
    labels = torch.arange(101) % 7
    shares = [share_of(labels, replica, replicas, fraction, None, seed=5) for replica in range(replicas)]
    assert set(torch.cat(shares).tolist()) == set(range(101))
    assert max(map(len, shares)) - min(map(len, shares)) == 0
    if abs(replicas * fraction - 1) < 1e-9:
        assert len(torch.cat(shares)) <= 101 + replicas  # disjoint, but for one sample each
    assert torch.equal(shares[0], share_of(labels, 0, replicas, fraction, None, seed=5))
    assert replicas == 1 or not torch.equal(shares[0], share_of(labels, 0, replicas, fraction, None, seed=6))


def test_shares_of_a_whole_number_of_samples_are_disjoint():
    shares = [share_of(torch.zeros(120), replica, 4, 0.25, None, seed=0) for replica in range(4)]
    assert sorted(torch.cat(shares).tolist()) == list(range(120))


def test_a_skew_divides_every_class_and_loses_no_sample():
    labels = torch.arange(1000) % 10
    for skew, low, high in ((1000.0, 0.08, 0.12), (0.1, 0.3, 1.0)):
        shares = [share_of(labels, replica, 4, None, skew, seed=2) for replica in range(4)]
        assert sorted(torch.cat(shares).tolist()) == list(range(1000))
        largest = max((torch.bincount(labels[share], minlength=10) / len(share)).max().item() for share in shares)
        assert low < largest <= high


def test_what_cannot_cover_the_data_is_refused():
    with pytest.raises(parle.ConfigError, match=r"3 replicas with 0.25 of the data each cannot cover it. Use --split 0.3333 or more"):
        share_of(torch.zeros(90), 0, 3, 0.25, None, seed=0)
    with pytest.raises(parle.ConfigError, match="Give one of them"):
        share_of(torch.zeros(90), 0, 3, 0.5, 1.0, seed=0)
    with pytest.raises(parle.ConfigError, match=r"gets \d samples. Use a larger skew"):
        for replica in range(4):
            share_of(torch.zeros(40), replica, 4, None, 1e-3, seed=0)


def test_a_run_with_split_data_counts_its_own_epochs(parle_command):
    done = parle_command("train", "-a", "local-sgd", "-n", "3", "--split", "0.5", "-e", "2", "--json", "--name", "a")
    assert done.code == 0, done.err
    assert done.json["steps"] == 2 * (718 // 32) and done.json["epochs"] == 2.0
    wrong = parle_command("train", "-n", "3", "--split", "0.2")
    assert wrong.code == 2 and "cannot cover it" in wrong.err


@pytest.mark.parametrize("normalize", ["scale", "mean-std", "contrast", "zca"])
@pytest.mark.parametrize(("augment", "padding"), [("mirror-shift", "reflect"), ("shift", "zero")])
def test_the_command_trains_on_prepared_and_augmented_images(parle_command, make_shards, normalize, augment, padding):
    folder = make_shards(shape=(12, 12, 3), train=500, test=20)
    options = [f"data.normalize={normalize}", f"data.augment={augment}", f"data.padding={padding}", "model.channels_last=true", "precision=bf16"]
    sets = [word for option in options for word in ("--set", option)]
    done = parle_command("train", "-d", folder, "-n", "2", "-e", "1", "--split", "0.5", *sets, "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 500 // 2 // 32
