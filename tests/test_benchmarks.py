"""Every benchmark runs with tiny sizes, and what it counts is exact; no time is asserted."""

import importlib
import io
import sys
from pathlib import Path

import pytest
import torch

import parle
from parle.communicators.codecs import codec
from parle.models import builder

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
run, side_by_side = importlib.import_module("run"), importlib.import_module("side_by_side")
LENET = sum(p.numel() for p in builder("lenet", (1, 28, 28), 10)().parameters())
TAIL = 4  # numbers behind the vector of a round, or alone before one of encoded proposals


@pytest.fixture(scope="module")
def measured():
    """The rows of a tiny run by case, each benchmark measured once."""

    def of(name: str) -> dict[str, dict]:
        if not (FOLDER / run.BENCHMARKS[name].script).exists():
            pytest.skip(f"{run.BENCHMARKS[name].script} is not there")
        if run.BENCHMARKS[name].tiny is None:
            pytest.skip(f"{run.BENCHMARKS[name].script} has no tiny form")
        rows = run.measured(name, "tiny", patience=120)
        reasons = [its["remark"] for its in rows if its["ratio"] is None and "failed" in its["remark"]]
        assert not reasons, reasons
        assert all(set(side_by_side.row("", "", [], "")) <= set(its) for its in rows)
        return {its["case"]: its for its in rows}

    return of


def counted(rows: dict[str, dict], case: str) -> dict:
    return next(its["counted"] for name, its in rows.items() if name.startswith(case))


def test_a_round_sends_what_a_ring_sends(measured):
    rows = measured("round")
    for name in ("parle LocalSGD", "parle Parle"):
        assert counted(rows, f"lenet: {name}") == {"parameters": LENET, "tensors": 14, "bytes_of_a_round": 4 * (LENET + TAIL)}


def test_on_a_slow_network_a_round_sends_one_vector_or_its_code(measured):
    rows = measured("slow-network")
    if "needs root" in (reason := next(iter(rows.values()))["remark"]) or "fails here" in reason or "not found" in reason:
        pytest.skip(reason)
    size = sum(p.numel() for p in importlib.import_module("rounds").all_cnn().parameters())
    encoded = len(codec("int4").encode(torch.zeros(size)))
    (plain,) = (its for case, its in rows.items() if case.endswith(": LocalSGD(25)"))
    (late,) = (its for case, its in rows.items() if "overlapped" in case)
    assert plain["counted"]["rounds"] == late["counted"]["rounds"] == 1
    assert plain["counted"]["metered"] == 4 * (size + TAIL) + 4  # before the round, one number to wait for all
    assert late["counted"]["metered"] == encoded + 4 * TAIL
    for its in (plain, late):  # on the wire indeed
        assert its["counted"]["metered"] < its["sent"] < 1.1 * its["counted"]["metered"] + 20_000


def test_late_rounds_are_as_many_and_send_what_their_codec_says(measured):
    rows = measured("late-rounds")
    sent = {case: its["counted"] for case, its in rows.items()}
    assert {its["rounds"] for its in sent.values()} == {2}  # 28 steps of a period of 25, and the last round
    size = sent["LocalSGD(25)"]["bytes_sent_per_replica"] // 8
    for name in ("bf16", "int8", "int4"):
        assert sent[f"LocalSGD(25), {name}"]["bytes_sent_per_replica"] == 2 * len(codec(name).encode(torch.zeros(size)))
        for case in (case for case in sent if f", {name}, overlapped" in case):
            assert sent[case] == sent[f"LocalSGD(25), {name}"]


def test_a_step_in_one_pass_is_compiled_once(measured):
    rows = measured("update")
    one_pass = counted(rows, "lenet, one pass")
    assert one_pass["numbers"] == LENET and one_pass["compiled"] >= 1 and one_pass["compiled_again"] == 0


@pytest.mark.parametrize("name", ["fast", "processes", "gpu-replicas"])
def test_it_runs(name, measured):
    assert measured(name)


def test_train_takes_the_steps_it_is_timed_for(measured):
    rows = measured("overhead")
    assert counted(rows, "train") == {"steps": 4}


def test_the_share_of_a_step_is_that_of_one_round(measured):
    size = sum(p.numel() for p in importlib.import_module("rounds").all_cnn().parameters())
    assert counted(measured("share"), "parle")["bytes_of_a_round"] == 4 * (size + TAIL) + 4


def test_memory_is_held_against_what_explain_names(measured):
    rows = measured("memory")
    assert counted(rows, "local-sgd") == {"vectors_named": 2}
    assert rows["local-sgd, n=3"]["target"] == "<= 3"


def test_help_does_not_import_torch_nor_parle_its_compiler(measured):
    rows = measured("start-up")
    assert counted(rows, "parle --help") == {"torch_modules": 0}
    assert counted(rows, "import parle") == {"compiler_loaded": 0}


def test_every_image_is_decoded(measured, tmp_path, monkeypatch):
    arrow, parquet, images = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet", "PIL.Image"))
    (tmp_path / "tiny").mkdir()
    for part, count in (("train", 300), ("test", 20)):
        rows = []
        for number in range(count):
            images.new("RGB", (32, 32), (number % 256, 0, 0)).save(data := io.BytesIO(), "png")
            rows.append({"img": {"bytes": data.getvalue(), "path": None}, "label": number % 10})
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "tiny" / f"{part}-00000-of-00001.parquet")
    monkeypatch.setenv("PARLE_DATA_DIR", str(tmp_path))
    assert counted(measured("data"), "tiny (scale), decoded") == {"images": 320}


def test_the_clock_counts_every_proposal(measured):
    rows = measured("simulation")
    assert {its["counted"]["proposals"] for case, its in rows.items() if case.startswith("10 replicas")} == {100}
    assert counted(rows, "prediction against real threads, median") == {"cases": 10}


def test_a_checkpoint_is_written(measured):
    assert all(its["ratio"] > 0 for its in measured("checkpoint").values())


def test_a_benchmark_that_fails_becomes_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(run.BENCHMARKS, "round", run.Benchmark("rounds.py", tiny="--shapes none"))
    (its,) = run.measured("round", "tiny")
    assert its["ratio"] is None and "failed" in its["remark"] and "invalid choice" in its["remark"]
    assert "invalid choice" in run.table([its])


def test_a_page_keeps_what_is_around_the_table(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    rows = [side_by_side.row("b", "c", [1.0, 3.0, 2.0], "x", "<= 1.5", rounds=3), side_by_side.row("b", "d", [1.0], "x", ">= 1")]
    run.write(page, f"{run.summary(rows)}\n\n{run.table(rows)}")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| c | 2 x | 1 to 3 | ≤ 1.5 **missed** | rounds 3 |" in text and "1 targets met, 1 missed: b, c." in text


def test_parle_is_the_one_of_this_checkout():
    assert Path(parle.__file__).parents[2] == FOLDER.parent
