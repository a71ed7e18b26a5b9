"""What `join` asks of models and optimizers before it couples them."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parle.algorithm import Algorithm
from parle.errors import ConfigError, JoinError, did_you_mean
from parle.vectors import Layout, Vectors

STARTS = ("common", "own")


def check_policy(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless the value is one of the policies of that name."""
    if value not in known:
        raise ConfigError(f"join(..., {name}={value!r}) is not a policy. {did_you_mean(str(value), known)}")


def check_members(models: list[nn.Module], optimizers: list[Optimizer], algorithm: Algorithm) -> Layout:
    """The layout which all models share; JoinError or ConfigError where models, optimizers and algorithm do not fit together."""
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"join needs an algorithm such as parle.Parle(), got {algorithm!r}.")
    if not models or len(models) != len(optimizers):
        raise JoinError(f"join got {len(models)} models and {len(optimizers)} optimizers. Give as many optimizers as models, at least one.")
    parameters = [id(p) for model in models for p in {id(p): p for p in model.parameters()}.values()]
    if len(set(parameters)) < len(parameters):
        raise JoinError("Two replicas share a model or a layer. Build a new model for each replica.")
    if algorithm.single and len(models) > 1:
        name = type(algorithm).__name__
        raise ConfigError(f"{name} trains one replica, got {len(models)}. Use one replica, or Parle or LocalSGD to couple several.")
    layout = Layout.of(models[0])
    for index, model in enumerate(models):
        layout.require(Layout.of(model), index)
    for index, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        _check_optimizer(index, layout.parameters(model), optimizer)
    return layout


def _check_optimizer(index: int, parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise JoinError(f"Optimizer {index} is a {type(optimizer).__name__} without the step hooks of torch.optim.Optimizer, which parle needs.")
    known, held = {id(p) for p in parameters}, [p for group in optimizer.param_groups for p in group["params"]]
    strangers = [p for p in held if p.requires_grad and id(p) not in known]
    if strangers:
        raise JoinError(
            f"Optimizer {index} steps {len(strangers)} parameters that are not in model {index}; the first has shape {tuple(strangers[0].shape)}. "
            "Give models and optimizers in the same order, each optimizer made from its model's parameters()."
        )
    if not {id(p) for p in held} & known:
        raise JoinError(f"Optimizer {index} holds no trainable parameter of model {index}. Make it from that model's parameters().")


def share_start(models: list[nn.Module], layout: Layout, start: str) -> None:
    """Make the untrained parts equal: copied from the first model for a common start, else required to be equal."""
    names = set(layout.names)
    for index, model in enumerate(models[1:], 1):
        if model.state_dict().keys() != models[0].state_dict().keys():
            odd = sorted(model.state_dict().keys() ^ models[0].state_dict().keys())[0]
            raise JoinError(f"Replicas 0 and {index} differ in `{odd}`. All replicas must be built by the same model function.")
        for (name, ours), (_, its) in zip(models[0].named_parameters(), model.named_parameters(), strict=True):
            if name not in names and start == "own" and not torch.equal(ours, its.to(ours.device)):
                raise JoinError(f"The frozen parameter `{name}` differs between replicas 0 and {index}, so their mean is no network. Use start='common'.")
        if start == "common":
            model.load_state_dict(models[0].state_dict())


def flatten(models: list[nn.Module], layout: Layout) -> tuple[list[Vectors], list[tuple[int, int]]]:
    """One block of rows per device, whose memory the parameters share from now on, and (block, row) of each model."""
    devices = [layout.parameters(model)[0].device for model in models]
    blocks, places = [], {}
    for device in dict.fromkeys(devices):
        members = [index for index, its in enumerate(devices) if its == device]
        params = torch.empty(len(members), layout.size, dtype=layout.dtype, device=device)
        for row, index in enumerate(members):
            places[index] = (len(blocks), row)
            _make_views(layout.parameters(models[index]), layout.views(params[row]))
        blocks.append(Vectors(len(members), params=params))
    return blocks, [places[index] for index in range(len(models))]


@torch.no_grad()
def _make_views(parameters: list[nn.Parameter], views: list[Tensor]) -> None:
    for parameter, view in zip(parameters, views, strict=True):
        view.copy_(parameter)
        parameter.data = view
