"""Checkpoints: written aside and renamed, checked when read, never executed."""

import pytest
import torch

import parle
from parle import checkpoint, config, plans, settling
from parle.training import Training

STATE = {
    "numbers": [1, 2.5, True, None, "text"],
    "pair": (1, [2, (3,)]),
    "nested": {"a": {1: torch.arange(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}},
}


def test_a_state_reads_back_as_it_was(tmp_path):
    checkpoint.write(tmp_path / "step-00000001", STATE)
    state = checkpoint.read(tmp_path / "step-00000001")
    assert state["numbers"] == STATE["numbers"] and state["pair"] == STATE["pair"]
    assert torch.equal(state["nested"]["a"][1], torch.arange(3))
    assert state["nested"]["a"]["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("damage", ["flip", "flip in the header", "truncate", "remove", "text", "edit"])
def test_a_damaged_checkpoint_is_reported(tmp_path, damage):
    folder = tmp_path / "step-00000001"
    checkpoint.write(folder, STATE)
    tensors = folder / checkpoint.TENSORS
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "flip in the header":
        content[12] ^= 1
        tensors.write_bytes(content)
    elif damage == "edit":
        text = (folder / checkpoint.STATE).read_text()
        assert "2.5" in text
        (folder / checkpoint.STATE).write_text(text.replace("2.5", "3.5"))
    elif damage == "truncate":
        tensors.write_bytes(content[:-5])
    elif damage == "remove":
        tensors.unlink()
    else:
        (folder / checkpoint.STATE).write_text("{")
    with pytest.raises(parle.ConfigError, match=r"step-00000001 cannot be used"):
        checkpoint.read(folder)


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    checkpoint.write(tmp_path / "step-00000001", STATE)
    monkeypatch.undo()
    with pytest.raises(parle.ConfigError, match=f"it has format {checkpoint.FORMAT + 1}, expected {checkpoint.FORMAT}"):
        checkpoint.read(tmp_path / "step-00000001")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.write(folder, STATE)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    with pytest.raises(parle.SetupError, match="No space left on device"):
        checkpoint.write(folder, {"other": 1})
    assert checkpoint.read(folder)["pair"] == STATE["pair"]
    assert [path.name for path in folder.parent.iterdir()] == ["step-00000001"]


def test_what_a_checkpoint_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a set"):
        checkpoint.write(tmp_path / "step-00000001", {"a": {1, 2}})


@pytest.mark.parametrize("cut", [21, 22, 23, 33])
def test_resuming_at_a_drop_of_the_rate_drops_it_once(cut, tmp_path):
    """One epoch of 44 steps: the inner rate drops at 22 and 33."""

    def fresh():
        settings = config.load(sets=("epochs=1", "algorithm=local-sgd"))
        found = plans.load_data(settings)
        return Training(plans.plan_for(settling.settled(settings, len(found.train)), found))

    whole, half, resumed = fresh(), fresh(), fresh()
    assert whole.plan.milestones == (22, 33)
    whole.advance(44)
    half.advance(cut)
    checkpoint.write(tmp_path / "step", half.state_dict())
    resumed.load_state_dict(checkpoint.read(tmp_path / "step"))
    resumed.advance(44 - cut)
    assert torch.equal(whole.replicas.params, resumed.replicas.params)
    assert [whole.rate(step) for step in (0, 21, 22, 33)] == [0.1, 0.1, 0.1 / 10, 0.1 / 100]


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_every_algorithm_resumes_bit_for_bit_from_disk(name, tmp_path):
    def fresh():
        whose = "algorithm" if parle.ALGORITHMS[name].steps_at_center else "optimizer"
        settings = config.load(sets=(f"algorithm={name}", f"{whose}.weight_decay=0.001"))
        found = plans.load_data(settings)
        return Training(plans.plan_for(settling.settled(settings, len(found.train)), found))

    whole, half, resumed = fresh(), fresh(), fresh()
    whole.advance(70)
    half.advance(33)
    checkpoint.write(tmp_path / "step-00000033", half.state_dict())
    resumed.load_state_dict(checkpoint.read(tmp_path / "step-00000033"))
    resumed.advance(37)
    assert torch.equal(whole.replicas.params, resumed.replicas.params)
    assert torch.equal(whole.replicas.solution_vector(), resumed.replicas.solution_vector())
    assert whole.meter.bytes_sent_per_replica == resumed.meter.bytes_sent_per_replica
    records = [{k: v for k, v in training.record(500).items() if not k.startswith(("seconds", "images_per_second"))} for training in (whole, resumed)]
    assert records[0] == records[1]
