"""One run from the data to the evaluated consensus, on digits and, where it is at hand, on MNIST."""

import json
from pathlib import Path


def test_three_parle_replicas_learn_the_digits(parle_command):
    result = parle_command("train", "--json", "--name", "digits").json
    assert result["error_pct"] <= 2.5
    records = [json.loads(line) for line in Path("runs/digits/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 50
    assert records[0]["consensus"]["error_pct"] > records[-1]["consensus"]["error_pct"]
    assert records[-1]["algorithm"]["gamma"] == 1.0 and records[-1]["algorithm"]["rho"] == 0.1  # the clips, at the end
    assert records[0]["algorithm"]["gamma"] > 50
    assert max(records[-1]["distance"]) < max(records[0]["distance"])  # the replicas have gathered


def test_three_replicas_of_lenet_learn_mnist(parle_command, mnist, monkeypatch):
    monkeypatch.setenv("PARLE_DATA_DIR", str(mnist.parent))
    arguments = ["train", "-m", "lenet", "-d", "mnist", "-a", "parle", "-n", "3", "-e", "0.1", "--set", "algorithm.period=10", "--json"]
    result = parle_command(*arguments).json
    assert result["params"] == 132_220 and result["steps"] == 47
    assert result["error_pct"] < 12
