"""Configs as JSON: dataclasses tagged with their type, so that a workdir tells what it holds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from wsdjax.config import TYPES
from wsdjax.validation import ConfigError


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


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, dict):
        items = {key: from_json(item) for key, item in value.items() if key != "type"}
        if "type" not in value:
            return items
        if value["type"] not in TYPES:
            raise ConfigError(f"unknown type {value['type']!r}: written by a newer wsdjax?")
        kind = TYPES[value["type"]]
        for f in dataclasses.fields(kind):
            if f.type is float and items.get(f.name) in ("inf", "-inf"):
                items[f.name] = float(items[f.name])
        return kind(**items)
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two configs as JSON differ: (path, old value, new value), None for a missing one."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = ((f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in keys)
        return [row for name, a, b in pairs for row in differences(a, b, name)]
    return [] if old == new else [(path, old, new)]
