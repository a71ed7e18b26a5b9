"""Schedules: pure functions of the round, with a text form that reads back."""

import dataclasses

import pytest

import parle
from parle import schedules
from parle.algorithm import Algorithm


@pytest.mark.parametrize("schedule", [parle.Scoping(100.0, batches=469, floor=1.0), parle.Steps(0.1, at=(50, 75)), parle.Ramp(1, 8, every=300)])
def test_the_text_of_a_schedule_reads_back(schedule):
    assert schedules.parse(str(schedule)) == schedule


def test_scoping_over_a_run_reaches_its_clip_at_the_end():
    gamma = parle.Scoping.over(94, 100.0, 1.0)
    rho = parle.Scoping.over(94, 1.0, 0.1)
    assert gamma(0) == 100.0 and rho(0) == 1.0
    assert gamma(93) == pytest.approx(1.0)
    assert gamma(92) > 1.0
    assert rho(93) == 0.1
    assert gamma.batches == rho.batches  # one q, as in the paper: rho is at its clip when gamma is at 10
    assert parle.Scoping.over(1, 100.0, 1.0)(0) == 100.0


def test_a_ramp_may_go_down():
    assert [parle.Ramp(3, 1, every=1)(round) for round in range(4)] == [3, 2, 1, 1]


def test_any_callable_of_the_round_is_a_schedule():
    algorithm = parle.Parle(gamma=lambda round: 10.0 - round)
    assert algorithm.at(3).gamma == 7.0
    with pytest.raises(parle.ConfigError, match=r"In round 10: Parle.gamma must be a number above 0, got 0.0"):
        algorithm.at(10)


def test_a_period_may_change_with_the_round():
    from problems import advance, coupled

    replicas = advance(coupled(parle.LocalSGD(period=parle.Ramp(1, 4, every=1))), 10)
    assert replicas.round == 4  # 1 + 2 + 3 + 4
    assert parle.LocalSGD(period=parle.Steps(16, at=(1,), factor=4)).at(1).period == 4
    with pytest.raises(parle.ConfigError, match=r"In round 1: LocalSGD.period must be a whole number or a schedule, got 2.5"):
        parle.LocalSGD(period=parle.Steps(10, at=(1,), factor=4)).at(1)


@pytest.mark.parametrize("text", ["scopng(1)", "steps", "steps(0.1, at=[x])", "steps(0.1, wrong=1)", "__import__('os')", "scoping(1.0)", ")("])
def test_a_text_that_is_no_schedule_is_refused(text):
    with pytest.raises(parle.ConfigError):
        schedules.parse(text)


def test_numbers_in_texts_are_numbers():
    assert parle.Parle.from_settings({"rho": "inf", "lr": "1e-3"}) == parle.Parle(rho=float("inf"), lr=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 0}, "Parle.period must be a whole number at least 1, got 0"),
        ({"period": 2.5}, "Parle.period must be a whole number"),
        ({"rho": 0}, "Parle.rho must be a number above 0, got 0"),
        ({"gamma": -1.0}, "Parle.gamma must be a number above 0, got -1.0"),
        ({"gamma": float("nan")}, "Parle.gamma must be a number or a schedule, got nan"),
        ({"alpha": 1.0}, "Parle.alpha must be a number below 1"),
        ({"peroid": 3}, "algorithm.peroid is not a setting of Parle. Did you mean period?"),
        ({"gamma": "scoping(100)"}, "cannot be read as a schedule"),
    ],
)
def test_values_out_of_range_are_refused_with_their_meaning(settings, message):
    with pytest.raises(parle.ConfigError) as caught:
        parle.Parle.from_settings(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_choice_is_refused_with_the_known_ones():
    with pytest.raises(parle.ConfigError, match="must be one of moving, mean, got 'middle'"):
        parle.ElasticSGD(center="middle")


def test_the_guard_warns_where_the_spring_overshoots():
    inner = (0.1, 0.9)
    assert parle.Parle(lr=0.1, rho=0.1).caution(*inner) is None  # the paper's clip: 1.1 < 1.357
    assert "settle only below 1.36" in parle.Parle(lr=0.2, rho=0.1).caution(*inner)
    assert parle.Parle(lr=0.2, rho=0.1, momentum=0.0).caution(*inner) is not None
    assert parle.Parle(lr=0.13, rho=0.1, momentum=0.5).caution(*inner) is None
    assert parle.ParleDev2017(lr=0.13, rho=0.1).caution(*inner) is not None  # 1.43
    assert parle.ParleRelease2018(lr=0.121, rho=0.1).caution(*inner) is not None  # 1.33, and its limit is 1.31
    assert parle.Parle(lr=0.121, rho=0.1).caution(*inner) is None
    assert parle.ElasticSGD(lr=0.5, rho=0.1).caution(*inner) is None  # the optimizer's rate counts: 1.0
    assert parle.ElasticSGD(lr=0.5, rho=0.05).caution(*inner) is not None
    assert parle.ElasticSGD(rho=0.06).caution(0.1, 0.0) is None  # 1.67, and without momentum the limit is 2
    assert parle.LocalSGD().caution(*inner) is None


def test_every_setting_of_every_algorithm_says_what_it_means():
    for kind in parle.ALGORITHMS.values():
        assert issubclass(kind, Algorithm) and kind.paper and kind.special_cases
        assert all(field.metadata["meaning"] for field in dataclasses.fields(kind))
