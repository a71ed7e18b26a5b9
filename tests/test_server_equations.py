"""The server family against NumPy transcriptions of its papers, to 1e-12 in float64, for given orders of arrivals."""

import arrivals
import numpy as np
import pytest
import torch
from problems import gradient, start

import parle


def ramp(step: int, replicas: int):
    """The Smooth Switch: K(u) = min(n, 1 + floor(u / step)) after u gradients."""
    return lambda received: min(replicas, 1 + received // step)


def server_sgd(order, n, quorum, lr, mu=0.0, decay=0.0, reduce="mean", correction="none", strength=0.0):
    """A server that steps as soon as its buffer holds K gradients: x after all arrivals, and the staleness of each merged one."""
    x, v = start(), np.zeros_like(start())
    held, version, taken, buffer, late, updates = [x.copy() for _ in range(n)], [0] * n, [0] * n, [], [], 0
    for received, i in enumerate(order, 1):
        g = gradient(held[i], i, taken[i]) + decay * held[i]
        taken[i] += 1
        buffer.append((i, g))
        if len(buffer) < min(n, quorum(received)):
            continue
        terms = []
        for i, g in sorted(buffer, key=lambda its: its[0]):
            tau = updates - version[i]
            late.append(tau)
            if correction == "rate" and tau > 1:
                g = g / tau
            if correction == "delay":
                g = g + strength * g * g * (x - held[i])
            terms.append(g)
        total = np.sum(terms, axis=0)
        v = mu * v + (total if reduce == "sum" else total / len(terms))
        x = x - lr * v
        updates += 1
        for i, _ in buffer:
            held[i], version[i] = x.copy(), updates
        buffer = []
    return x, late


CASES = {
    "asynchronous": {},
    "synchronous": {"quorum": "n"},
    "K-async": {"quorum": 2},
    "Smooth Switch": {"quorum": "ramp(1, n, every=7)"},
    "Smooth Switch, sum": {"quorum": "ramp(1, n, every=7)", "reduce": "sum", "lr": 0.03},
    "momentum": {"quorum": 2, "momentum": 0.9, "weight_decay": 0.01},
    "staleness-aware": {"correction": "rate"},
    "DC-ASGD": {"correction": "delay", "compensation": 0.5},
    "DC-ASGD, K = 2": {"quorum": 2, "correction": "delay", "compensation": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_server_sgd(case):
    settings, n = {"lr": 0.1, "reduce": "mean", **CASES[case]}, 4
    quorum = settings.pop("quorum", 1)
    rule = {"n": lambda _: n, "ramp(1, n, every=7)": ramp(7, n)}.get(quorum, lambda _: quorum)
    order = arrivals.feasible(41, n, rule)
    server = arrivals.in_order(parle.Server(quorum, replicas=n), order)
    server.run(arrivals.work(parle.ServerSGD(**settings), arrivals.steps_in(order)))
    names = {"momentum": "mu", "weight_decay": "decay", "compensation": "strength"}
    x, late = server_sgd(order, n, rule, **{names.get(name, name): value for name, value in settings.items()})
    torch.testing.assert_close(arrivals.reference_of(server), torch.from_numpy(x), rtol=0, atol=1e-12)
    assert sorted(server.desk.staleness.elements()) == sorted(late) and server.desk.merged == [order.count(replica) for replica in range(n)]


def test_asynchronous_elastic_averaging():
    n, tau, alpha, eta = 3, 4, 0.3, 0.05
    order = arrivals.feasible(20, n, lambda _: 1)
    x, w, taken = start(), [start() for _ in range(n)], [0] * n
    for i in order:
        for _ in range(tau):
            w[i] = w[i] - eta * gradient(w[i], i, taken[i])
            taken[i] += 1
        d = alpha * (w[i] - x)
        w[i], x = w[i] - d, x + d
    server = arrivals.in_order(parle.Server(1, replicas=n), order)
    algorithm = parle.EASGD(period=tau, alpha=alpha)
    ended = server.run(arrivals.work(algorithm, arrivals.steps_in(order, tau), lambda p: torch.optim.SGD(p, lr=eta)))
    torch.testing.assert_close(arrivals.reference_of(server), torch.from_numpy(x), rtol=0, atol=1e-12)
    for replica, (params, _, _) in enumerate(ended):
        torch.testing.assert_close(params, torch.from_numpy(w[replica]), rtol=0, atol=1e-12)
