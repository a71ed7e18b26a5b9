"""SAM as an inner step, with and without coupling."""

import numpy as np
import torch
from problems import Vector, coupled, gradient, start
from test_equations import LR, close, nesterov

import parle


def sam(w, replica, step, radius):
    """Equations 2 and 3 of the paper: the gradient at w + radius g / |g|."""
    g = gradient(w, replica, step)
    return gradient(w + radius * g / (np.linalg.norm(g) + 1e-12), replica, step)


def step_with(replicas, step, radius):
    for replica, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
        optimizer.zero_grad()
        model.loss(replica, step).backward()
        with parle.ascended(model.parameters(), radius):
            model.loss(replica, step).backward()
        optimizer.step()


def test_coupled_replicas_take_the_gradient_where_the_loss_is_higher():
    w, v = [start() for _ in range(3)], [np.zeros_like(start())] * 3
    replicas = coupled(parle.LocalSGD(period=4))
    for step in range(24):
        for i in range(3):
            w[i], v[i] = nesterov(w[i], v[i], sam(w[i], i, step, 0.3), LR)
        if step % 4 == 3:
            w = [sum(w) / 3] * 3
        step_with(replicas, step, 0.3)
    close(replicas.params, np.stack(w))


def test_the_parameters_are_put_back_bit_for_bit_even_after_an_error():
    model = Vector(start())
    before = [p.detach().clone() for p in model.parameters()]
    model.loss(0, 0).backward()
    try:
        with parle.ascended(model.parameters(), 0.5):
            assert not torch.equal(model.head, before[0]) and model.head.grad is None
            raise KeyError
    except KeyError:
        pass
    assert all(torch.equal(p, value) for p, value in zip(model.parameters(), before, strict=True))


def test_a_run_with_sam_counts_two_gradients_a_step(parle_command):
    done = parle_command("train", "-a", "local-sgd", "-n", "2", "-e", "1", "--set", "optimizer.sharpness=0.05", "--json", "--name", "a")
    assert done.json["gradient_evaluations"] == 2 * 2 * done.json["steps"]
