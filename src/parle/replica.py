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
        self.parameters, self._paths = layout.parameters(model), [name.split(".") for name in layout.names]
        self.steps = 0
        self.one_pass = None  # what takes the steps of a large network in one pass over memory
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

        model, index = self.model, self.index

        def refuse_loading(module: nn.Module, _) -> None:
            if module is model:  # and not a copy of it, which brings this hook along
                raise JoinError(
                    f"Weights were loaded into the model of replica {index} after it was joined, so the reference and the algorithm's vectors do "
                    "not know them. Load the weights first and then join, or go on from a state with replicas.load_state_dict()."
                )

        self._hooks = [
            self.optimizer.register_step_pre_hook(check_and_go),
            self.optimizer.register_step_post_hook(lambda *_: after(self)),
            self.model.register_load_state_dict_post_hook(refuse_loading),
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

    def check_layers(self) -> None:
        """Raise JoinError if a layer was exchanged."""
        for name, path, parameter in zip(self.layout.names, self._paths, self.parameters, strict=True):
            module = self.model
            for layer in path[:-1]:
                module = module._modules.get(layer)
            if module is None or module._parameters.get(path[-1]) is not parameter:
                raise JoinError(f"Parameter `{name}` of replica {self.index} is another one than at join: a layer was exchanged. Join the final model.")

    def add_force(self, force: Tensor) -> None:
        """Add a vector of shape (1, N) to the gradients; a parameter that has none gets one only where the force is not zero."""
        scale = self._grad_scale()
        gradients, forces = [], []
        for name, p, part in zip(self.layout.names, self.parameters, self.layout.views((force if scale is None else force * scale)[0]), strict=True):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise JoinError(f"The gradient of `{name}` is sparse; a force is not. Use sparse=False.")
            if p.grad is not None:
                gradients.append(p.grad)
                forces.append(part)
            elif p.requires_grad and part.any():
                p.grad = part.clone()
        if gradients:
            torch._foreach_add_(gradients, forces)

    def hand_over_gradients(self) -> None:
        """Move the gradients into r.gradient; the optimizer passes over parameters that have none."""
        for p, part in zip(self.parameters, self.layout.views(self.r.gradient[0]), strict=True):
            part.zero_() if p.grad is None else part.copy_(p.grad)
            p.grad = None
        if (scale := self._grad_scale()) is not None:
            self.r.gradient /= scale

    def take_gradients(self) -> None:
        """Give the parameters the gradients in r.gradient."""
        scale = self._grad_scale()
        for p, part in zip(self.parameters, self.layout.views(self.r.gradient[0]), strict=True):
            p.grad = part.clone() if scale is None else part * scale

    def _grad_scale(self) -> Tensor | None:
        """The scale of the gradients during a step of an optimizer that unscales by itself, set by GradScaler."""
        return getattr(self.optimizer, "grad_scale", None)

    def wait(self) -> None:
        """Put the step off, with the optimizer's settings as they are now."""
        self.waiting = [
            {name: value.clone() if isinstance(value, Tensor) else value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]

    def release(self) -> None:
        """Carry out the step that was put off, with the settings of then."""
        groups, settings = self.optimizer.param_groups, self.waiting
        current = [dict(group) for group in groups]
        self.take_gradients()
        try:
            for group, its in zip(groups, settings, strict=True):
                group.update(its)
            self.optimizer.step()
        finally:
            for group, its in zip(groups, current, strict=True):
                group.update(its)
            for p in self.parameters:
                p.grad = None
            self.waiting = None
