"""Deputies under one sheriff: equation (10) of the Parle paper, and its special cases."""

import math

import numpy as np
import pytest
import ranks
import torch
from problems import SIZE, Vector, advance, coupled, gradient, start, torch_sgd
from test_equations import LR, close, nesterov

import parle

GROUPS, WORKERS = 2, 3
GAMMA, RHO, ETA = 0.8, 0.5, 0.1
HIERARCHY = parle.Hierarchy(inner=parle.ElasticSGD(rho=GAMMA, center="mean"), outer=parle.ElasticSGD(period=4, rho=RHO, center="mean"), lr=ETA, momentum=0.5)


def levels(hierarchy, groups=GROUPS, workers=WORKERS, **options):
    models = [[Vector(start()) for _ in range(workers)] for _ in range(groups)]
    return hierarchy.join(models, [[torch_sgd(model.parameters()) for model in group] for group in models], **options)


def train(its, steps, first=0):
    """Worker b of group a draws the mini-batches of number a * workers + b."""
    for step in range(first, first + steps):
        for a, group in enumerate(its.workers):
            advance(group, 1, first=step, offset=a * len(group.models))
    return its


def test_equation_10():
    x, deputies, v = start(), [start() for _ in range(GROUPS)], [np.zeros(SIZE) for _ in range(GROUPS)]
    y = [[start() for _ in range(WORKERS)] for _ in range(GROUPS)]
    u = [[np.zeros(SIZE) for _ in range(WORKERS)] for _ in range(GROUPS)]
    for step in range(40):
        for a in range(GROUPS):
            for b in range(WORKERS):
                g = gradient(y[a][b], a * WORKERS + b, step) + (y[a][b] - deputies[a]) / GAMMA
                y[a][b], u[a][b] = nesterov(y[a][b], u[a][b], g, LR)
        for a in range(GROUPS):
            d = (deputies[a] - sum(y[a]) / WORKERS) + (deputies[a] - x) / RHO
            deputies[a], v[a] = nesterov(deputies[a], v[a], d, ETA, 0.5)
        if step % 4 == 3:
            x = sum(deputies) / GROUPS
    its = train(levels(HIERARCHY), 40)
    close(its.reference, x)
    close(its.deputies.params, np.stack(deputies))
    for a in range(GROUPS):
        close(its.workers[a].params, np.stack(y[a]))
        close(its.workers[a].reference, deputies[a])


def test_one_deputy_is_elastic_sgd():
    alone = parle.Hierarchy(inner=parle.ElasticSGD(rho=GAMMA, center="mean"), outer=parle.ElasticSGD(rho=RHO, center="mean"), lr=ETA)
    its, elastic = train(levels(alone, groups=1), 40), advance(coupled(parle.ElasticSGD(rho=GAMMA, lr=ETA)), 40)
    torch.testing.assert_close(its.workers[0].params, elastic.params, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(its.reference, elastic.reference, rtol=1e-12, atol=1e-13)


def test_a_sheriff_on_an_infinitely_loose_spring_leaves_separate_elastic_sgds():
    loose = parle.Hierarchy(inner=parle.ElasticSGD(rho=GAMMA, center="mean"), outer=parle.ElasticSGD(rho=math.inf, center="mean"), lr=ETA)
    its = train(levels(loose), 40)
    for a in range(GROUPS):
        elastic = advance(coupled(parle.ElasticSGD(rho=GAMMA, lr=ETA)), 40, offset=a * WORKERS)
        torch.testing.assert_close(its.workers[a].params, elastic.params, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("outer", [parle.LocalSGD(period=5), parle.DiLoCo(period=5), parle.Parle(period=5)], ids=lambda its: type(its).__name__)
def test_any_coupling_may_take_the_place_of_the_sheriff(outer):
    its = train(levels(parle.Hierarchy(inner=HIERARCHY.inner, outer=outer, lr=ETA)), 20)
    for deputy, group in zip(its.deputies.params, its.workers, strict=True):
        assert torch.equal(deputy, group.reference)  # workers see what their deputy has adopted
    assert its.deputies.round == 4 and torch.isfinite(its.reference).all()


def test_it_resumes_bit_for_bit_and_ends_with_a_round():
    whole, half, resumed = train(levels(HIERARCHY), 22), train(levels(HIERARCHY), 10), levels(HIERARCHY)
    resumed.load_state_dict(half.state_dict())
    for ours, its in zip(resumed.workers, half.workers, strict=True):
        for mine, other in zip(ours.optimizers, its.optimizers, strict=True):
            mine.load_state_dict(other.state_dict())
    train(resumed, 12, first=10)
    assert torch.equal(whole.reference, resumed.reference)
    assert all(torch.equal(a.params, b.params) for a, b in zip(whole.workers, resumed.workers, strict=True))
    whole.finish()
    assert whole.deputies.round == 6
    with whole.solution() as model:
        assert torch.equal(torch.cat([model.head, model.tail.reshape(-1)]), whole.reference)
    whole.close()


def worker(rank):
    """One worker a process: groups over one dimension of a mesh, deputies over the other."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("deputy", "worker"))
    model = Vector(start(rank))  # the first one's start is everybody's
    communicators = {"within": lambda: parle.TorchDistributed(mesh["worker"]), "between": parle.TorchDistributed(mesh["deputy"])}
    its = HIERARCHY.join([[model]], [[torch_sgd(model.parameters())]], **communicators)
    advance(its.workers[0], 20, offset=rank)
    its.finish()
    return its.reference.numpy().copy(), its.workers[0].params.numpy().copy()


def test_four_processes_are_two_groups_of_two():
    expected = train(levels(HIERARCHY, groups=2, workers=2), 20)
    expected.finish()
    for rank, (reference, params) in enumerate(ranks.results(4, worker)):
        np.testing.assert_allclose(reference, expected.reference.numpy(), rtol=1e-12)
        np.testing.assert_allclose(params[0], expected.workers[rank // 2].params[rank % 2].numpy(), rtol=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(parle.ConfigError, match="hang on their deputy by springs"):
        parle.Hierarchy(inner=parle.LocalSGD())
    with pytest.raises(parle.ConfigError, match="couples several replicas between their steps"):
        parle.Hierarchy(outer=parle.DataParallel())
    with pytest.raises(parle.JoinError, match="0 groups"):
        parle.Hierarchy().join([], [])
