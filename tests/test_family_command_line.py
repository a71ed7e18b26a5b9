"""The model-averaging family from the command line."""

import json
from pathlib import Path

import pytest

import parle

SHORT = ("train", "-a", "local-sgd", "-n", "3", "-e", "2", "--json", "--name", "a")


def records(name="a"):
    return [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("period", "rounds"),
    [("[8,4,3]", 18), ("switch(1, 8, at=16)", 16 + 9), ("restart(88, 3)", 88), ("stages(1)", 27 + 4), ("qsr(2, alpha=0.1)", 24), ("seconds(0.02)", None)],
)
def test_periods_of_every_kind(parle_command, period, rounds):
    """Two epochs are 88 steps of each replica."""
    done = parle_command(*SHORT, "--set", f"algorithm.period={period}")
    assert done.code == 0, done.err
    if rounds:
        assert done.json["rounds"] == rounds
    assert done.json["gradient_evaluations"] == pytest.approx(3 * 88, abs=15) and done.json["error_pct"] < 60
    again = parle_command("train", "-c", "runs/a/config.yaml", "--name", "b", "--json")  # what is written is read again
    assert again.code == 0 and (period.startswith("seconds") or again.json["error_pct"] == done.json["error_pct"])


def test_processes_with_periods_of_their_own_are_one_run(parle_command):
    together = parle_command(*SHORT, "--set", "algorithm.period=[8,4,3]", "--set", "algorithm.weigh=steps", "--set", "communicator.ordered=true")
    apart = parle_command(
        *SHORT[:-1], "b", "--set", "algorithm.period=[8,4,3]", "--set", "algorithm.weigh=steps", "--set", "communicator.ordered=true", "--processes"
    )
    assert apart.code == 0, apart.err
    for key in ("error_pct", "loss", "gradient_evaluations", "rounds", "steps"):
        assert together.json[key] == apart.json[key], key


def test_processes_meet_by_the_clock(parle_command):
    done = parle_command(*SHORT, "--set", "algorithm.period=seconds(0.05)", "--processes")
    assert done.code == 0, done.err
    assert done.json["gradient_evaluations"] >= 3 * 88 and done.json["rounds"] == records()[-1]["round"] >= 2


def test_the_inner_rate_may_follow_the_round(parle_command):
    parle_command(*SHORT, "--set", "algorithm.period=stages(1)", "--set", "schedule.inner=power(0.2, -0.6667)", "--set", "evaluation.every=1")
    for record in records():
        assert record["inner_lr"] == pytest.approx(0.2 * (record["round"] + 1) ** -0.6667)


def test_a_period_far_above_what_the_theory_promises_is_said_once(parle_command):
    warned = parle_command(*SHORT, "--set", "algorithm.period=44")
    assert warned.err.count("caution") == 1 and "A period of 44 is far above T^(1/4) / N^(3/4) = 1.34" in " ".join(warned.err.split())
    assert "caution" not in parle_command(*SHORT, "--overwrite", "--set", "algorithm.period=4").err
    alone = parle_command("train", "-a", "local-sgd", "-n", "1", "-e", "2", "--json", "--name", "b", "--set", "algorithm.period=44")
    assert "caution" not in alone.err  # nobody to gain from


def test_a_run_with_few_rounds_is_said_to_have_few(parle_command):
    done = parle_command("train", "-a", "diloco", "-n", "2", "-e", "2", "--json", "--name", "a")
    assert "88 steps are less than two rounds of 500 steps" in " ".join(done.err.split())


def test_explain_gives_the_promised_period_of_a_run(parle_command):
    text = parle_command("explain", "local-sgd", "-n", "3", "--steps", "60000").out
    assert "= 6.87 for N = 3 replicas and T = 60,000 steps" in text and "algorithm.period='restart(60000, replicas=3)'" in text
    assert "T^(1/4) / N^(3/4)" in parle_command("explain", "local-sgd").out
    assert "How long a period may be" not in parle_command("explain", "parle").out


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("algorithm.period=[8,4]", "period has 2 numbers, (8, 4), for 3 replicas"),
        ("algorithm.period=seconds(0)", "Seconds needs a number above 0"),
        ("algorithm.weigh=stps", "LocalSGD.weigh must be one of uniform, steps, replicas"),
        ("algorithm.period=seconds(inf)", "Seconds needs a number above 0, got inf"),
        ("schedule.inner=seconds(2)", "gives no rate above 0"),
        ("schedule.inner=power(-1, 0)", "gives no rate above 0"),
        ("communicator.codec=int4(0)", "A codec with a scale for every 0 numbers is none"),
        ("schedule.inner=powr(1, 2)", "`powr` is not a schedule. Did you mean power?"),
    ],
)
def test_mistakes_are_answered_in_one_line(parle_command, sets, words):
    done = parle_command(*SHORT, "--set", sets)
    assert done.code == 2 and words in " ".join(done.err.split()) and "Traceback" not in done.err


def test_a_server_takes_one_period_for_all(parle_command):
    done = parle_command(*SHORT, "--quorum", "1", "--set", "algorithm.period=[8,4,3]")
    assert done.code == 2 and "A server takes one period for all replicas" in " ".join(done.err.split())
    assert isinstance(parle.LocalSGD(period=parle.Seconds(1.0)).settings()["period"], str)
