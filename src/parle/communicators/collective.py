"""Replicas in several processes that form every mean together: what torch.distributed and MPI have in common."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor

from parle.communicators.communicator import Communicator, require_present
from parle.communicators.in_process import add_up
from parle.communicators.shared_memory import SharedRows
from parle.errors import ConfigError, JoinError, ReplicaLost
from parle.vectors import WHOLE, Part

BUCKET = 2**22  # numbers of a long vector that are sent or added up at a time
LONGEST = 2**26  # bytes of the terms of one process
TAIL = 4  # numbers behind the vector of a round: processes at their end, those that have stepped, the round, and replicas that are left out
ROUNDS = 2**12  # the round is told modulo this, so that the sum over the processes is exact


class Collective(Communicator):
    """A mean is a sum over all processes, each with one replica or several.

    Vectors are summed in memory of their own, so that a process that dies on the way leaves every parameter as it was. The sum
    of a ring depends on the number of processes in its last digit; `ordered` sends every vector to every process instead and
    adds them in the order of the replicas, which gives bit for bit what `InProcess` gives.

    On one machine, with `shared_memory`, the proposals of a round lie in memory that all processes read, and only the news
    behind them are sent; each adds them up in the order of the replicas. They are counted as the ring would send them.
    """

    ranks: int  # processes, of which this one is number `rank`
    rank: int
    device: torch.device  # where messages lie
    checks_first: bool = False  # whether rounds are announced by a message of their own, not by the tail of the vector
    _absent: int = 0  # replicas of all processes that the last round did without
    lost: bool = False  # whether a process was: what has come of a round since then is no mean
    encoded: bool = False  # whether rounds gather encoded proposals, and form no sums
    _rows: SharedRows | None = None

    def __init__(self, ordered: bool, timeout: float, shared_memory: bool):
        if not timeout > 0:
            raise ConfigError(f"timeout must be a number of seconds above 0, got {timeout!r}: a lost process is noticed when it is over.")
        self.ordered, self.timeout, self.shared_memory = ordered, timeout, shared_memory

    @abstractmethod
    def connect(self, device: torch.device) -> None:
        """Find the other processes, unless that is done: set `ranks`, `rank` and `device`. SetupError where there are none."""

    @abstractmethod
    def _begin_sum(self, vector: Tensor) -> Callable[[], None]:
        """Begin to replace a vector by its sum over all processes; the call that it returns waits for that."""

    @abstractmethod
    def _begin_gather(self, vector: Tensor) -> Callable[[], list[Tensor]]:
        """Begin to send a vector to all processes; the call that it returns waits for all of them, of one shape, in the order of the processes."""

    @abstractmethod
    def _spread(self, vector: Tensor) -> None:
        """Replace a vector by that of the first process."""

    def open(self, center, starts: Iterable[Tensor], common: bool, terms: dict | None = None) -> Tensor:
        if self.center is not None:
            raise JoinError("This communicator already serves other replicas. Give each join a communicator of its own, or close the other replicas first.")
        starts = list(starts)
        self.local = len(starts)
        self.connect(starts[0].device)
        self.compare({"communicator": f"{type(self).__name__} with ordered={self.ordered}"} | (terms or {}))
        self._counts = [int(count) for count in self._gather(torch.tensor([self.local], device=self.device))]
        self.size, self.first = sum(self._counts), sum(self._counts[: self.rank])
        self._length, wide = starts[0].numel(), _wide(starts[0].dtype)
        self._rows = self._shared_rows(wide)
        self._one_by_one = self.ordered and self.size > 2  # the sum of two is the same in either order
        self.checks_first = self.encoded or (not self._rows and (self._one_by_one or (center is not None and center.algorithm.in_fragments)))
        self._scratch = torch.zeros(0 if self._rows or self.encoded else self._length + TAIL, dtype=wide, device=self.device)
        self._sums, self._sent_up_to = [], 0
        reference = self.of_first(starts[0]) if common else self.mean(starts)
        self.center, self.sent = center, 0
        return reference

    def _shared_rows(self, dtype: torch.dtype) -> SharedRows | None:
        """Rows for the proposals of all replicas, where all processes are on one machine that has the memory."""
        rows = SharedRows(self._length, dtype)
        wanted = self.shared_memory and not self.encoded and self.device.type == "cpu" and self.ranks > 1
        try:
            offers = self.texts(rows.offer(self.local) if wanted else "")
            failed = torch.tensor([0.0 if rows.attach(offers, self._counts) else 1.0], device=self.device)
            self._begin_sum(failed)()
        finally:  # nobody else takes the name away when a process was lost by then
            rows.withdraw()
        return None if failed.item() else rows

    def mean(self, vectors: Iterable[Tensor]) -> Tensor:
        vectors = iter(vectors)
        first = next(vectors)
        total = torch.empty(first.numel(), dtype=_wide(first.dtype), device=self.device)
        if self._one_by_one:
            self._add_in_order([first.clone(), *(vector.clone() for vector in vectors)], into=total)
            return total.div_(self.size).to(first)
        self._share(chain([first], vectors), into=total)
        self._sum(total)()
        return total.to(first)

    def gather(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        return self.begin_gather(vectors)()

    def begin_gather(self, vectors: Iterable[Tensor]) -> Callable[[], list[Tensor]]:
        rows = list(vector.to(self.device, copy=True) for vector in vectors)
        rows += [torch.zeros_like(rows[0])] * (max(self._counts) - self.local)  # processes with fewer replicas send as much as the others
        self.sent += self.cost_of_gather(rows[0])
        kind, length, wait = rows[0].dtype, rows[0].numel(), self._begin_gather(torch.cat(rows).view(torch.uint8))  # transports do not know every dtype

        def gathered() -> list[Tensor]:
            self._require_all()
            return [row for block, count in zip(wait(), self._counts, strict=True) for row in block.view(kind).split(length)[:count]]

        return gathered

    def of_first(self, vector: Tensor) -> Tensor:
        message = vector.to(self.device, copy=True)
        self._spread(message.view(torch.uint8))
        return message.to(vector.device)

    def cost_of_mean(self, vector: Tensor) -> int:
        if self._one_by_one:
            return self.cost_of_gather(vector)
        return self._cost_of_sum(vector.numel(), _wide(vector.dtype).itemsize)

    def cost_of_gather(self, vector: Tensor) -> int:
        return (self.ranks - 1) * max(self._counts) * vector.nbytes

    def begin(self, proposals: Iterable[Tensor | None], part: Part = WHOLE) -> Callable[[], Tensor]:
        if self._rows:
            return self._begin_in_shared_memory(proposals, part)
        begin, end, _ = part.place.indices(self._length)
        scratch, reference = self._scratch[begin:end], self.center.shared.reference
        if part.first:
            self._sent_up_to = begin
        if self.checks_first:
            vectors = [proposal if proposal is None else proposal.clone() for proposal in proposals]
            absent = vectors.count(None)
            proposals = [torch.zeros_like(reference[part.place]) if vector is None else vector for vector in vectors]
            if part.first:
                self.check_round(absent)
        if self._one_by_one:
            self._add_in_order(proposals, into=scratch)
            scratch.div_(self.size)
        else:
            absent = self._share(proposals, into=scratch)
            self._send(end, last=part.last, absent=absent)

        def finish() -> Tensor:
            present = self._present()
            mean = scratch if present == self.size else scratch * (self.size / present)
            return self.center.merge(mean.to(reference), present, part, self.size)

        return finish

    def _begin_in_shared_memory(self, proposals: Iterable[Tensor | None], part: Part) -> Callable[[], Tensor]:
        if part.first:
            self._rows.turn()
            self._away = 0
        own, all_rows, absent = self._rows.own(self.rank, part.place), self._rows.all(part.place), 0
        for row, proposal in zip(own, proposals, strict=True):
            absent += proposal is None
            row.zero_() if proposal is None else row.copy_(proposal)
        self._away += own[0].numel()
        if part.last:
            self.sent += self._cost_of_sum(self._away + TAIL, own[0].element_size())
            self._tail = self._news(0, False, absent)
            self._sums.append(self._begin_sum(self._tail))

        def finish() -> Tensor:
            present = self._present()
            mean = torch.add(*all_rows[:2])  # there are two processes at least; `add_up` would copy the first one
            for row in all_rows[2:]:
                mean.add_(row)
            return self.center.merge(mean.div_(present).to(self.center.shared.reference), present, part, self.size)

        return finish

    def _present(self) -> int:
        """How many replicas have proposed, when all have."""
        if self._sums or self.lost:
            self._wait()
        require_present(self.size - self._absent)
        return self.size - self._absent

    def check_round(self, absent: int = 0) -> int:
        self._vote(0, False, absent)
        return self._absent

    def ready_to_finish(self, stepped: bool) -> bool:
        if self.checks_first:
            return self._vote(1, stepped)
        if self._rows:
            return self._vote(1, stepped)
        self._scratch.zero_()  # as long a message as that of a round, in which another process may be: lengths must never differ
        self._sent_up_to = 0
        self._send(self._length, last=True, ends=1, stepped=stepped)
        return self._wait()

    def meet(self) -> None:
        self._sum(torch.zeros(1, device=self.device))()

    def close(self) -> None:
        self.center, self._rows = None, None
        self._sums = []

    def _send(self, end: int, last: bool, ends: int = 0, stepped: bool = False, absent: int = 0) -> None:
        """Begin to sum up what has been filled of the scratch memory, as soon as it is enough for a bucket."""
        if last:
            self._tail = self._scratch[end : end + TAIL]
            self._tail.copy_(self._news(ends, stepped, absent))
            end += TAIL
        while self._sent_up_to < end if last else end - self._sent_up_to >= BUCKET:
            until = end if end - self._sent_up_to < BUCKET + TAIL else self._sent_up_to + BUCKET
            self._sums.append(self._sum(self._scratch[self._sent_up_to : until]))
            self._sent_up_to = until

    def _wait(self) -> bool:
        """Wait for all parts of the vector; what `_agreed` makes of its tail."""
        while self._sums:  # which a transport empties when a process is lost
            self._sums.pop(0)()
        self._require_all()
        return self._agreed(self._tail)

    def _require_all(self) -> None:
        if self.lost:
            raise ReplicaLost("A process was lost before this round had come. The reference is that of the last round; join again, in a new group.")

    def _vote(self, ends: int, stepped: bool, absent: int = 0) -> bool:
        news = self._news(ends, stepped, absent)
        self._sum(news)()
        return self._agreed(news)

    def _news(self, ends: int, stepped: bool, absent: int) -> Tensor:
        return torch.tensor([ends, stepped, self.center.round % ROUNDS, absent], dtype=torch.float32, device=self.device)

    def _agreed(self, news: Tensor) -> bool:
        """Whether any process has stepped since the last round; JoinError unless all of them are at the same point."""
        ends, stepped, rounds, self._absent = (round(number) for number in news.tolist())
        if ends not in (0, self.ranks) or rounds != self.center.round % ROUNDS * self.ranks:
            raise JoinError(
                f"The processes have taken different numbers of steps: this one (process {self.rank}) comes to round {self.center.round}, and {ends} of "
                f"{self.ranks} are in finish(). Step every replica equally often; a step that a GradScaler skips in one process has to be made up for."
            )
        return stepped > 0

    def _gather(self, vector: Tensor) -> list[Tensor]:
        return self._begin_gather(vector)()

    def _share(self, vectors: Iterable[Tensor | None], into: Tensor) -> int:
        """What this process adds to a mean: the sum of its vectors, divided by the number of all replicas; how many it has not."""
        count = absent = 0
        for vector in vectors:
            if vector is None:
                absent += 1
            elif count == 0:
                torch.div(vector.to(into), self.size, out=into)
                count = 1
            else:
                into.add_(vector.to(into), alpha=1 / self.size)
        if count == 0:
            into.zero_()
        return absent

    def _sum(self, vector: Tensor) -> Callable[[], None]:
        self.sent += self._cost_of_sum(vector.numel(), vector.element_size())
        return self._begin_sum(vector)

    def _cost_of_sum(self, length: int, bytes_each: int) -> int:
        return round(2 * (self.ranks - 1) * length / self.ranks) * bytes_each  # a ring's law

    def _add_in_order(self, vectors: list[Tensor], into: Tensor) -> None:
        """The sum of the vectors of all replicas, added up in their order."""
        for begin in range(0, max(len(into), 1), BUCKET):
            add_up(self.gather(vector[begin : begin + BUCKET] for vector in vectors), into=into[begin : begin + BUCKET])

    def compare(self, terms: dict) -> None:
        """Raise ConfigError, naming a process and the difference, unless all have come with the same terms, text by name."""
        ours, *others = (json.loads(text) for text in self.texts(json.dumps(terms)))
        for process, its in enumerate(others, 1):
            if difference := _difference(ours, its, process):
                error = ConfigError(f"{difference} Start all processes with the same program, configuration and versions.")
                error.everywhere = True
                raise error

    def texts(self, text: str) -> list[str]:
        """The texts that all processes give, in the order of the processes."""
        data = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather(torch.tensor([len(data)], device=self.device))]
        if max(lengths) > LONGEST:
            raise JoinError(f"A process describes its replicas in {max(lengths):,} bytes; at most {LONGEST:,} are read. Join fewer parameter tensors.")
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        padded[: len(data)] = data
        return [bytes(its[: length - 1].tolist()).decode() for its, length in zip(self._gather(padded), lengths, strict=True)]


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32)


def _difference(ours: dict, its: dict, process: int) -> str | None:
    """The first difference between the terms of process 0 and those of another one, as a sentence."""
    for name in [*ours, *(name for name in its if name not in ours)]:
        mine, other = ours.get(name), its.get(name)
        if mine == other:
            continue
        if isinstance(mine, list) and isinstance(other, list):
            pairs = [(m, o) for m, o in zip(mine, other, strict=False) if m != o]
            if not pairs:
                return f"Process {process} has {len(other)} {name}, but process 0 has {len(mine)}."
            (mine, other), name = pairs[0], name.removesuffix("s")
        return f"Process {process} has {name} {other}, but process 0 has {mine}."
    return None
