"""parle: coupled replicas of a neural network that speak to each other rarely."""

import importlib

_HOMES = {
    "parle.algorithm": ["Algorithm"],
    "parle.algorithms": [
        "ALGORITHMS",
        "BMUF",
        "DataParallel",
        "DiLoCo",
        "EASGD",
        "EMA",
        "ElasticSGD",
        "EntropySGD",
        "FedProx",
        "LocalSGD",
        "Lookahead",
        "OneShot",
        "Parle",
        "ParleDev2017",
        "ParleMoving",
        "ParleRelease2018",
        "PlainSGD",
        "SWA",
        "ServerSGD",
        "SlowMo",
        "StreamingDiLoCo",
    ],
    "parle.batched": ["Batched"],
    "parle.communicators": ["MPI", "Communicator", "Compressed", "InProcess", "Metered", "Overlapped", "TorchDistributed"],
    "parle.errors": ["ConfigError", "DivergedError", "JoinError", "ParleError", "ReplicaLost", "SetupError"],
    "parle.hierarchy": ["Hierarchy"],
    "parle.replicas": ["Replicas", "join"],
    "parle.saving": ["load", "save"],
    "parle.servers": ["Clock", "Link", "RayServer", "Server", "Simulated"],
    "parle.schedules": ["AdaComm", "Harmonic", "Power", "QSR", "Ramp", "Restart", "Schedule", "Scoping", "Seconds", "Stages", "Steps", "Switch"],
    "parle.sharpness": ["ascended"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str):
    """Import a public name when it is first used, so that `parle --help` need not import torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'parle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
