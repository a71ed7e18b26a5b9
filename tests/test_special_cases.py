"""The reductions between algorithms, bit for bit where they should be."""

import math

import pytest
import torch
from problems import SIZE, Vector, advance, coupled, gradient, start, torch_sgd

import parle

ENTROPY = {"period": 5, "gamma": parle.Scoping(100.0, batches=4, floor=1.0), "lr": 0.08}


def plain(steps: int, optimizer=torch_sgd, replica: int = 0) -> torch.Tensor:
    """What the optimizer does without parle."""
    model = Vector(start())
    step_with = optimizer(model.parameters())
    for step in range(steps):
        step_with.zero_grad()
        model.loss(replica, step).backward()
        step_with.step()
    return torch.cat([model.head, model.tail.reshape(-1)]).detach()


def plain_momentum_free(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.mark.parametrize("rho", [0.1, 1.0, math.inf])
def test_one_parle_replica_is_entropy_sgd_bit_for_bit(rho):
    one = advance(coupled(parle.Parle(rho=rho, **ENTROPY), replicas=1), 100)
    entropy = advance(coupled(parle.EntropySGD(**ENTROPY), replicas=1), 100)
    assert torch.equal(one.params, entropy.params)
    assert torch.equal(one.reference, entropy.reference)


def test_parle_with_infinite_rho_is_independent_entropy_sgd():
    three = advance(coupled(parle.Parle(rho=math.inf, **ENTROPY)), 100)
    for index in range(3):
        alone = advance(coupled(parle.EntropySGD(**ENTROPY), replicas=1), 100, offset=index)
        assert torch.equal(three.params[index], alone.params[0])


def test_one_replica_of_the_development_code_is_entropy_sgd_with_a_larger_rate():
    rho = 0.5
    one = advance(coupled(parle.ParleDev2017(rho=rho, period=5, lr=0.08), replicas=1), 100)
    entropy = advance(coupled(parle.EntropySGD(period=5, lr=0.08 * (1 + 1 / rho)), replicas=1), 100)
    torch.testing.assert_close(one.params, entropy.params, rtol=1e-12, atol=1e-13)


def test_the_development_code_with_infinite_rho_is_independent_entropy_sgd():
    three = advance(coupled(parle.ParleDev2017(rho=math.inf, **ENTROPY)), 100)
    for index in range(3):
        alone = advance(coupled(parle.EntropySGD(**ENTROPY), replicas=1), 100, offset=index)
        torch.testing.assert_close(three.params[index], alone.params[0], rtol=1e-12, atol=1e-13)


def test_the_smallest_parle_is_the_plain_optimizer_to_rounding():
    algorithm = parle.Parle(period=1, gamma=math.inf, rho=math.inf, alpha=0.0, lr=1.0, momentum=0.0)
    torch.testing.assert_close(advance(coupled(algorithm, replicas=1), 80).params[0], plain(80), rtol=1e-12, atol=1e-13)


def test_a_corner_of_parle_is_elastic_sgd_without_momentum():
    rho, inner = 0.5, 0.05
    corner = parle.Parle(period=1, gamma=math.inf, rho=rho / inner, alpha=0.0, lr=1.0, momentum=0.0)
    elastic = parle.ElasticSGD(rho=rho, center="mean")
    a = advance(coupled(corner, optimizer=plain_momentum_free, own_starts=True), 60)
    b = advance(coupled(elastic, optimizer=plain_momentum_free, own_starts=True), 60)
    torch.testing.assert_close(a.params, b.params, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(a.reference, b.reference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "data-parallel"])
def test_a_lone_replica_is_the_plain_optimizer_bit_for_bit(name):
    assert torch.equal(advance(coupled(parle.ALGORITHMS[name](), replicas=1), 80).params[0], plain(80))


def test_one_local_sgd_replica_is_the_plain_optimizer_to_rounding():
    torch.testing.assert_close(advance(coupled(parle.LocalSGD(period=4), replicas=1), 80).params[0], plain(80), rtol=1e-12, atol=1e-13)


def test_replicas_on_infinitely_loose_springs_are_plain_optimizers():
    loose = advance(coupled(parle.ElasticSGD(rho=math.inf)), 80)
    for index in range(3):
        assert torch.equal(loose.params[index], plain(80, replica=index))


def test_local_sgd_with_period_1_is_data_parallel_sgd():
    local = advance(coupled(parle.LocalSGD(period=1), optimizer=plain_momentum_free), 60)
    parallel = advance(coupled(parle.DataParallel(), optimizer=plain_momentum_free), 60)
    torch.testing.assert_close(local.params, parallel.params, rtol=1e-12, atol=1e-13)


def test_data_parallel_is_one_replica_with_the_joined_batch():
    model = Vector(start())
    optimizer = torch_sgd(model.parameters())
    for step in range(60):
        optimizer.zero_grad()
        (sum(model.loss(replica, step) for replica in range(3)) / 3).backward()
        optimizer.step()
    joined = torch.cat([model.head, model.tail.reshape(-1)]).detach()
    torch.testing.assert_close(advance(coupled(parle.DataParallel()), 60).solution_vector(), joined, rtol=1e-12, atol=1e-13)


def test_entropy_sgd_without_spring_memory_and_momentum_is_lookahead():
    step_size, period = 0.5, 5
    slow = torch.from_numpy(start())
    velocity = torch.zeros(SIZE, dtype=torch.float64)
    for round in range(12):
        fast = slow.clone()
        for step in range(round * period, (round + 1) * period):
            g = torch.from_numpy(gradient(fast.numpy(), 0, step))
            velocity = 0.9 * velocity + g
            fast = fast - 0.05 * (g + 0.9 * velocity)
        slow = slow + step_size * (fast - slow)
    lookahead = parle.EntropySGD(period=period, gamma=math.inf, alpha=0.0, lr=step_size, momentum=0.0)
    torch.testing.assert_close(advance(coupled(lookahead, replicas=1), 60).reference, slow, rtol=1e-12, atol=1e-13)


def test_the_two_readings_of_parle_differ():
    settings = {"period": 5, "rho": 0.5, "lr": 0.08}
    paper = advance(coupled(parle.Parle(**settings)), 100).solution_vector()
    development = advance(coupled(parle.ParleDev2017(**settings)), 100).solution_vector()
    assert (paper - development).abs().max() > 1e-3


def same(ours, other, own_starts=False, replicas=3, steps=60, optimizer=torch_sgd):
    """Two algorithms move the replicas and the reference alike."""
    a, b = (advance(coupled(its, replicas=replicas, own_starts=own_starts, optimizer=optimizer), steps) for its in (ours, other))
    torch.testing.assert_close(a.params, b.params, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(a.reference, b.reference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "algorithm",
    [
        parle.DiLoCo(period=5, lr=1.0, momentum=0.0),
        parle.StreamingDiLoCo(period=5, fragments=1, lr=1.0, momentum=0.0),
        parle.SlowMo(period=5, alpha=1.0, momentum=0.0, lr=0.03),
        parle.BMUF(period=5, momentum=0.0, rate=1.0),
        parle.BMUF(period=5, momentum=0.0, rate=1.0, nesterov=True),
        parle.LocalSGD(period=parle.Switch(1, 5, at=0)),
        parle.LocalSGD(period=(5, 5, 5)),
        parle.LocalSGD(period=(5, 5, 5), weigh="steps"),
        parle.LocalSGD(period=(5, 5, 5), weigh="replicas"),
        parle.LocalSGD(period=parle.QSR(5, alpha=0.0)),
        parle.FedProx(period=5, mu=0.0),
    ],
    ids=repr,
)
def test_what_is_local_sgd_in_another_name_is_local_sgd(algorithm):
    same(algorithm, parle.LocalSGD(period=5))


def test_one_shot_averaging_is_local_sgd_of_one_round():
    a, b = advance(coupled(parle.OneShot()), 20), advance(coupled(parle.LocalSGD(period=20)), 20)
    a.finish()
    torch.testing.assert_close(a.reference, b.reference, rtol=1e-12, atol=1e-13)


def test_one_fragment_is_diloco():
    same(parle.StreamingDiLoCo(period=5, fragments=1), parle.DiLoCo(period=5))


def test_slowmo_is_classical_bmuf_at_a_constant_rate():
    same(parle.SlowMo(period=5, alpha=0.7, momentum=0.6, lr=0.03), parle.BMUF(period=5, rate=0.7, momentum=0.6))


def test_diloco_trains_where_the_blocks_of_nesterov_bmuf_start():
    same(parle.DiLoCo(period=5, lr=0.7, momentum=0.6), parle.BMUF(period=5, rate=0.7, momentum=0.6, nesterov=True))


def test_lookahead_is_slowmo_and_entropy_sgd_of_one_replica():
    lookahead = parle.Lookahead(period=5, alpha=0.4)
    same(lookahead, parle.SlowMo(period=5, alpha=0.4, momentum=0.0, lr=0.03), replicas=1)
    same(lookahead, parle.EntropySGD(period=5, gamma=math.inf, alpha=0.0, lr=0.4, momentum=0.0), replicas=1)
    same(parle.Lookahead(period=5, alpha=1.0), parle.LocalSGD(period=5), replicas=1)


def test_parle_with_the_whole_pull_is_parle():
    same(parle.ParleMoving(period=5, pull=1.0), parle.Parle(period=5))


def test_averages_without_memory_are_the_plain_optimizer():
    for algorithm in (parle.EMA(decay=0.0), parle.SWA(period=1, weight=1.0)):
        torch.testing.assert_close(advance(coupled(algorithm, replicas=1), 40).solution_vector(), plain(40), rtol=1e-12, atol=1e-13)


def test_one_fragment_ends_as_diloco_does():
    a, b = (advance(coupled(its), 10) for its in (parle.StreamingDiLoCo(period=5, fragments=1), parle.DiLoCo(period=5)))
    a.finish()
    b.finish()
    assert a.round == b.round == 2
    torch.testing.assert_close(a.reference, b.reference, rtol=1e-12, atol=1e-13)
