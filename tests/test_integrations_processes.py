"""Replicas inside accelerate, transformers and Lightning, in two processes: as by hand, and resumed bit for bit."""

import re
from pathlib import Path

import integration_programs as programs
import pytest
import ranks

import parle

pytestmark = pytest.mark.timeout(300)


def seen(framework: str, folder: Path) -> list[dict]:
    """What the two processes have seen in training, when what was refused, and the program of the documentation, are as they should be."""
    page = (Path(parle.__file__).parent.parent.parent / "docs" / "integrations.md").read_text()
    section = page.partition(f"## {framework}\n")[2].partition("\n## ")[0]
    (text,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    told = ranks.results(2, programs.everything, framework, str(folder), text, timeout=280.0)
    for _, refused, printed in told:
        for how, answer in refused.items():
            assert re.match(REFUSED[framework][how], answer), answer
        assert refused.keys() == REFUSED[framework].keys()
        assert "of the solution" in printed or (framework == "accelerate" and not printed)  # which prints in the first process alone
    assert list(folder.glob("solution*"))
    trained = [its for its, _, _ in told]
    pairs = list(zip(*(its["gradients"] for its in trained), strict=True))
    assert len(pairs) > programs.PERIOD and all(a != b for a, b in pairs)  # none was averaged, in or out of rounds
    assert trained[0]["state"] != trained[1]["state"]
    return trained


REFUSED = {
    "accelerate": {
        "prepared before": "2 The model is wrapped in DistributedDataParallel, which averages the gradients",
        "wrapped": "2 The model is wrapped in DistributedDataParallel, which averages the gradients",
        "sharded": "2 accelerate is configured for FSDP, which divides the model",
        "no model": "2 prepare got 0 models and 1 optimizers",
    },
    "Lightning": {
        "options of DDP": "2 ParleStrategy does not wrap the module in DistributedDataParallel, so find_unused_parameters would have no effect",
        "hooks of DDP": "2 ParleStrategy does not wrap the module in DistributedDataParallel, so ddp_comm_hook would have no effect",
        "sync_batchnorm": "2 sync_batchnorm=True makes all processes wait",
        "two optimizers": "2 ParleStrategy couples one optimizer, but configure_optimizers gave 2",
        "another's checkpoint": r"2 The checkpoint .*plain/last.ckpt has no folder .*\.ckpt\.parle beside it",
    },
    "transformers": {
        "without our folder": "2 The checkpoint .*checkpoint-2/parle",
        "sharded": "2 DeepSpeed and FSDP divide the model",
    },
}


def test_accelerate_trains_replicas_as_by_hand_and_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("accelerate")
    first, second = seen("accelerate", tmp_path)
    for its in (first, second):
        assert its["kind"] == ["Sequential", "AcceleratedOptimizer", "DataLoaderShard"] and its["rounds"] == 2
        assert its["state"] == its["by hand"]
        assert its["resumed"] == its["state"]
        assert its["weights in six"] and its["weights in model"]
    assert first["model"] == second["model"] and first["model"][: len(first["solution"])] == first["solution"]


def test_lightning_trains_replicas_as_by_hand_and_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("lightning")
    first, second = seen("Lightning", tmp_path)
    for its in (first, second):
        assert its["rounds"] == 4 and len(its["gradients"]) == 18
        assert its["state"] == its["by hand"]
        assert its["resumed"] == its["state"]
        assert its["ends as the solution"]
        assert its["met before steps"] == [3, 7, 11, 15]  # not at every step, as Lightning itself would
    assert first["module"] == second["module"] and first["reference"] == second["reference"]
    assert first["validated"] == second["validated"] and [step for step, _ in first["validated"]] == [6, 6, 12, 12, 18, 18]  # the solution
    assert first["weights in the file"] == first["validated"][0][1] != first["validated"][2][1]
    ours = {name for name in first["files"] if name.endswith(".parle")}
    files = {name.removesuffix(".parle") for name in ours}
    assert len(ours) == 1 and set(first["files"]) == ours | files | {"last.ckpt"}  # those of checkpoints that are gone are gone, too


def test_hugging_face_trains_replicas_as_by_hand_and_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("transformers")
    first, second = seen("transformers", tmp_path)
    for its in (first, second):
        assert its["kind"] == "BertForSequenceClassification" and its["rounds"] == 2 and len(its["gradients"]) == 10
        assert its["plain"] == its["by hand"]
        assert its["state with checkpoints"] == its["state"]
        assert its["resumed"] == its["state"]
        assert its["model of the resumed"] == its["model"]
        assert its["weights in the file"] == its["evaluated"][0] != its["evaluated"][-1]
        assert its["best"] == its["evaluated"][0 if its["loss"][0] < its["loss"][1] else -1]
    assert first["model"] == second["model"] and first["evaluated"] == second["evaluated"]
