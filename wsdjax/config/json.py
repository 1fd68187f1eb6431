"""Configs as JSON: dataclasses tagged with their type, so that a workdir tells what it holds."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from typing import Any

from wsdjax.config.experiment import TYPES
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


def from_json(value: Any, kind: Any = None) -> Any:
    """The inverse of `to_json`.

    Args:
      value: what it gave.
      kind: the annotation of the field that the value is of. It tells apart what is written
        alike: a branch that is called "type" from a dataclass's type, infinity from a text.

    Raises:
      ConfigError: for a type or a field that is not known.
    """
    if isinstance(value, dict):
        if typing.get_origin(kind) is dict:
            of = typing.get_args(kind)[1]
            return {key: from_json(item, of) for key, item in value.items()}
        if "type" in value:
            return _dataclass(value)
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if kind in (float, float | None) and value in ("inf", "-inf"):
        return float(value)
    return value


def _dataclass(value: dict[str, Any]) -> Any:
    name = value["type"]
    if not isinstance(name, str) or name not in TYPES:
        raise ConfigError(f"unknown type {shown(name)}: written by a newer wsdjax?")
    hints = _hints(TYPES[name])
    fields = {f.name: f for f in dataclasses.fields(TYPES[name])}
    items = {field: item for field, item in value.items() if field != "type"}
    for field in items:
        if field not in fields:
            raise ConfigError(f"{name} has no field {shown(field)}: written by a newer wsdjax?")
    for field, f in fields.items():
        if field not in items and f.default is f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"the record of a {name} lacks {field!r}")
    return TYPES[name](**{field: from_json(item, hints[field]) for field, item in items.items()})


_hints = functools.cache(typing.get_type_hints)


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two configs as JSON differ: (path, old value, new value), None for a missing one."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = ((f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in keys)
        return [row for name, a, b in pairs for row in differences(a, b, name)]
    return [] if old == new else [(path, old, new)]
