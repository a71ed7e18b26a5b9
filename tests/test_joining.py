"""What a user may do with models and optimizers that are joined, and what is refused with a cure."""

import copy

import pytest
import torch
from problems import Vector, advance, coupled, start, torch_sgd
from torch import nn

import parle


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))


def sgd(model: nn.Module, **settings) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **{"lr": 0.05, "momentum": 0.9, **settings})


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs).square().sum(1).mean().backward()
    optimizer.step()


def pair(algorithm: parle.Algorithm | None = None, **policies) -> parle.Replicas:
    models = [network(0), network(1)]
    return parle.join(models, [sgd(model) for model in models], algorithm or parle.LocalSGD(period=2), **policies)


def trained_with_scaler(algorithm: parle.Algorithm, scale: float, fused: bool) -> torch.Tensor:
    """The parameters of two replicas after four steps under GradScalers."""
    models = [network(0).eval(), network(0).eval()]
    optimizers = [sgd(m, fused=fused) for m in models]
    replicas = parle.join(models, optimizers, algorithm)
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for _ in models]
    for number in range(4):
        for index, (m, o, s) in enumerate(zip(models, optimizers, scalers, strict=True)):
            inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(10 * number + index))
            o.zero_grad()
            s.scale(m(inputs).square().sum(1).mean()).backward()
            s.step(o)
            s.update()
    return replicas.params.clone()


def test_parameters_are_views_of_one_row():
    replicas = coupled(parle.LocalSGD())
    replicas.params[1].fill_(2.5)
    assert all((p == 2.5).all() for p in replicas.models[1].parameters())


def test_replicas_start_equal_unless_told_otherwise():
    assert torch.equal(*pair().params)
    own = pair(start="own")
    assert not torch.equal(*own.params)
    torch.testing.assert_close(own.reference, own.params.mean(0))


@pytest.mark.parametrize("name", parle.ALGORITHMS)
def test_optimizers_may_be_stepped_in_any_order(name):
    kind = parle.ALGORITHMS[name]
    if kind.single:
        pytest.skip("has one replica")
    in_turn, shuffled = coupled(kind()), coupled(kind())
    advance(in_turn, 30)
    order = torch.Generator().manual_seed(3)
    for number in range(30):
        for index in torch.randperm(3, generator=order).tolist():
            shuffled.optimizers[index].zero_grad()
            shuffled.models[index].loss(index, number).backward()
            shuffled.optimizers[index].step()
    assert torch.equal(in_turn.params, shuffled.params)


def test_one_replica_may_take_its_whole_period_before_the_next():
    in_turn, one_by_one = coupled(parle.Parle(period=5)), coupled(parle.Parle(period=5))
    advance(in_turn, 20)
    for first in range(0, 20, 5):
        for index, (model, optimizer) in enumerate(zip(one_by_one.models, one_by_one.optimizers, strict=True)):
            for number in range(first, first + 5):
                optimizer.zero_grad()
                model.loss(index, number).backward()
                optimizer.step()
    assert torch.equal(in_turn.params, one_by_one.params)


def test_parameter_groups_keep_their_settings():
    models = [Vector(start()), Vector(start())]
    optimizers = [torch.optim.SGD([{"params": [m.head], "lr": 0.0}, {"params": [m.tail]}], lr=0.05) for m in models]
    replicas = advance(parle.join(models, optimizers, parle.LocalSGD(period=2)), 6)
    assert torch.equal(models[0].head.detach(), torch.from_numpy(start()[:3]))
    assert replicas.round == 3


def test_tied_parameters_are_counted_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    models = [Tied(), Tied()]
    replicas = parle.join(models, [sgd(m) for m in models], parle.LocalSGD(period=1))
    assert replicas.params.shape == (2, 3 * 3 + 3 + 3)
    models[0](torch.ones(1, 3)).sum().backward()
    models[1](torch.ones(1, 3)).sum().backward()
    for optimizer in replicas.optimizers:
        optimizer.step()
    assert models[0].one.weight is models[0].two.weight
    assert torch.equal(models[0].one.weight, models[1].two.weight)


def test_frozen_parameters_stay_out_of_the_vector():
    models = [network(0), network(1)]
    for model in models:
        model[0].requires_grad_(False)
    replicas = parle.join(models, [sgd(m) for m in models], parle.LocalSGD(period=1))
    assert replicas.params.shape[1] == sum(p.numel() for p in models[0].parameters() if p.requires_grad)
    assert torch.equal(models[0][0].weight, models[1][0].weight)  # a common start
    with pytest.raises(parle.JoinError, match=r"frozen parameter `0.weight` differs"):
        others = [network(0), network(1)]
        for model in others:
            model[0].requires_grad_(False)
        parle.join(others, [sgd(m) for m in others], parle.LocalSGD(), start="own")


def test_a_parameter_without_a_gradient_still_feels_the_force():
    replicas = coupled(parle.ElasticSGD(rho=1.0), replicas=2, own_starts=True)
    before = replicas.models[0].tail.detach().clone()
    for model, optimizer in zip(replicas.models, replicas.optimizers, strict=True):
        model.head.sum().backward()
        optimizer.step()
    assert not torch.equal(before, replicas.models[0].tail)


def test_several_dtypes_are_refused_by_name():
    model = network()
    model[4].double()
    with pytest.raises(parle.JoinError, match=r"`4.weight` is torch.float64 on cpu, but the first one is torch.float32"):
        parle.join(model, sgd(model), parle.LocalSGD())


def test_memory_formats_survive():
    models = [nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    values = models[0].weight.detach().clone()
    replicas = parle.join(models, [sgd(m) for m in models], parle.LocalSGD())
    assert models[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(models[0].weight, values)
    assert torch.equal(models[1].weight, values)
    assert replicas.params.shape[1] == values.numel() + 4


def test_different_models_are_refused_by_the_first_difference():
    models = [network(), nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))]
    with pytest.raises(parle.JoinError, match=r"Replica 1 has `4.weight` \(3, 6\) where replica 0 has `4.weight` \(2, 6\)"):
        parle.join(models, [sgd(m) for m in models], parle.LocalSGD())
    models = [network(), nn.Linear(4, 6)]
    with pytest.raises(parle.JoinError, match="Replica 1 has 2 tensors, replica 0 has 6"):
        parle.join(models, [sgd(m) for m in models], parle.LocalSGD())


def test_optimizers_of_other_models_are_refused():
    models = [network(0), network(1)]
    with pytest.raises(parle.JoinError, match="Optimizer 0 steps 6 parameters that are not in model 0"):
        parle.join(models, [sgd(models[1]), sgd(models[0])], parle.LocalSGD())
    with pytest.raises(parle.JoinError, match="2 models and 1 optimizers"):
        parle.join(models, sgd(models[0]), parle.LocalSGD())


@pytest.mark.parametrize(("policy", "value"), [("start", "commn"), ("buffers", "recompte"), ("optimizer_state", "averge")])
def test_an_unknown_policy_names_its_nearest_neighbour(policy, value):
    with pytest.raises(parle.ConfigError, match=r"Did you mean (common|recompute|average)"):
        pair(**{policy: value})


def test_a_closure_is_refused():
    replicas = pair()
    with pytest.raises(parle.JoinError, match="closure"):
        replicas.optimizers[0].step(lambda: 0.0)


def test_moving_the_model_after_joining_is_refused():
    replicas = pair()
    replicas.models[0].double()
    with pytest.raises(parle.JoinError, match=r"`0.weight` of replica 0 has moved in memory"):
        step(network(), sgd(network()))  # others are not concerned
        replicas.optimizers[0].step()


def test_a_replica_that_steps_alone_is_noticed():
    replicas = coupled(parle.LocalSGD(period=2), replicas=2)
    model, optimizer = replicas.models[0], replicas.optimizers[0]
    with pytest.raises(parle.JoinError, match=r"Replica 0 steps again in round 0.* have taken \[10, 0\] steps of 2"):
        for number in range(20):
            optimizer.zero_grad()
            model.loss(0, number).backward()
            optimizer.step()


@pytest.mark.parametrize("skipping", [0, 1])
def test_a_step_that_a_grad_scaler_passes_over_does_not_stop_the_others(skipping):
    models = [network(0).eval(), network(0).eval()]
    optimizers = [sgd(m) for m in models]
    replicas = parle.join(models, optimizers, parle.LocalSGD(period=3))
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in models]
    for number in range(9):
        for index, (m, o, s) in enumerate(zip(models, optimizers, scalers, strict=True)):
            inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(10 * number + index))
            o.zero_grad()
            s.scale(m(inputs).square().sum(1).mean()).backward()
            if (index, number) == (skipping, 4):
                m[0].weight.grad[0, 0] = float("inf")
            s.step(o)
            s.update()
    assert replicas.round == 2
    replicas.finish()
    assert replicas.round == 3 and bool(torch.isfinite(replicas.params).all())


def test_data_parallel_takes_scaled_gradients_of_optimizers_that_unscale():
    scaled = trained_with_scaler(parle.DataParallel(), 1024.0, fused=True)
    assert torch.equal(*scaled)
    torch.testing.assert_close(trained_with_scaler(parle.DataParallel(), 1.0, fused=True), scaled)


def test_data_parallel_with_a_rate_in_a_tensor_and_a_scheduler():
    models = [network(0).eval(), network(0).eval()]
    optimizers = [torch.optim.Adam(m.parameters(), lr=torch.tensor(0.1), foreach=False) for m in models]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in optimizers]
    replicas = parle.join(models, optimizers, parle.DataParallel())
    for number in range(3):
        for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
            step(model, optimizer, number)
            scheduler.step()
    torch.testing.assert_close(*replicas.params)


def test_weights_loaded_after_joining_are_refused_but_copies_are_free():
    replicas = pair()
    twin = copy.deepcopy(replicas.models[0])
    twin.load_state_dict(network(3).state_dict())
    with pytest.raises(parle.JoinError, match="Weights were loaded into the model of replica 0 after it was joined"):
        replicas.models[0].load_state_dict(twin.state_dict())
    replicas.close()
    replicas.models[0].load_state_dict(twin.state_dict())


def test_an_exchanged_layer_is_noticed_at_the_round():
    replicas = pair()
    model, optimizer = replicas.models[0], replicas.optimizers[0]
    model[4] = nn.Linear(6, 2)
    with pytest.raises(parle.JoinError, match=r"Parameter `4.weight` of replica 0 is another one than at join"):
        for number in range(2):
            for m, o in zip(replicas.models, replicas.optimizers, strict=True):
                step(m, o, number)
    assert optimizer is replicas.optimizers[0]


def test_a_state_of_another_memory_order_is_refused():
    def conv(format):
        model = nn.Conv2d(3, 4, 3).to(memory_format=format)
        return parle.join(model, sgd(model), parle.LocalSGD())

    with pytest.raises(parle.ConfigError, match="has layout"):
        conv(torch.contiguous_format).load_state_dict(conv(torch.channels_last).state_dict())


def test_a_communicator_serves_one_join_until_it_is_closed():
    shared = parle.InProcess()
    first, second = network(), network()
    replicas = parle.join(first, sgd(first), parle.LocalSGD(), shared)
    with pytest.raises(parle.JoinError, match="already serves other replicas"):
        parle.join(second, sgd(second), parle.LocalSGD(), shared)
    replicas.close()
    parle.join(second, sgd(second), parle.LocalSGD(), shared)
    with pytest.raises(parle.ConfigError, match="join needs a communicator"):
        parle.join(second, sgd(second), parle.LocalSGD(), parle.InProcess)


def test_models_that_share_a_layer_are_refused():
    layer = nn.Linear(4, 4)
    models = [nn.Sequential(layer, nn.Linear(4, 2)), nn.Sequential(layer, nn.Linear(4, 2))]
    with pytest.raises(parle.JoinError, match="share a model or a layer"):
        parle.join(models, [sgd(m) for m in models], parle.LocalSGD())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_and_sparse_gradients_are_refused():
    lazy = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    with pytest.raises(parle.JoinError, match=r"`1.weight` has no shape yet"):
        parle.join(lazy, torch.optim.SGD([lazy[0].weight], lr=0.1), parle.LocalSGD())
    model = nn.Embedding(5, 2, sparse=True)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.Parle())
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(parle.JoinError, match="is sparse"):
        replicas.optimizers[0].step()


def test_a_diverged_round_can_be_left_by_going_back():
    for kind in (parle.Parle, parle.DataParallel):
        replicas = coupled(kind(**({"period": 3} if kind is parle.Parle else {})))
        advance(replicas, 3)
        state = replicas.state_dict()
        optimizers = [copy.deepcopy(o.state_dict()) for o in replicas.optimizers]
        expected = advance(replicas, 6, first=3).params.clone()
        replicas.load_state_dict(state)
        for optimizer, its in zip(replicas.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(copy.deepcopy(its))
        x = replicas.vector("x").clone() if kind is parle.Parle else None
        replicas.params[:] = float("inf")
        with pytest.raises(parle.DivergedError):
            advance(replicas, 6, first=3)
        if x is not None:
            assert torch.equal(x, replicas.vector("x"))  # no replica had proposed
        replicas.load_state_dict(state)
        for optimizer, its in zip(replicas.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(copy.deepcopy(its))
        assert torch.equal(advance(replicas, 6, first=3).params, expected)


def test_a_schedule_that_runs_out_of_range_is_refused_before_anything_changes():
    replicas = coupled(parle.Parle(period=2, lr=lambda k: 0.1 - 0.05 * k))
    advance(replicas, 2)
    before = replicas.vector("x").clone()
    with pytest.raises(parle.ConfigError, match=r"In round 2: Parle.lr must be a number above 0"):
        advance(replicas, 2, first=2)
    assert torch.equal(before, replicas.vector("x")) and replicas.round == 1


def test_half_precision_is_not_mistaken_for_divergence():
    model = nn.Linear(1000, 700, bias=False).half()
    model.weight.data.fill_(0.1)
    replicas = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD(period=1))
    model.weight.grad = torch.zeros_like(model.weight)
    replicas.optimizers[0].step()
    assert replicas.round == 1


def test_a_step_that_waits_is_not_forgotten():
    replicas = coupled(parle.DataParallel(), replicas=2)
    replicas.models[0].loss(0, 0).backward()
    replicas.optimizers[0].step()
    for call in (replicas.finish, replicas.state_dict):
        with pytest.raises(parle.JoinError, match="while a step waits for the other replicas"):
            call()


def test_stepping_and_saving_inside_the_solution_are_refused():
    replicas = coupled(parle.LocalSGD(period=2), replicas=2)
    with replicas.solution() as model:
        model.loss(0, 0).backward()
        with pytest.raises(parle.JoinError, match="whose end would undo it"):
            replicas.optimizers[0].step()
        with pytest.raises(parle.JoinError, match="Call it outside"):
            replicas.state_dict()


def test_an_unused_layer_is_left_alone_where_the_force_is_zero():
    models = [nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)]) for _ in range(2)]
    replicas = parle.join(models, [sgd(m, weight_decay=0.1) for m in models], parle.Parle(period=5))
    before = models[0][1].weight.detach().clone()
    for model, optimizer in zip(replicas.models, replicas.optimizers, strict=True):
        model[0](torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert torch.equal(before, models[0][1].weight) and models[0][1].weight.grad is None


@pytest.mark.parametrize("name", ["parle", "data-parallel"])
def test_learning_rate_schedulers_keep_working(name):
    """OneCycleLR changes rate and momentum at every step; stepped right after its optimizer, before the other replica's."""
    steps, kind = 12, parle.ALGORITHMS[name]
    replicas = coupled(kind(), replicas=2)
    alone = [Vector(start()), Vector(start())]
    replicas_schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=steps + 1) for o in replicas.optimizers]
    for number in range(steps):
        for index, (m, o, s) in enumerate(zip(replicas.models, replicas.optimizers, replicas_schedulers, strict=True)):
            o.zero_grad()
            m.loss(index, number).backward()
            o.step()
            s.step()
    if name == "data-parallel":
        optimizer = torch_sgd(alone[0].parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1)
        for number in range(steps):
            optimizer.zero_grad()
            (alone[0].loss(0, number) / 2 + alone[0].loss(1, number) / 2).backward()
            optimizer.step()
            scheduler.step()
        torch.testing.assert_close(replicas.params[0], torch.cat([alone[0].head, alone[0].tail.reshape(-1)]).detach(), rtol=1e-12, atol=1e-13)
        assert torch.equal(*replicas.params)
    assert replicas.optimizers[0].param_groups[0]["lr"] == pytest.approx(replicas_schedulers[0].get_last_lr()[0])


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_scales_the_gradient_and_not_the_force(fused):
    algorithm = parle.ElasticSGD(rho=0.5)
    torch.testing.assert_close(trained_with_scaler(algorithm, 1.0, fused), trained_with_scaler(algorithm, 1024.0, fused))


def test_clipping_before_the_step_limits_the_gradient_only():
    replicas = coupled(parle.ElasticSGD(rho=1.0), replicas=2, own_starts=True, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    before, reference = replicas.params.clone(), replicas.reference.clone()
    for index, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
        model.loss(index, 0).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-9)
        optimizer.step()
    torch.testing.assert_close(replicas.params, before - 0.1 * (before - reference), rtol=0, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
def test_compiled_models_and_adam_work():
    models = [network(0), network(1)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in models]
    replicas = parle.join(models, optimizers, parle.Parle(period=2), optimizer_state="average")
    compiled = [torch.compile(m, backend="eager") for m in models]
    for number in range(4):
        for model, optimizer in zip(compiled, optimizers, strict=True):
            step(model, optimizer, number)
    assert replicas.round == 2
    moments = [o.state[m[0].weight]["exp_avg_sq"] for o, m in zip(optimizers, models, strict=True)]
    assert torch.equal(*moments)


def test_the_last_round_is_held_on_request():
    replicas = advance(coupled(parle.LocalSGD(period=4)), 6)
    assert replicas.round == 1 and replicas.steps_to_round == 2
    replicas.finish()
    assert replicas.round == 2
    assert torch.equal(replicas.params, replicas.reference.expand(3, -1))
    replicas.finish()
    assert replicas.round == 2


def test_after_closing_the_optimizers_are_their_own_again():
    replicas = coupled(parle.ElasticSGD(rho=0.1), replicas=2)
    with replicas:
        advance(replicas, 2)
    rounds = replicas.round
    advance(replicas, 2)
    assert replicas.round == rounds


def test_buffers_are_averaged_where_that_is_the_policy():
    replicas = pair(buffers="average")
    torch.manual_seed(5)
    for number in range(2):
        for index, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
            step(model, optimizer, 10 * number + index)
    assert torch.equal(*(model[1].running_mean for model in replicas.models))
    kept = pair(buffers="keep")
    torch.manual_seed(5)
    for number in range(2):
        for index, (model, optimizer) in enumerate(zip(kept.models, kept.optimizers, strict=True)):
            step(model, optimizer, 10 * number + index)
    assert not torch.equal(*(model[1].running_mean for model in kept.models))
    torch.testing.assert_close(replicas.models[0][1].running_mean, (kept.models[0][1].running_mean + kept.models[1][1].running_mean) / 2)


def test_a_round_before_the_step_averages_buffers_too():
    replicas = pair(parle.DataParallel(), buffers="average")
    for index, (model, optimizer) in enumerate(zip(replicas.models, replicas.optimizers, strict=True)):
        step(model, optimizer, index)
    assert torch.equal(*(model[1].running_mean for model in replicas.models))


def test_state_round_trips_and_refuses_what_does_not_fit():
    replicas = advance(coupled(parle.Parle(period=4)), 6)
    state = copy.deepcopy(replicas.state_dict())
    with pytest.raises(parle.ConfigError, match="algorithm Parle, but these replicas have LocalSGD"):
        coupled(parle.LocalSGD()).load_state_dict(state)
    with pytest.raises(parle.ConfigError, match="replicas 3, but these replicas have 2"):
        coupled(parle.Parle(), replicas=2).load_state_dict(state)


def test_numbers_that_are_not_finite_do_not_reach_the_reference():
    replicas = advance(coupled(parle.LocalSGD(period=2)), 3)
    before = replicas.reference.clone()
    replicas.params[:, 0] = float("nan")
    with pytest.raises(parle.DivergedError, match="Every replica comes to this round with numbers that are not finite"):
        advance(replicas, 1, first=3)
    assert torch.equal(replicas.reference, before)


def test_replicas_on_several_devices_meet_as_on_one(monkeypatch):
    """There is one device here, so every replica is given a block of its own, and its own copy of the reference."""
    from parle import joining
    from parle.vectors import Vectors

    together = {name: advance(coupled(kind(), replicas=1 if kind.single else 3), 30) for name, kind in parle.ALGORITHMS.items()}
    flatten = joining.flatten

    def one_block_each(models, layout):
        parts = [flatten([model], layout) for model in models]
        return [blocks[0] for blocks, _ in parts], [(index, 0) for index in range(len(models))]

    monkeypatch.setattr(joining, "flatten", one_block_each)
    monkeypatch.setattr(Vectors, "share", lambda self, name, tensor: self._tensors.__setitem__(name, tensor.clone()))
    for name, kind in parle.ALGORITHMS.items():
        apart = advance(coupled(kind(), replicas=1 if kind.single else 3), 30)
        assert torch.equal(apart.params, together[name].params), name
        assert torch.equal(apart.reference, together[name].reference), name
