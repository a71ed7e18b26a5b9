"""A server on a virtual clock: any number of replicas in one process, exact and repeatable."""

import gc
import math
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from torch import Tensor

from parle.algorithm import Algorithm
from parle.errors import ConfigError, ReplicaLost, SetupError
from parle.servers.clock import Clock, Link
from parle.servers.desk import Answer, Desk
from parle.servers.rules import Quorum, Rules
from parle.servers.seat import Host, Seat
from parle.servers.threads import Over

Step = Callable[[Answer | None], tuple | None]  # from an answer to the next request, or to the end


class Simulated(Host):
    """A server whose replicas take the time that a virtual clock says, one after the other in one process.

    Arguments as for `Server`, and a `Clock`. `run` calls `work(seat)` for every replica, as `Server.run` does, and computes real
    gradients; whose turn it is follows from the clock alone, so the same seed gives the same run, bit for bit. `run_times`
    computes nothing and only counts, for thousands of replicas. `now` is the virtual time, in seconds; `port` is how long the
    server's port has been busy with receiving and with sending. Needs SimPy: SetupError without it.

    >>> server = Simulated(quorum="n", replicas=8, clock=Clock(compute="0.05; 0:0.5"))
    >>> server.run_times(seconds=9.9)
    >>> server.desk.received, server.desk.updates
    (159, 19)
    """

    def __init__(self, quorum: Quorum = 1, replicas: int = 1, clock: Clock | None = None, **rules):
        try:
            import simpy
        except ImportError:
            raise SetupError("The virtual clock needs SimPy. Install it with: pip install 'parle-sgd[simulate]'") from None
        self.rules, self.clock, self._environment = Rules(quorum, replicas, **rules), clock or Clock(), simpy.Environment()
        for name in ("dies", "hangs"):
            if wrong := [replica for replica in getattr(self.clock, name) if not 0 <= replica < replicas]:
                raise ConfigError(f"{name} names replica {wrong[0]}, but there are replicas 0 to {replicas - 1}.")
        self.desk = Desk(self.rules, lambda: self._environment.now)
        self.port = {"in": 0.0, "out": 0.0}
        self._free = {"in": 0.0, "out": 0.0}  # when the server's port is next free
        self._times = self.clock.times(replicas)
        self._by_wire = self.clock.link != Link()
        self._requests: SimpleQueue = SimpleQueue()
        self._answers = [SimpleQueue() for _ in range(replicas)]
        self._bytes = 0

    @property
    def now(self) -> float:
        """The virtual time, in seconds."""
        return self._environment.now

    def ask(self, replica: int, call: str, *arguments) -> Answer:
        """Hand a request to the clock, which lets the others go on until the answer has come."""
        self._requests.put((call, *arguments))
        answer = self._answers[replica].get()
        if answer is None:
            raise Over
        return answer

    def leave(self, replica: int) -> None:
        for released in self.desk.leave(replica):
            self._after(0.0, self._answer, released)  # not now: this is perhaps the thread of another replica

    def status(self) -> dict:
        return self.desk.status()

    def reference(self) -> Tensor | None:
        return self.desk.reference()

    def state_dict(self) -> dict:
        return self.desk.state_dict()

    def load_state_dict(self, state: dict, algorithm: Algorithm) -> None:
        self.desk.load_state_dict(state, algorithm)

    def run(
        self,
        work: Callable[[Seat], object],
        seconds: float | None = None,
        proposals: int | None = None,
        watch: Callable[["Simulated"], object] | None = None,
        every: float = 1.0,
    ) -> list:
        """Call `work(seat)` for every replica; what they return, in their order.

        The end is when all have finished, when so many virtual seconds are over or so many proposals have come; replicas that
        had not finished by then return None. `watch(server)` is called every `every` virtual seconds. The first exception of one
        replica ends all and is raised.
        """
        results, errors, threads = [None] * self.rules.replicas, [], []

        def live(replica: int) -> None:
            self._answers[replica].get()
            try:
                results[replica] = work(self.seat(replica))
            except Over:
                pass
            except BaseException as error:
                errors.append(error)
                self._stop()
            finally:
                self.leave(replica)
                self._requests.put(None)

        def step_of(replica: int) -> Step:
            thread = threading.Thread(target=live, args=(replica,), daemon=True, name=f"replica {replica}")
            thread.start()
            threads.append(thread)

            def step(answer: Answer | None) -> tuple | None:
                self._answers[replica].put(answer)
                return self._requests.get()  # only one thread works at a time, and this is its request

            return step

        try:
            self._simulate([step_of(replica) for replica in range(self.rules.replicas)], seconds, proposals, watch, every)
        finally:
            self.desk.end()
            for answers, thread in zip(self._answers, threads, strict=True):
                answers.put(None)
                thread.join()
        if errors:
            raise errors[0]
        return results

    def run_times(self, seconds: float | None = None, proposals: int | None = None, size: int = 0) -> None:
        """Only count, for so many virtual seconds or until so many proposals of `size` bytes have come; nothing is computed."""
        if seconds is None and proposals is None:
            raise ConfigError("run_times needs an end: give seconds or proposals.")
        self._bytes, desk = size, self.desk

        def step_of(replica: int) -> Step:
            def step(_: Answer | None) -> tuple | None:
                return "propose", desk.number_of(replica) + 1, None

            return step

        gc.freeze()  # else the collector looks through all of torch again and again, for half of the time
        try:
            self._simulate([step_of(replica) for replica in range(self.rules.replicas)], seconds, proposals, None, 1.0)
        finally:
            gc.unfreeze()

    def _simulate(self, steps: list[Step], seconds: float | None, proposals: int | None, watch: Callable | None, every: float) -> None:
        environment, desk, most = self._environment, self.desk, math.inf if proposals is None else proposals
        self._steps, self._end, self._living = steps, environment.event(), len(steps)
        self._asked, self._charged = [""] * len(steps), [False] * len(steps)
        for replica in range(len(steps)):
            self._after(0.0, self._go_on, replica, None)
        if watch:
            environment.process(self._watch(watch, every))
        if self.clock.hangs:
            environment.process(self._patrol())
        if seconds is not None:
            self._after(seconds, self._stop)
        while not self._end.triggered and desk.received < most:
            if environment.peek() == math.inf:
                raise ReplicaLost(f"No replica can go on after {self.now:g} s: each waits for others. Do all of them meet equally often outside of rounds?")
            environment.step()

    def _after(self, seconds: float, call: Callable, *arguments) -> None:
        self._environment.timeout(seconds, (call, arguments)).callbacks.append(_happen)

    def _go_on(self, replica: int, answer: Answer | None) -> None:
        """A replica goes on, up to its next request; a gradient, and so many of them as a round has steps, takes its time."""
        request = self._steps[replica](answer)
        if request is None:
            self._depart(replica)
        elif request[0] in ("propose", "fetch") and not self._charged[replica]:
            self._charged[replica] = True
            self._after(self._computing(replica), self._send, replica, request)
        else:
            self._after(0.0, self._arrive, replica, request)

    def _send(self, replica: int, request: tuple) -> None:
        for gone in (self.clock.dies, self.clock.hangs):
            if gone and self.now >= gone.get(replica, math.inf):
                return self._depart(replica)
        if self._by_wire and request[0] == "propose":
            return self._after(self._transfer("in", request[2]), self._arrive, replica, request)
        return self._arrive(replica, request)

    def _arrive(self, replica: int, request: tuple) -> None:
        self._asked[replica] = request[0]
        for released in getattr(self.desk, request[0])(replica, *request[1:]):
            self._answer(released)

    def _answer(self, replica: int) -> None:
        answer, self._charged[replica] = self.desk.answers.pop(replica), self._asked[replica] == "fetch"
        if self._by_wire and self._asked[replica] == "propose":
            self._after(self._transfer("out", answer.vector), self._go_on, replica, answer)
        else:
            self._go_on(replica, answer)

    def _depart(self, replica: int) -> None:
        """A replica ends, without a word if it hangs."""
        if replica not in self.clock.hangs:
            self.leave(replica)
        self._living -= 1
        if not self._living:
            self._stop()

    def _computing(self, replica: int) -> float:
        center, times = self.desk.center, self._times[replica]
        if center is None:
            return next(times)
        return sum(next(times) for _ in range(self.desk.algorithms[replica].at(center.round).steps_of(replica)))

    def _transfer(self, way: str, vector) -> float:
        """Seconds until a vector has arrived that is sent now."""
        link, now = self.clock.link, self._environment.now
        takes = (vector.nbytes if vector is not None else self._bytes) / link.bandwidth
        self.port[way] += takes
        if not link.shared:
            return link.latency + takes
        self._free[way] = max(now, self._free[way]) + takes
        return self._free[way] - now + link.latency

    def _watch(self, watch: Callable, every: float) -> Iterator:
        times = 0
        while True:
            times += 1
            yield self._environment.timeout(times * every - self._environment.now)
            watch(self)

    def _patrol(self) -> Iterator:
        while True:
            yield self._environment.timeout(self.rules.timeout / 4)
            for released in self.desk.notice():
                self._answer(released)

    def _stop(self) -> None:
        if not self._end.triggered:
            self._end.succeed()


def _happen(event) -> None:
    call, arguments = event.value
    call(*arguments)
