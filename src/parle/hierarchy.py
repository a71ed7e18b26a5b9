"""Deputies under one sheriff: replicas in groups, and a coupling between what the groups agree on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from parle import joining
from parle.algorithm import Algorithm
from parle.algorithms import ElasticSGD
from parle.communicators import Communicator, InProcess
from parle.communicators.communicator import Wrapped
from parle.errors import ConfigError, JoinError
from parle.replicas import Replicas, join
from parle.vectors import WHOLE, Part


@dataclass(frozen=True)
class Hierarchy:
    """Two levels of coupling: workers tied to the deputy of their group, deputies to one reference (Parle paper, equation 10).

        y^ab <- y^ab - eta' ( g(y^ab) + (y^ab - x^a) / gamma )                              every step, worker b of group a
        x^a  <- x^a - eta ( x^a - mean_b y^ab ) - (eta / rho) ( x^a - x )                   every round of the workers
        x    <- mean_a x^a                                                                  every round of the deputies

    In the paper's letters: lr is eta, the rate of the deputies; inner is the coupling of the workers, whose rho is gamma; outer is that of
    the deputies, here ElasticSGD with its rho: a deputy is a replica of it whose gradient is x^a - mean_b y^ab. Any other algorithm
    may take its place. momentum is Nesterov's, of the deputies. One deputy is ElasticSGD; rho = inf are separate ones.

    >>> Hierarchy(inner=ElasticSGD(rho=10.0, center="mean"), outer=ElasticSGD(period=5, rho=1.0, center="mean"), lr=0.1).momentum
    0.0
    """

    inner: ElasticSGD = ElasticSGD(center="mean")
    outer: Algorithm = ElasticSGD(center="mean")
    lr: float = 0.1
    momentum: float = 0.0

    def __post_init__(self):
        if not isinstance(self.inner, ElasticSGD) or self.inner.center != "mean":
            raise ConfigError(f'Workers hang on their deputy by springs: inner must be ElasticSGD(..., center="mean"), got {self.inner!r}.')
        if not isinstance(self.outer, Algorithm) or self.outer.round_before_step or self.outer.single:
            raise ConfigError(f"outer must be an algorithm that couples several replicas between their steps, such as ElasticSGD, got {self.outer!r}.")

    def join(
        self,
        groups: list[list[nn.Module]],
        optimizers: list[list[Optimizer]],
        within: Callable[[], Communicator] = InProcess,
        between: Communicator | None = None,
        **policies: str,
    ) -> "Levels":
        """Couple the workers of this process, `groups[a][b]`, with an optimizer each; policies are those of `parle.join`.

        `within` makes the communicator of a group, `between` is that of the deputies. With one worker a process, they are
        `TorchDistributed` over the two dimensions of a device mesh, and `groups` is `[[model]]`.

        >>> groups = [[nn.Linear(2, 1) for _ in range(2)] for _ in range(2)]
        >>> optimizers = [[SGD(model.parameters(), lr=0.1) for model in group] for group in groups]
        >>> Hierarchy().join(groups, optimizers).reference.shape
        torch.Size([3])
        """
        if not groups or len(groups) != len(optimizers):
            raise JoinError(f"Hierarchy got {len(groups)} groups of models and {len(optimizers)} of optimizers. Give as many of both, at least one.")
        if policies.get("start", "common") == "common":
            for model in (model for models in groups[1:] for model in models):
                model.load_state_dict(groups[0][0].state_dict())
        links, workers = [], []
        for models, its in zip(groups, optimizers, strict=True):
            links.append(_Link(within()))
            workers.append(join(models, its, self.inner, links[-1], **policies))
        deputies = [link.deputy for link in links]
        steppers = [SGD(deputy.parameters(), lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0) for deputy in deputies]
        level = join(deputies, steppers, self.outer, between, start=policies.get("start", "common"))
        if policies.get("start", "common") == "common" and level.communicator.size > len(groups):
            joining.share_untrained([model for models in groups for model in models], workers[0].layout, level.communicator)
        for link, its, stepper in zip(links, workers, steppers, strict=True):
            link.tie(its, stepper, links)
        return Levels(workers, level)


class _Deputy(nn.Module):
    """What a group agrees on, as a model of one vector."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vector = nn.Parameter(start.clone())


class _Link(Wrapped):
    """The communicator of a group, whose reference is moved by the deputy's optimizer instead of being replaced."""

    deputy: _Deputy
    together = True  # the deputy moves when all parts have come

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        reference = self.inner.open(center, starts, common, terms)
        self.deputy = _Deputy(reference)
        return reference

    def tie(self, workers: Replicas, optimizer: Optimizer, links: list["_Link"]) -> None:
        """Let the workers of the group follow their deputy from now on."""
        self.workers, self._optimizer, self._links = workers, optimizer, links
        workers.move_reference(self.deputy.vector.detach())

    def begin(self, proposals: Iterable[Tensor], part: Part = WHOLE) -> Callable[[], Tensor]:
        finish = self.inner.begin(proposals, part)

        def move() -> Tensor:
            merged = finish()
            if part.last:
                self.deputy.vector.grad = self.deputy.vector.detach() - self.center.shared.reference  # x^a - mean_b y^ab
                self._optimizer.step()
                for link in self._links:  # a round of the deputies may have moved all of them
                    link.workers.move_reference(link.deputy.vector.detach())
                return self.center.shared.reference[part.place]
            return merged

        return move


class Levels:
    """Coupled workers and deputies; made by `Hierarchy.join`."""

    def __init__(self, workers: list[Replicas], deputies: Replicas):
        self.workers, self.deputies = workers, deputies

    @property
    def reference(self) -> Tensor:
        """What the deputies agree on, shape (N,)."""
        return self.deputies.reference

    def finish(self) -> None:
        """Hold the last rounds, of the workers and then of the deputies. Every process has to call it."""
        for its in (*self.workers, self.deputies):
            its.finish()
        for its, deputy in zip(self.workers, self.deputies.params, strict=True):
            its.move_reference(deputy)

    @contextmanager
    def solution(self, loader: Iterable | None = None) -> Iterator[nn.Module]:
        """Inside `with`, the first model is the solution of the deputies, as in `Replicas.solution`."""
        with self.workers[0].solution(loader, self.deputies.solution_vector()) as model:
            yield model

    def state_dict(self) -> dict:
        """All that the next step depends on here; the workers' buffers and optimizers have their own."""
        steppers = [optimizer.state_dict() for optimizer in self.deputies.optimizers]
        return {"workers": [its.state_dict() for its in self.workers], "deputies": self.deputies.state_dict(), "optimizers": steppers}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Go on from there."""
        for its, saved in zip((*self.workers, self.deputies), (*state["workers"], state["deputies"]), strict=True):
            its.load_state_dict(saved)
        for optimizer, saved in zip(self.deputies.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def close(self) -> None:
        """Uncouple everything. Every process has to call it."""
        for its in (*self.workers, self.deputies):
            its.close()
