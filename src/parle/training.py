"""The training loop of the command line. Library users write their own, with `parle.join`."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import parle
from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.data import Batches, Data, Split, in_turn, share_of
from parle.errors import ConfigError, DivergedError
from parle.metrics import Score, distances, score
from parle.models import Build, check_fits
from parle.random_streams import RandomStream, derive
from parle.schedules import Schedule
from parle.stepping import STEPPINGS
from parle.vectors import Layout

STRIDE = 25  # steps between two signs of life
FAR = 4  # times the period up to which the theory promises something


@dataclass(frozen=True)
class Plan:
    """Everything that a training depends on, as plain values; the command line makes it from a configuration."""

    model: str
    build: Build
    data: Data
    algorithm: Algorithm
    replicas: int
    steps: int
    batch_size: int
    batches: int  # in a pass of a replica over its data
    seed: int
    devices: tuple[torch.device, ...]
    channels_last: bool = False
    precision: str = "float32"
    share: tuple[float | None, float | None] = (None, None)  # of the training data for each replica: a fraction, or a skew
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    optimizer: str = "sgd"
    sharpness: float = 0.0
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    fused: bool = False
    stepping: str = "in-turn"
    milestones: tuple[int, ...] = ()
    factor: float = 10.0
    inner: Schedule | None = None
    start: str = "common"
    buffers: str = "recompute"
    optimizer_state: str = "keep"
    one_pass: bool | None = None
    evaluate_every: int = 1000
    refresh: int = 10_000


class Training:
    """Replicas with their data and random streams; `run` trains them and yields what there is to tell.

    `mine` are the numbers of the plan's replicas that this process trains, all of them where none are given. Each replica has
    its own order of the data and its own random stream, so what it does depends on nothing but the root seed, its number and
    the rounds. Replicas on one device step in turn; several devices step at the same time. With `apart`, other trainings are
    carried out beside this one in the same process, and all of them draw from its random generators.
    """

    def __init__(self, plan: Plan, communicator: Communicator | None = None, mine: range | None = None, joined: bool = True, apart: bool = False):
        self.plan, self.step, self.seconds = plan, 0, 0.0
        self.mine = range(plan.replicas) if mine is None else mine
        places = [plan.devices[index % len(plan.devices)] for index in range(len(self.mine))]
        self._train = {device: plan.data.train.to(device) for device in dict.fromkeys(places)}
        self._test = plan.data.test.to(places[0])
        numbered = list(zip(self.mine, places, strict=True))
        self.batches = [Batches(self._share(number, device), plan.batch_size, plan.seed, number, plan.augment) for number, device in numbered]
        if plan.stepping == "batched" and len(sizes := {its.size for its in self.batches}) > 1:
            raise ConfigError(
                f"stepping=batched needs batches of one size, but some replicas have fewer samples than a batch of {plan.batch_size}. "
                f"Use -b {min(sizes)}, or stepping=in-turn."
            )
        models = [self._model(number, device) for number, device in numbered]
        Layout.of(models[0])  # refuses what cannot be joined, before an optimizer is made of it
        check_fits(plan.model, models[0], *self.batches[0].split.take(slice(0, plan.batch_size)), plan.data.classes)
        self._streams = [RandomStream(derive(plan.seed, "steps", number), device, len(self._train) == 1 and not apart) for number, device in numbered]
        self._optimizers = [self._optimizer(model) for model in models]
        self._models = models
        self._teams = [[index for index, its in enumerate(places) if its == device] for device in self._train]
        self._losses = [torch.zeros((), device=device) for device in places]
        self.solved: dict | None = None  # the last solution with BatchNorm estimated from all data
        self._taken, self._since = [0] * len(models), [0] * len(models)  # steps of each replica, and those after which losses are summed
        self._uneven = not isinstance(plan.algorithm.at(0).period, int)  # replicas take steps of their own number in a round
        self._tells_loss = any(its.needs_loss for its in plan.algorithm.watched)
        self._steppers: dict = {}  # by the replicas that step together
        if joined:
            self.join(communicator)

    def join(self, communicator: Communicator | None = None) -> None:
        """Couple the replicas; what can fail in one process alone has been done before."""
        plan = self.plan
        self.meter = parle.Metered(communicator or parle.InProcess())
        policies = dict(start=plan.start, buffers=plan.buffers, optimizer_state=plan.optimizer_state, one_pass=plan.one_pass)
        self.replicas = parle.join(self._models, self._optimizers, plan.algorithm, self.meter, **policies)

    def go_to(self, step: int) -> None:
        """Begin with that step instead of the first."""
        self.step, self._taken, self._since = step, [step] * len(self._taken), [step] * len(self._taken)

    @property
    def batches_per_epoch(self) -> int:
        """Steps in one pass of a replica over its data."""
        return self.plan.batches

    @property
    def size(self) -> int:
        """Numbers in the vector of a replica."""
        return self.replicas.layout.size

    @property
    def round(self) -> int:
        """Rounds held so far."""
        return self.replicas.round

    def close(self) -> None:
        """Leave the other replicas."""
        self.replicas.close()

    def run(self) -> Iterator[dict | int]:
        """Train to the end of the plan. Yields the number of the step now and then, and a record for every evaluation.

        Raises DivergedError as soon as a loss or a proposal is not finite.
        """
        every = self.plan.evaluate_every
        while self.step < self.plan.steps:
            evaluations = self.step // every
            if self._uneven:
                self._advance_to_round()
            else:
                self.advance(min(every - self.step % every, self.plan.steps - self.step, STRIDE))
            yield self.step
            if self.step // every > evaluations and self.step < self.plan.steps:
                yield self.record(self.plan.refresh)
        began = time.perf_counter()
        self.replicas.finish()
        self.seconds += time.perf_counter() - began
        yield self.record(None)

    def rate(self, step: int) -> float:
        """The inner learning rate of a step."""
        if self.plan.inner:
            return self.plan.inner(self.replicas.round)
        return self.plan.lr / self.plan.factor ** sum(step >= milestone for milestone in self.plan.milestones)

    def caution(self) -> str | None:
        """What the algorithm first warns of in the course of the plan; of many rounds, some 200 are asked."""
        plan = self.plan
        rounds = plan.algorithm.rounds_in(plan.steps) + 1
        for round in range(0, rounds, max(1, rounds // 200)):
            now = plan.algorithm.at(round)
            if text := now.caution(self.rate(int(round * now.mean_period)), plan.momentum):
                return f"From round {round} of {rounds} on, {text}"
        if 2 * plan.algorithm.at(0).mean_period > plan.steps and plan.algorithm.vectors_sent and not isinstance(plan.algorithm, parle.OneShot):
            return f"{plan.steps:,} steps are less than two rounds of {plan.algorithm.at(0).mean_period:g} steps. Train longer, or lower algorithm.period."
        period, promised = plan.algorithm.at(0).mean_period, plan.algorithm.promised_period(plan.steps, plan.replicas)
        if promised is not None and plan.replicas > 1 and period > FAR * max(1.0, promised):
            return (
                f"A period of {period:g} is far above T^(1/4) / N^(3/4) = {promised:.3g}, up to which the theory promises that {plan.replicas} replicas gain "
                f"over one in {plan.steps:,} steps; beyond, it promises nothing, and trials decide."
            )
        return None

    def advance(self, count: int) -> None:
        """Take `count` steps with every replica; rounds are held where they fall."""
        began, end = time.perf_counter(), self.step + count
        while self.step < end:
            part = min(self.replicas.steps_to_round, end - self.step)  # no replica may run ahead of a round
            if len(self._teams) == 1:
                self._advance_team(self._teams[0], part)
            else:
                with ThreadPoolExecutor(len(self._teams)) as pool:
                    list(pool.map(lambda team, part=part: self._advance_team(team, part), self._teams))
            self.step += part
        self.seconds += time.perf_counter() - began

    def _advance_to_round(self) -> None:
        """Take the steps up to the next round, of each replica its own number; `step` is their mean."""
        began, before = time.perf_counter(), self.replicas.round
        self.replicas.pace.most = self.plan.steps - self.step
        while self.replicas.round == before:
            for team in self._teams:
                for index in team:
                    self._advance_team([index], self.replicas.steps_of(index))
        self.step = int(self.replicas.pace.mean_steps + 1e-9)  # a mean of thirds may fall short of a whole number
        self.seconds += time.perf_counter() - began

    @property
    def gradient_evaluations(self) -> int:
        """Gradients that all replicas have computed."""
        steps = self.replicas.pace.mean_steps if self._uneven else self.step
        return round(steps * self.plan.replicas) * (2 if self.plan.sharpness else 1)

    def record(self, refresh: int | None) -> dict:
        """Measure everything now: one line of metrics.jsonl. BatchNorm is estimated from `refresh` samples (None: from all).

        Every process measures its own replicas, and the first one the consensus, of which the others' records say nothing.
        """
        replicas = self.replicas
        consensus = self._score_consensus(refresh)
        losses, errors, test_losses, distance, refused = self._measured()
        record = {
            "epoch": self.step / self.batches_per_epoch,
            "step": self.step,
            "round": replicas.round,
            "gradient_evaluations": self.gradient_evaluations,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.step * self.plan.replicas * self.batches[0].size / max(self.seconds, 1e-9), 1),
            "bytes_sent_per_replica": self.meter.bytes_sent_per_replica,
            "seconds_waited": round(self.meter.seconds_waited, 3),
            "seconds_exchanged": round(self.meter.seconds_exchanged, 3),
            "train_loss": losses,
            "consensus": consensus,
            "replicas": [{"error_pct": round(error, 4), "loss": loss} for error, loss in zip(errors, test_losses, strict=True)],
            "distance": distance,
            "refused": [int(count) for count in refused],
            "inner_lr": self.rate(self.step),
            "algorithm": replicas.now.settings(),
        }
        for loss in self._losses:
            loss.zero_()
        self._since = list(self._taken)
        replicas.pace.start_clock()
        return record

    def _score_consensus(self, refresh: int | None) -> dict | None:
        if self.mine.start == 0:
            with self.solution(refresh) as model:
                if refresh is None:
                    self.solved = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
                scored = vars(score(model, self._alive(in_turn(self._test))))
            self._still_busy(False)
            return scored
        with self.meter.paused():
            self.replicas.solution_vector()
        while self._still_busy(True):
            pass
        return None

    def _alive(self, batches: Iterable) -> Iterator:
        """The batches; after each, the other processes hear that the first one is at work, or they would give it up for lost."""
        for batch in batches:
            yield batch
            self._still_busy(True)

    def _still_busy(self, busy: bool) -> bool:
        """Whether the first process still evaluates: it says so, and the others hear it."""
        if self.meter.size == len(self.mine):
            return False
        return bool(self.meter.of_first(torch.tensor([float(busy)])))

    def _measured(self) -> list[list[float]]:
        """Of all replicas, in their order: training loss since the last record, test error and loss, distance, and rounds without it."""
        rows = []
        for index, (loss, distance) in enumerate(zip(self._losses, distances(self.replicas), strict=True)):
            its = self._score_replica(index)
            mean_loss = float(loss) / max(self._taken[index] - self._since[index], 1)
            rows.append(torch.tensor([mean_loss, its.error_pct, its.loss, distance, self.replicas.refusals.counts[index]], dtype=torch.float64))
        return torch.stack(self.meter.gather(rows)).T.tolist()

    @contextmanager
    def solution(self, refresh: int | None = None) -> Iterator[nn.Module]:
        """The first model as the solution, inside `with`; BatchNorm estimated from `refresh` samples (None: from all)."""
        split = self._train[self.batches[0].split.labels.device]
        if refresh is not None and refresh < len(split):
            generator = torch.Generator().manual_seed(derive(self.plan.seed, "refresh"))
            chosen = torch.randperm(len(split), generator=generator)[:refresh].to(split.labels.device)
            split = split.subset(chosen)
        with self.meter.paused(), self.replicas.solution(self._alive(in_turn(split))) as model:  # what is sent only to evaluate is not counted
            yield model

    def state_dict(self) -> dict:
        """All that the next step depends on."""
        return {
            "plan": self.plan.replicas,
            "step": self.step,
            "seconds": self.seconds,
            "since": list(self._since),
            "taken": list(self._taken),
            "losses": self._losses,
            "replicas": self.replicas.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "buffers": [dict(model.named_buffers()) for model in self.replicas.models],
            "streams": [stream.state_dict() for stream in self._streams],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from there."""
        self.step, self.seconds, self._since, self._taken = state["step"], state["seconds"], list(state["since"]), list(state["taken"])
        self.replicas.load_state_dict(state["replicas"])
        with torch.no_grad():
            for loss, value in zip(self._losses, state["losses"], strict=True):
                loss.copy_(value)
            for optimizer, its in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(its)
            for model, its in zip(self.replicas.models, state["buffers"], strict=True):
                for name, buffer in model.named_buffers():
                    buffer.copy_(its[name])
        for stream, its in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(its)

    def _model(self, index: int, device: torch.device) -> nn.Module:
        number = index if self.plan.start == "own" else 0
        with RandomStream(derive(self.plan.seed, "model", number)):
            model = self.plan.build().to(device).train()
        return model.to(memory_format=torch.channels_last) if self.plan.channels_last else model

    def _share(self, number: int, device: torch.device) -> Split:
        """The training data of a replica."""
        chosen = share_of(self.plan.data.train.labels, number, self.plan.replicas, *self.plan.share, self.plan.seed)
        return self._train[device] if chosen is None else self._train[device].subset(chosen.to(device))

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        plan, parameters = self.plan, [p for p in model.parameters() if p.requires_grad]
        if plan.algorithm.steps_at_center:
            return SGD(parameters, lr=plan.lr)  # only hands over the gradients
        fused = True if plan.fused else None  # None: torch's choice
        if plan.optimizer == "adamw":
            return AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, fused=fused)
        return SGD(parameters, lr=plan.lr, momentum=plan.momentum, nesterov=plan.nesterov, weight_decay=plan.weight_decay, fused=fused)

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """The next batch of a local replica."""
        return self.batches[index].at(self._taken[index])

    def begin_step(self, index: int, step: int) -> None:
        """Set the rate of a local replica's optimizer for a step counted from the last advance, and clear its gradients."""
        optimizer = self._optimizers[index]
        for group in optimizer.param_groups:
            group["lr"] = self.rate(self.step + (0 if self._uneven else step))
        optimizer.zero_grad()

    def end_step(self, index: int, loss: Tensor) -> None:
        """Step with the gradients that a local replica now has, which may hold a round; `loss` is that of the step."""
        if self._tells_loss:
            self.replicas.report(loss, index)
        self._taken[index] += 1
        self._optimizers[index].step()
        self._losses[index] += loss

    def stream(self, index: int) -> RandomStream:
        """The random stream of a local replica."""
        return self._streams[index]

    def _advance_team(self, team: list[int], count: int) -> None:
        key = tuple(team)
        if key not in self._steppers:  # not before they are joined
            self._steppers[key] = STEPPINGS[self.plan.stepping if len(team) > 1 else "in-turn"](self, team)
        self._steppers[key].advance(count)
        for index in team:
            total = self._losses[index]
            if self.meter.refuses or self.plan.replicas > 1:  # then rounds do without the replica, and the loss is only told
                total.nan_to_num_()
            elif not torch.isfinite(total):
                end = self._taken[index]
                raise DivergedError(f"The training loss of replica {self.mine[index]} is not finite between steps {end - count} and {end}. Lower --lr.")

    def _score_replica(self, index: int) -> Score:
        model, device = self.replicas.models[index], self.batches[index].split.labels.device
        return score(model, in_turn(self._test.to(device)))
