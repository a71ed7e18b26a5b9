"""Replicas in several processes of one machine, whose proposals lie in memory that all of them read."""

import os

import numpy as np
import pytest
import rank_programs as programs
import ranks
import torch

import parle
from parle.communicators import shared_memory
from parle.communicators.shared_memory import SharedRows

pytestmark = pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="this system has no /dev/shm")
SHARED = {"shared_memory": True}


def ours() -> set[str]:
    return {path.name for path in shared_memory.FOLDER.glob("parle-*")}


@pytest.mark.parametrize("ranges", [programs.THREE, [range(0, 2), range(2, 3)]], ids=["one replica each", "two and one"])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "fast"])
def test_it_passes_the_checks_for_every_communicator(ranges, ordered):
    before = ours()
    ranks.results(len(ranges), programs.check, ranges, SHARED | {"ordered": ordered}, ordered)
    assert ours() <= before, "something was left behind"


@pytest.mark.parametrize(
    ("algorithm", "how"),
    [
        (parle.LocalSGD(period=4), {}),
        (parle.Parle(period=3), {}),
        (parle.ElasticSGD(), {}),
        (parle.DataParallel(), {}),
        (parle.LocalSGD(period=4), {"delay": 3}),
        (parle.StreamingDiLoCo(period=3, fragments=3), {"delay": 2}),
        (parle.LocalSGD(period=4), {"codec": "int8"}),
        (parle.LocalSGD(period=2), {"policies": {"optimizer_state": "average"}, "ordered": True}),
    ],
    ids=str,
)
def test_three_processes_give_the_bits_of_one(algorithm, how):
    expected = programs.trajectory(None, algorithm, how, count=3)
    for rank, its in enumerate(ranks.results(3, programs.trajectory, algorithm, SHARED | how)):
        assert np.array_equal(its["params"][0], expected["params"][rank])
        assert np.array_equal(its["reference"], expected["reference"])
        assert its["rounds"] == expected["rounds"]


def test_a_long_vector_goes_in_parts():
    algorithm, width = parle.Parle(period=2), 400_000  # 4.4 million parameters: 17 parts
    expected = programs.trajectory(None, algorithm, {}, count=2, width=width, steps=3)
    for rank, its in enumerate(ranks.results(2, programs.trajectory, algorithm, SHARED, width, 3)):
        assert np.array_equal(its["params"][0], expected["params"][rank]) and np.array_equal(its["reference"], expected["reference"])


def test_it_is_counted_as_a_ring_would_send_it():
    for count in (2, 3):
        for its in ranks.results(count, programs.trajectory, parle.LocalSGD(period=4), SHARED):
            message = round(2 * (count - 1) / count * (its["size"] + 4)) * 4
            question, meeting = round(2 * (count - 1) / count * 4) * 4, round(2 * (count - 1) / count) * 4
            assert its["sent"] == 3 * (message + meeting) + question + meeting  # the question whether a last round is due is short here


def test_resume_is_exact():
    assert all(ranks.results(2, programs.resumed, {"algorithm": parle.LocalSGD(period=4), "cut": 9, "delay": 3} | SHARED))


@pytest.mark.parametrize("width", [40, 400_000], ids=["whole", "in parts"])
def test_a_process_with_numbers_that_are_not_finite_is_left_out_of_the_round(width):
    told = ranks.results(3, programs.poisoned, SHARED | {"policies": {}})
    assert [counts for _, counts in told] == [[0], [1], [0]]
    assert all(reference == told[0][0] for reference, _ in told) and torch.isfinite(torch.tensor(told[0][0])).all()


@pytest.mark.parametrize("how", ["killed between rounds", "killed within a round"])
def test_who_is_killed_is_named_and_the_last_round_is_intact(how):
    before = ours()
    ended = ranks.run(3, programs.lose, how, 400_000, 30.0, True)
    assert ended[1].code == -9
    for rank in (0, 2):
        message, moved, reference_intact, finite = ended[rank].result
        assert message.startswith("Process 1 was lost") and "in round 1" in message
        assert 0 < moved < 1 and reference_intact and finite
    assert ours() <= before


def test_who_stops_answering_is_named_after_the_timeout():
    ended = ranks.run(3, programs.lose, "stopped", 40, 2.0, True, timeout=12.0)
    assert "Process 1 was lost" in ended[0].result[0] and ended[0].result[2]


@pytest.mark.parametrize("offered", ["", "no folder", "another-machine parle-" + "0" * 32, "../../etc/passwd", "x y z"])
def test_where_memory_cannot_be_shared_the_vectors_are_sent(offered):
    told = ranks.results(2, programs.without_the_folder, offered)
    assert [shared for shared, _ in told] == [False, False]
    assert told[0][1] == told[1][1] and any(told[0][1])


def test_only_what_was_offered_is_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    rows = SharedRows(100, torch.float32)
    offer = rows.offer(2)
    machine, name = offer.split()
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert rows.attach([offer], [2]) and [row.shape for row in rows.all(slice(10, 30))] == [(20,), (20,)]
    other = SharedRows(100, torch.float32)
    assert not other.attach([offer], [3])  # not the size that it says
    assert not other.attach([f"{machine} ../{tmp_path.name}/{name}"], [2])
    os.symlink(tmp_path / name, tmp_path / ("parle-" + "a" * 32))
    assert not other.attach([f"{machine} parle-{'a' * 32}"], [2])
    rows.withdraw()
    assert not (tmp_path / name).exists()


def test_what_a_slow_reader_still_reads_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    fast, slow = SharedRows(100, torch.float32), SharedRows(100, torch.float32)
    offers = [fast.offer(1), slow.offer(1)]
    assert fast.attach(offers, [1, 1]) and slow.attach(offers, [1, 1])
    for rows, rank in ((fast, 0), (slow, 1)):
        rows.turn()
        rows.own(rank, slice(None))[0].fill_(1 + rank)
    fast.turn()  # has read the first round and proposes for the second one
    fast.own(0, slice(None))[0].fill_(7)
    assert [row[0].item() for row in slow.all(slice(None))] == [1, 2]
    slow.turn()
    assert slow.all(slice(None))[0][0].item() == 7


def test_no_memory_is_promised_that_is_not_there(tmp_path, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert SharedRows(100, torch.float32).offer(2) == "" and not list(tmp_path.glob("parle-*"))


def test_nothing_is_left_behind_where_a_process_is_lost_before_all_have_mapped_it(tmp_path, monkeypatch):
    def lost(_) -> None:
        assert list(tmp_path.glob("parle-*"))
        raise parle.ReplicaLost("Process 1 was lost.")

    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    communicator = parle.TorchDistributed()
    vars(communicator).update(ranks=2, local=1, device=torch.device("cpu"), _length=10, texts=lost)
    with pytest.raises(parle.ReplicaLost):
        communicator._shared_rows(torch.float32)
    assert not list(tmp_path.glob("parle-*"))
