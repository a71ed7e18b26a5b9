"""Every algorithm against a transcription of its paper into NumPy, in float64, to 1e-12.

The transcriptions are written from ALGORITHMS and the papers, one replica at a time, with explicit loops and no code of parle.
"""

import numpy as np
import pytest
import torch
from problems import SIZE, advance, coupled, gradient, start

import parle

N, LR, MU = 3, 0.05, 0.9  # replicas, inner rate, momentum
BATCHES = 4  # so small that the clips of the scoping are reached


def gamma(k):
    """Equation (9) with its clip."""
    return max(1.0, 100.0 * (1 - 1 / (2 * BATCHES)) ** k)


def rho(k):
    """Equation (9) with its clip."""
    return max(0.1, 1.0 * (1 - 1 / (2 * BATCHES)) ** k)


def eta(k):
    """An outer rate that drops twice."""
    return 0.08 / (10 ** ((k >= 12) + (k >= 20)))


SCOPED = {
    "gamma": parle.Scoping(100.0, batches=BATCHES, floor=1.0),
    "rho": parle.Scoping(1.0, batches=BATCHES, floor=0.1),
    "lr": parle.Steps(0.08, at=(12, 20), factor=10.0),
}


def nesterov(w, v, d, lr, mu=MU):
    """torch.optim.SGD with nesterov: v <- mu v + d, w <- w - lr (d + mu v)."""
    v = mu * v + d
    return w - lr * (d + mu * v), v


def close(tensor, array):
    np.testing.assert_allclose(tensor.detach().numpy(), array, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("own_starts", [False, True])
def test_parle_follows_equations_8a_to_8d(own_starts):
    period, alpha, rounds = 5, 0.75, 25
    xa = [start(a if own_starts else 0) for a in range(N)]
    ya, za, va, ma = ([x.copy() for x in xa] for _ in range(4))
    va, ma = [np.zeros(SIZE) for _ in range(N)], [np.zeros(SIZE) for _ in range(N)]
    x = sum(xa) / N
    for k in range(rounds):
        for a in range(N):
            for step in range(k * period, (k + 1) * period):
                ya[a], va[a] = nesterov(ya[a], va[a], gradient(ya[a], a, step) + (ya[a] - xa[a]) / gamma(k), LR)  # (8a)
                za[a] = alpha * za[a] + (1 - alpha) * ya[a]  # (8b)
            d = (xa[a] - za[a]) + (xa[a] - x) / rho(k)
            xa[a], ma[a] = nesterov(xa[a], ma[a], d, eta(k))  # (8c)
        x = sum(xa) / N  # (8d)
        for a in range(N):
            ya[a], za[a] = xa[a].copy(), xa[a].copy()

    replicas = advance(coupled(parle.Parle(period=period, **SCOPED), own_starts=own_starts), period * rounds)
    close(replicas.params, np.stack(xa))
    close(replicas.reference, x)
    close(replicas.solution_vector(), x)


def test_the_development_code_of_parle_couples_to_the_mean_of_z():
    period, alpha, rounds = 5, 0.75, 25
    x = [start(a) for a in range(N)]
    my, mx = [np.zeros(SIZE) for _ in range(N)], [np.zeros(SIZE) for _ in range(N)]
    for k in range(rounds):
        xc = [w.copy() for w in x]
        z = [w.copy() for w in x]
        for a in range(N):
            y = x[a].copy()
            for step in range(k * period, (k + 1) * period):
                y, my[a] = nesterov(y, my[a], gradient(y, a, step) + (y - xc[a]) / gamma(k), LR)
                z[a] = alpha * z[a] + (1 - alpha) * y
        zbar = sum(z) / N
        for a in range(N):
            x[a], mx[a] = nesterov(xc[a], mx[a], (xc[a] - z[a]) + (xc[a] - zbar) / rho(k), eta(k))

    replicas = advance(coupled(parle.ParleDev2017(period=period, **SCOPED), own_starts=True), period * rounds)
    close(replicas.params, np.stack(x))
    close(replicas.reference, zbar)
    close(replicas.solution_vector(), sum(x) / N)


class ReleaseOptimizer(torch.optim.Optimizer):
    """The inner optimizer of the release of 2018: m <- mu m + d, p <- p - lr (d + m)."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": LR})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            m.mul_(MU).add_(p.grad)
            p.sub_(LR * (p.grad + m))


def test_the_release_of_parle_steps_from_y():
    period, alpha, rounds = 5, 0.75, 25
    p = [start(a) for a in range(N)]
    xa, za = [w.copy() for w in p], [w.copy() for w in p]
    my, mx = [np.zeros(SIZE) for _ in range(N)], [np.zeros(SIZE) for _ in range(N)]
    for k in range(rounds):
        for a in range(N):
            for step in range(k * period, (k + 1) * period):
                d = gradient(p[a], a, step) + (p[a] - xa[a]) / gamma(k)
                my[a] = MU * my[a] + d
                p[a] = p[a] - LR * (d + my[a])
                za[a] = alpha * za[a] + (1 - alpha) * p[a]
        zbar = sum(za) / N
        for a in range(N):
            d = (xa[a] - za[a]) + (xa[a] - zbar) / rho(k)
            mx[a] = MU * mx[a] + d
            p[a] = p[a] - eta(k) * (d + mx[a])
            xa[a] = p[a].copy()

    replicas = coupled(parle.ParleRelease2018(period=period, **SCOPED), optimizer=ReleaseOptimizer, own_starts=True)
    advance(replicas, period * rounds)
    close(replicas.params, np.stack(xa))
    close(replicas.solution_vector(), sum(xa) / N)


def test_entropy_sgd_follows_equations_6a_to_6c():
    period, alpha, rounds = 5, 0.75, 25
    x, v, m = start(), np.zeros(SIZE), np.zeros(SIZE)
    for k in range(rounds):
        y, z = x.copy(), x.copy()
        for step in range(k * period, (k + 1) * period):
            y, v = nesterov(y, v, gradient(y, 0, step) + (y - x) / gamma(k), LR)  # (6a)
            z = alpha * z + (1 - alpha) * y  # (6b)
        x, m = nesterov(x, m, x - z, eta(k))  # (6c)

    settings = {name: SCOPED[name] for name in ("gamma", "lr")}
    replicas = advance(coupled(parle.EntropySGD(period=period, **settings), replicas=1), period * rounds)
    close(replicas.params[0], x)
    close(replicas.solution_vector(), x)


@pytest.mark.parametrize(("period", "center"), [(1, "moving"), (4, "moving"), (1, "mean")])
def test_elastic_sgd_follows_equations_7a_and_7b(period, center):
    steps = 120
    xa, va = [start(a) for a in range(N)], [np.zeros(SIZE) for _ in range(N)]
    x = sum(xa) / N
    for step in range(steps):
        k = step // period
        for a in range(N):
            xa[a], va[a] = nesterov(xa[a], va[a], gradient(xa[a], a, step) + (xa[a] - x) / rho(k), LR)  # (7a)
        if (step + 1) % period == 0:
            mean = sum(xa) / N
            x = x - eta(k) * (x - mean) if center == "moving" else mean  # (7b)

    algorithm = parle.ElasticSGD(period=period, center=center, rho=SCOPED["rho"], lr=SCOPED["lr"])
    replicas = advance(coupled(algorithm, own_starts=True), steps)
    close(replicas.params, np.stack(xa))
    close(replicas.reference, x)


@pytest.mark.parametrize("momentum_at_a_round", ["keep", "average", "reset"])
def test_local_sgd_restarts_all_replicas_from_their_mean(momentum_at_a_round):
    period, rounds = 4, 15
    x, v = [start()] * N, [np.zeros(SIZE)] * N
    for k in range(rounds):
        for a in range(N):
            for step in range(k * period, (k + 1) * period):
                x[a], v[a] = nesterov(x[a], v[a], gradient(x[a], a, step), LR)
        x = [sum(x) / N] * N
        v = {"keep": v, "average": [sum(v) / N] * N, "reset": [np.zeros(SIZE)] * N}[momentum_at_a_round]

    replicas = advance(coupled(parle.LocalSGD(period=period), optimizer_state=momentum_at_a_round), period * rounds)
    close(replicas.params, np.stack(x))
    close(replicas.reference, x[0])


@pytest.mark.parametrize("delay", [1, 3, 5])
def test_overlapped_local_sgd_adds_what_was_moved_since_to_a_late_mean(delay):
    """CoCoD: w_a <- mean of the starts + (w_a now - w_a at its start), `delay` steps after the mean was asked for."""
    period, steps = 5, 23
    w, v, proposed, mean = [start() for _ in range(N)], [np.zeros(SIZE) for _ in range(N)], None, None
    asked = 0
    for t in range(1, steps + 1):
        for a in range(N):
            w[a], v[a] = nesterov(w[a], v[a], gradient(w[a], a, t - 1), LR)
        if proposed is not None and t - asked == delay:
            w, proposed = [mean + (w[a] - proposed[a]) for a in range(N)], None
        if t % period == 0:
            proposed, mean, asked = [its.copy() for its in w], sum(w) / N, t
    replicas = advance(coupled(parle.LocalSGD(period=period), N, communicator=parle.Overlapped(parle.InProcess(), delay)), steps)
    np.testing.assert_allclose(replicas.params.numpy(), w, atol=1e-12)


def largest(vector):
    """The code of a vector that keeps its two largest magnitudes, in float32."""
    kept = np.zeros(SIZE)
    places = np.argsort(-np.abs(vector))[:2]
    kept[places] = vector[places].astype(np.float32)
    return kept


def test_a_code_of_changes_feeds_its_error_back():
    """e_a <- e_a + d_a, m_a = C(e_a), e_a <- e_a - m_a, x <- x + mean m_a, with C = the two largest magnitudes."""

    w, v, e, x = [start() for _ in range(N)], [np.zeros(SIZE) for _ in range(N)], [np.zeros(SIZE) for _ in range(N)], start()
    for t in range(12):
        for a in range(N):
            w[a], v[a] = nesterov(w[a], v[a], gradient(w[a], a, t), LR)
        if t % 3 == 2:
            sent = []
            for a in range(N):
                e[a] = e[a] + (w[a] - x)
                sent.append(largest(e[a]))
                e[a] = e[a] - sent[a]
            x = x + sum(sent) / N
            w = [x.copy() for _ in range(N)]
    replicas = advance(coupled(parle.LocalSGD(period=3), N, communicator=parle.Compressed(parle.InProcess(), "topk(0.3)")), 12)
    np.testing.assert_allclose(replicas.params.numpy(), w, atol=1e-6)  # the values travel in float32


def test_a_code_of_points_follows_them():
    """EF21: m_a = C(p_a - h_a), h_a <- h_a + m_a, h <- h + mean m_a, and the round sees h; Elastic-SGD proposes points."""

    w, v, h, mean, x = [start() for _ in range(N)], [np.zeros(SIZE) for _ in range(N)], [start() for _ in range(N)], start(), start()
    for t in range(12):
        for a in range(N):
            w[a], v[a] = nesterov(w[a], v[a], gradient(w[a], a, t) + (w[a] - x) / 0.5, LR)
        sent = [largest(w[a] - h[a]) for a in range(N)]
        h, mean = [h[a] + sent[a] for a in range(N)], mean + sum(sent) / N
        x = x - 0.2 * (x - mean)
    algorithm, communicator = parle.ElasticSGD(rho=0.5, lr=0.2), parle.Compressed(parle.InProcess(), "topk(0.3)")
    replicas = advance(coupled(algorithm, N, communicator=communicator), 12)
    np.testing.assert_allclose(replicas.params.numpy(), w, atol=1e-6)
    np.testing.assert_allclose(replicas.reference.numpy(), x, atol=1e-6)


def test_data_parallel_steps_along_the_mean_gradient():
    w, v = start(), np.zeros(SIZE)
    for step in range(60):
        w, v = nesterov(w, v, sum(gradient(w, a, step) for a in range(N)) / N, LR)

    replicas = advance(coupled(parle.DataParallel()), 60)
    close(replicas.params, np.stack([w] * N))
    close(replicas.solution_vector(), w)


def test_scoping_is_equation_9():
    for k in (0, 1, 10, 1000):
        assert parle.Scoping(100.0, batches=BATCHES, floor=1.0)(k) == pytest.approx(gamma(k), rel=1e-15)
        assert parle.Scoping(1.0, batches=BATCHES, floor=0.1)(k) == pytest.approx(rho(k), rel=1e-15)


def test_the_clips_of_the_scoping_are_reached_when_the_paper_says():
    batches = 391
    scoped_rho, scoped_gamma = parle.Scoping(1.0, batches, 0.1), parle.Scoping(100.0, batches, 1.0)
    assert scoped_rho(int(4.60 * batches)) > 0.1 == scoped_rho(int(4.61 * batches) + 1)
    assert scoped_gamma(int(9.20 * batches)) > 1.0 == scoped_gamma(int(9.22 * batches))
