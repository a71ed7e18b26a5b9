"""Replicas that step all at once, or on streams, do what replicas do that step in turn."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import parle
from parle import config, plans, settling
from parle.training import Training


class Tied(nn.Module):
    """A language model whose embedding is its output layer too."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.out = nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 5, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, inputs):
        return self.out(self.norm(torch.tanh(self.embedding(inputs).mean(1))))


class Frozen(nn.Module):
    """Its first layer is not trained, and one parameter is not used."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(6, 4), nn.Linear(4, 5), nn.Parameter(torch.ones(2))
        nn.init.constant_(self.first.weight, 0.1), nn.init.zeros_(self.first.bias)  # the same in all replicas
        self.first.requires_grad_(False)

    def forward(self, inputs):
        return self.second(self.first(inputs))


def convolutional() -> nn.Module:
    norms = nn.BatchNorm2d(4), nn.BatchNorm1d(16)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norms[0], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 16), norms[1], nn.ReLU(), nn.Linear(16, 5))


IMAGES, ROWS, WORDS = (lambda: torch.randn(3, 7, 2, 8, 8)), (lambda: torch.randn(3, 7, 6)), (lambda: torch.randint(0, 5, (3, 7, 4)))
NETWORKS = {
    "linear": (lambda: nn.Linear(6, 5), ROWS),
    "convolutions": (convolutional, IMAGES),
    "channels last": (lambda: convolutional().to(memory_format=torch.channels_last), IMAGES),
    "tied": (Tied, WORDS),
    "frozen": (Frozen, ROWS),
}


def replicas_of(build, count: int = 3, **settings) -> parle.Replicas:
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(build().double())
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1, momentum=0.9, **settings) for m in models]
    return parle.join(models, optimizers, parle.Parle(period=2), start="own")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_at_once_gives_what_a_loop_over_the_models_gives(name, fused):
    build, draw = NETWORKS[name]
    one, loop = replicas_of(build, fused=fused), replicas_of(build, fused=fused)
    batched = parle.Batched(one, cross_entropy)
    for step in range(5):
        torch.manual_seed(step)
        inputs, labels = draw(), torch.randint(0, 5, (3, 7))
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        for optimizer in (*one.optimizers, *loop.optimizers):
            optimizer.zero_grad()
        losses = batched(inputs, labels)
        batched.backward(losses)
        alone = [cross_entropy(model(its), label) for model, its, label in zip(loop.models, inputs, labels, strict=True)]
        for loss in alone:
            loss.backward()
        torch.testing.assert_close(losses.detach(), torch.stack(alone).detach(), rtol=1e-12, atol=1e-12)
        for optimizer in (*one.optimizers, *loop.optimizers):
            optimizer.step()
        torch.testing.assert_close(one.params, loop.params, rtol=1e-12, atol=1e-12)
    for model, other in zip(one.models, loop.models, strict=True):
        for mine, its in zip(model.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)
    assert one.round == 2 and not torch.equal(one.params[0], one.params[1])


def test_gradients_add_up_over_two_passes():
    replicas, (inputs, labels) = replicas_of(lambda: nn.Linear(6, 5)), (torch.randn(3, 7, 6).double(), torch.randint(0, 5, (3, 7)))
    batched = parle.Batched(replicas, cross_entropy)
    batched.backward(batched(inputs, labels))
    once = [model.weight.grad.clone() for model in replicas.models]
    batched.backward(batched(inputs, labels))
    for model, gradient in zip(replicas.models, once, strict=True):
        torch.testing.assert_close(model.weight.grad, 2 * gradient)


def test_every_replica_has_dropout_of_its_own():
    models = [nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 5)) for _ in range(2)]
    replicas = parle.join(models, [torch.optim.SGD(model.parameters(), lr=0.1) for model in models], parle.LocalSGD())
    batched = parle.Batched(replicas, cross_entropy)
    first, second = batched(torch.ones(2, 8, 64), torch.zeros(2, 8, dtype=torch.long))
    assert first != second


def test_what_cannot_be_mapped_is_refused_with_the_cure():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 5)

        def forward(self, inputs):
            outputs = self.layer(inputs)
            return outputs if outputs.sum() > 0 else 2 * outputs

    with pytest.raises(parle.JoinError, match="Step them in turn"):
        parle.Batched(replicas_of(Looks), cross_entropy)(torch.randn(3, 7, 6).double(), torch.randint(0, 5, (3, 7)))


def trained(steps: int, stepping: str, **settings) -> Training:
    sets = [f"{path.replace('__', '.')}={value}" for path, value in settings.items()]
    found = plans.load_data(configured := config.load(sets=(*sets, f"stepping={stepping}")))
    training = Training(plans.plan_for(settling.settled(configured, len(found.train)), found))
    training.advance(steps)
    return training


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "parle"},
        {"algorithm": "elastic-sgd"},
        {"algorithm": "data-parallel"},
        {"algorithm": "local-sgd", "optimizer__sharpness": 0.05},
        {"algorithm": "diloco", "algorithm__period": 4},
        {"algorithm": "parle", "start": "own", "optimizer__fused": True},
        {"algorithm": "parle", "precision": "bf16"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_training_all_at_once_equals_one_in_turn_to_rounding(settings):
    settings |= {"model__options": "{dropout: 0.0}", "algorithm__period": settings.get("algorithm__period", 5)}
    if settings["algorithm"] in ("elastic-sgd", "data-parallel"):
        del settings["algorithm__period"]
    turn, one = trained(12, "in-turn", **settings), trained(12, "batched", **settings)
    start = trained(0, "in-turn", **settings)
    rounding = 0.1 if "precision" in settings else 2e-2 if settings["algorithm"] == "diloco" else 1e-3  # AdamW divides small numbers by small numbers
    moved = (turn.replicas.params - start.replicas.params).norm()
    assert (turn.replicas.params - one.replicas.params).norm() <= rounding * moved
    assert turn.replicas.round == one.replicas.round
    for mine, its in zip(turn.replicas.models, one.replicas.models, strict=True):
        for buffer, other in zip(mine.buffers(), its.buffers(), strict=True):
            assert (buffer - other).float().norm() <= rounding * buffer.float().norm()


@pytest.mark.parametrize("algorithm", ["parle", "data-parallel"])
def test_without_cuda_streams_leave_every_bit_as_it_is(algorithm):
    turn, streams = trained(12, "in-turn", algorithm=algorithm), trained(12, "streams", algorithm=algorithm)
    assert torch.equal(turn.replicas.params, streams.replicas.params)
    assert torch.equal(turn.stream(2).state_dict()["torch"], streams.stream(2).state_dict()["torch"])


def test_replicas_with_periods_of_their_own_step_in_turn():
    settings = {"algorithm": "local-sgd", "algorithm__period": "[2, 3, 4]"}
    turn, one = trained(0, "in-turn", **settings), trained(0, "batched", **settings)
    for training in (turn, one):
        training._advance_to_round()
    assert torch.equal(turn.replicas.params, one.replicas.params)


@pytest.mark.parametrize("stepping", ["batched", "streams"])
@pytest.mark.parametrize("algorithm", ["parle", "slowmo", "data-parallel"])
def test_a_training_goes_on_bit_for_bit(algorithm, stepping):
    whole, cut, rest = (trained(steps, stepping, algorithm=algorithm) for steps in (30, 17, 0))
    rest.load_state_dict(copy.deepcopy(cut.state_dict()))
    rest.advance(13)
    assert torch.equal(whole.replicas.params, rest.replicas.params)
    for mine, its in zip(whole.replicas.models, rest.replicas.models, strict=True):
        assert all(map(torch.equal, mine.buffers(), its.buffers()))


@pytest.mark.parametrize("algorithm", ["parle", "streaming-diloco", "local-sgd"])
def test_the_command_trains_all_at_once(parle_command, algorithm):
    done = parle_command("train", "-a", algorithm, "-e", "8", "--set", "stepping=batched", "--name", "a", "--json")
    assert done.code == 0, done.err
    assert done.json["error_pct"] < 10 and done.json["replicas"] == 3
    assert parle_command("eval", "runs/a", "--json").json["error_pct"] == done.json["error_pct"]
    assert "stepping: batched" in Path("runs/a/config.yaml").read_text()


def test_an_unknown_way_of_stepping_is_refused(parle_command):
    done = parle_command("train", "--set", "stepping=sideways")
    assert done.code == 2 and "stepping is 'sideways', but it should be 'in-turn', 'batched' or 'streams'." in done.err


def test_batches_of_several_sizes_are_refused_before_anything_is_trained(parle_command):
    done = parle_command("train", "-e", "1", "-b", "600", "--set", "stepping=batched", "--set", "data.skew=0.1")
    assert done.code == 2 and "stepping=batched needs batches of one size" in done.err and "or stepping=in-turn" in done.err
