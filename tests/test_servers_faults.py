"""Replicas that die, hang, end early or come with nonsense, at servers among threads and on the clock; bad settings."""

import threading
import time

import arrivals
import pytest
import torch
from problems import Vector, plain_sgd, start

import parle
from parle import schedules
from parle.servers.desk import REFUSALS, Desk
from parle.servers.rules import Rules

HOSTS = {"threads": parle.Server, "clock": parle.Simulated}
SGD = parle.ServerSGD(lr=0.05)


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


def moved(server) -> bool:
    reference = arrivals.reference_of(server)
    return bool(torch.isfinite(reference).all()) and not torch.equal(reference, torch.from_numpy(start()))


def steps_then(count: int, then, algorithm=SGD):
    """Replica 1 takes so many steps and then does something else; the others take 30."""

    def work(seat):
        replica = parle.join(model := Vector(start()), plain_sgd(model.parameters()), algorithm, seat)
        for step in range(30):
            if seat.first == 1 and step == count:
                return then(seat, replica)
            replica.optimizers[0].zero_grad()
            model.loss(seat.first, step).backward()
            replica.optimizers[0].step()
        replica.close()
        return replica.round

    return work


@pytest.mark.parametrize("quorum", ["n", "ramp(1, n, every=10)", 3])
def test_a_replica_that_ends_early_is_not_waited_for(host, quorum):
    server = host(quorum, replicas=4)
    assert server.run(steps_then(5, lambda seat, replica: replica.close())) == [30, None, 30, 30]
    assert server.desk.received == 95 and sum(server.desk.merged) == 95 and moved(server)


def test_a_replica_that_leaves_without_a_word_is_not_waited_for(host):
    server = host("n", replicas=3)
    assert server.run(steps_then(5, lambda seat, replica: None)) == [30, None, 30]
    assert server.desk.received == 65


def test_a_thread_that_dies_without_a_word_is_not_waited_for():
    """Threads of the user's own: nobody tells the server that one of them has ended."""
    server, ended = parle.Server("n", replicas=3), []
    work = steps_then(5, lambda seat, replica: None)
    threads = [threading.Thread(target=lambda its=index: ended.append(work(server.seat(its)))) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ended, key=str) == [30, 30, None] and server.desk.received == 65


def test_a_thread_that_hangs_is_given_up_after_the_timeout_and_may_come_back():
    server, back = parle.Server("n", replicas=3, timeout=0.6), threading.Event()

    def hang(seat, replica):
        back.wait(20)
        replica.optimizers[0].zero_grad()
        replica.models[0].loss(1, 5).backward()
        replica.optimizers[0].step()
        replica.close()
        return "back"

    def work(seat):
        ended = steps_then(5, hang)(seat)
        if seat.first == 0:
            back.set()
        return ended

    assert server.run(work) == [30, "back", 30]
    assert server.desk.received == 66 and server.desk.merged == [30, 6, 30]


@pytest.mark.parametrize("how", ["dies", "hangs"])
@pytest.mark.parametrize("quorum", ["n", 1, 2, "ramp(1, n, every=10)"])
def test_a_replica_that_dies_or_hangs_on_the_clock_does_not_stop_it(how, quorum):
    clock = parle.Clock(compute=0.1, **{how: {1: 1.05}})
    server = parle.Simulated(quorum, replicas=3, clock=clock, timeout=2.0)
    assert server.run(arrivals.work(SGD, 10**6), seconds=20.0) == [None] * 3
    assert server.desk.active == {0, 2} and 5 < server.desk.merged[1] <= 10 and min(server.desk.merged[0], server.desk.merged[2]) > 120
    timed = parle.Simulated(quorum, replicas=3, clock=clock, timeout=2.0)
    timed.run_times(seconds=20.0)
    assert timed.desk.merged == server.desk.merged and timed.desk.staleness == server.desk.staleness


def test_an_algorithm_that_needs_all_replicas_says_who_is_gone(host):
    with pytest.raises(parle.ReplicaLost, match=r"left or were lost by round 3: 1; and Parle needs all 3"):
        host("n", replicas=3).run(steps_then(7, lambda seat, replica: None, parle.Parle(period=2)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_proposal_that_is_not_finite_is_refused_counted_and_its_replica_begins_anew(host, bad):
    def work(seat):
        with parle.join(model := Vector(start()), plain_sgd(model.parameters()), SGD, seat) as replica:
            for step in range(20):
                replica.optimizers[0].zero_grad()
                model.loss(seat.first, step).backward()
                if seat.first == 1 and step in (3, 4, 9):
                    model.head.grad[0] = bad
                replica.optimizers[0].step()
                assert torch.isfinite(replica.params).all()
            return replica.round

    server = host("n", replicas=3)
    assert server.run(work) == [20, 20, 20]
    assert server.desk.refused == [0, 3, 0] and server.desk.merged == [20, 17, 20] and moved(server)


def test_a_refused_replica_loses_its_momentum_and_its_parameters_too():
    def work(seat):
        optimizer = torch.optim.SGD((model := Vector(start())).parameters(), lr=0.05, momentum=0.9)
        with parle.join(model, optimizer, parle.LocalSGD(period=2), seat) as replica:
            for step in range(6):
                optimizer.zero_grad()
                model.loss(0, step).backward()
                if step == 2:
                    model.tail.grad[:] = float("nan")
                optimizer.step()
            assert torch.isfinite(torch.cat([its["momentum_buffer"].reshape(-1) for its in optimizer.state.values()])).all()
            return replica.params.clone()

    server = parle.Server(1)
    assert torch.isfinite(server.run(work)[0]).all() and server.desk.refused == [1]


def test_a_replica_that_never_comes_with_numbers_is_given_up(host):
    def work(seat):
        with parle.join(model := Vector(start()), plain_sgd(model.parameters()), SGD, seat) as replica:
            for _ in range(50):
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, float("nan"))
                replica.optimizers[0].step()

    with pytest.raises(parle.DivergedError, match=f"has come {REFUSALS} times in a row"):
        host(1, replicas=2).run(work)


def test_an_exception_of_one_replica_ends_all_and_is_raised(host):
    def fail(seat, replica):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        host("n", replicas=3).run(steps_then(5, fail))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replica")]


def desk_of(quorum, replicas=3, **rules) -> Desk:
    desk = Desk(Rules(quorum, replicas, **rules), lambda: 0.0)
    for replica in range(replicas):
        desk.enter(replica, SGD, {})
        desk.begin(replica, SGD, torch.zeros(2))
    desk.answers.clear()
    return desk


def test_a_proposal_that_comes_twice_is_merged_once():
    desk = desk_of(2)
    assert desk.propose(0, 1, torch.ones(2)) == [] and desk.propose(0, 1, torch.ones(2)) == []
    assert sorted(desk.propose(1, 1, torch.ones(2))) == [0, 1]
    desk.answers.clear()
    assert desk.propose(0, 1, torch.ones(2)) == [0]  # the answer was lost: here it is again
    assert desk.received == 2 and desk.updates == 1 and torch.equal(desk.answers[0].vector, torch.full((2,), -0.05))


def test_vectors_that_come_twice_outside_of_a_round_are_taken_once():
    desk = desk_of("n", 2)
    assert desk.bring(0, 1, torch.zeros(1)) == [] and desk.bring(0, 1, torch.zeros(1)) == []
    assert desk.bring(1, 1, torch.ones(1)) == [0, 1]
    desk.answers.clear()
    assert desk.bring(0, 1, torch.zeros(1)) == [0] and [its.item() for its in desk.answers[0].all] == [0.0, 1.0]


def test_a_bound_of_zero_is_synchronous_and_a_bound_holds_fast_replicas_back():
    clock = parle.Clock(compute="0.1; 0:1.0")
    counts = {}
    for bound in (0, 3, None):
        server = parle.Simulated(1, replicas=3, clock=clock, bound=bound)
        server.run_times(seconds=20.55)
        counts[bound] = server.desk.merged
    assert counts[0] == [20, 21, 21] and counts[None] == [20, 205, 205]  # the fast ones have their next one in
    assert counts[3] == [20, 24, 24]


def test_without_waiting_a_replica_goes_on_with_the_reference_as_it_is(host):
    server = host(3, replicas=3, wait=False)
    rounds = [rounds for _, _, rounds in server.run(arrivals.work(SGD, 30))]
    assert rounds == [30] * 3 and sum(server.desk.merged) == 90 and moved(server)


def test_without_waiting_the_clock_never_stands_still():
    server = parle.Simulated("n", replicas=3, clock=parle.Clock(compute="0.1; 0:1.0"), wait=False)
    server.run_times(seconds=10.05)
    assert server.desk.received == 10 + 100 + 100 and server.desk.waited == [0.0] * 3


@pytest.mark.parametrize(
    ("quorum", "rules", "words"),
    [
        (0, {}, "quorum is 0"),
        ("0", {}, "quorum is 0"),
        (-3, {}, "quorum is -3"),
        (1.5, {}, "quorum is 1.5"),
        (True, {}, "quorum is True"),
        ("ramp(0, n, every=3)", {}, "is 0 after 0 gradients"),
        ("ramp(1, inf)", {}, "never comes to an end"),
        ("ramp(1, 3, every=inf)", {}, "never comes to an end"),
        ("rampp(1, 3)", {}, "Did you mean ramp"),
        ("all", {}, "not a number or a schedule"),
        (lambda received: float("nan"), {}, "needs at least one proposal"),
        (1, {"count": "steps"}, "counts gradients or updates, got 'steps'"),
        (1, {"bound": -1}, "bound is -1"),
        (1, {"timeout": 0}, "timeout must be"),
        (1, {"replicas": 0}, "at least one replica"),
    ],
)
def test_rules_that_cannot_work_are_refused(host, quorum, rules, words):
    with pytest.raises(parle.ConfigError, match=words):
        host(quorum, **{"replicas": 3, **rules})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compute": -0.1}, "from 0 on"),
        ({"compute": 0}, "would stand still"),
        ({"delay": "half:normal(0, -1)"}, "from 0 on"),
        ({"delay": "half:normal(-1, 1)"}, "never negative"),
        ({"delay": "7:0.1"}, "replicas from 0 to 2"),
        ({"delay": "half:gamma(1, 2)"}, "Known|Did you mean"),
        ({"delay": "normal(1)"}, "takes 2 numbers"),
        ({"delay": "soon"}, "must be seconds"),
        ({"compute": "trace(nowhere.json)"}, "cannot be read"),
        ({"dies": {5: 1.0}}, "names replica 5"),
    ],
)
def test_times_that_cannot_be_are_refused(settings, words):
    with pytest.raises(parle.ConfigError, match=words):
        parle.Simulated(1, replicas=3, clock=parle.Clock(**settings))


def test_links_that_cannot_be_are_refused():
    for settings in ({"latency": -1}, {"bandwidth": 0}):
        with pytest.raises(parle.ConfigError, match="latency from 0 on"):
            parle.Link(**settings)


@pytest.mark.parametrize(
    ("algorithm", "quorum", "rules", "words"),
    [
        (parle.Parle(period=2), 2, {}, "Parle needs all replicas in every round, but the quorum is 2 of 3. Use quorum n"),
        (parle.DataParallel(), "ramp(1, 3, every=2)", {}, "DataParallel needs all replicas"),
        (parle.DataParallel(), "n", {"wait": False}, "have to wait"),
    ],
)
def test_algorithms_that_need_all_are_refused_at_a_smaller_quorum(host, algorithm, quorum, rules, words):
    with pytest.raises(parle.ConfigError, match=words):
        host(quorum, replicas=3, **rules).run(arrivals.work(algorithm, 4))


def test_replicas_that_do_not_fit_together_are_refused(host):
    def work(seat):
        return arrivals.work(parle.ServerSGD(lr=0.1 if seat.first else 0.2), 3)(seat)

    with pytest.raises(parle.ConfigError, match=r"Replica \d has algorithm\.lr 0\.\d, but the first has 0\.\d"):
        host(1, replicas=2).run(work)


def test_a_seat_is_for_one_replica_once():
    server = parle.Server(1, replicas=1)
    with pytest.raises(parle.ConfigError, match="replicas 0 to 0, got 1"):
        server.seat(1)
    models = [Vector(start()) for _ in range(2)]
    with pytest.raises(parle.JoinError, match="for one replica, got 2"):
        parle.join(models, [plain_sgd(model.parameters()) for model in models], SGD, server.seat(0))
    parle.join(model := Vector(start()), plain_sgd(model.parameters()), SGD, seat := server.seat(0))
    with pytest.raises(parle.JoinError, match="taken"):
        parle.join(other := Vector(start()), plain_sgd(other.parameters()), SGD, seat)
    with pytest.raises(parle.JoinError, match=r"only hands over the gradients, but is a SGD with momentum"):
        parle.join(other := Vector(start()), torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9), SGD)


def test_a_replica_may_come_back_to_its_seat():
    server, reference = parle.Server(1, replicas=1), None
    for attempt in range(2):
        replica = parle.join(model := Vector(start(attempt)), plain_sgd(model.parameters()), SGD, server.seat(0))
        assert attempt == 0 or torch.equal(replica.params[0], reference)
        model.loss(0, attempt).backward()
        replica.optimizers[0].step()
        reference = replica.reference.clone()
        replica.close()
    assert server.desk.received == 2


def test_a_server_goes_on_from_its_state():
    algorithm = parle.ServerSGD(lr=0.05, momentum=0.9)
    straight, first, second = (parle.Server(1, replicas=1) for _ in range(3))
    straight.run(arrivals.work(algorithm, 12))
    first.run(arrivals.work(algorithm, 5))
    second.load_state_dict(first.state_dict(), algorithm)

    def rest(seat):
        with parle.join(model := Vector(start(9)), plain_sgd(model.parameters()), algorithm, seat) as replica:
            for step in range(5, 12):
                replica.optimizers[0].zero_grad()
                model.loss(0, step).backward()
                replica.optimizers[0].step()

    second.run(rest)
    assert torch.equal(arrivals.reference_of(straight), arrivals.reference_of(second)) and second.desk.updates == 12


def test_one_slow_replica_of_eight_does_not_hold_an_asynchronous_server_up():
    """Throughput with real threads, whose work is to wait: the slow one waits ten times as long."""

    def run(quorum):
        server = parle.Server(quorum, replicas=8)

        def work(seat):
            with parle.join(model := Vector(start()), plain_sgd(model.parameters()), SGD, seat) as replica:
                until = time.monotonic() + 1.5
                while time.monotonic() < until:
                    time.sleep(0.1 if seat.first == 0 else 0.01)
                    for parameter in model.parameters():
                        parameter.grad = torch.ones_like(parameter) * 1e-3
                    replica.optimizers[0].step()

        server.run(work)
        return server.desk.received

    assert run(1) > 3 * run("n")


def test_quorums_count_gradients_or_updates():
    ramp = schedules.Ramp(1, 4, every=10)
    assert [Rules(ramp, 4).quorum_at(received, 0) for received in (0, 9, 10, 25, 500)] == [1, 1, 2, 3, 4]
    assert [Rules(ramp, 4, count="updates").quorum_at(999, updates) for updates in (0, 10, 30)] == [1, 2, 4]
    assert Rules(lambda received: 2 + received / 1000, 4).quorum_at(500, 0) == 2
    assert Rules(9, 4).quorum_at(0, 0) == 4 and Rules("n", 4).always_all and Rules(4, 4).always_all and not Rules(3, 4).always_all


def test_what_a_server_has_told_does_not_change_afterwards():
    desk = desk_of(1)
    told, state = desk.status(), desk.state_dict()
    desk.propose(0, 1, torch.ones(2))
    assert told["merged"] == state["counts"]["merged"] == [0, 0, 0] and desk.status()["merged"] == [1, 0, 0]


def test_averages_over_all_replicas_are_refused_at_a_smaller_quorum():
    def work(seat):
        parle.join(model := Vector(start()), plain_sgd(model.parameters()), parle.LocalSGD(), seat, optimizer_state="average")

    with pytest.raises(parle.ConfigError, match='optimizer_state="average" waits for all replicas'):
        parle.Server(1, replicas=2).run(work)
