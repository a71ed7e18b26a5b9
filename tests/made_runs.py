"""Run folders written by hand, a record at a time, and a browser to look at pages with."""

import json
import os
import platform
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


class MadeRun:
    """A run folder that grows as a test says."""

    def __init__(self, path: Path, replicas: int = 3, model: str = "mlp", epochs: float = 10.0):
        self.path, self.replicas = path, replicas
        path.mkdir(parents=True)
        settings = {"model": {"name": model}, "data": {"name": "digits"}, "algorithm": {"name": "parle"}, "replicas": replicas, "epochs": epochs}
        (path / "config.yaml").write_text(yaml.safe_dump(settings))
        (path / "env.json").write_text(json.dumps({"parle": "0", "cores": 2, "command": ["parle", "train"], "processes": 1, "launcher": None}))
        (path / "events.jsonl").write_text(json.dumps({"time": 100.0, "event": "start", "step": 0}) + "\n")

    def status(self, state: str, **details) -> "MadeRun":
        details = {"pid": os.getpid(), "host": platform.node()} | details if state == "running" else details
        (self.path / "status.json").write_text(json.dumps({"state": state, **details}))
        return self

    def line(self, epoch: float, error: float, **more) -> str:
        record = {
            **{"epoch": epoch, "step": int(10 * epoch), "round": int(epoch), "gradient_evaluations": int(10 * epoch) * self.replicas},
            **{
                "seconds": 2.0 * epoch,
                "images_per_second": 1000.0,
                "bytes_sent_per_replica": int(1e6 * epoch),
                "seconds_waited": 0.1,
                "seconds_exchanged": 0.2,
            },
            "consensus": {"error_pct": error, "loss": error / 10},
            "replicas": [{"error_pct": error + index, "loss": error} for index in range(self.replicas)],
            "train_loss": [0.5] * self.replicas,
            "distance": [1.0 / epoch] * self.replicas,
            "inner_lr": 0.1,
            "algorithm": {"gamma": 100.0 / epoch, "rho": 0.1, "period": 25},
        }
        return json.dumps(record | more) + "\n"

    def record(self, epoch: float, error: float, **more) -> "MadeRun":
        with open(self.path / "metrics.jsonl", "a") as lines:
            lines.write(self.line(epoch, error, **more))
        return self


@contextmanager
def browser_page(**options):
    """A page of a headless browser, and the list of what went wrong in it; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'parle-sgd[test]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    wrong: list[str] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        page = browser.new_page(**options)
        page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        try:
            yield page, wrong
        finally:
            browser.close()
