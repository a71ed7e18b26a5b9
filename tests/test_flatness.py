"""How flat a loss is, on losses whose flatness is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parle.flatness import Landscape
from parle.models.char_gpt import char_gpt


class Bowl(nn.Module):
    """A loss 0.5 w A w of parameters alone."""

    def __init__(self, size=6):
        super().__init__()
        rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
        self.values = np.array([9.0, 4.0, 1.0, 0.5, 0.1, -2.0])
        self.matrix = torch.from_numpy(rotation @ np.diag(self.values) @ rotation.T)
        self.w = nn.Parameter(torch.arange(1.0, size + 1, dtype=torch.float64) / 10)

    def forward(self, _):
        return 0.5 * self.w @ self.matrix @ self.w


def bowl():
    return Landscape(made := Bowl(), torch.zeros(1), torch.zeros(1), loss=lambda output, _: output), made


def test_the_largest_curvatures_are_those_of_the_hessian():
    around, made = bowl()
    np.testing.assert_allclose(around.eigenvalues(3), made.values[:3], rtol=1e-9)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    samples, labels = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 2
    parameters = torch.cat([p.detach().reshape(-1) for p in network.parameters()])

    def loss(vector):
        at, views = 0, {}
        for name, p in network.named_parameters():
            views[name], at = vector[at : at + p.numel()].view_as(p), at + p.numel()
        return nn.functional.cross_entropy(torch.func.functional_call(network, views, samples), labels)

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, parameters)).flip(0)
    np.testing.assert_allclose(Landscape(network, samples, labels).eigenvalues(3, steps=26), exact[:3], rtol=1e-8)


def test_a_network_with_attention_has_curvatures():
    network, windows = char_gpt((6,), 11, width=8, heads=2, layers=1), torch.arange(24).view(4, 6) % 11
    assert all(map(math.isfinite, Landscape(network, windows, windows).eigenvalues(2, steps=5)))


def test_the_local_entropy_of_a_bowl_is_the_one_in_closed_form():
    around, made = bowl()
    gamma = 0.05  # so small that the direction which is curved downwards keeps the integral finite
    a, x = made.matrix.numpy(), made.w.detach().numpy()
    spread = np.eye(6) + gamma * a
    exact = 0.5 * np.log(np.linalg.det(spread)) + 0.5 * x @ a @ np.linalg.solve(spread, x)
    assert around.local_entropy(gamma, draws=20_000) == pytest.approx(exact, abs=0.01)
    assert around.local_entropy(1e-12) == pytest.approx(around.loss(), abs=1e-5)


def test_a_direction_is_as_long_as_the_filters_of_the_network():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    samples, labels = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    around = Landscape(network, samples, labels)
    before = [p.detach().clone() for p in network.parameters()]
    losses = around.curve([-1.0, 0.0, 1.0])
    assert losses[1] == pytest.approx(around.loss()) and losses[0] != losses[2]
    with torch.no_grad():  # filters ten times as large under BatchNorm are the same network
        network[0].weight *= 10
        network[0].bias *= 10
        network[1].running_mean *= 10
        network[1].running_var *= 100
    np.testing.assert_allclose(Landscape(network, samples, labels).curve([-1.0, 0.0, 1.0]), losses, rtol=1e-3)
    assert all(torch.equal(p, value) for p, value in zip(list(network.parameters())[2:], before[2:], strict=True))


def test_the_commands_compare_and_examine_finished_runs(parle_command):
    for seed in range(3):
        assert parle_command("train", "-a", "sgd", "-e", "3", "-s", str(seed), "--json", "--name", f"r{seed}").code == 0
    runs = [f"runs/r{seed}" for seed in range(3)]
    for method in ("greedy", "hungarian", "weights"):
        found = parle_command("align", *runs, "--method", method, "--json").json
        off = [found["overlap"][i][j] for i in range(3) for j in range(3) if i != j]
        better = [found["aligned_overlap"][i][j] for i in range(3) for j in range(3) if i != j]
        assert np.mean(better) > np.mean(off) and found["overlap"][0][0] == pytest.approx(1.0)
        assert found["aligned_mean_error_pct"] < found["mean_error_pct"] and found["ensemble_error_pct"] <= max(found["error_pct"])
    assert "mean after alignment" in parle_command("align", *runs, "--plot", "overlap.svg").out
    assert "aligned (greedy)" in Path("overlap.svg").read_text()
    assert parle_command("align", *runs, "--plot", "no/such/folder/overlap.svg").code == 3
    flat = parle_command("flatness", runs[0], "--samples", "200", "--json").json
    assert flat["losses"][10] == pytest.approx(flat["loss"]) and flat["eigenvalues"][0] > 0 and math.isfinite(flat["local_entropy"]["0.001"])
    assert "eigenvalue 1" in parle_command("flatness", runs[0], "--samples", "100").out
    alone, other = parle_command("align", runs[0]), parle_command("align", runs[0], runs[1], "--method", "greddy")
    assert alone.code == other.code == 2 and "two runs or more, got 1" in alone.err and "Use one of greedy, hungarian, weights" in other.err
    parle_command("train", "-a", "sgd", "-e", "0.2", "--set", "model.options.width=32", "--json", "--name", "narrow")
    assert parle_command("align", runs[0], "runs/narrow").code == 2
