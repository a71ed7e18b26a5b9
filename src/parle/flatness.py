"""How flat the loss is around a network: along random directions, by the largest curvatures, and on the average nearby."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

Parts = list[Tensor]


class Landscape:
    """The mean loss of a network over fixed samples, as a function of its trainable parameters; BatchNorm keeps its statistics.

    >>> network = nn.Linear(2, 2)
    >>> around = Landscape(network, torch.randn(8, 2), torch.tensor([0, 1] * 4))
    >>> abs(around.loss() - around.loss(around.start)) < 1e-6
    True
    """

    def __init__(self, network: nn.Module, samples: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy):
        self.network, self.samples, self.labels, self._loss = network.eval(), samples, labels, loss
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def loss(self, at: Parts | None = None) -> float:
        """The loss at these parameters, or where the network is."""
        self._go(at or self.start)
        found = float(self._loss(self.network(self.samples), self.labels))
        self._go(self.start)
        return found

    def curve(self, distances: list[float], seed: int = 0) -> list[float]:
        """The loss along a random direction whose filters are as long as those of the network (Li et al. 2018, arXiv 1712.09913)."""
        generator = torch.Generator().manual_seed(seed)
        direction = [_filter_normalized(torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device), p) for p in self.start]
        return [self.loss([p + distance * d for p, d in zip(self.start, direction, strict=True)]) for distance in distances]

    def hessian_times(self, vector: Parts) -> Parts:
        """The product of the Hessian of the loss with a vector."""
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that is differentiated twice
            gradients = torch.autograd.grad(self._loss(self.network(self.samples), self.labels), self.parameters, create_graph=True)
        product = sum((g * v).sum() for g, v in zip(gradients, vector, strict=True))
        return [part.detach() for part in torch.autograd.grad(product, self.parameters)]

    def eigenvalues(self, count: int = 3, steps: int = 30, seed: int = 0) -> list[float]:
        """The largest eigenvalues of the Hessian, by so many steps of Lanczos with full orthogonalization, the largest first."""
        generator = torch.Generator().manual_seed(seed)
        size = sum(p.numel() for p in self.start)
        vector = torch.randn(size, generator=generator, dtype=self.start[0].dtype).to(self.start[0].device)
        basis, diagonal, beside = [vector / vector.norm()], [], []
        for _ in range(min(steps, size)):
            product = _joined(self.hessian_times(self._parted(basis[-1])))
            diagonal.append(float(product @ basis[-1]))
            for _ in range(2):  # twice is enough
                for its in basis:
                    product -= (product @ its) * its
            beside.append(float(product.norm()))
            if beside[-1] < 1e-10:
                break
            basis.append(product / beside[-1])
        inner = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(inner, 1) + torch.diag(inner, -1)
        return torch.linalg.eigvalsh(tridiagonal).flip(0)[:count].tolist()

    def local_entropy(self, gamma: float, draws: int = 20, seed: int = 0) -> float:
        """-log of the mean of exp(-loss) over y drawn from Normal(x, gamma): the smoothed loss of the Parle paper, equation (3), up to a constant."""
        generator, losses = torch.Generator().manual_seed(seed), []
        for _ in range(draws):
            noise = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) * math.sqrt(gamma) for p in self.start]
            losses.append(-self.loss([p + n for p, n in zip(self.start, noise, strict=True)]))
        return math.log(draws) - float(torch.logsumexp(torch.tensor(losses, dtype=torch.float64), 0))

    def _go(self, at: Parts) -> None:
        for p, value in zip(self.parameters, at, strict=True):
            p.data.copy_(value)

    def _parted(self, vector: Tensor) -> Parts:
        return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in self.start]), self.start, strict=True)]


def _filter_normalized(direction: Tensor, weights: Tensor) -> Tensor:
    """The direction with each filter as long as that of the weights; none where there are no filters, as for biases and BatchNorm."""
    if weights.dim() < 2:
        return torch.zeros_like(direction)
    rows, its = direction.flatten(1), weights.flatten(1)
    return (rows * (its.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))).view_as(direction)


def _joined(parts: Parts) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
