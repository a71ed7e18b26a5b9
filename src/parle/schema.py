"""The configuration, key by key: `parle config` prints it as a table, compares two, and writes its JSON schema for editors."""

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from parle import config
from parle.algorithm import Algorithm
from parle.algorithms import ALGORITHMS, VARIANTS
from parle.data import KNOWN
from parle.models import MODELS
from parle.runs import RunFolder

FOLLOWS = "follows from the run"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A key of the configuration: its value now, its default, what it means, and whether the value follows from the rest."""

    key: str
    value: Any
    default: Any
    meaning: str
    derived: bool = False


def read(place: Path | None = None, sets: tuple[str, ...] = ()) -> config.RunConfig:
    """The configuration of a run folder or a YAML file, or the defaults, with `path=value` texts on top; ConfigError as in train."""
    if place is not None and place.is_dir():
        place = RunFolder.existing(place).config
    settings = config.load(place, sets)
    config.algorithm_class(settings).from_settings(config.algorithm_settings(settings))  # refuses what train would refuse
    return settings


def entries(settings: config.RunConfig) -> list[Entry]:
    """Every key of a configuration, in its order, the settings of its algorithm among them."""
    return [entry for entry in _entries(settings, settings) if entry.key != "derived"]


def differences(first: config.RunConfig, second: config.RunConfig) -> list[dict]:
    """The keys in which two configurations differ, with both values; None where one has no such key."""
    both = [{entry.key: entry.value for entry in entries(settings)} for settings in (first, second)]
    keys = dict.fromkeys([*both[0], *both[1]])
    return [{"key": key, "a": a, "b": b} for key in keys if (a := both[0].get(key)) != (b := both[1].get(key))]


def _entries(settings: config.RunConfig, group: BaseModel, path: str = "") -> Iterator[Entry]:
    for name, field in type(group).model_fields.items():
        value, key = getattr(group, name), path + name
        if key == "algorithm":
            yield from _algorithm(settings)
        elif isinstance(value, BaseModel):
            yield from _entries(settings, value, f"{key}.")
        else:
            yield Entry(key, value, field.default, field.description or "", key in settings.derived)


def _algorithm(settings: config.RunConfig) -> Iterator[Entry]:
    kind, given = config.algorithm_class(settings), settings.algorithm
    name = given["name"]
    yield Entry("algorithm.name", name, "parle", "one of `parle list algorithms`")
    if name in VARIANTS:
        variants = VARIANTS[name]
        variant = next(key for key, its in variants.items() if its is kind)
        yield Entry("algorithm.variant", variant, FOLLOWS, f"one of {', '.join(variants)}", "variant" in settings.derived or "variant" not in given)
    for field in dataclasses.fields(kind):
        default, limits = _plain(kind, field), field.metadata
        moves = limits.get("clip") is not None or bool(limits.get("rate") or limits.get("tail"))
        value = given.get(field.name, FOLLOWS if moves else default)
        derived = field.name in settings.derived or (moves and field.name not in given)
        yield Entry(f"algorithm.{field.name}", value, default, limits["meaning"], derived)


def _plain(kind: type[Algorithm], field: dataclasses.Field) -> Any:
    """The default of a setting as a configuration file holds it."""
    return kind().settings()[field.name]


# The schema


def json_schema() -> dict:
    """The JSON schema of configuration files, with the settings of every algorithm by name."""
    schema = config.RunConfig.model_json_schema()
    groups, names = schema["$defs"], list(ALGORITHMS)
    for name, known in (("ModelConfig", list(MODELS)), ("DataConfig", list(KNOWN))):
        groups[name]["properties"]["name"] |= {"anyOf": [{"enum": known}, {"type": "string"}]}  # an editor offers the known ones
        del groups[name]["properties"]["name"]["type"]
    for its in schema["properties"].values():
        group = its.pop("$ref", "").rpartition("/")[2]
        if group:
            alone = groups[group]["properties"].get("name")
            its["anyOf"] = [{"$ref": f"#/$defs/{group}"}, *([_only_names(alone)] if alone else [])]
    schema["properties"]["algorithm"] = {
        "description": schema["properties"]["algorithm"]["description"],
        "default": {"name": "parle"},
        "anyOf": [{"$ref": "#/$defs/Algorithm"}, {"enum": names}],
    }
    groups |= {f"algorithm-{name}": _settings_of(name) for name in names}
    groups["Algorithm"] = {
        "type": "object",
        "properties": {"name": {"enum": names, "description": "one of `parle list algorithms`"}},
        "allOf": [
            {"if": {"properties": {"name": {"const": name}}, "required": ["name"] if name != "parle" else []}, "then": {"$ref": f"#/$defs/algorithm-{name}"}}
            for name in names
        ],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "A training run of parle"}


def _only_names(schema: dict) -> dict:
    """The schema of a name that stands for its group, as in `model: lenet`."""
    return {key: value for key, value in schema.items() if key in ("anyOf", "enum", "type")}


def _settings_of(name: str) -> dict:
    variants = VARIANTS.get(name, {})
    properties: dict[str, dict] = {"name": {"const": name}}
    if variants:
        properties["variant"] = {"enum": list(variants), "description": "which form of it"}
    for kind in (ALGORITHMS[name], *variants.values()):
        for field in dataclasses.fields(kind):
            properties.setdefault(field.name, _setting(kind, field))
    first_line = inspect.getdoc(ALGORITHMS[name]).splitlines()[0]
    return {"type": "object", "title": name, "description": first_line, "properties": properties, "additionalProperties": False}


def _setting(kind: type[Algorithm], field: dataclasses.Field) -> dict:
    """What a setting may be: one of its choices; else a number within its limits, or the text of a schedule."""
    limits = field.metadata
    told = {"description": limits["meaning"], "default": _plain(kind, field)}
    if limits.get("choices"):
        return told | {"enum": list(limits["choices"])}
    words = {"above": "exclusiveMinimum", "at_least": "minimum", "below": "exclusiveMaximum"}
    number = {"type": "integer" if limits.get("whole") else "number"} | {its: limits[word] for word, its in words.items() if limits.get(word) is not None}
    forms = [number, {"type": "string", "description": "a schedule, such as steps(0.1, at=[100])"}]
    return told | {"anyOf": [*forms, {"type": "array", "items": number, "minItems": 1}] if limits.get("each") else forms}
