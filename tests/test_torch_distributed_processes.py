"""Replicas in several processes over gloo: the trajectory of one process, faults, and what scripts of today bring along."""

import time

import numpy as np
import pytest
import rank_programs as programs
import ranks
import torch

import parle

MIXED = [range(0, 2), range(2, 3)]


@pytest.mark.parametrize("ranges", [programs.THREE, MIXED], ids=["one replica each", "two and one"])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "fast"])
def test_it_passes_the_checks_for_every_communicator(ranges, ordered):
    ranks.results(len(ranges), programs.check, ranges, {"ordered": ordered}, ordered)


def alone(algorithm, how, count, **options) -> dict:
    return programs.trajectory(None, algorithm, how, count=count, **options)


@pytest.mark.parametrize("how", [{}, {"codec": "bf16"}, {"codec": "int8"}, {"codec": "topk(0.1)"}, {"delay": 3}, {"codec": "int8", "delay": 4}], ids=str)
def test_wrappers_do_the_same_in_one_process_and_in_three(how):
    algorithm = parle.LocalSGD(period=4)
    expected = alone(algorithm, how, 3)
    for rank, its in enumerate(ranks.results(3, programs.trajectory, algorithm, {"ordered": True, **how})):
        assert np.array_equal(its["params"][0], expected["params"][rank])
        assert np.array_equal(its["reference"], expected["reference"])
        assert its["rounds"] == expected["rounds"] == 3


def test_a_compressed_round_is_on_its_way_while_the_replicas_step():
    for done in ranks.results(2, programs.when_gathered):
        assert done == [("begun", 5), ("waited", 8), ("begun", 10)]


@pytest.mark.parametrize("how", [{}, {"ordered": False}, {"delay": 2}, {"codec": "int8", "delay": 2}], ids=str)
def test_fragments_go_one_at_a_time_in_three_processes_as_in_one(how):
    algorithm = parle.StreamingDiLoCo(period=3, fragments=3)
    expected = alone(algorithm, how, 3)
    for rank, its in enumerate(ranks.results(3, programs.trajectory, algorithm, {"ordered": True, **how})):
        np.testing.assert_allclose(its["params"][0], expected["params"][rank], atol=1e-6, rtol=0)
        assert its["rounds"] == expected["rounds"] == 4  # three fragments, and the whole vector at the end


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "fast"])
def test_a_long_vector_goes_in_parts_and_buckets(ordered):
    algorithm, width = parle.Parle(period=2), 400_000  # 4.4 million parameters: more than one bucket, 17 parts
    expected = alone(algorithm, {}, 2, width=width, steps=3)
    for rank, its in enumerate(ranks.results(2, programs.trajectory, algorithm, {"ordered": ordered}, width, 3)):
        np.testing.assert_allclose(its["params"][0], expected["params"][rank], atol=0 if ordered else 1e-6, rtol=0)
        np.testing.assert_allclose(its["reference"], expected["reference"], atol=0 if ordered else 1e-6, rtol=0)


def test_what_is_counted_is_what_a_ring_sends():
    for count in (2, 3):
        for its in ranks.results(count, programs.trajectory, parle.LocalSGD(period=4), {}):
            message = round(2 * (count - 1) / count * (its["size"] + 4)) * 4  # four numbers more say which round it is, and who is there
            assert its["sent"] == (3 + 1) * (message + 4)  # one more asks whether a last round is due; before each, one number to wait for all
            assert its["waited"] > 0 and its["exchanged"] > 0


def test_policies_reach_across_processes():
    first, second = ranks.results(2, programs.policies, 2)
    assert first["frozen"] == second["frozen"] and first["start"] == second["start"] == [0.0] * 3
    assert first["momentum"] == second["momentum"] and first["mean"] == second["mean"] and first["params"] == second["params"]
    assert first["sent"] > 0


@pytest.mark.parametrize(
    "how",
    [
        {"algorithm": parle.Parle(period=4), "cut": 6},
        {"algorithm": parle.LocalSGD(period=4), "cut": 6, "codec": "int8"},
        {"algorithm": parle.ElasticSGD(), "cut": 6, "codec": "bf16"},
        {"algorithm": parle.LocalSGD(period=4), "cut": 9, "delay": 3},
    ],
    ids=str,
)
def test_resume_is_exact(how):
    assert all(ranks.results(2, programs.resumed, how))


@pytest.mark.parametrize("policy", ["keep", "average", "reset"])
@pytest.mark.parametrize("how", [{}, {"ordered": True}, {"codec": "int8"}], ids=str)
def test_a_process_with_numbers_that_are_not_finite_is_left_out_of_the_round(how, policy):
    told = ranks.results(3, programs.poisoned, how | {"policies": {"optimizer_state": policy}})
    assert [counts for _, counts in told] == [[0], [1], [0]]
    assert all(reference == told[0][0] for reference, _ in told) and torch.isfinite(torch.tensor(told[0][0])).all()


def test_every_algorithm_resumes_from_disk_bit_for_bit_in_three_processes(tmp_path):
    names = [name for name, kind in parle.ALGORITHMS.items() if not kind.single]
    assert ranks.results(3, programs.resumed_from_disk, names, str(tmp_path)) == [[], [], []]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", r"Process 1 has parameter 0\.weight \(41, 8\) float32, but process 0 has 0\.weight \(40, 8\) float32"),
        ("dtype", r"Process 1 has parameter 0\.weight \(40, 8\) float64, but process 0 has 0\.weight \(40, 8\) float32"),
        ("extra layer", "Process 1 has 6 parameters, but process 0 has 4"),
        ("frozen", r"Process 1 has parameter 0\.bias .*, but process 0 has 0\.weight"),
        ("algorithm", "Process 1 has algorithm ElasticSGD, but process 0 has Parle"),
        ("rho", r"Process 1 has algorithm\.rho 0\.5, but process 0 has 1\.0"),
        ("torch version", r"Process 1 has torch version 2\.6\.0, but process 0 has"),
        ("parle version", r"Process 1 has parle version 0\.0\.1, but process 0 has"),
        ("ordered", "Process 1 has communicator TorchDistributed with ordered=True, but process 0 has TorchDistributed with ordered=False"),
        ("codec", r"Process 1 has codec int8\(256\), but process 0 has None"),
        ("buffer", "Process 1 has 1 buffers or frozen parameters, but process 0 has 0"),
        ("policy", "Process 1 has buffers keep, but process 0 has recompute"),
    ],
)
def test_processes_that_do_not_fit_together_are_refused_by_name(what, words):
    import re

    for its in ranks.run(3, programs.join_unequal, what):
        assert its.code == 2, its.error
        assert re.search(words, its.error) and "Start all processes with the same program" in its.error


def test_a_schedule_may_be_a_function():
    assert len(set(ranks.results(2, programs.join_with_functions))) == 1


@pytest.mark.parametrize("how", ["killed between rounds", "killed within a round"])
@pytest.mark.parametrize("count", [3, 5])
def test_who_is_killed_is_named_and_the_last_round_is_intact(how, count):
    began = time.monotonic()
    ended = ranks.run(count, programs.lose, how, 400_000, 30.0)
    assert ended[1].code == -9
    for rank in set(range(count)) - {1}:
        assert ended[rank].code == 0, ended[rank].error
        message, moved, reference_intact, finite = ended[rank].result
        assert message.startswith("Process 1 was lost") and "in round 1" in message and "\n" not in message
        assert 0 < moved < 1 and reference_intact and finite
    assert time.monotonic() - began < 30  # long before the timeout


def test_who_stops_answering_is_named_after_the_timeout():
    ended = ranks.run(3, programs.lose, "stopped", 40, 2.0, timeout=12.0)
    assert ended[1].code == -9  # it never came back, and was killed at the end
    for rank in (0, 2):
        message, _, reference_intact, _ = ended[rank].result
        assert message.startswith("Process 1 was lost") and reference_intact


@pytest.mark.parametrize("metered", [False, True])
def test_different_numbers_of_steps_are_refused_at_the_end(metered):
    for rank, its in enumerate(ranks.run(2, programs.steps_differ, metered)):
        assert its.code == 2 and "different numbers of steps" in its.error
        assert f"this one (process {rank}) comes to round 1, and 1 of 2 are in finish()" in its.error


def test_what_had_come_of_a_round_when_a_process_was_lost_is_not_taken_for_a_mean():
    first, second, intact = ranks.run(2, programs.lose_under_way)[0].result
    assert first.startswith("Process 1 was lost") and "lost" in second and intact


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_parameters_and_buffers_may_be_of_any_dtype(kind):
    first, second = ranks.results(2, programs.kinds_of_numbers, kind)
    assert first == second and first[1] == [2, 3, 3, 3, 3]


def test_a_step_that_one_process_skipped_is_made_up_for_by_finish():
    first, second = ranks.results(2, programs.finish_after_a_skipped_step)
    assert first == second and first[0] == 2


def test_a_round_is_one_message_and_there_is_none_before_the_first_step():
    for calls, tensors, rounds in ranks.results(2, programs.messages_of_a_round):
        assert calls == len(rounds) == 3 and tensors == 4
        assert rounds == [2, 5, 8]


def test_a_replica_may_be_data_parallel():
    models = [programs.wide(20, kind=torch.float64) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) for model in models]
    replicas = parle.join(models, optimizers, parle.Parle(period=3))
    for step in range(9):
        for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1000 * step + number), dtype=torch.float64)
            optimizer.zero_grad()
            (model(inputs)[:, 0] - inputs.sum(1)).square().mean().backward()
            optimizer.step()
    ended = ranks.results(4, programs.data_parallel_replicas)
    for rank, its in enumerate(ended):
        assert its["size"] == 2
        np.testing.assert_allclose(its["params"], replicas.params[rank // 2].numpy(), atol=1e-12, rtol=0)
        np.testing.assert_allclose(its["reference"], replicas.reference.numpy(), atol=1e-12, rtol=0)
    assert np.array_equal(ended[0]["params"], ended[1]["params"]) and np.array_equal(ended[2]["params"], ended[3]["params"])


@pytest.mark.parametrize("how", ["DTensor", "FlatParameter"])
def test_a_sharded_model_is_refused_with_the_reason(how):
    for its in ranks.run(2, programs.join_sharded, how):
        assert its.code == 2 and f"is a {how}, sharded" in its.error and "DistributedDataParallel" in its.error


def test_closed_replicas_may_be_joined_again():
    from parle import launch

    store = launch.loopback_store(0, 20.0)
    first, second = ranks.results(2, programs.join_again, store.port, group=False)
    assert first == second and len(set(first)) == 4


def test_what_scripts_have_around_their_optimizer_goes_on_working():
    ended = ranks.results(3, programs.drop_in)
    assert all((its["round"], its["hooks"]) == (3, 12) for its in ended)
    assert all(np.array_equal(its["reference"], ended[0]["reference"]) for its in ended)
    assert ended[0]["rate"] < 0.01  # the end of one cycle
