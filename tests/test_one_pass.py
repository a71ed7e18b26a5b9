"""The step that is compiled from the readable forms equals them, wherever it is taken, and is not taken where it does not fit."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import parle
from parle import one_pass

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler, which torch.compile needs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # of its own, while it compiles
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
KINDS = {name: kind for name, kind in parle.ALGORITHMS.items() if kind.force is not parle.Algorithm.force or kind.track is not parle.Algorithm.track}
FITTING = {name: kind for name, kind in KINDS.items() if kind.elementwise and not kind.round_before_step}


def net() -> nn.Module:
    """Convolutions in channels_last, a 1 x 1 one, BatchNorm, and a parameter of one number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 36, 1))
    return model.to(memory_format=torch.channels_last)


def ended(algorithm: parle.Algorithm, wanted: bool | None, sgd: dict, kind=torch.float64, between=lambda optimizer: None) -> dict:
    """Twelve steps of one replica, or of three: the vectors, and the momentum."""
    torch._dynamo.reset()
    models = [net().to(kind) for _ in range(1 if algorithm.single else 3)]
    optimizers = [torch.optim.SGD([{"params": m[0].parameters(), "lr": 0.02}, {"params": m[1:].parameters()}], lr=0.05, **sgd) for m in models]
    replicas = parle.join(models, optimizers, algorithm, one_pass=wanted)
    rates = [torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12, cycle_momentum=bool(sgd.get("momentum"))) for o in optimizers]
    for step in range(12):
        for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(100 * step + number), dtype=kind)
            optimizer.zero_grad()
            model(images).square().mean().backward()
            between(optimizer)
            optimizer.step()
            assert model[0].weight.grad is not None, "the gradients are there after the step, as ever"
            rates[number].step()
    replicas.finish()
    found = {name: replicas.vector(name).clone() for name in replicas.names()} | {"reference": replicas.reference.clone()}
    for number, optimizer in enumerate(optimizers):
        found |= {f"momentum {number}.{place}": its["momentum_buffer"].clone() for place, its in optimizer.state_dict()["state"].items() if its}
    return found


def small(name: str, **more) -> parle.Algorithm:
    kind = FITTING[name]
    period = next(f for f in dataclasses.fields(kind) if f.name == "period")
    return kind(**({"period": 4} if period.metadata["each"] else {}) | more)


def close(mine: dict, other: dict, **tolerance) -> None:
    assert mine.keys() == other.keys()
    for name in other:
        torch.testing.assert_close(mine[name], other[name], **tolerance)


def test_every_algorithm_that_steps_is_compiled_or_known_not_to_be():
    assert set(FITTING) >= {"parle", "elastic-sgd", "entropy-sgd", "fedprox", "ema"}


@pytest.fixture
def traced(monkeypatch):
    """Traced and taken apart as for compiling, but carried out by torch's own operations: the same mathematics, in a tenth of the time."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile(function, **how, backend="aot_eager"))


@pytest.mark.parametrize("name", FITTING)
def test_it_is_the_readable_form(name, traced):
    sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    close(ended(small(name), True, sgd), ended(small(name), False, sgd), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8}, {"momentum": 0.9, "weight_decay": 0.01}], ids=str)
def test_it_has_every_form_of_sgd(sgd, traced):
    close(ended(parle.Parle(period=4, gamma=2.0), True, sgd), ended(parle.Parle(period=4, gamma=2.0), False, sgd), rtol=1e-9, atol=1e-12)


def test_in_float32_it_differs_by_rounding():
    sgd = {"momentum": 0.9, "nesterov": True}
    close(ended(parle.Parle(period=4), True, sgd, torch.float32), ended(parle.Parle(period=4), False, sgd, torch.float32), rtol=1e-3, atol=1e-5)


def test_springs_that_tighten_do_not_compile_anew(traced):
    from torch._dynamo.utils import counters

    algorithm = parle.Parle(period=2, gamma=parle.Scoping(100.0, batches=4, floor=1.0), rho=parle.Scoping(1.0, batches=4, floor=0.1))
    graphs = []
    for _ in range(2):
        counters.clear()
        found = ended(algorithm, True, {"momentum": 0.9, "nesterov": True})
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [2, 2]  # parameters of many numbers, and those of one, through six rounds and twelve rates
    close(found, ended(algorithm, False, {"momentum": 0.9, "nesterov": True}), rtol=1e-9, atol=1e-12)


def test_a_step_that_does_not_fit_is_taken_by_the_readable_form(traced):
    turns = []

    def every_third(optimizer) -> None:
        turns.append(1)
        if len(turns) % 3 == 0:  # a part of the network had no gradient
            optimizer.param_groups[1]["params"][-1].grad = None

    sgd = {"momentum": 0.9, "nesterov": True}
    ends = [ended(parle.Parle(period=4), wanted, sgd, between=every_third) for wanted in (True, False)]
    close(*ends, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_hooks_that_look_at_gradients_still_see_them(traced, kind):
    seen = []

    def look(its, *_) -> None:
        seen.append(all(p.grad is not None for group in its.param_groups for p in group["params"]))

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if kind == "post":  # comes before the one of join
        optimizer.register_step_post_hook(look)
    replicas = parle.join(model, optimizer, parle.EMA(), one_pass=True)
    if kind == "pre":
        optimizer.register_step_pre_hook(look)
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert seen == [True] and replicas.algorithm


def test_numbers_of_any_library_follow_their_schedule(traced):
    algorithm = parle.Parle(period=2, gamma=lambda round: np.float32(0.5**round))
    sgd = {"momentum": 0.9}
    close(ended(algorithm, True, sgd), ended(algorithm, False, sgd), rtol=1e-9, atol=1e-12)


def test_a_rate_may_be_a_tensor(traced):
    models = [nn.Linear(3, 2).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, wanted in zip(models, (True, False), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor([0.1]))
        with parle.join(model, optimizer, parle.EntropySGD(period=2), one_pass=wanted):
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.ones(2, 3).double()).square().sum().backward()
                optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)


@dataclasses.dataclass(frozen=True)
class Assigning(parle.Algorithm):
    """A running mean and a pull towards it, in the way of the examples: a vector is assigned."""

    period: int = 4
    memory: float = 0.5
    elementwise = True

    def start(self, r):
        r.z = r.params

    def force(self, r):
        return r.params - r.z

    def track(self, r):
        r.z = self.memory * r.z + (1 - self.memory) * r.params


def test_a_vector_that_is_assigned_is_written(traced):
    close(ended(Assigning(), True, {}), ended(Assigning(), False, {}), rtol=1e-9, atol=1e-12)


def test_algorithms_do_not_count_against_each_other(traced, monkeypatch):
    monkeypatch.setattr(torch._dynamo, "reset", lambda: None)  # as in a process that joins one after another
    for name in FITTING:
        found = ended(small(name), True, {"momentum": 0.9})
    close(found, ended(small(name), False, {"momentum": 0.9}), rtol=1e-9, atol=1e-12)


def test_a_step_that_cannot_be_compiled_half_way_is_taken_once(traced, monkeypatch):
    def compile(function, **_):
        calls = []

        def called(*arguments) -> None:
            calls.append(1)
            if len(calls) > 3:
                raise torch._dynamo.exc.FailOnRecompileLimitHit("no more forms")
            function(*arguments)

        return called

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(one_pass, "LARGE", 1)
    monkeypatch.setattr(one_pass, "COARSE", 1)
    with pytest.warns(UserWarning, match="no more forms"):
        found = ended(parle.Parle(period=4), None, {"momentum": 0.9})
    close(found, ended(parle.Parle(period=4), False, {"momentum": 0.9}), rtol=1e-9, atol=1e-12)


def test_the_rule_is_a_matter_of_size():
    class Wide(nn.Module):
        def __init__(self, tensors: int, size: int):
            super().__init__()
            self.tensors = nn.ParameterList(torch.zeros(size) for _ in range(tensors))

    def choice(tensors: int, size: int, wanted=None, algorithm=None) -> bool:
        model = Wide(tensors, size)
        its = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), algorithm or parle.Parle(), one_pass=wanted)._replicas[0].one_pass
        return its is not None

    assert choice(2, one_pass.LARGE // 2) and not choice(2, one_pass.LARGE // 2 - 1)
    assert not choice(2, one_pass.LARGE // 2, wanted=False) and choice(1, 10, wanted=True)
    assert not choice(one_pass.LARGE // 1000, 1001)  # many small tensors
    assert not choice(2, one_pass.LARGE, algorithm=parle.LocalSGD())  # has nothing to add to the step


@pytest.mark.parametrize(
    ("algorithm", "optimizer", "words"),
    [
        (parle.Parle(), torch.optim.AdamW, "the optimizer is AdamW"),
        (parle.LocalSGD(), torch.optim.SGD, "LocalSGD does nothing between two rounds"),
        (parle.DataParallel(), torch.optim.SGD, "meets before the step"),
    ],
    ids=["AdamW", "local SGD", "data-parallel"],
)
def test_what_cannot_be_is_refused_where_it_is_asked_for(algorithm, optimizer, words):
    model = net()
    with pytest.raises(parle.ConfigError, match=words):
        parle.join(model, optimizer(model.parameters(), lr=0.1), algorithm, one_pass=True)


def test_a_compiler_that_fails_costs_nothing_but_speed(monkeypatch):
    def fails(*_) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    monkeypatch.setattr(one_pass, "LARGE", 1)
    monkeypatch.setattr(one_pass, "COARSE", 1)
    sgd = {"momentum": 0.9}
    with pytest.warns(UserWarning, match="The step cannot be compiled: no compiler and more"):
        found = ended(parle.Parle(period=4), None, sgd)
    close(found, ended(parle.Parle(period=4), False, sgd), rtol=0, atol=0)
    with pytest.raises(parle.SetupError, match="needs a C\\+\\+ compiler"):
        ended(parle.Parle(period=4), True, sgd)
