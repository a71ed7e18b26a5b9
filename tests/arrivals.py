"""Replicas of the small problem at a server, whose proposals arrive in a given order."""

import threading

import numpy as np
import torch
from problems import Vector, plain_sgd, start, torch_sgd

import parle


def feasible(count: int, replicas: int, quorum, seed: int = 0) -> list[int]:
    """A random order of arrivals in which no replica proposes while its last proposal still waits in the buffer, which is empty at the end."""
    draw, order, waiting, closed = np.random.default_rng(seed), [], set(), 0
    for received in range(1, count + 1):
        order.append(int(draw.choice([replica for replica in range(replicas) if replica not in waiting])))
        waiting.add(order[-1])
        if len(waiting) >= min(replicas, quorum(received)):
            waiting, closed = set(), received
    return order[:closed]


def work(algorithm, steps, optimizer=None):
    """What a replica does at its seat: so many steps of the problem, until all are done; its parameters, its reference and its round."""
    steps = steps if callable(steps) else lambda replica, steps=steps: steps

    def its(seat):
        make = optimizer or (plain_sgd if algorithm.steps_at_center else torch_sgd)
        with parle.join(model := Vector(start()), make(model.parameters()), algorithm, seat) as replica:
            for step in range(steps(seat.first)):
                replica.optimizers[0].zero_grad()
                model.loss(seat.first, step).backward()
                replica.optimizers[0].step()
            seat.gather([replica.params[0]])
            return replica.params[0].clone(), replica.reference.clone(), replica.round

    return its


def steps_in(order: list[int], period: int = 1):
    """How many steps each replica takes for such an order."""
    return lambda replica: order.count(replica) * period


def in_order(server: parle.Server, order: list[int]) -> parle.Server:
    """Let proposals come to the server in that order, and reach it one after the other."""
    turn, come, ask, propose = threading.Condition(), [], server.ask, server.desk.propose

    def ask_in_turn(replica, call, *arguments):
        if call in ("fetch", "propose"):
            with turn:
                assert turn.wait_for(lambda: order[len(come)] == replica, timeout=60)
        return ask(replica, call, *arguments)

    def note(replica, *arguments):
        released = propose(replica, *arguments)
        with turn:
            come.append(replica)
            turn.notify_all()
        return released

    server.ask, server.desk.propose = ask_in_turn, note
    return server


def reference_of(server) -> torch.Tensor:
    """The reference at the end."""
    return server.desk.center.shared.reference
