"""What a shell offers after the Tab key, found without importing torch: completion that takes a second is no help."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
CATALOGUES = {"algorithm": ("algorithms", "ALGORITHMS"), "model": ("models", "MODELS"), "embedded": ("data", "EMBEDDED"), "hub": ("data/hub", "HUB_IDS")}
FORMATS = ("safetensors", "pt2", "onnx", "hf")


def names_of(what: str) -> list[str]:
    """The names in a catalogue, read from its source, since importing it takes torch; none where there is no source.

    >>> names_of("model")[:3]
    ['lenet', 'lenet-dev', 'mlp']
    """
    place, variable = CATALOGUES[what]
    file = next((path for path in (PACKAGE / place / "__init__.py", PACKAGE / f"{place}.py") if path.is_file()), None)
    tree = ast.parse(file.read_text()) if file else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable and isinstance(node.value, ast.Dict):
            return [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
    return []


def _beginning(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


algorithms = _beginning(lambda: names_of("algorithm"))
models = _beginning(lambda: names_of("model"))
data = _beginning(lambda: [*names_of("embedded"), *names_of("hub")])
formats = _beginning(lambda: list(FORMATS))


def runs(incomplete: str) -> list[str]:
    """The runs in ./runs, and those below a path."""
    start = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    found = [path for path in [*start.glob("*"), *Path("runs").glob("*")] if (path / "config.yaml").is_file()]
    return [text for text in dict.fromkeys(map(str, sorted(found))) if text.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """The keys that --set takes, those of the algorithm apart, which depend on it."""
    from pydantic import BaseModel

    from parle.config import RunConfig

    def keys(group: type[BaseModel], path: str = "") -> Iterator[str]:
        for name, field in group.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from keys(field.annotation, f"{path}{name}.")
            elif name not in ("derived", "algorithm"):
                yield f"{path}{name}="

    return [key for key in keys(RunConfig) if key.startswith(incomplete)]
