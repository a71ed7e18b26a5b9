"""Servers: special cases, equal trajectories of every kind of server, replicas that die, hang or come with nonsense."""

import arrivals
import pytest
import torch
from problems import Vector, advance, coupled, plain_sgd, start

import parle
from parle import testing

SPREAD = parle.Clock(compute="lognormal(0.05, 0.5)", delay="half:normal(0, 0.25)", seed=3)


def plain(steps: int, **settings) -> torch.Tensor:
    """What torch's SGD does without parle."""
    model = Vector(start())
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(0, step).backward()
        optimizer.step()
    return torch.cat([model.head, model.tail.reshape(-1)]).detach()


HOSTS = {"threads": parle.Server, "clock": parle.Simulated}


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.01}], ids=str)
def test_quorum_one_with_one_replica_is_plain_sgd_bit_for_bit(host, settings):
    ((params, reference, rounds),) = host(1, replicas=1).run(arrivals.work(parle.ServerSGD(lr=0.05, **settings), 60))
    expected = plain(60, lr=0.05, **settings)
    assert torch.equal(params, expected) and torch.equal(reference, expected) and rounds == 60


@pytest.mark.parametrize("quorum", ["n", 3])
def test_quorum_n_is_synchronous_data_parallel_sgd(host, quorum):
    synchronous = advance(coupled(parle.DataParallel(), optimizer=plain_sgd), 60)
    for params, reference, _ in host(quorum, replicas=3).run(arrivals.work(parle.ServerSGD(lr=0.05), 60)):
        torch.testing.assert_close(params, synchronous.params[0], rtol=0, atol=1e-12)
        assert torch.equal(params, reference)


def test_the_sum_over_all_is_the_mean_with_n_times_the_rate(host):
    added = host("n", replicas=3).run(arrivals.work(parle.ServerSGD(lr=0.02, reduce="sum"), 40))
    averaged = host("n", replicas=3).run(arrivals.work(parle.ServerSGD(lr=0.06), 40))
    torch.testing.assert_close(added[0][0], averaged[0][0], rtol=0, atol=1e-12)


def test_without_a_server_it_is_the_same_as_with_quorum_n(host):
    together = advance(coupled(parle.ServerSGD(lr=0.05, momentum=0.5)), 40)
    for params, _, _ in host("n", replicas=3).run(arrivals.work(parle.ServerSGD(lr=0.05, momentum=0.5), 40)):
        assert torch.equal(params, together.params[0])


def test_every_algorithm_goes_at_a_server_with_quorum_n_as_in_one_process(host):
    servers = [host("n", replicas=3) for _ in range(len(parle.ALGORITHMS) + 1)]

    def work(seat):
        mine, seats = seat.first, iter(servers[1:])
        testing.check_communicator(lambda: next(seats).seat(mine), range(mine, mine + 1))
        return True

    if host is parle.Simulated:
        pytest.skip("its replicas run on the clock of one server; test_quorum_n... compares it")
    assert servers[0].run(work) == [True] * 3


@pytest.mark.parametrize("algorithm", [parle.LocalSGD(period=3), parle.ElasticSGD(rho=0.5), parle.EASGD(period=2), parle.Parle(period=4)], ids=str)
def test_the_clock_with_quorum_n_goes_as_one_process_does(algorithm):
    together = advance(coupled(algorithm), 24)
    for replica, (params, reference, rounds) in enumerate(parle.Simulated("n", replicas=3, clock=SPREAD).run(arrivals.work(algorithm, 24))):
        assert torch.equal(params, together.params[replica]) and torch.equal(reference, together.reference) and rounds == together.round


@pytest.mark.parametrize("quorum", [1, 2, "ramp(1, n, every=9)"])
@pytest.mark.parametrize("algorithm", [parle.ServerSGD(lr=0.05), parle.LocalSGD(period=2), parle.EASGD(period=2)], ids=lambda a: type(a).__name__)
def test_threads_and_the_clock_agree_on_the_same_order_of_arrivals(algorithm, quorum):
    simulated, order = parle.Simulated(quorum, replicas=3, clock=SPREAD), []
    propose = simulated.desk.propose
    simulated.desk.propose = lambda replica, *rest: order.append(replica) or propose(replica, *rest)
    timed = simulated.run(arrivals.work(algorithm, 18))
    server = arrivals.in_order(parle.Server(quorum, replicas=3), order)
    threads = server.run(arrivals.work(algorithm, 18))
    assert simulated.desk.staleness == server.desk.staleness and len(order) == sum(simulated.desk.merged)
    for (params, reference, _), (its_params, its_reference, _) in zip(timed, threads, strict=True):
        assert torch.equal(params, its_params) and torch.equal(reference, its_reference)


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_seed_another():
    def run(seed):
        server = parle.Simulated("ramp(1, n, every=9)", replicas=4, clock=parle.Clock(delay="half:normal(0, 0.25)", seed=seed))
        server.run(arrivals.work(parle.ServerSGD(lr=0.05), 1000), seconds=2.0)
        return arrivals.reference_of(server), server.desk.received

    assert torch.equal(run(1)[0], run(1)[0]) and run(1)[1] == run(1)[1]
    assert not torch.equal(run(1)[0], run(2)[0])


@pytest.mark.parametrize("algorithm", [parle.StreamingDiLoCo(), parle.BMUF(nesterov=True)], ids=repr)
def test_what_needs_its_center_in_every_process_is_refused_at_a_server(algorithm):
    with pytest.raises(parle.ConfigError, match="needs its center in every process"):
        parle.Server("n", replicas=2).run(arrivals.work(algorithm, 3))
