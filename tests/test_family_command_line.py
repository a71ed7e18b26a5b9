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


def algorithm_of(*sets, samples=1000):
    """The algorithm of a run of 310 steps, its springs and rates derived."""
    from parle import config, settling

    return settling.algorithm_for(settling.settled(config.load(sets=("epochs=10", *sets)), samples), 31)


def test_derived_schedules_count_the_rounds_of_a_growing_period():
    post_local = algorithm_of("algorithm=parle", "algorithm.period=switch(1, 30, at=10)")  # ten rounds of one step, ten of thirty
    assert [post_local.rounds_in(steps) for steps in (9, 10, 39, 40, 310)] == [9, 10, 10, 11, 20]
    assert post_local.at(19).gamma == pytest.approx(1.0) and post_local.at(19).lr == pytest.approx(0.1 / 3)


def test_slowmo_knows_the_inner_rate_of_every_round():
    slow = algorithm_of("algorithm=slowmo", "algorithm.period=switch(1, 30, at=10)")
    assert [slow.at(round).lr for round in (0, 13, 14, 17)] == [0.1, 0.1, 0.01, 0.001]  # the rate drops at 155 and 232 of 310 steps
    moving = algorithm_of("algorithm=slowmo", "algorithm.period=4", "schedule.inner=power(0.2, -0.6667)")
    assert moving.at(7).lr == pytest.approx(0.2 * 8**-0.6667)
    with pytest.raises(parle.ConfigError, match="nobody knows beforehand in which round the inner rate drops"):
        algorithm_of("algorithm=slowmo", "algorithm.period=adacomm(4)")
    assert algorithm_of("algorithm=slowmo", "algorithm.period=adacomm(4)", "schedule.drops=[]").at(3).lr == 0.1


@pytest.mark.parametrize("period", ["stages(0)", "restart(100, 0)", "restart(-5, 3)", "switch(1, 8, at=[2])", "power(2, [1])", "qsr([1, 2], alpha=1)"])
def test_a_schedule_that_gives_no_number_is_refused_before_the_run_begins(parle_command, period):
    done = parle_command(*SHORT, "--set", f"algorithm.period={period}")
    assert done.code == 2 and "Traceback" not in done.err and "period" in done.err
    assert not Path("runs", "a").exists()


def test_training_losses_are_those_of_each_replicas_own_steps(parle_command):
    parle_command(*SHORT, "--set", "algorithm.period=[16,1,1]", "--lr", "0.0001")
    losses = records()[0]["train_loss"]
    assert max(losses) / min(losses) < 1.2


def test_a_run_that_goes_by_time_takes_no_more_steps_than_it_was_given(parle_command):
    done = parle_command("train", "-a", "local-sgd", "-n", "2", "-e", "0.2", "--json", "--name", "a", "--set", "algorithm.period=seconds(60)")
    assert done.json["steps"] == 9 and done.json["gradient_evaluations"] == 18 and done.json["rounds"] == 1


def test_the_period_that_was_taken_is_recorded(parle_command):
    parle_command(*SHORT, "--set", "algorithm.period=adacomm(16)")
    assert records()[-1]["algorithm"]["period"] < 16


def test_delayed_rounds_do_not_depend_on_when_the_run_is_evaluated(parle_command):
    delayed = ("train", "-a", "local-sgd", "-n", "2", "-e", "1", "--json", "--set", "algorithm.period=10", "--set", "communicator.delay=8")
    losses = [parle_command(*delayed, "--set", f"evaluation.every={every}", "--name", str(every)).json["loss"] for every in (1, 0.0228)]
    losses.append(parle_command(*delayed, "--processes", "--set", "communicator.ordered=true", "--name", "p").json["loss"])
    assert losses[0] == losses[1] == losses[2]


def test_gradients_at_a_server_are_counted_as_they_are_computed(parle_command):
    served = ("train", "-a", "local-sgd", "-n", "2", "-e", "1", "--quorum", "1", "--json")
    growing = parle_command(*served, "--set", "algorithm.period=switch(1, 8, at=4)", "--name", "a")
    assert (growing.json["gradient_evaluations"], growing.json["steps"]) == (88, 44)
    sharp = parle_command(*served, "--set", "algorithm.period=4", "--set", "optimizer.sharpness=0.05", "--name", "b")
    assert sharp.json["gradient_evaluations"] == 176


def test_another_algorithm_on_top_of_a_run_takes_its_own_optimizer():
    from parle import config, settling

    file = Path("c.yaml")
    file.write_text(config.to_yaml(settling.settled(config.load(sets=("algorithm=diloco",)), 1000)))
    other = settling.settled(config.load(file, options={"algorithm.name": "local-sgd"}), 1000).optimizer
    assert (other.name, other.lr) == ("sgd", 0.1)
    same = settling.settled(config.load(file), 1000).optimizer
    assert (same.name, same.lr) == ("adamw", 0.001)
