"""Values checked against the annotations and bounds of the dataclasses that hold them."""

import dataclasses
import math
import types
import typing
from dataclasses import field
from typing import Any

from wsdjax.length import Length, terms


class UserError(Exception):
    """What whoever runs this can mend; the message says what is wrong, where, and what to do."""


class ConfigError(UserError, ValueError):
    """A config that cannot be run; the message names the field, its value and what is allowed."""


def number(default: Any, **bounds: float) -> Any:
    """A field with bounds: any of `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata=bounds)


def choice(*names: str) -> Any:
    """A field that is one of `names`, by default the first."""
    return field(default=names[0], metadata={"among": names})


def kind_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def check(path: str, value: Any, kind: Any, bounds: dict[str, Any]) -> None:
    """`value`, which stands at `path`, against its annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    dot = f"{path}." if path else ""
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return
        allowed = [a for a in arguments if a is not type(None)]
        chosen = [a for a in allowed if isinstance(value, a)]
        if not chosen and len(allowed) > 1:
            names = ", ".join(kind_name(a) for a in allowed)
            raise ConfigError(f"{path} = {value!r}: must be one of {names}")
        check(path, value, (chosen or allowed)[0], bounds)
    elif origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path} = {value!r}: must be a dict of {kind_name(arguments[1])}")
        for key, item in value.items():
            check(f"{dot}{key}", item, arguments[1], {})
    elif origin is tuple:
        if not isinstance(value, tuple | list):
            raise ConfigError(f"{path} = {value!r}: must be a tuple of {kind_name(arguments[0])}")
        for i, item in enumerate(value):
            check(f"{path}[{i}]", item, arguments[0], {})
    elif dataclasses.is_dataclass(kind):
        if not isinstance(value, typing.cast(type, kind)):
            raise ConfigError(f"{path} = {value!r}: must be a {kind_name(kind)}")
        hints = typing.get_type_hints(kind)
        for f in dataclasses.fields(kind):
            item = getattr(value, f.name)
            check(dot + f.name, item, hints[f.name], dict(f.metadata))
            if hints[f.name] in (float, float | None) and isinstance(item, int):
                setattr(value, f.name, float(item))  # noise=1 and noise=1.0 are one data set
    elif kind is Length and isinstance(value, str):
        try:
            terms(value)
        except ValueError as error:
            raise ConfigError(f"{path} = {error}") from None
    else:
        # A whole number will do for a float; a bool is no number.
        accepted: Any = {float: (int, float), Length: int}.get(kind, kind)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{path} = {value!r}: must be of type {kind_name(kind)}")
        _check_bounds(path, value, bounds)


def _check_bounds(path: str, value: Any, bounds: dict[str, Any]) -> None:
    if "among" in bounds:
        if value not in bounds["among"]:
            raise ConfigError(f"{path} = {value!r}: must be one of {', '.join(bounds['among'])}")
        return
    if isinstance(value, float) and math.isinf(value) and bounds.get("le") != math.inf:
        raise ConfigError(f"{path} = {value!r}: must be finite")
    tests = {
        "ge": (">=", lambda bound: value >= bound),
        "gt": (">", lambda bound: value > bound),
        "le": ("<=", lambda bound: value <= bound),
        "lt": ("<", lambda bound: value < bound),
    }
    if not all(tests[key][1](bound) for key, bound in bounds.items()):
        allowed = " and ".join(f"{tests[key][0]} {bound}" for key, bound in bounds.items())
        raise ConfigError(f"{path} = {value!r}: must be {allowed}")
