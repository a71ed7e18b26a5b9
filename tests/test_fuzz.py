"""Bad bytes in, one clear error out: configurations, manifests and shards, made up and mutated with a fixed seed."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import parle
from parle import checkpoint, config, settling
from parle.data import load

hypothesis = pytest.importorskip("hypothesis", reason='needs hypothesis: pip install "parle-sgd[test]"')
strategies = hypothesis.strategies

KEYS = [*config.RunConfig.model_fields, *config.OptimizerConfig.model_fields, *config.CommunicatorConfig.model_fields, "variant", "rho", "gamma", "odd"]
WORDS = ["sgd", "parle", "paper", "1", "-1", "nan", "inf", "1e999", "scoping(1, 2)", "ramp(", "2 ** 9 ** 9", "[1, 2]", "5rounds", "0rounds", "\x00", "ä" * 50]
VALUES = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(-(2**70), 2**70),
    strategies.floats(),
    strategies.text(max_size=20),
    strategies.sampled_from(WORDS),
)
TREES = strategies.recursive(
    strategies.dictionaries(strategies.sampled_from(KEYS), VALUES, max_size=4),
    lambda inner: strategies.dictionaries(strategies.sampled_from(KEYS), strategies.one_of(inner, VALUES, strategies.lists(VALUES, max_size=3)), max_size=5),
    max_leaves=12,
)
CASES = dict(
    deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
)


@hypothesis.settings(max_examples=3000, **CASES)
@hypothesis.given(TREES)
def test_any_tree_is_a_configuration_or_an_error(tree):
    try:
        found = settling.settled(config.parse(tree), 1437)
        assert config.from_text(config.to_yaml(found)) == found
    except parle.ParleError as error:
        assert 0 < len(str(error)) < 3000 and "\n" not in str(error)


@hypothesis.settings(max_examples=2000, **CASES)
@hypothesis.given(strategies.one_of(strategies.text(max_size=60), strategies.binary(max_size=60), TREES.map(lambda tree: yaml.safe_dump(tree))))
def test_any_file_is_a_configuration_or_an_error(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        config.load(file)
    except parle.ParleError as error:
        assert "\n" not in str(error)


def mutated(content: bytes, changes: list[tuple[int, int]], length: int | None) -> bytes:
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: length % (len(changed) + 1)] if length is not None else changed)


CHANGES = strategies.lists(strategies.tuples(strategies.integers(0, 2**20), strategies.integers(0, 255)), min_size=1, max_size=6)
LENGTHS = strategies.one_of(strategies.none(), strategies.integers(0, 2**20))


@hypothesis.settings(max_examples=3000, **CASES)
@hypothesis.given(strategies.sampled_from([checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS]), CHANGES, LENGTHS)
def test_any_change_to_a_checkpoint_is_noticed(tmp_path, file, changes, length):
    folder, state = tmp_path / "step-00000001", {"a": torch.arange(4.0), "b": [1, "two"]}
    if not folder.exists():
        checkpoint.write(folder, state)
    content = (folder / file).read_bytes()
    changed = mutated(content, changes, length)
    (folder / file).write_bytes(changed)
    try:
        read = checkpoint.read(folder)
        assert torch.equal(read["a"], state["a"]) and read["b"] == state["b"]
        assert changed == content or file == checkpoint.MANIFEST  # whose white space may change
    except parle.ConfigError as error:
        assert "\n" not in str(error) and "cannot be used" in str(error)
    finally:
        (folder / file).write_bytes(content)


@hypothesis.settings(max_examples=1000, **CASES)
@hypothesis.given(TREES.map(json.dumps).map(str.encode) | strategies.binary(max_size=80))
def test_any_manifest_is_refused(tmp_path, content):
    folder = tmp_path / "step-00000001"
    if not folder.exists():
        checkpoint.write(folder, {"a": 1})
    (folder / checkpoint.MANIFEST).write_bytes(content)
    with pytest.raises(parle.ConfigError, match="cannot be used"):
        checkpoint.read(folder)


@hypothesis.settings(max_examples=1000, **CASES)
@hypothesis.given(CHANGES, LENGTHS)
def test_any_shard_is_data_or_an_error(make_shards, tmp_path, changes, length):
    folder = tmp_path / "data" / "made"
    if not folder.exists():
        make_shards(train=12, test=4, shape=(8, 8))
        shutil.copytree(folder, tmp_path / "sound")
    file = next(folder.glob("train-*"))
    file.write_bytes(mutated((tmp_path / "sound" / file.name).read_bytes(), changes, length))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(str(folder))
    except parle.ParleError as error:
        assert "\n" not in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_nothing_of_a_configuration_is_executed(tmp_path):
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['touch executed']\n")
    with pytest.raises(parle.ConfigError, match="not valid YAML"):
        config.load(tmp_path / "config.yaml")
    assert not Path("executed").exists()
