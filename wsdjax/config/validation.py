"""Values checked against the annotations and bounds of the dataclasses that hold them."""

import dataclasses
import math
import operator
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from wsdjax.config.kinds import Kind
from wsdjax.config.lengths import Length, terms
from wsdjax.errors import ConfigError
from wsdjax.wording import near, shortened, shown


def number(default: Any, **bounds: float) -> Any:
    """A field with bounds: any of `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata=bounds)


SIZE = 2**31
"""The bound that every size is below: indices and counts are int32."""


def count(default: Any, least: int = 1, **bounds: float) -> Any:
    """A field that counts something: from `least` to what an int32 holds."""
    return number(default, ge=least, **({"lt": SIZE} | bounds))


def choice(*names: str) -> Any:
    """A field that is one of `names`, by default the first."""
    return field(default=names[0], metadata={"among": names})


def check(
    path: str, value: Any, kind: Any, bounds: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """The value at `path` as its annotation `kind` says, which is how its record will give it
    back: a whole number in a float's place as a float, a list as a tuple. The fields of dataclasses
    are made so in place.

    Raises:
      ConfigError: naming the path, the value and what is allowed.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    dot = f"{path}." if path else ""
    if type(None) in arguments:
        kind = next(each for each in arguments if each is not type(None))
        return None if value is None else check(path, value, kind, bounds)
    if origin is dict:
        if type(value) is not dict:
            raise _wrong(path, value, f"a dict of {arguments[1].__name__}")
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path}: its key {shown(key)} must be a text")
            value[key] = check(dot + shortened(key, 60), item, arguments[1])
        return value
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise _wrong(path, value, f"a tuple of {arguments[0].__name__}")
        return tuple(check(f"{path}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    if issubclass(kind, Kind):
        kinds = kind.kinds()
        # Exactly: a subclass would be written under a name that nothing can read again.
        if type(value) not in kinds.values():
            several = f"one of {', '.join(kinds)}"
            raise _wrong(path, value, f"a {kind.__name__}" if kind in kinds.values() else several)
        _check_fields(path, dot, value)
        return value
    if kind is Length and isinstance(value, str):
        try:
            terms(value)
        except ValueError as error:
            raise ConfigError(f"{path} = {error}") from None
        return str(value)
    # A whole number will do for a float; a bool is no number.
    accepted: Any = {float: (int, float), Length: int}.get(kind, kind)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(path, value, f"of type {kind.__name__}")
    _check_bounds(path, value, bounds, kind)
    return int(value) if kind is Length else kind(value)


def _wrong(path: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"{path} = {shown(value)}: must be {allowed}")


def _check_fields(path: str, dot: str, value: Kind) -> None:
    kind, fields = type(value).__name__, {f.name: f for f in dataclasses.fields(value)}
    for name in vars(value):
        if name not in fields:
            has = f"it has {', '.join(fields) or 'none'}"
            raise ConfigError(
                f"{dot}{shortened(name, 60)}: {kind} has no such field{near(name, fields)}; {has}"
            )
    for name, f in fields.items():
        if not hasattr(value, name):
            raise ConfigError(f"{dot}{name}: {kind} lacks this field")
        setattr(value, name, check(dot + name, getattr(value, name), f.type, f.metadata))
    value.check(path)


def check_path(path: str, value: str) -> None:
    """That a text can name a file or a directory: by its characters, and by how many they are."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{path} = {shown(value)}: holds a character that is none of a path's")
    longest = max(len(part.encode()) for part in value.split("/"))
    if len(value.encode()) >= 4_096 or longest > 255:
        raise ConfigError(f"{path} = {shown(value)}: is too long for a path")


_FLOAT32_MAX = 3.4028235e38


def _check_bounds(path: str, value: Any, bounds: Mapping[str, Any], kind: Any) -> None:
    if "among" in bounds:
        if value not in bounds["among"]:
            raise _wrong(path, value, f"one of {', '.join(bounds['among'])}")
        return
    if kind is float:
        infinite = abs(value) == math.inf
        if infinite and bounds.get("le") != math.inf:
            raise _wrong(path, value, "finite")
        if not infinite and abs(value) > _FLOAT32_MAX:
            raise ConfigError(f"{path} = {shown(value)}: is more than a float32 holds, 3.4e38")
        if bounds.get("gt") == 0 and 0 < value < 1.2e-38:
            raise ConfigError(f"{path} = {shown(value)}: is 0 in float32, and must be > 0")
        if bounds.get("lt") == 1 and 1 - 2**-25 <= value < 1:
            raise ConfigError(f"{path} = {shown(value)}: is 1 in float32, and must be < 1")
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    if not all(getattr(operator, key)(value, bound) for key, bound in bounds.items()):
        raise _wrong(path, value, " and ".join(f"{signs[key]} {b}" for key, b in bounds.items()))
