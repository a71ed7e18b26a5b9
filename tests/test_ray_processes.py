"""A server in a Ray actor: the same trajectory as the others, replicas and actor that are killed, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import arrivals
import pytest
import torch
from problems import Vector, plain_sgd, start

import parle

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'parle-sgd[ray]'")
pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are not ours

SGD = parle.ServerSGD(lr=0.05, momentum=0.5)


def descendants(pid: int) -> set[int]:
    """The processes that descend from one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, more = set(), {pid}
    while more := {child for child, parent in parents.items() if parent in more} - found:
        found |= more
    return found


def gone(pids: set[int], within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids):
            return True
        time.sleep(0.2)
    return False


def in_order(server: parle.RayServer, order: list[int]):
    """Seats in threads of this process, whose proposals come to the actor in that order."""
    ask = server.ask

    def ask_in_turn(replica, call, *arguments):
        if call in ("fetch", "propose"):
            while order[server.status()["received"]] != replica:
                time.sleep(0.002)
        return ask(replica, call, *arguments)

    server.ask = ask_in_turn
    return server


def run_in_threads(server, work) -> list:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(server.rules.replicas) as pool:
        return list(pool.map(lambda replica: work(server.seat(replica)), range(server.rules.replicas)))


def test_ray_gives_the_trajectory_of_threads_and_clock_and_leaves_nothing_behind():
    before = descendants(os.getpid())  # the fork server of other tests, which stays
    with parle.RayServer("n", replicas=3) as server:
        every = descendants(os.getpid())
        together = server.run(arrivals.work(SGD, 20))
        for (params, reference, rounds), (its, _, _) in zip(together, parle.Simulated("n", replicas=3).run(arrivals.work(SGD, 20)), strict=True):
            assert torch.equal(params, its) and torch.equal(reference, its) and rounds == 20
        assert server.status()["staleness"] == {0: 60} and torch.equal(server.reference(), together[0][0])
        for quorum, algorithm in ((1, SGD), ("ramp(1, n, every=4)", SGD), (1, parle.EASGD(period=2))):
            clock = parle.Simulated(quorum, replicas=3, clock=parle.Clock(compute="lognormal(0.05, 0.5)"))
            order, propose = [], clock.desk.propose
            clock.desk.propose = lambda replica, *rest, order=order, propose=propose: order.append(replica) or propose(replica, *rest)
            timed = clock.run(arrivals.work(algorithm, 8))
            on_ray = in_order(parle.RayServer(quorum, replicas=3), order)
            for ours, its in zip(run_in_threads(on_ray, arrivals.work(algorithm, 8)), timed, strict=True):
                assert torch.equal(ours[0], its[0]) and torch.equal(ours[1], its[1])
            assert on_ray.status()["staleness"] == dict(sorted(clock.desk.staleness.items()))
            on_ray.close()
        every |= descendants(os.getpid())
        folder = server._folder
        assert folder.exists()
    assert gone(every - before) and not folder.exists() and not ray.is_initialized()


def killed_at(step: int, replica: int):
    def work(seat):
        with parle.join(model := Vector(start()), plain_sgd(model.parameters()), SGD, seat) as its:
            for number in range(40):
                if (seat.first, number) == (replica, step):
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.02)
                its.optimizers[0].zero_grad()
                model.loss(seat.first, number).backward()
                its.optimizers[0].step()
            return its.round

    return work


def test_a_replica_that_is_killed_is_not_waited_for_and_an_actor_that_is_killed_goes_on_from_its_snapshot(tmp_path):
    with parle.RayServer("n", replicas=3) as server:
        assert server.run(killed_at(10, 1)) == [40, None, 40]
        status = server.status()
        assert status["active"] == [] and status["merged"] == [40, 10, 40]
        again = parle.RayServer("n", replicas=2, snapshots=tmp_path, snapshot_every=0.0)
        killed = []

        def kill_once(its) -> None:
            if not killed and its.status()["updates"] >= 10:
                killed.append(its.status()["updates"])
                ray.kill(its._keeper, no_restart=False)

        assert again.run(killed_at(99, 9), watch=kill_once) == [40, 40] and killed
        straight = parle.Simulated("n", replicas=2)
        straight.run(arrivals.work(SGD, 40))
        assert again.status()["updates"] == 40 and torch.equal(again.reference(), arrivals.reference_of(straight))  # none twice, none lost
        with pytest.raises(ZeroDivisionError):
            parle.RayServer(1, replicas=2).run(lambda seat: 1 / 0)
        with pytest.raises(parle.ConfigError, match="Parle needs all replicas"):
            parle.RayServer(1, replicas=2).run(arrivals.work(parle.Parle(period=2), 2))


def test_the_command_line_trains_on_ray_and_says_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "parle", "train", "-a", "server-sgd", "-n", "2", "-e", "2", "--quorum", "1", "--ray", "local", "--json", "--name", "one"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    import json

    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["gradient_evaluations"] == 2 * 2 * 44 and result["error_pct"] < 30
    wrong = subprocess.run([*command[:-4], "127.0.0.1:1", "--name", "two"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 3 and "The Ray cluster 127.0.0.1:1 cannot be reached" in wrong.stderr and "Traceback" not in wrong.stderr


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(parle.SetupError, match=r"pip install 'parle-sgd\[ray\]'"):
        parle.RayServer(1, replicas=2)
    monkeypatch.setitem(sys.modules, "simpy", None)
    with pytest.raises(parle.SetupError, match=r"pip install 'parle-sgd\[simulate\]'"):
        parle.Simulated(1, replicas=2)
