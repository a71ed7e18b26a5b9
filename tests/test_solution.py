"""Evaluating the consensus: BatchNorm estimated again with dropout off, the replica untouched afterwards."""

import pytest
import torch
from torch import nn

import parle


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))


@pytest.fixture
def replicas():
    torch.manual_seed(0)
    models = [network(), network()]
    joined = parle.join(models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in models], parle.LocalSGD(period=3))
    for _number in range(4):
        for model, optimizer in zip(joined.models, joined.optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.randn(32, 4)).square().mean().backward()
            optimizer.step()
    return joined


LOADER = [(torch.randn(50, 4, generator=torch.Generator().manual_seed(index)) * 3 + 1, torch.zeros(50)) for index in range(4)]


def snapshot(replicas):
    model = replicas.models[0]
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, [m.training for m in model.modules()], torch.get_rng_state()


def assert_untouched(replicas, before):
    state, modes, generator = before
    model = replicas.models[0]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert model[1].momentum == 0.1
    assert torch.equal(generator, torch.get_rng_state())


def test_the_model_is_the_solution_inside_and_itself_afterwards(replicas):
    before = snapshot(replicas)
    with replicas.solution(LOADER) as model:
        assert model is replicas.models[0]
        assert not model.training and not model[3].training
        assert torch.equal(replicas.params[0], replicas.reference)
        assert not torch.equal(before[0]["0.weight"], model[0].weight)
    assert_untouched(replicas, before)


def test_statistics_are_the_plain_average_over_the_loader_with_dropout_off(replicas):
    with replicas.solution(LOADER) as model:
        with torch.no_grad():
            hidden = [model[0](inputs) for inputs, _ in LOADER]
        mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
        variance = torch.stack([h.var(0) for h in hidden]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean)
        torch.testing.assert_close(model[1].running_var, variance)


def test_an_exception_inside_leaves_the_replica_untouched(replicas):
    before = snapshot(replicas)
    with pytest.raises(RuntimeError, match="of the user"), replicas.solution(LOADER):
        raise RuntimeError("of the user")
    assert_untouched(replicas, before)


def test_an_exception_in_the_loader_leaves_the_replica_untouched(replicas):
    def broken():
        yield LOADER[0]
        raise OSError("disk")

    before = snapshot(replicas)
    with pytest.raises(OSError, match="disk"), replicas.solution(broken()):
        pass
    assert_untouched(replicas, before)


def test_a_shuffling_loader_does_not_move_the_users_generator(replicas):
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.zeros(64))
    before = snapshot(replicas)
    with replicas.solution(torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)):
        pass
    assert_untouched(replicas, before)


def test_a_loader_is_needed_only_where_there_is_batchnorm(replicas):
    with pytest.raises(parle.ConfigError, match="needs a loader of training data"), replicas.solution():
        pass
    with pytest.raises(parle.ConfigError, match="loader without batches"), replicas.solution([]):
        pass
    model = nn.Linear(2, 1)
    plain = parle.join(model, torch.optim.SGD(model.parameters(), lr=0.1), parle.LocalSGD())
    with plain.solution() as solution:
        assert solution is model


def test_training_goes_on_as_if_never_evaluated(replicas):
    import copy

    torch.manual_seed(1)
    twin_models = copy.deepcopy(replicas.models)
    twin = parle.join(twin_models, [torch.optim.SGD(m.parameters(), lr=0.1) for m in twin_models], parle.LocalSGD(period=3))
    twin.load_state_dict(replicas.state_dict())
    with replicas.solution(LOADER):
        pass
    for joined in (replicas, twin):
        torch.manual_seed(2)
        for model, optimizer in zip(joined.models, joined.optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.randn(32, 4)).square().mean().backward()
            optimizer.step()
    assert torch.equal(replicas.params, twin.params)
