"""One replica: a model whose parameters are views of one row, its optimizer, and what is done to them at a step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parle.errors import JoinError
from parle.vectors import Layout, Vectors


class Replica:
    """One model with its optimizer and its vectors `r`, shape (1, N) each; `steps` counts from the last round."""

    def __init__(self, index: int, model: nn.Module, optimizer: Optimizer, layout: Layout, r: Vectors):
        self.index, self.model, self.optimizer, self.layout, self.r = index, model, optimizer, layout, r
        self.parameters = layout.parameters(model)
        self.steps = 0
        self.waiting: list[dict] | None = None  # the optimizer's settings, while its step waits for a round
        self._pointers = [p.data_ptr() for p in self.parameters]
        self._hooks = []

    def hook(self, before: Callable, after: Callable) -> None:
        """Call before(self) and after(self) around every step of the optimizer."""

        def check_and_go(_, args: tuple, kwargs: dict) -> None:
            if any(argument is not None for argument in (*args[1:], *kwargs.values())):
                raise JoinError(
                    "optimizer.step(closure) cannot be coupled: the closure computes the gradient again and loses the force. Call backward(), then step()."
                )
            before(self)

        self._hooks = [
            self.optimizer.register_step_pre_hook(check_and_go),
            self.optimizer.register_step_post_hook(lambda *_: after(self)),
        ]

    def unhook(self) -> None:
        """Leave the optimizer as it was before joining."""
        while self._hooks:
            self._hooks.pop().remove()

    def check_in_place(self) -> None:
        """Raise JoinError if a parameter is no longer the part of the row that it was made."""
        for name, parameter, pointer in zip(self.layout.names, self.parameters, self._pointers, strict=True):
            if parameter.data_ptr() != pointer:
                raise JoinError(
                    f"Parameter `{name}` of replica {self.index} has moved in memory since join (by .to(), .half() or a swapped .data), so it is "
                    "no longer a part of the replica's vector. Move and convert the model first, then join."
                )

    def add_force(self, force: Tensor) -> None:
        """Add a vector of shape (1, N) to the gradients."""
        scale = getattr(self.optimizer, "grad_scale", None)  # set by GradScaler for optimizers that unscale by themselves
        parts = self.layout.views((force if scale is None else force * scale)[0])
        missing = [index for index, p in enumerate(self.parameters) if p.grad is None]
        for index in missing:
            self.parameters[index].grad = torch.zeros_like(self.parameters[index])
        torch._foreach_add_([p.grad for p in self.parameters], parts)

    def hand_over_gradients(self) -> None:
        """Move the gradients into r.gradient; the optimizer passes over parameters that have none."""
        for p, part in zip(self.parameters, self.layout.views(self.r.gradient[0]), strict=True):
            part.zero_() if p.grad is None else part.copy_(p.grad)
            p.grad = None

    def take_gradients(self) -> None:
        """Give the parameters the gradients in r.gradient."""
        for p, part in zip(self.parameters, self.layout.views(self.r.gradient[0]), strict=True):
            p.grad = part.clone()

    def wait(self) -> None:
        """Put the step off, with the optimizer's settings as they are now."""
        self.waiting = [{name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups]

    def release(self) -> None:
        """Carry out the step that was put off, with the settings of then."""
        groups = self.optimizer.param_groups
        current = [dict(group) for group in groups]
        for group, settings in zip(groups, self.waiting, strict=True):
            group.update(settings)
        self.take_gradients()
        self.optimizer.step()
        for group, settings in zip(groups, current, strict=True):
            group.update(settings)
        for p in self.parameters:
            p.grad = None
        self.waiting = None
