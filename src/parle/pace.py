"""The pace of the replicas: when a round is due, and what they know of each other by then."""

import math
import time

import torch
from torch import Tensor

from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.errors import ConfigError
from parle.replica import Replica
from parle.schedules import Seconds, Seen


class Pace:
    """Counts the steps of the replicas of this process, and tells when they meet.

    Where the period `asks`, because it goes by time or follows what the replicas have seen, they exchange four numbers before a round.
    `mean_steps` is the number of steps of a replica up to the last round, the mean of all replicas.
    """

    def __init__(self, algorithm: Algorithm, replicas: list[Replica], communicator: Communicator):
        self._replicas, self._communicator = replicas, communicator
        self.timed, self._unequal = isinstance(algorithm.period, Seconds), isinstance(algorithm.period, tuple)
        self.asks, self._needs_loss = self.timed or bool(algorithm.watched), any(its.needs_loss for its in algorithm.watched)
        self.most = math.inf  # steps in a round whose period goes by time
        self.seen: Seen | None = None
        self.mean_steps = self.stepped = 0.0
        self._losses, self._told = [0.0] * len(replicas), [0] * len(replicas)
        self.start_clock()

    def report(self, loss: Tensor | float, row: int) -> None:
        """The training loss of a step of a local replica."""
        self._losses[row] = self._losses[row] + (loss.detach() if isinstance(loss, Tensor) else loss)
        self._told[row] += 1

    def to_round(self, now: Algorithm) -> int:
        """Steps until the next round, for the replica that has most of them to take; at least so many where the period goes by time."""
        return max(now.steps_of(replica.index) - (0 if self.timed else replica.steps) for replica in self._replicas)

    def is_due(self, now: Algorithm, replica: Replica) -> bool:
        """Whether all local replicas have come to the next round, now that one has stepped; by time, when the last of them steps."""
        if self.timed:
            steps = [its.steps for its in self._replicas]
            late = time.monotonic() >= self._since + now.period.seconds or max(steps) >= self.most
            return late and min(steps) > 0 and replica is self._replicas[-1]
        return all(replica.steps >= now.steps_of(replica.index) for replica in self._replicas)

    def take_stock(self, now: Algorithm, ends: bool = False) -> bool:
        """Find each replica's share of the steps of a round, and what all have seen in it; whether all of them are at their end."""
        everybody, counted = ends, self.asks or ends  # otherwise everybody has taken what is due
        self.stepped = sum(replica.steps for replica in self._replicas) / len(self._replicas) if counted else now.mean_period
        if self.asks or (ends and self._unequal):
            self.stepped, lr, loss, ending = self._exchanged(float(ends))
            first = loss if self.seen is None else self.seen.first_loss
            self.seen, everybody = Seen(lr, loss, first), ending == 1.0
            self._losses, self._told = [0.0] * len(self._replicas), [0] * len(self._replicas)
        for replica in self._replicas:
            its = replica.steps if counted else now.steps_of(replica.index)
            replica.r.weight = max(its, 1) / max(self.stepped, 1e-9)
        return everybody

    def begin_round(self, now: Algorithm) -> None:
        """A round has been held: count the steps towards the next one."""
        self.mean_steps += self.stepped
        for replica in self._replicas:
            replica.steps = 0 if self.timed else max(0, replica.steps - now.steps_of(replica.index))
        self.start_clock()

    def start_clock(self) -> None:
        """A round that goes by time begins now: what came before, such as an evaluation, does not count."""
        self._since = time.monotonic()

    def _exchanged(self, ends: float) -> list[float]:
        """Steps, inner rate, loss, and whether at the end: the means over all replicas, or over those here if all go by their own clocks."""
        if self._needs_loss and not all(self._told) and not ends:
            raise ConfigError("This period follows the training loss, which nobody has told. Call replicas.report(loss) before every optimizer.step().")
        rows = []
        for row, replica in enumerate(self._replicas):
            loss = float(self._losses[row]) / self._told[row] if self._told[row] else 0.0
            rows.append(torch.tensor([replica.steps, replica.optimizer.param_groups[0]["lr"], loss, ends], dtype=torch.float64))
        return (torch.stack(rows).mean(0) if self._communicator.apart else self._communicator.mean(rows)).tolist()

    def state_dict(self) -> dict:
        """What the next round depends on."""
        seen = self.seen and [self.seen.lr, self.seen.loss, self.seen.first_loss]
        return {"mean_steps": self.mean_steps, "seen": seen, "losses": [float(loss) for loss in self._losses], "told": list(self._told)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there."""
        self.mean_steps, self.seen = state["mean_steps"], state["seen"] and Seen(*state["seen"])
        self._losses, self._told = list(state["losses"]), list(state["told"])
