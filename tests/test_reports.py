"""The report of runs, and the picture of a comparison."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import MadeRun, browser_page

from parle.reports import page, panels, pictures, story

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "input", "br"}


class Reader(html.parser.HTMLParser):
    """Reads a page and complains of tags that do not match; keeps the tags, attributes and visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.seen, self._open = [], [], "", []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.seen += data if self._open and self._open[-1] != "style" else ""


@pytest.mark.reports
def test_train_writes_a_report_that_shows_what_it_has_found(parle_command):
    result = parle_command("train", "-e", "3", "--name", "a", "--json").json
    text = Path("runs/a/report.html").read_text()
    read = Reader(text)
    assert f"{result['error_pct']:.2f}" in read.seen and f"{result['gradient_evaluations']:,}" in read.seen
    for words in ("parle (dev2017) on digits, 3 x mlp", "done", "Test error, %", "Test loss", "Distance of each replica", "gamma", "rho", "replica 2"):
        assert words in read.seen, words
    assert "parle train -c runs/a/config.yaml --name a-again" in read.seen and "computing" in read.seen
    assert "batch_size: 32" in read.seen and "2.13" in read.seen
    assert read.tags.count("svg") == 2 * 4 + len(panels.inside(story.Story(Path("runs/a")).records))


def test_a_report_needs_no_network_and_runs_no_script():
    MadeRun(Path("runs/a")).status("done").record(1, 5.0).record(2, 3.0)
    text = page.page(story.existing([Path("runs/a")]))
    read = Reader(text)
    assert "script" not in read.tags and "http" not in text.replace("http-equiv", "")
    for name, value in read.attributes:
        assert name != "src" and not name.startswith("on"), (name, value)
        assert "href" not in name or value.startswith(("#", "data:")), (name, value)


def test_pictures_take_their_colours_from_the_page():
    MadeRun(Path("runs/a")).status("done").record(1, 5.0).record(2, 3.0)
    text = page.page(story.existing([Path("runs/a")]))
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b(?![\"0-9a-f])", drawn) and "currentColor" in drawn and "var(--run-0)" in drawn
    defined = re.findall(r'<(?:path|clipPath) id="(\w+)"', drawn)
    assert len(defined) == len(set(defined)) and set(re.findall(r"(?:url\(|href=\")#(\w+)", drawn)) <= set(defined)


def test_every_text_of_a_run_is_escaped():
    run = MadeRun(Path("runs") / EVIL.replace("/", "|"), model=EVIL).record(1, 5.0).status("failed", message=EVIL, exit_code=1)
    (run.path / "env.json").write_text(json.dumps({"platform": EVIL, "command": ["parle", EVIL], "launcher": EVIL, "processes": EVIL}))
    with open(run.path / "events.jsonl", "a") as events:
        events.write(json.dumps({"time": 101.0, "event": EVIL, "text": EVIL, EVIL: EVIL}) + "\n")
    run.record(2, 4.0, algorithm={EVIL: 1.0}).record(3, 4.0, algorithm={EVIL: 2.0})
    other = MadeRun(Path("runs/$\\frac{1}$ & co"), model="other").record(1, 5.0)
    for stories in ([run.path], [run.path, other.path]):
        text = page.page(story.existing(stories))
        assert "script" not in Reader(text).tags and text.count("&lt;script&gt;") > 8


def test_a_server_run_shows_quorum_staleness_and_waiting(parle_command):
    parle_command("train", "-a", "server-sgd", "-n", "3", "-e", "2", "--quorum", "ramp(1, n, every=20)", "--name", "s")
    assert parle_command("report", "runs/s").code == 0
    seen = Reader(Path("runs/s/report.html").read_text()).seen
    for words in ("Quorum", "Staleness", "replica 2", "waiting"):
        assert words in seen
    records = story.Story(Path("runs/s")).records
    merged = sum(count for _, count in panels.staleness(records))
    assert merged == sum(sum(record["staleness"].values()) for record in records) > 0
    assert len(panels.times(records)) == 3


def test_several_runs_stand_in_one_report_beside_the_first(parle_command):
    MadeRun(Path("x/a")).status("done").record(1, 5.0).record(2, 3.0)
    MadeRun(Path("y/a"), replicas=2, model="lenet").status("running").record(1, 2.0)
    MadeRun(Path("y/none")).status("failed", message="It broke.")
    done = parle_command("report", "x/a", "y/a", "y/none", "--json")
    assert done.code == 0 and done.json == {"report": "x/report.html"}, done.err
    seen = Reader(Path("x/report.html").read_text()).seen
    assert "epochs ≤ 1" in seen and "model.name" in seen and "lenet" in seen and "It broke." in seen
    assert "x/a" in seen and "y/a" in seen  # two of one name are told apart


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_a_run_without_an_evaluation_has_a_report_too(state, parle_command):
    MadeRun(Path("runs/a")).status(state, message="It broke.", step=7)
    assert parle_command("report", "runs/a").code == 0
    assert state in Reader(Path("runs/a/report.html").read_text()).seen


@pytest.mark.parametrize("name", ["[red]a[/red]", "a[/b] :warning:"])
def test_a_name_in_brackets_is_printed_as_it_is(name, parle_command):
    runs = Path("[/] kept")
    MadeRun(runs / "b").record(1, 5.0)
    MadeRun(runs / name.replace("/", "!")).record(1, 5.0)
    told = parle_command("compare", str(runs / "b"), str(runs / name.replace("/", "!")))
    assert told.code == 0 and name.replace("/", "!") in told.out
    assert str(runs) in parle_command("config", "diff", str(runs / "b"), str(runs / "b")).out
    assert f"No run in {runs / name} yet." in parle_command("watch", "--once", "--runs-dir", str(runs / name)).out


def test_a_report_never_replaces_what_is_not_a_page(parle_command):
    MadeRun(Path("runs/a")).status("done").record(1, 5.0)
    before = Path("runs/a/config.yaml").read_text()
    done = parle_command("report", "runs/a", "--to", "runs/a/config.yaml")
    assert done.code == 2 and ".html" in done.err and Path("runs/a/config.yaml").read_text() == before
    assert parle_command("report", "runs/a", "--to", "no/such/place.html").code == 3
    assert parle_command("report", "runs/nothing").code == 2


@pytest.mark.reports
def test_without_matplotlib_a_training_says_one_sentence_and_a_report_the_cure(parle_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = parle_command("train", "-e", "1", "--name", "a")
    assert done.code == 0 and done.err.count("pip install 'parle-sgd[plots]'") == 1 and not Path("runs/a/report.html").exists()
    refused = parle_command("report", "runs/a")
    assert refused.code == 3 and "pip install 'parle-sgd[plots]'" in refused.err


@pytest.mark.reports
def test_a_report_that_fails_leaves_a_finished_run(parle_command, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no such number")

    monkeypatch.setattr(page, "page", fail)
    done = parle_command("train", "-e", "1", "--name", "a")
    assert done.code == 0 and "no such number" in done.err and "parle report runs/a" in done.err
    assert json.loads(Path("runs/a/status.json").read_text())["state"] == "done"
    assert not list(Path("runs/a").glob("report*"))


@pytest.mark.reports
def test_a_switch_leaves_the_report_away(parle_command):
    assert parle_command("train", "-e", "1", "--name", "a", "--set", "report=false").code == 0
    assert not Path("runs/a/report.html").exists()


def test_a_report_and_a_comparison_need_no_torch():
    MadeRun(Path("runs/a")).status("done").record(1, 5.0)
    code = """
import sys
from parle.cli import main
for arguments in (["report", "runs/a"], ["compare", "runs/a"], ["watch", "--once"]):
    sys.argv = ["parle", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("against", ["epochs", "gradients", "seconds", "bytes"])
def test_compare_draws_a_picture_for_a_paper(against, parle_command):
    MadeRun(Path("runs/_a$")).record(1, 5.0).record(2, 3.0)
    MadeRun(Path("runs/b")).record(1, 4.0).record(2, 0.0)
    done = parle_command("compare", "runs/_a$", "runs/b", "--plot", "p.svg", "--against", against)
    assert done.code == 0, done.err
    assert "Picture: p.svg" in done.out
    drawn = Path("p.svg").read_text()
    assert "_a$ (parle x 3)" in drawn and "b (parle x 3)" in drawn and "test error, %" in drawn
    assert parle_command("compare", "runs/_a$", "runs/b", "--plot", "p.pdf", "--against", against).code == 0
    assert Path("p.pdf").read_bytes().startswith(b"%PDF")


def test_a_picture_of_another_format_is_refused_before_anything_is_written(parle_command):
    MadeRun(Path("runs/a")).record(1, 5.0)
    done = parle_command("compare", "runs/a", "--plot", "p.png")
    assert done.code == 2 and "`.png`" in done.err and ".svg or .pdf" in done.err and not done.out and not Path("p.png").exists()


def test_numbers_that_are_not_finite_leave_gaps():
    records = [json.loads(MadeRun(Path(f"runs/{n}")).line(n, 5.0, train_loss=[float("nan"), 1.0, float("inf")])) for n in (1, 2)]
    panel = panels.inside(records)[0]
    assert [line.values for line in panel.lines] == [(None, None), (1.0, 1.0), (None, None)]
    assert "<svg" in pictures.inline(panel, [[1.0, 2.0]], "epochs")


def test_settings_that_move_are_found_and_others_not():
    records = [{"algorithm": {"gamma": gamma, "rho": 1.0, "period": [1, gamma], "reduce": "mean"}, "inner_lr": 0.1} for gamma in (3, 2)]
    assert panels.moving(records) == {"gamma": [3, 2], "period": [[1, 3], [1, 2]]}


def test_staleness_is_counted_in_ranges_that_double():
    records = [{"staleness": {str(value): 1 for value in range(100)}}]
    assert panels.staleness(records)[-2:] == [("32 to 63", 32), ("64 to 127", 36)] and panels.staleness([{}]) == []
    assert panels.staleness([{"staleness": {"0": 3}}]) == [("0", 3)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_axis_changes_and_nothing_goes_wrong(scheme):
    run = MadeRun(Path("runs") / EVIL.replace("/", "|"), model=EVIL).status("done").record(1, 5.0).record(2, 3.0)
    path = Path("report.html").resolve()
    page.write(story.existing([run.path]), path)
    with browser_page(color_scheme=scheme) as (tab, wrong):
        tab.goto(path.as_uri())
        shown = tab.locator(".against:visible")
        assert shown.count() == 1 and "epochs" in shown.inner_text()
        tab.get_by_label("seconds").check()
        assert shown.count() == 1 and "seconds" in shown.inner_text()
        assert tab.locator(".against:visible .single:visible").count() == 6
        tab.get_by_label("single replicas").uncheck()
        assert tab.locator(".against:visible .single:visible").count() == 0
        ink, paper = tab.evaluate("[getComputedStyle(document.querySelector('svg text')).fill, getComputedStyle(document.body).backgroundColor]")
        bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert (bright[0] > bright[1]) == (scheme == "dark") and abs(bright[0] - bright[1]) > 400, (ink, paper)
        tab.emulate_media(media="print")
        assert tab.locator(".against:visible").count() == 1 and tab.locator("input:visible").count() == 0
        assert not wrong, wrong
