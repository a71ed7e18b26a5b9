"""The architecture: imports point down only, and each thing lives in its one place."""

import ast
from pathlib import Path

import pytest

import parle

SOURCE = Path(parle.__file__).parent
LAYERS = {
    0: ["algorithm", "schedules", "vectors", "buffers", "errors", "optimizer_state", "random_streams", "named", "sharpness"],
    1: ["algorithms", "communicators"],
    2: ["center", "replica", "joining", "meeting", "pace", "refusing", "one_pass", "replicas"],
    3: ["hierarchy", "saving", "checkpoint", "metrics", "testing", "runs", "loggers", "servers", "batched"],
    4: ["integrations", "permutations", "alignment", "flatness", "models", "data", "recipes", "stepping", "training", "serving", "resizing", "reports"],
    5: [
        "config",
        "settling",
        "launch",
        "together",
        "processes",
        "plans",
        "fast",
        "keeping",
        "jobs",
        "anatomy",
        "simulation",
        "reproduce",
        "exporting",
        "estimating",
        "schema",
    ],
    6: ["cli", "__main__"],
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
OPTIONAL = [
    "datasets",
    "PIL",
    "pyarrow",
    "sklearn",
    "mpi4py",
    "simpy",
    "ray",
    "scipy",
    "matplotlib",
    "onnx",
    "tensorboard",
    "lightning",
    "transformers",
    "accelerate",
]
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def unit(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The full names of the modules that a file imports anywhere, type checking included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" if node.module == "parle" else node.module for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down_the_layers(path):
    mine = unit(path)
    names = imported(path)
    top = {name for name in ast.unparse(ast.parse(path.read_text())).replace("(", " ").split() if name.startswith("parle.")}
    names |= {parle._HOME_OF[name.split(".")[1]] for name in top if name.split(".")[1] in parle._HOME_OF}  # parle.join is parle.replicas
    for name in names:
        its = name.split(".")[1] if name.startswith("parle.") else None
        if its in LAYER and its != mine:
            assert LAYER[its] <= LAYER[mine], f"{mine} (layer {LAYER[mine]}) imports {its} (layer {LAYER[its]})"
            assert {its, mine} != {"algorithms", "communicators"}, "an algorithm never sees a communicator, nor the other way round"


def test_every_file_has_a_layer():
    assert {unit(path) for path in FILES} == set(LAYER)


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_in_one_file(package):
    users = [str(path.relative_to(SOURCE)) for path in FILES if any(name.removeprefix("torch.utils.").split(".")[0] == package for name in imported(path))]
    assert len(users) == 1, users


def test_the_library_never_prints_exits_or_reads_the_environment():
    for path in FILES:
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        text = path.read_text()
        if LAYER[unit(path)] <= 3:
            assert not calls & {"print", "exit", "sys.exit"}, path
            assert not imported(path) & {"typer", "rich", "pydantic", "yaml"}, path
        if unit(path) not in ("launch", "cli"):
            assert "os.environ" not in text and "getenv" not in text, path
        assert "pickle" not in text and "torch.load(" not in text and "torch.save(" not in text, path


def test_no_user_mistake_is_answered_by_an_assertion():
    for path in FILES:
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))), path
