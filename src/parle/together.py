"""What the processes of a run decide together, so that none goes on alone or waits for ever."""

import json
from collections.abc import Callable
from typing import TypeVar

import torch

from parle.communicators import Communicator
from parle.communicators.collective import Collective
from parle.communicators.communicator import Wrapped
from parle.errors import ParleError

Result = TypeVar("Result")


class Ended(ParleError):
    """The end of a run in several processes: the message and the exit code of the process whose end matters."""

    def __init__(self, message: str, exit_code: int, everywhere: bool = False):
        super().__init__(message)
        self.exit_code, self.everywhere = exit_code, everywhere


class Together:
    """The processes of a run, or one process on its own, for which everything is trivial."""

    def __init__(self, communicator: Communicator, device: torch.device):
        while isinstance(communicator, Wrapped):
            communicator = communicator.inner
        self._collective = communicator if isinstance(communicator, Collective) else None
        if self._collective:
            self._collective.connect(device)

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._collective.rank if self._collective else 0

    def texts(self, text: str) -> list[str]:
        """The texts that all processes give."""
        return self._collective.texts(text) if self._collective else [text]

    def compare(self, terms: dict) -> None:
        """Raise ConfigError unless all processes give the same terms."""
        if self._collective:
            self._collective.compare(terms)

    def agree(self, work: Callable[[], Result], first_only: bool = False) -> Result | None:
        """Do something in every process, or in the first; where one of them fails, every one raises its error."""
        if self._collective is None:
            return work()
        result, told = None, ""
        if not first_only or self.rank == 0:
            try:
                result = work()
            except ParleError as error:
                told = json.dumps([str(error), error.exit_code])
        failures = [(process, *json.loads(its)) for process, its in enumerate(self.texts(told)) if its]
        if failures:
            process, message, code = failures[0]
            raise Ended(message if first_only or process == 0 else f"Process {process}: {message}", code, everywhere=True)
        return result

    def greatest(self, number: int) -> int:
        """The greatest of the numbers that all processes give."""
        return max(int(text) for text in self.texts(str(number))) if self._collective else number
