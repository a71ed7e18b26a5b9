"""`--fast` in several processes: one of them measures, and all do the same."""

import json
import subprocess
import sys
from pathlib import Path

import yaml


def test_processes_of_our_own_take_what_the_parent_measured(parle_command):
    done = parle_command("train", "--fast", "--processes", "-n", "2", "-e", "1", "--name", "a", "--json", "--set", "model.options={dropout: 0.1}")
    assert done.code == 0, done.err
    assert yaml.safe_load(Path("runs/a/config.yaml").read_text())["fast"].keys() == {"model.channels_last", "precision", "optimizer.fused"}


def test_under_torchrun_the_first_process_measures_for_all():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "parle", "train"]
    done = subprocess.run([*command, "--fast", "-e", "1", "-n", "2", "--name", "a", "--json", "--set", "threads=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    its = yaml.safe_load(Path("runs/a/config.yaml").read_text())
    assert its["fast"].keys() == {"model.channels_last", "precision", "optimizer.fused"}
    assert its["optimizer"]["fused"] is (its["fast"]["optimizer.fused"] >= 1.04)
    assert json.loads(done.stdout.splitlines()[-1])["replicas"] == 2
    assert done.stderr.count("optimizer.fused") == 0  # --json shows no notes
