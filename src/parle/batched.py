"""The gradients of several replicas on one device in one forward and one backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from parle.errors import JoinError
from parle.replicas import Replicas


class Batched:
    """The joined models of this process as one: a small network leaves most of a GPU idle, and several at once do not.

    The parameters of `replicas` are rows of one memory, over which `torch.func.vmap` maps `loss(model(inputs), targets)`. Calling it
    with inputs and targets of all replicas, shape (replicas, batch, ...), gives their losses, shape (replicas,); `backward(losses)` gives every
    parameter its gradient, and then each optimizer steps as usual. Equal to a loop over the models to rounding, BatchNorm included, whose
    statistics move into one memory too. Only dropout draws other numbers: one stream serves all replicas, each of which has draws of its own.
    Raises JoinError where the replicas lie on several devices or the model does what vmap cannot.

    >>> from torch.nn.functional import mse_loss
    >>> import parle
    >>> models = [nn.Linear(2, 1) for _ in range(3)]
    >>> optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    >>> replicas = parle.join(models, optimizers, parle.Parle(period=5))
    >>> batched = parle.Batched(replicas, mse_loss)
    >>> losses = batched(torch.ones(3, 8, 2), torch.zeros(3, 8, 1))
    >>> batched.backward(losses)
    >>> for optimizer in optimizers:
    ...     optimizer.step()
    >>> losses.shape
    torch.Size([3])
    """

    def __init__(self, replicas: Replicas, loss: Callable[[Tensor, Tensor], Tensor]):
        self._models, layout = replicas.models, replicas.layout
        if len({model.get_parameter(layout.names[0]).device for model in self._models}) > 1:
            raise JoinError("Batched steps replicas on one device, but these lie on several. Make one process for each device, or step them in turn.")
        rows = replicas.params
        offsets = [view.storage_offset() for view in layout.views(rows[0])]
        self._stacked = {
            name: rows.as_strided((len(rows), *shape), (rows.stride(0), *stride), offset).detach().requires_grad_()
            for name, shape, stride, offset in zip(layout.names, layout.shapes, layout.strides, offsets, strict=True)
        }
        self._parameters = [layout.parameters(model) for model in self._models]
        self._buffers = _in_one_memory(self._models)
        self._loss = vmap(lambda state, inputs, targets: loss(functional_call(self._models[0], state, (inputs,)), targets), randomness="different")

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every replica on its own batch, shape (replicas,)."""
        try:
            return self._loss(self._stacked | self._buffers, inputs, targets)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise JoinError(f"The model does what torch.func.vmap cannot map over replicas: {' '.join(str(error).split())[:300]} Step them in turn.") from error

    def backward(self, losses: Tensor) -> None:
        """Add the gradients of the losses to those of the parameters."""
        gradients = torch.autograd.grad(losses.sum(), list(self._stacked.values()), allow_unused=True)
        for column, (stacked, gradient) in enumerate(zip(self._stacked.values(), gradients, strict=True)):
            if gradient is None:
                continue
            if gradient.stride(0) < stacked[0].numel() or gradient.stride()[1:] != stacked.stride()[1:]:  # fused optimizers go by the order of memory
                its = torch.empty_strided(stacked.shape, (stacked[0].numel(), *stacked.stride()[1:]), dtype=stacked.dtype, device=stacked.device)
                gradient = its.copy_(gradient)
            for parameters, part in zip(self._parameters, gradient, strict=True):
                p = parameters[column]
                p.grad = part if p.grad is None else p.grad.add_(part)


def _in_one_memory(models: list[nn.Module]) -> dict[str, Tensor]:
    """The buffers of all models, stacked; those of each model become parts of these."""
    stacked = {}
    for name, _ in models[0].named_buffers(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        stacked[name] = torch.stack([model.get_buffer(name) for model in models])
        for model, its in zip(models, stacked[name], strict=True):
            model.get_submodule(path)._buffers[last] = its
    return stacked
