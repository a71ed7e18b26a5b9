"""The step of a large network in one pass over memory: force, torch.optim.SGD and track, compiled from their readable forms."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable
from numbers import Real
from types import FunctionType

import torch
from torch import Tensor
from torch.optim import SGD

from parle.algorithm import Algorithm
from parle.errors import ConfigError, SetupError
from parle.replica import Replica

LARGE = 2**23  # numbers of a vector from which on compiling pays within a run
COARSE = 2**15  # and numbers of a parameter on the average: each of them is one call


def reason_against(algorithm: Algorithm, replica: Replica) -> str | None:
    """Why the steps of this replica cannot be taken in one pass, as a sentence; None where they can."""
    name, optimizer = type(algorithm).__name__, replica.optimizer
    if not algorithm.elementwise or algorithm.round_before_step:
        return f"{name} has verbs that are not elementwise, or meets before the step."
    if type(algorithm).force is Algorithm.force and type(algorithm).track is Algorithm.track:
        return f"{name} does nothing between two rounds; torch.optim.SGD(..., fused=True) is the step in one pass."
    if type(optimizer) is not SGD or any(group["dampening"] or group["maximize"] for group in optimizer.param_groups):
        return f"the optimizer is {type(optimizer).__name__}; only torch.optim.SGD without dampening and maximize is compiled."
    if {id(p) for p in replica.parameters} - {id(p) for group in optimizer.param_groups for p in group["params"]}:
        return "the optimizer holds a part of the parameters only."
    if replica.layout.dtype not in (torch.float32, torch.float64):
        return f"the parameters are {replica.layout.dtype}, not float32 or float64."
    return None


def chosen(wanted: bool | None, algorithm: Algorithm, replica: Replica) -> bool:
    """Whether to take steps in one pass: as wanted, or by the size of the network; ConfigError where it is wanted and cannot be."""
    reason = reason_against(algorithm, replica)
    if wanted and reason:
        raise ConfigError(f"one_pass=True cannot be: {reason} Leave it away.")
    large = replica.layout.size >= LARGE and replica.layout.size >= COARSE * len(replica.layout.names)
    return not reason and (large if wanted is None else wanted)


def step(now, r, gradient: Tensor, velocity: Tensor | None, rates, nesterov: bool) -> None:
    """Force, torch.optim.SGD's formula and track for one parameter, shape (1, its numbers); `now` and `rates` hold 0-d tensors."""
    direction = gradient if (force := now.force(r)) is None else gradient + force
    direction = direction + rates.weight_decay * r.params
    if velocity is not None:
        velocity.mul_(rates.momentum).add_(direction)
        direction = direction + rates.momentum * velocity if nesterov else velocity
    r.params.sub_(rates.lr * direction)
    now.track(r)


@functools.cache
def _step_for(kind: type[Algorithm]) -> Callable:
    """`step` with code of its own for each algorithm: torch counts what it compiles of one code, and refuses the ninth form."""
    return FunctionType(step.__code__.replace(), step.__globals__, step.__name__)


class Places:
    """Vectors by name, for one parameter; as with `Vectors`, assigning writes into the vector."""

    def __init__(self, **tensors: Tensor):
        self.__dict__.update(tensors)

    def __setattr__(self, name: str, value: Tensor) -> None:
        getattr(self, name).copy_(value)


class Rates:
    """Numbers of a parameter group, as 0-d tensors: another value is no reason to compile anew."""

    def __init__(self, like: Tensor):
        self.lr, self.momentum, self.weight_decay = (like.new_zeros(()) for _ in range(3))

    def take(self, group: dict) -> None:
        """The numbers as they are now."""
        for name in ("lr", "momentum", "weight_decay"):
            value = group[name]
            getattr(self, name).fill_(value.reshape(()) if isinstance(value, Tensor) else value)  # a rate may have the shape (1,)


class OnePass:
    """Takes the steps of one replica; where a step does not fit, it says so, and the step is taken by the readable forms."""

    def __init__(self, algorithm: Algorithm, replica: Replica, wanted: bool):
        self._replica, self._wanted, self._failed, self._now = replica, wanted, False, None
        self._compiled = torch.compile(_step_for(type(algorithm)), dynamic=True, fullgraph=True)
        self._numbers: object = None  # the algorithm, whose numbers are 0-d tensors
        self._rates = [Rates(replica.r.params) for _ in replica.optimizer.param_groups]
        self._gradients: list[Tensor] = []
        begins = [0]
        for shape in replica.layout.shapes:
            begins.append(begins[-1] + torch.Size(shape).numel())
        vectors = replica.r.tensors()
        self._places = [Places(**{name: vector[..., begin:end] for name, vector in vectors.items()}) for begin, end in itertools.pairwise(begins)]

    def take(self, now: Algorithm) -> bool:
        """Step every parameter, and take the gradients from the optimizer, which then passes over them; False where nothing was done."""
        replica, optimizer = self._replica, self._replica.optimizer
        if not self._fits(now):
            return False
        self._set_numbers(now)
        groups = {id(p): (group, rates) for group, rates in zip(optimizer.param_groups, self._rates, strict=True) for p in group["params"]}
        for rates, group in zip(self._rates, optimizer.param_groups, strict=True):
            rates.take(group)
        for p, r in zip(replica.parameters, self._places, strict=True):
            group, rates = groups[id(p)]
            self._step(self._numbers, r, _flat(p.grad, p), self._velocity(p, group), rates, group["nesterov"])
        torch.autograd.graph.increment_version(replica.parameters)  # so that a backward through values of before is refused, as ever
        self._gradients = [p.grad for p in replica.parameters]
        for p in replica.parameters:
            p.grad = None
        return True

    def _step(self, *arguments) -> None:
        """The compiled step of a parameter; where it cannot be compiled, the same as it stands, since others may have taken theirs."""
        if not self._failed:
            try:
                return self._compiled(*arguments)
            except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
                self._give_up(error)
        return step(*arguments)

    def give_back(self) -> bool:
        """Give the parameters their gradients again, after the optimizer's step; whether that was one of ours."""
        ours = bool(self._gradients)
        for p, gradient in zip(self._replica.parameters, self._gradients, strict=False):
            p.grad = gradient
        self._gradients = []
        return ours

    def _fits(self, now: Algorithm) -> bool:
        optimizer = self._replica.optimizer
        if self._failed or len(optimizer.param_groups) != len(self._rates) or reason_against(now, self._replica):
            return False
        scaled = getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None
        others = len(optimizer._optimizer_step_pre_hooks) > 1 or len(optimizer._optimizer_step_post_hooks) > 1  # which may want to see the gradients
        return not scaled and not others and all(p.grad is not None and p.grad.layout == torch.strided for p in self._replica.parameters)

    def _set_numbers(self, now: Algorithm) -> None:
        """The algorithm with its numbers as 0-d tensors, always the same ones."""
        if now is self._now:
            return
        if self._numbers is None:
            self._numbers = object.__new__(type(now))
        for f in dataclasses.fields(now):
            number, moves = getattr(now, f.name), not f.metadata.get("whole")
            if moves and isinstance(number, Real):  # of any library
                held = vars(self._numbers).get(f.name)
                number = (self._replica.r.params.new_zeros(()) if held is None else held).fill_(float(number))
            object.__setattr__(self._numbers, f.name, number)
        self._now = now

    def _velocity(self, p: Tensor, group: dict) -> Tensor | None:
        """The optimizer's own momentum, flat; zeros to begin with, which is what it begins with."""
        if not group["momentum"]:
            return None
        state = self._replica.optimizer.state[p]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p.data)
        buffer = _flat(state["momentum_buffer"], p)
        if buffer.untyped_storage().data_ptr() != state["momentum_buffer"].untyped_storage().data_ptr():  # it lay otherwise in memory
            state["momentum_buffer"] = buffer.as_strided(p.shape, p.stride())
        return buffer

    def _give_up(self, error: Exception) -> None:
        message = f"The step cannot be compiled: {' '.join(str(error).splitlines()[:2])}"  # the first says no more than who has failed
        if self._wanted:
            raise SetupError(f"{message} On a processor, torch.compile needs a C++ compiler (apt install g++). Or leave one_pass away.") from None
        warnings.warn(f"{message} Steps are taken without, which is slower.", stacklevel=2)
        self._failed = True


def _flat(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor in the order in which the parameter lies in memory, shape (1, its numbers); a copy where it lies otherwise."""
    if tensor.stride() != like.stride() and not (tensor.is_contiguous() and like.is_contiguous()):  # of lengths 1, strides may differ
        tensor = torch.empty_strided(like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    return _alone(tensor, tensor.storage_offset(), tensor.numel())


def _alone(tensor: Tensor, offset: int, size: int) -> Tensor:
    """A part of a tensor's memory, shape (1, size), that is no view of it: what is compiled for a view is compiled for the shape of the whole, too."""
    return tensor.new_empty(0).set_(tensor.untyped_storage(), offset, (1, size), (size, 1))
