"""Replicas that take unequal numbers of steps, in one process and in several: nobody waits for ever, and everybody ends alike."""

import time

import numpy as np
import pytest
import rank_programs as programs
import ranks
import torch
from problems import advance, coupled
from test_family_equations import step_each

import parle


@pytest.mark.parametrize("weigh", ["uniform", "steps", "replicas"])
def test_periods_of_their_own_give_the_same_in_three_processes_as_in_one(weigh):
    periods = (5, 3, 1)
    expected, taken = coupled(parle.LocalSGD(period=periods, weigh=weigh)), [0] * 3
    for _ in range(4):
        step_each(expected, taken, periods)
    before, starts = expected.reference.clone(), expected.params.clone()
    step_each(expected, taken, (2, 1, 0))  # the run ends between two rounds
    changes = expected.params - starts
    weights = torch.tensor({"uniform": [1.0, 1.0, 1.0], "steps": [2.0, 1.0, 0.0], "replicas": [0.5, 1.0, 1.0]}[weigh], dtype=torch.float64)
    expected.finish()
    torch.testing.assert_close(expected.reference, before + (weights[:, None] * changes).mean(0), rtol=1e-12, atol=1e-13)
    for rank, its in enumerate(ranks.results(3, programs.unequal, periods, 4, weigh)):
        assert np.array_equal(its["params"], expected.params[rank].numpy())
        assert (its["steps"], its["rounds"]) == (13.0, 5)


@pytest.mark.parametrize("weigh", ["uniform", "steps", "replicas"])
def test_a_period_by_time_lets_fast_processes_step_more_often(weigh):
    fast, slow = ranks.results(2, programs.by_time, weigh)
    assert (fast["steps"], slow["steps"]) == (120, 12) and fast["mean"] == slow["mean"] == 66.0  # every step of both has been counted
    assert fast["rounds"] == slow["rounds"] >= 4  # of a tenth of a second each; the later ones without a step of the slow one
    assert np.array_equal(fast["params"], slow["params"]) and np.isfinite(fast["params"]).all()


def test_a_period_that_adapts_is_the_same_in_all_processes():
    first, second = ranks.results(2, programs.adapting)
    assert first == second and first[0] == 9 and first[-1] < 9


def test_a_replica_that_goes_on_alone_is_told_so():
    replicas = coupled(parle.LocalSGD(period=(5, 3, 1)))
    with pytest.raises(parle.JoinError, match=r"others are behind: .* steps of \(5, 3, 1\)"):
        advance(replicas, 30)


def test_periods_have_to_be_as_many_as_there_are_replicas():
    with pytest.raises(parle.ConfigError, match=r"period has 2 numbers, \(5, 3\), for 3 replicas"):
        coupled(parle.LocalSGD(period=(5, 3)))
    with pytest.raises(parle.ConfigError, match=r"LocalSGD.period must be a whole number at least 1, got 0"):
        parle.LocalSGD(period=(5, 0, 1))
    with pytest.raises(parle.ConfigError, match="Rounds that overlap with 2 steps need a period that is one number"):
        coupled(parle.LocalSGD(period=(5, 3, 1)), communicator=parle.Overlapped(parle.InProcess(), 2))


def test_unequal_periods_resume_in_the_middle_of_a_round():
    algorithm = parle.LocalSGD(period=parle.AdaComm(6))

    def train(replicas, steps, first=0):
        for step in range(first, first + steps):
            for row in range(3):
                replicas.report(3.0 / (1 + step), row)
            advance(replicas, 1, first=step)
        return replicas

    whole, half, resumed = train(coupled(algorithm), 20), train(coupled(algorithm), 9), coupled(algorithm)
    resumed.load_state_dict(half.state_dict())
    for ours, its in zip(resumed.optimizers, half.optimizers, strict=True):
        ours.load_state_dict(its.state_dict())
    train(resumed, 11, first=9)
    assert torch.equal(whole.params, resumed.params) and whole.round == resumed.round and whole.steps_to_round == resumed.steps_to_round


def test_processes_of_unequal_length_end_alike_where_the_period_adapts():
    long, short = ranks.results(2, programs.adapting_unequally)
    assert np.array_equal(long["params"], short["params"]) and long["rounds"] == short["rounds"] >= 3


def test_a_skipped_step_does_not_stop_rounds_that_go_by_time():
    replicas = coupled(parle.LocalSGD(period=parle.Seconds(0.02), weigh="steps"))
    advance(replicas, 1)
    for model, optimizer in list(zip(replicas.models, replicas.optimizers, strict=True))[:2]:  # the last one skips a step
        model.loss(0, 1).backward()
        optimizer.step()
    began = time.monotonic()
    while replicas.round < 3:
        advance(replicas, 1)
        assert time.monotonic() < began + 20
