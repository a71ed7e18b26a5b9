"""Replicas of one family with algorithms of their own at one server (Parle paper, Remark 3)."""

import arrivals
import numpy as np
import pytest
import torch
from problems import SIZE, gradient, start
from test_equations import LR, MU, nesterov

import parle

PULL, GAMMA, RHO, OUTER, PERIOD, N = 0.4, 20.0, 0.7, 0.08, 5, 4
RICH = parle.ParleMoving(period=PERIOD, gamma=GAMMA, rho=RHO, lr=OUTER, pull=PULL)  # much compute, few links
CLOSE = parle.ElasticSGD(rho=RHO, lr=PULL)  # fast links


def mixed(order):
    """Each replica at its seat, with its own algorithm and as many steps as the order has rounds for it."""

    def work(seat):
        algorithm = RICH if seat.first < 2 else CLOSE
        return arrivals.work(algorithm, arrivals.steps_in(order, PERIOD if seat.first < 2 else 1))(seat)

    return work


def transcribed(order):
    """Entropy-style loops in replicas 0 and 1, elastic steps in 2 and 3; every proposal moves x by a part of n."""
    x = start()
    seen, w, v, m, taken = [x.copy() for _ in range(N)], [start() for _ in range(N)], np.zeros((N, SIZE)), np.zeros((N, SIZE)), [0] * N
    xs = [start() for _ in range(N)]
    for i in order:
        if i < 2:
            z = xs[i].copy()
            for _ in range(PERIOD):
                w[i], v[i] = nesterov(w[i], v[i], gradient(w[i], i, taken[i]) + (w[i] - xs[i]) / GAMMA, LR)  # (8a)
                z, taken[i] = 0.75 * z + 0.25 * w[i], taken[i] + 1  # (8b)
            xs[i], m[i] = nesterov(xs[i], m[i], (xs[i] - z) + (xs[i] - seen[i]) / RHO, OUTER, MU)  # (8c)
            w[i] = xs[i].copy()
        else:
            w[i], v[i] = nesterov(w[i], v[i], gradient(w[i], i, taken[i]) + (w[i] - seen[i]) / RHO, LR)  # (7a)
            taken[i] += 1
        x = x - PULL / N * (x - w[i])  # (8d) and (7b), of one replica
        seen[i] = x.copy()
    return x


def test_entropy_loops_and_elastic_steps_move_one_reference():
    order = [2, 3, 2, 0, 3, 2, 3, 1, 2, 3, 0, 2, 1, 3, 2, 0, 2, 3, 1]
    server = arrivals.in_order(parle.Server(1, replicas=N), order)
    server.run(mixed(order))
    torch.testing.assert_close(arrivals.reference_of(server), torch.from_numpy(transcribed(order)), rtol=0, atol=1e-12)


def test_on_the_clock_each_goes_by_its_own_period():
    server = parle.Simulated(1, replicas=N, clock=parle.Clock(compute="1.0", seed=1))
    server.run(mixed([0] * 4 + [1] * 4 + [2] * 20 + [3] * 20))
    assert server.status()["merged"] == [4, 4, 20, 20] and server.now == pytest.approx(20.0, rel=0.05)


def test_other_families_are_refused():
    server = parle.Server(1, replicas=2)

    def work(seat):
        return arrivals.work(RICH if seat.first else parle.ElasticSGD(rho=RHO, lr=0.2), 5)(seat)

    with pytest.raises(parle.ConfigError, match=r"family|algorithm"):
        server.run(work)
