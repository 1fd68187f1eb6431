"""Configs as JSON: dataclasses tagged with their type, so that a workdir tells what it holds."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from typing import Any

from wsdjax.config.kinds import Kind
from wsdjax.errors import ConfigError
from wsdjax.wording import shown


def to_json(value: Any) -> Any:
    """Plain dicts, lists and numbers; a dataclass becomes a dict with its type under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def key(*values: Any) -> str:
    """A text that is the same for what is equal, and for nothing else."""
    return json.dumps([to_json(value) for value in values], sort_keys=True)


def from_json(value: Any, kind: Any) -> Any:
    """The inverse of `to_json`, for a value of the annotation `kind`: what is written alike, such
    as a branch called "type" and a dataclass's type, or infinity and the text "inf", is told apart
    by that alone. What is nothing of the kind stays as it is, for validation to refuse; only a type
    or a field that is not known is a `ConfigError`.
    """
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        kind = next(each for each in arguments if each is not type(None))
        return None if value is None else from_json(value, kind)
    if isinstance(value, dict) and typing.get_origin(kind) is dict:
        return {name: from_json(item, arguments[1]) for name, item in value.items()}
    if isinstance(value, list) and typing.get_origin(kind) is tuple:
        return tuple(from_json(item, arguments[0]) for item in value)
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Kind):
        return _dataclass(value, kind)
    return float(value) if kind is float and value in ("inf", "-inf") else value


def _dataclass(value: dict[str, Any], kind: type[Kind]) -> Kind:
    value = dict(value)
    name, kinds = value.pop("type", None), kind.kinds()
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError(f"unknown type {shown(name)}: written by a newer wsdjax?")
    value = {**kinds[name].unrecorded, **value}
    fields = {f.name: f for f in dataclasses.fields(kinds[name])}
    for field in value:
        if field not in fields:
            raise ConfigError(f"{name} has no field {shown(field)}: written by a newer wsdjax?")
    for field, f in fields.items():
        if field not in value and f.default is f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"the record of a {name} lacks {field!r}")
    return kinds[name](**{f: from_json(item, fields[f].type) for f, item in value.items()})


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two configs as JSON differ: (path, old value, new value), None for a missing one."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = ((f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in keys)
        return [row for name, a, b in pairs for row in differences(a, b, name)]
    return [] if old == new else [(path, old, new)]
