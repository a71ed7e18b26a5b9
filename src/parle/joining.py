"""What `join` asks of models and optimizers before it couples them."""

import dataclasses
import hashlib

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import parle
from parle.algorithm import Algorithm
from parle.communicators import Communicator
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
        if algorithm.steps_at_center:
            _check_plain(index, optimizer, algorithm)
    return layout


def _check_plain(index: int, optimizer: Optimizer, algorithm: Algorithm) -> None:
    """Refuse settings of an optimizer that would have no effect."""
    settings = [group[name] for group in optimizer.param_groups for name in ("momentum", "weight_decay") if group.get(name)]
    if type(optimizer) is not torch.optim.SGD or settings:
        raise JoinError(
            f"{type(algorithm).__name__} steps where the reference is, with its own lr, momentum and weight_decay; optimizer {index} only hands over the "
            f"gradients, but is a {type(optimizer).__name__}{' with momentum or weight decay' if settings else ''}. Use torch.optim.SGD(parameters, lr), and "
            f"give the rest to {type(algorithm).__name__}."
        )


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


def check_delay(algorithm: Algorithm, delay: int) -> None:
    """Raise ConfigError where a round cannot end so many steps after it began."""
    if not delay:
        return
    name = type(algorithm).__name__
    if type(algorithm).adopt_late is Algorithm.adopt_late:
        raise ConfigError(f"{name} has no delayed form, so its rounds cannot overlap with steps. Use LocalSGD, or a communicator without Overlapped.")
    period = algorithm.at(0).period
    if not isinstance(period, int) or algorithm.watched:
        raise ConfigError(
            f"Rounds that overlap with {delay} steps need a period that is one number, got {algorithm.period}. Give all replicas the same period."
        )
    if delay > period:
        raise ConfigError(f"A delay of {delay} steps does not end before the next round, {period} steps later. Use a delay up to the period.")


def check_periods(algorithm: Algorithm, size: int) -> None:
    """Raise ConfigError where replicas have periods of their own, but not one each."""
    period = algorithm.at(0).period
    if isinstance(period, tuple) and len(period) != size:
        raise ConfigError(f"period has {len(period)} numbers, {period}, for {size} replicas. Give one number for each replica, or one for all.")


def terms(model: nn.Module, layout: Layout, algorithm: Algorithm, **policies: str) -> dict:
    """What all processes have to agree on, as text by name."""
    values = {f"algorithm.{f.name}": getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    kinds = str(layout.dtype).removeprefix("torch.")
    agreed = {"parle version": parle.__version__, "torch version": torch.__version__.partition("+")[0], "algorithm": type(algorithm).__name__}
    agreed |= {name: _described(value) if callable(value) else str(value) for name, value in values.items()}
    agreed["parameters"] = [f"{name} {shape} {kinds}" for name, shape in zip(layout.names, layout.shapes, strict=True)]
    agreed["memory layout of the parameters"] = layout.digest()
    untrained = {name: its for name, its in model.state_dict().items() if name not in layout.names and isinstance(its, Tensor)}
    agreed["buffers or frozen parameters"] = [f"{name} {tuple(its.shape)} {its.dtype}".replace("torch.", "") for name, its in untrained.items()]
    if policies["start"] == "own":
        digest = hashlib.sha256()
        for name, parameter in model.named_parameters():
            if name not in layout.names:
                digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        agreed["frozen parameters with digest"] = digest.hexdigest()[:16]
    return agreed | policies | ({"family": algorithm.family} if algorithm.family else {})


def _described(schedule) -> str:
    """A schedule as text that is the same in every process: a function's own text names a place in memory."""
    text = str(schedule)
    return text if " at 0x" not in text else f"a function of the round that begins with {schedule(0)}, {schedule(1)}, {schedule(2)}"


@torch.no_grad()
def share_untrained(models: list[nn.Module], layout: Layout, communicator: Communicator) -> None:
    """Give all processes the first one's frozen parameters and buffers."""
    ours = [tensor for name, tensor in models[0].state_dict().items() if name not in layout.names and isinstance(tensor, Tensor)]
    for kind in dict.fromkeys(tensor.dtype for tensor in ours):
        its = [tensor for tensor in ours if tensor.dtype == kind]
        first = communicator.of_first(torch.cat([tensor.reshape(-1) for tensor in its]))
        for tensor, part in zip(its, first.split([tensor.numel() for tensor in its]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())


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
