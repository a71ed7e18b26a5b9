"""Runs that are followed: what is read while it is written, the page and its server, the terminal."""

import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_runs import MadeRun, browser_page
from rich.console import Console

from parle.errors import SetupError
from parle.reports import live, story, terminal, watching
from parle.reports.story import Story, Tail
from parle.runs import RunFolder

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def serve():
    """`serve(paths)` gives the port of a live page on those runs."""
    servers = []

    def start(paths=(), runs_dir=Path("runs")) -> int:
        server = live.server_for(watching.Watcher(list(paths), runs_dir), 0)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port: int, path: str, host: str | None = None, method: str = "GET", **headers) -> tuple[int, bytes, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": host or f"127.0.0.1:{port}"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_half_a_line_is_read_when_the_other_half_is_there():
    run = MadeRun(Path("runs/a")).record(1, 5.0)
    line = run.line(2, 4.0)
    with open(run.path / "metrics.jsonl", "a") as lines:
        lines.write(line[:30])
    its = Story(run.path)
    assert len(its.records) == 1
    with open(run.path / "metrics.jsonl", "a") as lines:
        lines.write(line[30:])
    its.refresh()
    assert [record["epoch"] for record in its.records] == [1, 2]


def test_a_damaged_line_is_passed_over():
    tail = Tail(Path("lines"))
    tail.read()
    assert tail.records == []
    Path("lines").write_bytes(b'{"a": 1}\n\xff\xfe broken\n[1]\n{"a": 2}\n')
    tail.read()
    assert tail.records == [{"a": 1}, {"a": 2}]


def test_a_resumed_run_drops_the_evaluations_that_it_writes_again():
    run = MadeRun(Path("runs/a")).record(1, 5.0).record(2, 4.0).record(3, 3.0)
    its = Story(run.path)
    RunFolder(run.path).forget_after(step=10)
    its.refresh()
    assert [record["epoch"] for record in its.records] == [1]
    run.record(2, 2.5)
    its.refresh()
    assert [record["consensus"]["error_pct"] for record in its.records] == [5.0, 2.5]


def test_a_run_is_absent_then_there_then_deleted():
    its = Story(Path("runs/a"))
    assert its.state == "absent" and "runs/a" in its.message
    run = MadeRun(Path("runs/a"))
    its.refresh()
    assert its.state == "starting" and its.message == "No evaluation yet."
    run.status("running")
    its.refresh()
    assert its.state == "running"
    shutil.rmtree(run.path)
    its.refresh()
    assert its.state == "deleted" and its.records == []
    MadeRun(Path("runs/a")).record(1, 9.0).status("done")  # begun anew, under the same name
    its.refresh()
    assert its.state == "done" and len(its.records) == 1


def test_a_run_whose_process_is_gone_is_lost_after_a_while(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = MadeRun(Path("runs/a")).status("running", pid=gone.pid)
    assert Story(run.path).state == "running"  # it may be starting again
    monkeypatch.setattr(story, "SILENT", -1.0)
    assert Story(run.path).state == "lost" and "parle resume" in Story(run.path).message
    run.status("running", pid=gone.pid, host="elsewhere." + platform.node())
    assert Story(run.path).state == "running"  # nothing is known of another machine's processes
    run.status("running", pid=os.getpid())
    assert Story(run.path).state == "running"


def test_without_names_runs_under_way_and_the_newest_are_followed_to_their_ends():
    for number, (name, state) in enumerate([("old", "done"), ("new", "done"), ("going", "running")]):
        run = MadeRun(Path("runs") / name).status(state)
        os.utime(run.path / "status.json", (1000 + number, 1000 + number))
    Path("runs/report.html").write_text("not a run")
    watcher = watching.Watcher([], Path("runs"))
    assert [its.name for its in watcher.look()] == ["going"]
    run.status("done")
    assert [(its.name, its.state) for its in watcher.look()] == [("going", "done")]
    MadeRun(Path("runs/next"))
    assert [its.name for its in watcher.look()] == ["next", "going"]
    assert watching.Watcher([], Path("nowhere")).look() == []


def test_too_many_runs_push_out_those_that_have_ended():
    first = [MadeRun(Path(f"runs/{number}")).status("running") for number in range(watching.SHOWN)]
    watcher = watching.Watcher([], Path("runs"))
    assert len(watcher.look()) == watching.SHOWN
    first[2].status("done")
    MadeRun(Path("runs/more")).status("running")
    names = [its.name for its in watcher.look()]
    assert len(names) == watching.SHOWN and names[0] == "more" and "2" not in names


def test_the_state_is_strict_json_however_wild_the_numbers(serve):
    MadeRun(Path("runs/a")).status("running").record(1, float("nan"), distance=[float("inf")] * 3)
    status, body, _ = ask(serve([Path("runs/a")]), "/state")

    def refuse(name):
        raise AssertionError(name)

    run = json.loads(body, parse_constant=refuse)["runs"][0]
    assert status == 200 and run["error_pct"] is None and run["loss"] is None


def test_a_state_that_has_not_changed_is_not_sent_again(serve):
    run = MadeRun(Path("runs/a")).status("running").record(1, 5.0)
    port = serve([run.path])
    _, _, headers = ask(port, "/state")
    assert ask(port, "/state", **{"If-None-Match": headers["ETag"]})[:2] == (304, b"")
    run.record(2, 4.0)
    assert ask(port, "/state", **{"If-None-Match": headers["ETag"]})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8417", "10.0.0.1", "localhost:8417@evil", " "])
def test_a_strange_host_learns_nothing(host, serve):
    MadeRun(Path("runs/secret")).status("running")
    status, body, _ = ask(serve([Path("runs/secret")]), "/state", host)
    assert status == 403 and b"secret" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8417"])
def test_loopback_by_any_port_is_answered(host, serve):
    assert ask(serve(), "/state", host)[0] == 200  # ssh may forward another port than ours


@pytest.mark.parametrize("path", ["/../watch.py", "//etc/passwd", "/watch.js/../../live.py", "/runs/a/config.yaml", "/%2e%2e/live.py", "/state?x=1", "*"])
def test_only_fixed_paths_are_served(path, serve):
    MadeRun(Path("runs/a"))
    assert ask(serve(), path)[0] == 404


def test_the_server_listens_on_loopback_only_and_only_reads(serve):
    port = serve()
    server = live.server_for(watching.Watcher([], Path("runs")), 0)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()
    assert ask(port, "/state", method="POST")[0] == 501 and ask(port, "/", method="HEAD")[:2] == (200, b"")
    policy = ask(port, "/")[2]["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for(serve, monkeypatch):
    taken = serve()
    with pytest.raises(SetupError, match=f"Port {taken}"):
        live.server_for(watching.Watcher([], Path("runs")), taken)
    monkeypatch.setattr(live, "PORT", taken)
    server = live.server_for(watching.Watcher([], Path("runs")))
    assert server.server_address[1] not in (0, taken)
    server.server_close()


def test_once_prints_the_present_state_and_ends(parle_command):
    MadeRun(Path("runs/[a]")).status("failed", message="The [red]loss[/red] is not finite.").record(1, 5.0).record(2, 2.5)
    done = parle_command("watch", "--once")
    assert done.code == 0 and "[a]" in done.out and "failed" in done.out and "2.50" in done.out and "[red]loss[/red]" in done.out
    run = parle_command("watch", "runs/[a]", "--once", "--json").json["runs"][0]
    assert (run["state"], run["epoch"], run["error_pct"], run["best_error_pct"]) == ("failed", 2, 2.5, 2.5)
    assert parle_command("watch", "runs/none", "--once").code == 2
    assert "No run in empty yet." in parle_command("watch", "--runs-dir", "empty", "--once").out


def test_text_tells_every_evaluation_and_ends_with_the_run(capsys):
    run = MadeRun(Path("runs/a"))

    def train() -> None:
        for epoch in (1, 2, 3):
            time.sleep(0.1)
            run.status("running").record(epoch, 10.0 / epoch)
        run.status("done")

    thread = threading.Thread(target=train)
    thread.start()
    terminal.follow(watching.Watcher([run.path], Path("runs")), Console(highlight=False, force_terminal=False))
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "epoch" in line] == [f"a: epoch {n} of 10, test error {10 / n:.2f} %, loss {1 / n:.4f}, {2 * n}.0 s" for n in (1, 2, 3)]
    assert lines[-1] == "a: done."


def test_on_a_terminal_a_table_renews_itself(monkeypatch):
    run = MadeRun(Path("runs/a")).status("running")
    monkeypatch.setattr(terminal.time, "sleep", lambda _: run.record(1, 5.0).record(2, 1.25).status("interrupted", step=20))
    console = Console(force_terminal=True, width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    terminal.follow(watching.Watcher([run.path], Path("runs")), console)
    told = console.export_text()
    console.file.close()
    assert "interrupted" in told and "1.25" in told and "parle resume runs/a" in told


@pytest.mark.parametrize("width", [40, 80, 160])
def test_on_a_narrow_terminal_columns_are_left_away_and_no_name(width):
    for name in ("first", "a name of more than thirty letters"):
        MadeRun(Path("runs", name)).status("done").record(1, 5.0).record(2, 2.5)
    console = Console(force_terminal=True, width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    watcher = watching.Watcher([Path("runs/first"), Path("runs/a name of more than thirty letters")], Path("runs"))
    terminal.show(watcher, watcher.look(), console)
    told = console.export_text()
    console.file.close()
    assert "first" in told and "letters" in told and told.count("done") == 2 and told.count("2.50") >= 2 and "…" not in told
    assert max(map(len, told.splitlines())) <= width and ("images/s" in told) == (width == 160)


def test_a_training_is_followed_to_its_end(parle_command):
    """The real thing, from the files of a real training."""
    command = [sys.executable, "-m", "parle", "train", "-e", "2", "--name", "real", "--set", "report=false"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        done = parle_command("watch", "runs/real", "--text")
        assert training.wait(timeout=60) == 0
    told = json.loads(Path("runs/real/status.json").read_text())["result"]
    assert f"epoch 2 of 2, test error {told['error_pct']:.2f} %" in done.out and done.out.rstrip().endswith("real: done.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_number_just_written_appears(scheme, serve):
    run, other = MadeRun(Path("runs/a")).status("running"), MadeRun(Path("runs") / EVIL, replicas=25, model=EVIL).status("running")
    port = serve([run.path, other.path, Path("runs/later")])
    with browser_page(color_scheme=scheme, viewport={"width": 1200, "height": 800}) as (tab, wrong):
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.get_by_text("No evaluation yet.").first.wait_for()
        tab.get_by_text("There is no run in runs/later yet.").wait_for()
        run.record(1, 12.34)
        tab.get_by_text("12.34 %").first.wait_for()
        run.record(2, 3.21)
        tab.get_by_text("3.21 %").first.wait_for()
        other.record(1, 7.77).record(2, 6.66)
        tab.get_by_text("6.66 %").first.wait_for()
        assert tab.locator("#together svg").count() == 2 and tab.locator("img").count() == 0
        assert tab.locator("section.run").nth(1).locator("figure").first.locator("g.single").count() == 25
        tab.get_by_label("seconds").check()
        assert "seconds" in tab.locator("svg").first.inner_html()
        run.status("failed", message="The training loss is not finite.")
        tab.get_by_text("The training loss is not finite.").wait_for()
        other.status("interrupted", step=20)
        tab.locator(".state.interrupted").wait_for()
        shutil.rmtree(run.path)
        tab.get_by_text("was deleted").wait_for()
        ink, paper = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        assert ink != paper and tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.set_viewport_size({"width": 380, "height": 700})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not wrong, wrong


def test_in_a_browser_a_server_that_ended_is_said_and_taken_up_again():
    MadeRun(Path("runs/a")).status("running").record(1, 5.0)

    def begin(port):
        server = live.server_for(watching.Watcher([], Path("runs")), port)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server, server.server_address[1]

    server, port = begin(0)
    with browser_page() as (tab, _):
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.get_by_text("5.00 %").first.wait_for()
        tab.route("**/state", lambda route: route.abort())
        tab.get_by_text("No answer.").wait_for()
        tab.unroute("**/state")
        tab.locator("#notice").wait_for(state="hidden")
    server.shutdown()
    server.server_close()
