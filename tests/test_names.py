"""The public names, and that a name means one thing."""

import inspect
import subprocess
import sys

import parle

PUBLIC = [
    "load",
    "save",
    "MPI",
    "Clock",
    "Compressed",
    "Overlapped",
    "ReplicaLost",
    "TorchDistributed",
    "ALGORITHMS",
    "AdaComm",
    "Algorithm",
    "Communicator",
    "ConfigError",
    "BMUF",
    "Batched",
    "DataParallel",
    "DiLoCo",
    "DivergedError",
    "EASGD",
    "EMA",
    "ElasticSGD",
    "EntropySGD",
    "FedProx",
    "Harmonic",
    "Hierarchy",
    "InProcess",
    "JoinError",
    "Link",
    "LocalSGD",
    "Lookahead",
    "Metered",
    "OneShot",
    "Parle",
    "ParleDev2017",
    "ParleMoving",
    "ParleError",
    "ParleRelease2018",
    "PlainSGD",
    "Power",
    "QSR",
    "Ramp",
    "Replicas",
    "Restart",
    "Schedule",
    "SWA",
    "Scoping",
    "Seconds",
    "RayServer",
    "Server",
    "ServerSGD",
    "SetupError",
    "Simulated",
    "SlowMo",
    "Stages",
    "Steps",
    "StreamingDiLoCo",
    "Switch",
    "__version__",
    "ascended",
    "join",
]


def test_the_public_names_are_these():
    assert sorted(parle.__all__) == sorted(PUBLIC)
    assert all(getattr(parle, name) is not None for name in PUBLIC)


def test_every_public_name_is_documented_in_one_sentence_first():
    for name in PUBLIC:
        thing = getattr(parle, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            first = inspect.getdoc(thing).split("\n\n")[0]
            assert first.endswith("."), name


def test_public_methods_are_documented():
    for name in ("Server", "Simulated", "RayServer", "Replicas", "Algorithm", "Communicator", "Metered", "Scoping"):
        for method, member in inspect.getmembers(getattr(parle, name), inspect.isfunction):
            if not method.startswith("_"):
                assert inspect.getdoc(member), f"{name}.{method}"


def test_an_unknown_name_is_an_attribute_error():
    try:
        parle.Parlee  # noqa: B018
    except AttributeError as error:
        assert "Parlee" in str(error)
    else:
        raise AssertionError("parle.Parlee exists")


def test_forbidden_words_are_in_no_file_name():
    from pathlib import Path

    for path in Path(parle.__file__).parent.rglob("*.py"):
        assert not any(word in path.stem for word in ("util", "common", "manager", "handler", "base_", "helper")), path


def test_help_does_not_import_torch():
    code = """
import sys
from parle.cli import app
sys.argv = ["parle", "--help"]
try:
    app()
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout
