"""Sharpness-aware minimization: gradients from where the loss is higher, for any optimizer and any coupling."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def ascended(parameters: Iterable[nn.Parameter], radius: float = 0.05) -> Iterator[None]:
    """Inside `with`, the parameters are at w + radius g / |g|; afterwards they are w again, and keep the gradients computed there.

    SAM (Foret et al. 2021, arXiv 2010.01412, equations 2 and 3) as an inner step: `g` is the gradient that the parameters hold, which
    is cleared. `optimizer.step()` then takes the second one. A step so costs two gradients.

    >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> (w * w).sum().backward()                           # g = 2 w, |g| = 10
    >>> with ascended([w], radius=0.5):
    ...     (w * w).sum().backward()
    >>> w.data, w.grad                                     # the gradient at (3.3, 4.4)
    (tensor([3., 4.]), tensor([6.6000, 8.8000]))
    """
    held = [p for p in parameters if p.grad is not None]
    saved = [p.detach().clone() for p in held]
    with torch.no_grad():
        norm = torch.nn.utils.get_total_norm([p.grad for p in held])
        for p in held:
            p.add_(p.grad * (radius / (norm + 1e-12)))
            p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(held, saved, strict=True):
                p.copy_(value)
