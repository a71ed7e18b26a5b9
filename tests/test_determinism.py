"""The same seed gives the same bits, and what a replica does depends on nothing but the seed, its number and the rounds."""

import random

import numpy as np
import pytest
import torch

import parle
from parle import config, plans, settling
from parle.random_streams import RandomStream, derive
from parle.training import Training


def trained(steps: int = 30, **settings) -> Training:
    sets = tuple(f"{path.replace('__', '.')}={value}" for path, value in settings.items())
    found = plans.load_data(configured := config.load(sets=sets))
    training = Training(plans.plan_for(settling.settled(configured, len(found.train)), found))
    training.advance(steps)
    return training


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_two_runs_with_the_same_seed_are_equal_bit_for_bit(name):
    first = trained(algorithm=name)
    torch.manual_seed(99)  # the surroundings do not matter
    random.seed(99)
    second = trained(algorithm=name)
    assert torch.equal(first.replicas.params, second.replicas.params)
    assert torch.equal(first.replicas.solution_vector(), second.replicas.solution_vector())
    assert not torch.equal(first.replicas.params, trained(algorithm=name, seed=1).replicas.params)


def test_a_replica_does_not_depend_on_how_many_share_its_process():
    """Until the first round, replicas know nothing of each other: dropout, order and start must be their own."""
    two, three = trained(20, replicas=2, algorithm__period=25), trained(20, replicas=3, algorithm__period=25)
    assert torch.equal(two.replicas.params, three.replicas.params[:2])
    assert not torch.equal(three.replicas.params[0], three.replicas.params[1])


def test_own_starts_are_different_and_the_first_is_the_common_one():
    own, common = trained(0, start="own"), trained(0)
    assert torch.equal(own.replicas.params[0], common.replicas.params[0])
    assert not torch.equal(own.replicas.params[1], common.replicas.params[1])


def test_training_leaves_the_generators_of_the_user_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trained(5)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate() and before[2] == np.random.get_state()[1].tolist()


def test_a_stream_swaps_all_three_generators_and_continues():
    def draw():
        return torch.rand(1).item(), random.random(), np.random.rand()

    stream, straight = RandomStream(3), RandomStream(3)
    with stream:
        first = draw()
    draw()
    with stream:
        second = draw()
    with straight:
        assert [draw(), draw()] == [first, second]


def test_a_stream_goes_on_from_its_state():
    stream = RandomStream(3)
    with stream:
        torch.rand(5)
        random.gauss(0, 1)
        np.random.randn()
    other = RandomStream(4)
    other.load_state_dict(stream.state_dict())
    with stream:
        expected = torch.rand(3).tolist(), random.gauss(0, 1), np.random.randn()
    with other:
        assert (torch.rand(3).tolist(), random.gauss(0, 1), np.random.randn()) == expected


def test_derived_seeds_are_different():
    seeds = {derive(root, purpose, index) for root in range(5) for purpose in ("order", "steps", "model") for index in range(20)}
    assert len(seeds) == 5 * 3 * 20


def test_evaluating_more_often_changes_nothing():
    found = plans.load_data(configured := config.load(sets=("epochs=1",)))
    often = config.load(sets=("epochs=1", "evaluation.every=0.1"))
    ends = []
    for settings in (configured, often):
        training = Training(plans.plan_for(settling.settled(settings, len(found.train)), found))
        list(training.run())
        ends.append(training.replicas.solution_vector().clone())
    assert torch.equal(*ends)


def test_replicas_that_step_in_threads_end_where_replicas_in_turn_do(tmp_path):
    """Several devices step at the same time; here every replica is given a thread of its own on the one device there is."""
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))\n")
    for name, kind in parle.ALGORITHMS.items():
        if kind.single:
            continue
        settings = {"algorithm": name, "model": f"{tmp_path}/nets.py:net"}
        in_turn, in_threads = trained(60, **settings), trained(0, **settings)
        in_threads._teams = [[0], [1], [2]]
        in_threads._streams = [RandomStream(0, None, host=False) for _ in range(3)]
        in_threads.advance(60)
        assert torch.equal(in_turn.replicas.params, in_threads.replicas.params), name
