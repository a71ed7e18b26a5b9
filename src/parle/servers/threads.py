"""A server among the threads of one process: the embedded default of the server family."""

import threading
import time
from collections.abc import Callable

from torch import Tensor

from parle.algorithm import Algorithm
from parle.servers.desk import Answer, Desk
from parle.servers.rules import Quorum, Rules
from parle.servers.seat import Host, Seat

GLANCE = 0.25  # seconds between two looks at whether other replicas are still alive


class Over(Exception):
    """The server has come to its end: raised in replicas that still ask it something."""


class Server(Host):
    """A server whose replicas are threads of this process.

    `quorum` is how many proposals close a round: 1 is asynchronous, `"n"` synchronous, `"ramp(1, n, every=300)"` the Smooth
    Switch between them, counted as `count` says; `wait`, `bound` and `timeout` as in `parle.servers.rules`. Every replica joins
    with a seat of its own, in a thread of its own: `run` starts them. A replica that ends, dies or hangs is not waited for.

    >>> import parle, torch
    >>> def work(seat):
    ...     model = torch.nn.Linear(2, 1)
    ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ...     with parle.join(model, optimizer, parle.ServerSGD(lr=0.1), seat) as replica:
    ...         for _ in range(5):
    ...             optimizer.zero_grad()
    ...             model(torch.ones(1, 2)).sum().backward()
    ...             optimizer.step()
    ...         return replica.round
    >>> parle.Server(quorum=1, replicas=3).run(work)
    [5, 5, 5]
    """

    def __init__(self, quorum: Quorum = 1, replicas: int = 1, **rules):
        self.rules = Rules(quorum, replicas, **rules)
        self.desk = Desk(self.rules, time.monotonic)
        self.lock = threading.Lock()
        self._bells = [threading.Condition(self.lock) for _ in range(replicas)]
        self._threads: dict[int, threading.Thread] = {}

    def ask(self, replica: int, call: str, *arguments) -> Answer:
        with self.lock:
            self._threads[replica] = threading.current_thread()
            self._ring(getattr(self.desk, call)(replica, *arguments))
            while replica not in self.desk.answers and not self.desk.over:
                if not self._bells[replica].wait(GLANCE):
                    self._notice()
            if self.desk.over:
                raise Over
            return self.desk.answers.pop(replica)

    def leave(self, replica: int) -> None:
        with self.lock:
            self._threads.pop(replica, None)
            self._ring(self.desk.leave(replica))

    def end(self) -> None:
        """Let nobody wait any more: replicas that ask for something end."""
        with self.lock:
            self.desk.end()
            self._ring(range(self.rules.replicas))

    def run(self, work: Callable[[Seat], object], watch: Callable[["Server"], bool | None] | None = None) -> list:
        """Call `work(seat)` for every replica, each in a thread of its own; what they return, in their order.

        The first exception of one ends all and is raised. `watch(server)` is called again and again meanwhile; if it returns
        True, the replicas are ended, and those that had not finished return None.
        """
        results, errors = [None] * self.rules.replicas, []

        def live(replica: int) -> None:
            try:
                results[replica] = work(self.seat(replica))
            except Over:
                pass
            except BaseException as error:
                errors.append(error)
                self.end()
            finally:
                self.leave(replica)

        threads = [threading.Thread(target=live, args=(replica,), daemon=True, name=f"replica {replica}") for replica in range(self.rules.replicas)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.02 if watch else None)
                    if watch and watch(self):
                        self.end()
        finally:
            self.end()
        if errors:
            raise errors[0]
        return results

    def status(self) -> dict:
        with self.lock:
            return self.desk.status()

    def reference(self) -> Tensor | None:
        with self.lock:
            return self.desk.reference()

    def state_dict(self) -> dict:
        with self.lock:
            return self.desk.state_dict()

    def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        self.desk.load_state_dict(state, algorithm)

    def paused(self) -> threading.Lock:
        return self.lock

    def close(self) -> None:
        self.end()

    def _notice(self) -> None:
        """Give up replicas whose thread has died without a word, and those that hang."""
        for replica, thread in list(self._threads.items()):
            if not thread.is_alive():
                del self._threads[replica]
                self._ring(self.desk.leave(replica))
        self._ring(self.desk.notice())

    def _ring(self, released) -> None:
        for replica in released:
            self._bells[replica].notify()
