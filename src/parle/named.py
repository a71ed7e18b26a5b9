"""Objects by name: `package.module:attribute` or `file.py:attribute`."""

import importlib
import importlib.util
import operator
import sys
from pathlib import Path
from types import ModuleType

from parle.errors import ConfigError


def is_reference(name: str) -> bool:
    """Whether a name has the form of a reference to an object rather than of a built-in name."""
    return ":" in name


def resolve(name: str, kind: str) -> object:
    """The object that `package.module:attribute` or `file.py:attribute` names; the current folder is searched first.

    Raises ConfigError where the module cannot be imported or has no such attribute.

    >>> resolve("math:pi", "number")
    3.141592653589793
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(f"`{name}` is not a {kind}. Write package.module:attribute or file.py:attribute.")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except Exception as error:
        raise ConfigError(f"{kind.capitalize()} `{name}` cannot be imported: {type(error).__name__}: {error}") from error
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        raise ConfigError(f"{kind.capitalize()} `{name}`: {place} has no attribute `{attribute}`. Check the spelling after the colon.") from None


def _from_path(place: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # console scripts do not search the current folder
    return importlib.import_module(place)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if str(path.resolve().parent) not in sys.path:
        sys.path.insert(0, str(path.resolve().parent))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(f"parle_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
