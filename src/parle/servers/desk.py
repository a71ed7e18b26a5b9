"""Where proposals come in and rounds close: the bookkeeping of a server, without waiting and without a clock of its own."""

import copy
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from parle.algorithm import Algorithm
from parle.center import Center
from parle.communicators.in_process import add_up
from parle.errors import ConfigError, DivergedError, ParleError, ReplicaLost
from parle.servers.rules import Rules

COUNTED = ("received", "updates", "merged", "refused", "waited")
REFUSALS = 10  # proposals in a row that are not finite, after which a replica is given up


class Answer(NamedTuple):
    """What a server gives back.

    `vector` with so many `updates` in it; whether it `refused` the proposal; the vectors of `all` replicas; the `number` of the
    replica's last proposal; or the `error` that the replica has to raise.
    """

    vector: Tensor | None = None
    updates: int = 0
    refused: bool = False
    all: tuple = ()
    number: int = 0
    error: ParleError | None = None


class _Proposal(NamedTuple):
    replica: int
    vector: Tensor | None
    rests_on: int  # updates in the reference on which it rests
    sent: Tensor | None  # that reference, for algorithms that remember it


_REPLICA = itemgetter(0)


class Desk:
    """The center with its buffer of proposals; whoever calls it provides for exclusion, waiting and time.

    Every call names a replica, and returns the replicas whose answers are there from now on, in `answers`. A proposal has a
    number: one that comes again (a message sent twice) is not merged again. Without vectors, it counts only.
    """

    def __init__(self, rules: Rules, now: Callable[[], float]):
        self.rules, self._now, count = rules, now, rules.replicas
        self.center: Center | None = None
        self.active = set(range(count))
        self.answers: dict[int, Answer] = {}
        self.received = self.updates = 0
        self.merged = [0] * count  # proposals of each replica that were merged
        self.refused = [0] * count
        self.waited = [0.0] * count  # seconds between proposals and answers
        self.staleness: Counter = Counter()  # of merged proposals
        self.quorums: Counter = Counter()  # of closed rounds
        self._buffer: list[_Proposal] = []
        self._rests_on, self._number, self._in_a_row = [0] * count, [0] * count, [0] * count
        self._clock = [0] * count  # proposals of each replica, for the bound
        self._sent: list[Tensor | None] = [None] * count
        self._since: dict[int, float] = {}  # since when replicas wait for an answer
        self._heard = [now()] * count  # when each was heard of last
        self._due: dict[int, Tensor | None] = {}  # answers held back by the bound
        self._brought: dict[int, tuple] = {}
        self._everything = Answer()  # what the last `bring` has come to
        self._copy: tuple[int, Tensor | None] = (-1, None)  # of the reference, after so many updates
        self._terms: dict | None = None
        self.algorithms: dict[int, Algorithm] = {}  # of the replicas that have come
        self.over = False

    def enter(self, replica: int, algorithm: Algorithm, terms: dict) -> list[int]:
        """A replica comes, or comes back: ConfigError in its answer if it does not fit, the reference if there is one already."""
        self._heard[replica] = self._now()
        try:
            self._check(replica, algorithm, terms)
        except ConfigError as error:
            return self._give(replica, Answer(error=error)) + self.leave(replica)
        self._come_back(replica)
        self.algorithms[replica] = algorithm
        return self._give(replica, self._reference(replica))

    def begin(self, replica: int, algorithm: Algorithm, start: Tensor) -> list[int]:
        """The first reference, on which all replicas have agreed."""
        if self.center is None:
            self.center = Center(algorithm, start.clone())
        if algorithm.remembers:
            self._sent[replica] = start
        return self._give(replica, Answer())

    def propose(self, replica: int, number: int, vector: Tensor | None) -> list[int]:
        """A proposal of a replica comes."""
        now = self._now()
        self._heard[replica] = now
        if number <= self._number[replica]:  # it has come before
            return [] if replica in self._since else self._give(replica, self._reference(replica))
        self._number[replica] = number
        self._since[replica] = now
        self._everything = Answer()
        self._come_back(replica)
        if vector is not None and not torch.isfinite(vector.sum(dtype=torch.promote_types(vector.dtype, torch.float32))):
            return self._refuse(replica)
        self._in_a_row[replica] = 0
        self.received += 1
        self._clock[replica] += 1
        self._buffer.append(_Proposal(replica, vector, self._rests_on[replica], self._sent[replica]))
        if not self.rules.wait:
            self._due[replica] = None
        return self._settle()

    def bring(self, replica: int, number: int, vectors: tuple) -> list[int]:
        """Vectors that all active replicas get from each other, outside of rounds."""
        if number <= self._number[replica]:
            return [] if replica in self._since else self._give(replica, self._everything)
        self._number[replica] = number
        self._since[replica] = self._heard[replica] = self._now()
        self._brought[replica] = vectors
        return self._settle()

    def fetch(self, replica: int) -> list[int]:
        """The reference as it is now."""
        self._heard[replica] = self._now()
        return self._give(replica, self._reference(replica))

    def leave(self, replica: int) -> list[int]:
        """A replica has finished, died, or is given up; what it has proposed stays."""
        if self.over:
            return []
        self.active.discard(replica)
        self._since.pop(replica, None)
        self._brought.pop(replica, None)
        return self._settle()

    def notice(self) -> list[int]:
        """Give up the replicas that have neither proposed nor waited for longer than the rules allow."""
        late = self._now() - self.rules.timeout
        return [given for replica in list(self.active) if replica not in self._since and self._heard[replica] < late for given in self.leave(replica)]

    def number_of(self, replica: int) -> int:
        """The number of the last proposal of a replica."""
        return self._number[replica]

    def end(self) -> None:
        """Answer nobody any more."""
        self.over = True

    @property
    def quorum(self) -> int:
        """How many proposals close the next round."""
        return min(self._proposing() or self.rules.replicas, self.rules.quorum_at(self.received, self.updates))

    def _settle(self) -> list[int]:
        """Close the rounds whose quorum is in, and answer whoever is due."""
        released = []
        while self._buffer and (len(self._buffer) >= self.quorum or not self._proposing()):
            released += self._close()
        if self._brought and self.active <= self._brought.keys():
            self._everything = Answer(all=tuple(self._brought[replica] for replica in sorted(self._brought)))
            waiting, self._brought = list(self._brought), {}
            released += [given for replica in waiting for given in self._give(replica, self._everything)]
        return released + (self._answer_due() if self._due else [])

    def _proposing(self) -> int:
        """How many replicas may still come with a proposal."""
        return len(self.active) - len(self._brought)

    def _close(self) -> list[int]:
        proposals, self._buffer = sorted(self._buffer, key=_REPLICA) if len(self._buffer) > 1 else self._buffer, []
        if self.center is not None and not self.center.algorithm.partial_rounds and len(proposals) < self.rules.replicas:
            return self._refuse_partial(proposals)
        self.quorums[len(proposals)] += 1
        merged = self._merge(proposals) if self.center is not None else None
        for its in proposals:
            self.staleness[self.updates - its.rests_on] += 1
            self.merged[its.replica] += 1
            if self.rules.wait:
                self._due[its.replica] = merged
        self.updates += 1
        return self._answer_due()

    def _refuse_partial(self, proposals: list[_Proposal]) -> list[int]:
        gone = ", ".join(str(replica) for replica in range(self.rules.replicas) if replica not in self.active)
        name = type(self.center.algorithm).__name__
        error = ReplicaLost(
            f"Replicas that have left or were lost by round {self.updates}: {gone}; and {name} needs all {self.rules.replicas} in every round. "
            "Continue from the last checkpoint, or use an algorithm that takes partial rounds."
        )
        return [given for its in proposals for given in self._give(its.replica, Answer(error=error))]

    def _merge(self, proposals: list[_Proposal]) -> Tensor:
        """What the center makes of the proposals: their mean, in the order of the replicas, each corrected by the algorithm."""
        center = self.center
        center.round = self.received // self.rules.replicas  # schedules count as many proposals as there are replicas for a round
        algorithm, shared = center.algorithm.at(center.round), center.shared
        vectors = (algorithm.correct(shared, its.vector, self.updates - its.rests_on, its.sent) for its in proposals)
        total, count = add_up(vectors)
        return center.merge(total.div_(count).to(shared.reference.dtype), count, size=self.rules.replicas)

    def _answer_due(self) -> list[int]:
        if self.rules.bound is None:
            ready, self._due = self._due, {}
        else:
            most = self._slowest() + self.rules.bound
            ready = {replica: merged for replica, merged in self._due.items() if self._clock[replica] <= most}
            self._due = {replica: merged for replica, merged in self._due.items() if replica not in ready}
        released = []
        for replica, merged in ready.items():
            means_gradients = merged is not None and self.center.algorithm.means_gradients
            released += self._give(replica, self._reference(replica)._replace(vector=merged) if means_gradients else self._reference(replica))
        return released

    def _slowest(self) -> int:
        return min((self._clock[replica] for replica in self.active), default=0)

    def _come_back(self, replica: int) -> None:
        """Count a replica that had been given up among the active ones again, as the slowest of them."""
        if replica not in self.active:
            self._clock[replica] = max(self._clock[replica], self._slowest())
            self.active.add(replica)

    def _reference(self, replica: int) -> Answer:
        """The reference for a replica, on which its next proposal rests."""
        self._rests_on[replica] = self.updates
        if self.center is None:
            return Answer(updates=self.updates, number=self._number[replica])
        if self._copy[0] != self.updates:
            self._copy = (self.updates, self.center.shared.reference.clone())
        if self.center.algorithm.remembers:
            self._sent[replica] = self._copy[1]
        return Answer(self._copy[1], self.updates, number=self._number[replica])

    def reference(self) -> Tensor | None:
        """A copy of the reference, if there is one yet."""
        return None if self.center is None else self.center.shared.reference.clone()

    def status(self) -> dict:
        """What has been counted so far, as plain values; `staleness` and `quorums` say how often each number occurred."""
        return self._counts() | {
            "quorum": self.quorum,
            "active": sorted(self.active),
            "staleness": dict(sorted(self.staleness.items())),
            "quorums": dict(sorted(self.quorums.items())),
        }

    def state_dict(self) -> dict:
        """What the next round depends on, for a checkpoint; proposals that wait in the buffer are not a part of it."""
        return {
            "shared": {name: tensor.clone() for name, tensor in self.center.shared.tensors().items()} if self.center else {},
            "round": self.center.round if self.center else 0,
            "counts": self._counts(),
            "numbers": list(self._number),
            "active": sorted(self.active),
        }

    def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        """Go on from a checkpoint, which has no vectors where nobody had begun yet."""
        if not state["shared"]:
            return
        self.center = Center(algorithm, state["shared"]["reference"].clone())
        for name, tensor in state["shared"].items():
            setattr(self.center.shared, name, tensor)
        self.center.round = state["round"]
        for name, value in state["counts"].items():
            setattr(self, name, list(value) if isinstance(value, list) else value)
        self._number = list(state["numbers"])
        self._clock = list(self.merged)
        self._rests_on = [self.updates] * self.rules.replicas
        self._copy = (-1, None)
        self.active = set(state["active"])
        if algorithm.remembers:
            self._sent = [self.reference()] * self.rules.replicas

    def _counts(self) -> dict:
        return {name: copy.copy(getattr(self, name)) for name in COUNTED}  # lists go on changing

    def _give(self, replica: int, answer: Answer) -> list[int]:
        now = self._now()
        self.waited[replica] += now - self._since.pop(replica, now)
        self._heard[replica] = now
        self.answers[replica] = answer
        return [replica]

    def _refuse(self, replica: int) -> list[int]:
        self.refused[replica] += 1
        self._in_a_row[replica] += 1
        if self._in_a_row[replica] < REFUSALS:
            return self._give(replica, self._reference(replica)._replace(refused=True))
        error = DivergedError(
            f"Replica {replica} has come {REFUSALS} times in a row with numbers that are not finite, although it began anew from the reference each time. "
            "Lower the learning rate, or clip the gradients."
        )
        return self._give(replica, Answer(error=error)) + self.leave(replica)

    def _check(self, replica: int, algorithm: Algorithm, terms: dict) -> None:
        if not algorithm.partial_rounds and not self.rules.always_all:
            name = type(algorithm).__name__
            raise ConfigError(
                f"{name} needs all replicas in every round, but the quorum is {self.rules.quorum} of {self.rules.replicas}. Use quorum n, or an algorithm "
                "that takes partial rounds, such as LocalSGD, EASGD or ServerSGD."
            )
        if not algorithm.partial_rounds and not self.rules.wait:
            raise ConfigError(f"{type(algorithm).__name__} needs the outcome of every round, so its replicas have to wait for it. Use wait=True.")
        averaged = [name for name in ("buffers", "optimizer_state") if terms.get(name) == "average"]
        if averaged and not self.rules.always_all:
            raise ConfigError(f'{averaged[0]}="average" waits for all replicas at every round, but the quorum is {self.rules.quorum}. Use quorum n, or "keep".')
        if self._terms is None:
            self._terms = terms
        related = terms.get("family") is not None and terms.get("family") == self._terms.get("family")
        for name in self._terms.keys() | terms.keys():
            if related and name.startswith("algorithm"):  # replicas of one family may differ in it
                continue
            ours, its = self._terms.get(name), terms.get(name)
            if ours != its:
                raise ConfigError(f"Replica {replica} has {name} {its}, but the first has {ours}. Start all replicas with the same program and configuration.")
