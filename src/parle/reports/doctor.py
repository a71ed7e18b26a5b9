"""What this machine has for parle, and the exact command that adds what is missing."""

import importlib.metadata
import os
import platform

import torch

import parle

EXTRAS = {
    "accelerate": ("accelerate",),
    "data": ("scikit-learn", "pillow", "pyarrow", "datasets"),
    "hf": ("transformers",),
    "lightning": ("lightning",),
    "mpich": ("mpi4py", "mpich"),
    "plots": ("matplotlib",),
    "onnx": ("onnx", "onnxscript"),
    "ray": ("ray",),
    "simulate": ("simpy",),
    "test": ("hypothesis", "jsonschema", "playwright", "pytest", "pytest-timeout", "pytest-xdist"),
    "tensorboard": ("tensorboard",),
    "dev": ("ruff",),
}


def report(data_dir: str | None) -> dict:
    """Python, torch, devices, cores, optional packages with their versions, and commands for the missing ones."""
    found = {name: _version(name) for names in EXTRAS.values() for name in names}
    missing = {extra: [name for name in names if not found[name]] for extra, names in EXTRAS.items()}
    return {
        "parle": parle.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "devices": ["cpu", *(f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count()))],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "data_dir": data_dir,
        "packages": found,
        "install": {extra: f'pip install "parle-sgd[{extra}]"' for extra, names in missing.items() if names},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
