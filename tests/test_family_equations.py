"""The model-averaging family against transcriptions of its papers into NumPy, in float64, to 1e-12.

As in test_equations: written from the papers' equations, one replica at a time, with no code of parle.
"""

import math

import numpy as np
import pytest
import torch
from problems import SIZE, advance, coupled, gradient, start
from test_equations import LR, MU, N, close, nesterov

import parle


class Inner:
    """Replicas with the inner optimizer of the problem, in NumPy; each counts its own steps."""

    def __init__(self, count=N):
        self.w, self.v, self.taken = [start() for _ in range(count)], [np.zeros(SIZE) for _ in range(count)], [0] * count

    def step(self, i, steps, lr=LR):
        for _ in range(steps):
            self.w[i], self.v[i] = nesterov(self.w[i], self.v[i], gradient(self.w[i], i, self.taken[i]), lr)
            self.taken[i] += 1

    def all_step(self, steps, lr=LR):
        for i in range(len(self.w)):
            self.step(i, steps, lr)

    def take(self, x):
        self.w = [x.copy() for _ in self.w]


def step_each(replicas, taken, counts):
    """Take so many steps with each replica in turn; replica i draws its own mini-batches in order."""
    for i, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
        for step in range(taken[i], taken[i] + counts[i]):
            optimizer.zero_grad()
            model.loss(i, step).backward()
            optimizer.step()
        taken[i] += counts[i]


def test_algorithm_2_of_parallel_restarted_sgd_has_growing_periods_and_falling_rates():
    scale, workers, x = 0.1, Inner(), start()
    replicas, taken = coupled(parle.LocalSGD(period=parle.Stages(N))), [0] * N
    rate = parle.Power(scale * N, -2 / 3)
    for s in range(1, 70):
        interval, gamma = math.ceil(round(s ** (1 / 3), 12) / N), scale * N / s ** (2 / 3)
        workers.all_step(interval, gamma)
        x = sum(workers.w) / N
        workers.take(x)
        for optimizer in replicas.optimizers:
            optimizer.param_groups[0]["lr"] = rate(replicas.round)
        assert replicas.steps_to_round == interval
        step_each(replicas, taken, [interval] * N)
    assert interval == 2 and replicas.round == 69
    close(replicas.reference, x)


@pytest.mark.parametrize("weigh", ["uniform", "steps", "replicas"])
def test_algorithm_3_of_parallel_restarted_sgd_lets_every_replica_take_its_own_number_of_steps(weigh):
    periods, workers, x = (5, 3, 1), Inner(), start()
    replicas, taken = coupled(parle.LocalSGD(period=periods, weigh=weigh)), [0] * N
    for _ in range(20):
        changes = []
        for i in range(N):
            workers.step(i, periods[i])
            change = workers.w[i] - x
            if weigh == "steps":
                change = change * periods[i] / sum(periods) * N
            elif weigh == "replicas":
                change = change / periods[i] * sum(periods) / N
            changes.append(change)
        x = x + sum(changes) / N
        workers.take(x)
        step_each(replicas, taken, periods)
    assert (replicas.round, replicas.pace.mean_steps) == (20, 60.0)
    close(replicas.reference, x)
    close(replicas.params, np.stack(workers.w))


def test_parallel_restarted_sgd_with_momentum_averages_the_momentum_as_well():
    workers, x = Inner(), start()
    for _ in range(12):
        workers.all_step(4)
        x, u = sum(workers.w) / N, sum(workers.v) / N
        workers.take(x)
        workers.v = [u.copy() for _ in range(N)]
    replicas = advance(coupled(parle.LocalSGD(period=4), optimizer_state="average"), 48)
    close(replicas.reference, x)
    close(replicas.optimizers[1].state_dict()["state"][0]["momentum_buffer"], u[:3])


def test_one_shot_averaging_averages_once():
    workers = Inner()
    workers.all_step(30)
    replicas = advance(coupled(parle.OneShot()), 30)
    close(replicas.solution_vector(), sum(workers.w) / N)
    assert replicas.round == 0
    replicas.finish()
    close(replicas.reference, sum(workers.w) / N)
    close(replicas.params, np.stack([sum(workers.w) / N] * N))
    assert replicas.round == 1


def test_post_local_sgd_is_data_parallel_first():
    workers = Inner()
    periods = [1] * 10 + [5] * 6
    for period in periods:
        workers.all_step(period)
        workers.take(sum(workers.w) / N)
    replicas = advance(coupled(parle.LocalSGD(period=parle.Switch(1, 5, at=10))), 40)
    close(replicas.reference, workers.w[0])
    half = coupled(parle.LocalSGD(period=parle.Switch(1, 5, at=10)), optimizer=lambda p: torch.optim.SGD(p, lr=LR))
    data_parallel = coupled(parle.DataParallel(), optimizer=lambda p: torch.optim.SGD(p, lr=LR))
    close(advance(half, 10).params, advance(data_parallel, 10).params.numpy())


def test_adacomm_shortens_the_period_with_the_square_root_of_the_loss():
    def loss(step):
        return 4.0 / (1 + step)

    replicas, period, step, first = coupled(parle.LocalSGD(period=parle.AdaComm(8))), 8, 0, None
    for round in range(12):
        assert replicas.steps_to_round == period
        losses = []
        for _ in range(period):
            for row in range(N):
                replicas.report(loss(step) * (row + 1), row)
                losses.append(loss(step) * (row + 1))
            advance(replicas, 1, first=step)
            step += 1
        assert replicas.round == round + 1
        mean = sum(losses) / len(losses)
        first = first or mean
        period = max(1, math.ceil(math.sqrt(mean / first) * 8))
    assert period == 3


def test_adacomm_needs_to_be_told_the_loss():
    with pytest.raises(parle.ConfigError, match=r"Call replicas.report\(loss\) before every optimizer.step"):
        advance(coupled(parle.LocalSGD(period=parle.AdaComm(2))), 2)


def test_the_quadratic_rule_lengthens_the_period_as_the_rate_falls():
    replicas, step, expected = coupled(parle.LocalSGD(period=parle.QSR(2, alpha=0.08))), 0, 2
    for round, lr in enumerate((0.05, 0.03, 0.02, 0.02)):
        assert replicas.steps_to_round == expected
        for optimizer in replicas.optimizers:
            optimizer.param_groups[0]["lr"] = lr
        advance(replicas, expected, first=step)
        step += expected
        expected = max(2, math.floor((0.08 / lr) ** 2))
        assert replicas.round == round + 1
    assert expected == 16


def eta(k):
    return 0.05 / (2 ** (k >= 5))


def test_slowmo_follows_its_algorithm_with_a_rate_that_drops():
    workers, x, u, alpha, beta = Inner(), start(), np.zeros(SIZE), 0.8, 0.6
    for k in range(12):
        workers.all_step(4)
        u = beta * u + (x - sum(workers.w) / N) / eta(k)
        x = x - alpha * eta(k) * u
        workers.take(x)
    algorithm = parle.SlowMo(period=4, alpha=alpha, momentum=beta, lr=parle.Steps(0.05, at=(5,), factor=2.0))
    replicas = advance(coupled(algorithm), 48)
    close(replicas.reference, x)
    close(replicas.center.shared.u, u)


@pytest.mark.parametrize("ahead", [False, True])
def test_bmuf_filters_the_mean_change_of_a_block(ahead):
    workers, x, d, mu, zeta = Inner(), start(), np.zeros(SIZE), 0.6, 0.9
    y = x.copy()
    for _ in range(12):
        workers.all_step(4)
        d = mu * d + zeta * (sum(workers.w) / N - y)
        x = x + d
        y = x + mu * d if ahead else x
        workers.take(y)
    replicas = advance(coupled(parle.BMUF(period=4, momentum=mu, rate=zeta, nesterov=ahead)), 48)
    close(replicas.reference, y)
    close(replicas.params, np.stack(workers.w))
    close(replicas.solution_vector(), x)


def adamw(w, m, v, g, t, lr=0.01, b1=0.9, b2=0.999, eps=1e-8, decay=0.01):
    """Decoupled weight decay regularization (arXiv 1711.05101), Algorithm 2."""
    w = w * (1 - lr * decay)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    return w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps), m, v


def torch_adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.01)


class InnerAdamW(Inner):
    def __init__(self):
        super().__init__()
        self.m = [np.zeros(SIZE) for _ in range(N)]

    def step(self, i, steps):
        for _ in range(steps):
            g = gradient(self.w[i], i, self.taken[i])
            self.taken[i] += 1
            self.w[i], self.m[i], self.v[i] = adamw(self.w[i], self.m[i], self.v[i], g, self.taken[i])

    def all_step(self, steps):
        for i in range(N):
            self.step(i, steps)


def test_diloco_has_adamw_inside_and_nesterov_outside():
    workers, theta, v, lr, mu = InnerAdamW(), start(), np.zeros(SIZE), 0.7, 0.9
    for _ in range(10):
        workers.all_step(6)
        delta = sum(theta - w for w in workers.w) / N
        v = mu * v + delta
        theta = theta - lr * (delta + mu * v)
        workers.take(theta)
    replicas = advance(coupled(parle.DiLoCo(period=6), optimizer=torch_adamw), 60)
    close(replicas.reference, theta)
    close(replicas.params, np.stack(workers.w))


def fragments(count):
    return [slice(SIZE * p // count, SIZE * (p + 1) // count) for p in range(count)]


@pytest.mark.parametrize("delay", [0, 2])
def test_streaming_diloco_exchanges_a_fragment_at_a_time_and_takes_it_late(delay):
    workers, theta, v, lr, mu, count, between, alpha = InnerAdamW(), start(), np.zeros(SIZE), 0.7, 0.9, 3, 4, 0.5
    waiting = None

    def arrive():
        p, new = waiting
        for w in workers.w:
            w[p] = alpha * w[p] + (1 - alpha) * new

    for k in range(14):
        for step in range(between):
            workers.all_step(1)
            if waiting and step + 1 == delay:
                arrive()
                waiting = None
        p = fragments(count)[k % count]
        delta = theta[p] - sum(w[p] for w in workers.w) / N
        v[p] = mu * v[p] + delta
        theta[p] = theta[p] - lr * (delta + mu * v[p])
        if delay:
            waiting = (p, theta[p].copy())
        else:
            for w in workers.w:
                w[p] = theta[p]
    algorithm = parle.StreamingDiLoCo(period=between, fragments=count, alpha=alpha)
    communicator = parle.Overlapped(parle.InProcess(), delay) if delay else None
    replicas = advance(coupled(algorithm, optimizer=torch_adamw, communicator=communicator), between * 14)
    close(replicas.params, np.stack(workers.w))
    if not delay:
        close(replicas.reference, theta)
    replicas.finish()  # the last round is one of the whole vector
    close(replicas.params, np.stack([replicas.reference.numpy()] * N))


def test_lookahead_interpolates_one_replica():
    worker, phi, alpha = Inner(1), start(), 0.4
    for _ in range(12):
        worker.all_step(5)
        phi = phi + alpha * (worker.w[0] - phi)
        worker.take(phi)
    close(advance(coupled(parle.Lookahead(alpha=alpha), replicas=1), 60).reference, phi)


def test_an_exponential_moving_average_is_shipped_and_not_trained():
    worker, average = Inner(1), start()
    for _ in range(50):
        worker.all_step(1)
        average = 0.9 * average + 0.1 * worker.w[0]
    replicas = advance(coupled(parle.EMA(decay=0.9), replicas=1), 50)
    close(replicas.solution_vector(), average)
    close(replicas.params[0], worker.w[0])


def test_swa_is_the_plain_mean_of_the_ends_of_the_last_cycles():
    worker, ends = Inner(1), []
    for cycle in range(12):
        worker.all_step(4)
        if cycle >= 5:
            ends.append(worker.w[0].copy())
    replicas = advance(coupled(parle.SWA(period=4, weight=parle.Harmonic(since=5)), replicas=1), 48)
    close(replicas.solution_vector(), sum(ends) / len(ends))
    close(replicas.params[0], worker.w[0])


def test_parle_may_follow_with_a_moving_average():
    period, rho, gamma, pull, lr = 5, 0.5, 20.0, 0.3, 0.08
    x, xs, ys, vs, ms = start(), [start() for _ in range(N)], [start() for _ in range(N)], [np.zeros(SIZE)] * N, [np.zeros(SIZE)] * N
    for k in range(12):
        for a in range(N):
            z = xs[a].copy()
            for step in range(k * period, (k + 1) * period):
                ys[a], vs[a] = nesterov(ys[a], vs[a], gradient(ys[a], a, step) + (ys[a] - xs[a]) / gamma, LR)  # (8a)
                z = 0.75 * z + 0.25 * ys[a]  # (8b)
            xs[a], ms[a] = nesterov(xs[a], ms[a], (xs[a] - z) + (xs[a] - x) / rho, lr, MU)  # (8c)
            ys[a] = xs[a].copy()
        x = x - pull * (x - sum(xs) / N)  # (8d)
    replicas = advance(coupled(parle.ParleMoving(period=period, rho=rho, gamma=gamma, lr=lr, pull=pull)), 60)
    close(replicas.reference, x)
    close(replicas.params, np.stack(ys))


def test_fedprox_holds_the_replicas_near_the_last_reference():
    x, mu, w, v = start(), 0.3, [start() for _ in range(N)], [np.zeros(SIZE) for _ in range(N)]
    for step in range(48):
        for i in range(N):
            w[i], v[i] = nesterov(w[i], v[i], gradient(w[i], i, step) + mu * (w[i] - x), LR)
        if step % 4 == 3:
            x = sum(w) / N
            w = [x.copy() for _ in range(N)]
    close(advance(coupled(parle.FedProx(period=4, mu=mu)), 48).reference, x)


def test_bmuf_with_nesterov_takes_one_momentum():
    with pytest.raises(parle.ConfigError, match="Give momentum as a number"):
        parle.BMUF(nesterov=True, momentum=parle.Ramp(0.1, 0.9, by=0.1))
