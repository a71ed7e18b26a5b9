"""One round on its way: what the replicas proposed, and what they take from it, at once or some steps later."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from parle.algorithm import Algorithm
from parle.communicators import Communicator
from parle.replica import Replica
from parle.vectors import WHOLE, Part

LONG = 2**21  # numbers of a vector that no longer fit a cache several times
PART = 2**18  # numbers of a long vector that the verbs see at a time, so that what they make of them stays in the cache


def parts_of(size: int, device: torch.device, algorithm: Algorithm) -> list[Part]:
    """The parts of a vector in which a round is held: one, unless it is long, lies on a processor and the verbs are elementwise."""
    if size < LONG or device.type != "cpu" or not algorithm.elementwise:
        return [WHOLE]
    begins = range(0, size - PART, PART)
    places = [*(slice(begin, begin + PART) for begin in begins), slice(begins[-1] + PART, None)]
    return [Part(place, place is places[0], place is places[-1]) for place in places]


class Meeting:
    """A round of an algorithm, begun when it is made and ended by `end`; `late` if steps are taken in between.

    `spread` copies a part of the reference to the devices that do not hold it; the rows that are `left_out` propose nothing.
    """

    def __init__(self, algorithm: Algorithm, replicas: list[Replica], late: bool, spread: Callable[[Part], None], left_out: list[int]):
        self.algorithm, self.replicas, self._spread, self.left_out = algorithm, replicas, spread, left_out
        self.proposed = torch.cat([replica.r.params.to(replicas[0].r.params.device) for replica in replicas]) if late else None
        self._begun: list[tuple[Part, Callable[[], Tensor]]] = []

    def begin(self, communicator: Communicator, parts: list[Part]) -> "Meeting":
        """Propose; where nobody can be lost on the way, every part is adopted before the next one is proposed."""
        at_once = not communicator.together and self.proposed is None
        if self.algorithm.fetches and communicator.fetch():
            self._spread(WHOLE)
        for part in parts:
            finish = communicator.begin(self._proposals(part), part)
            if at_once:
                self._adopt(part, finish())
            else:
                self._begun.append((part, finish))
        return self

    def _proposals(self, part: Part) -> Iterator[Tensor | None]:
        for row, r in enumerate(self._vectors(part)):
            yield None if row in self.left_out else self.algorithm.propose(r)[0]

    def end(self) -> None:
        """Wait for the mean, merge and adopt."""
        for part, finish in self._begun:
            self._adopt(part, finish())
        self._begun = []

    def state_dict(self) -> dict:
        """What has been merged, when it has come, and where the replicas were when they proposed."""
        merged = [finish() for _, finish in self._begun]
        self._begun = [(part, lambda its=its: its) for (part, _), its in zip(self._begun, merged, strict=True)]
        first, length = self._begun[0][0].place.start or 0, sum(its.numel() for its in merged)
        return {"merged": torch.cat(merged), "proposed": self.proposed, "place": [first, first + length]}

    def load_state_dict(self, state: dict) -> "Meeting":
        """Go on from there."""
        self.proposed.copy_(state["proposed"])
        self._begun = [(Part(slice(*state["place"])), lambda: state["merged"])]
        return self

    def _vectors(self, part: Part) -> list:
        return [replica.r if part is WHOLE else replica.r.part(part) for replica in self.replicas]

    def _adopt(self, part: Part, merged: Tensor) -> None:
        self._spread(part)
        for row, r in enumerate(self._vectors(part)):
            its = merged.to(r.params.device)
            if self.proposed is None:
                self.algorithm.adopt(r, its)
            else:
                self.algorithm.adopt_late(r, its, self.proposed[row : row + 1, part.place].to(r.params.device))
