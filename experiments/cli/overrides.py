"""Why `--config.field=value` could not be set, in the words of whoever typed it."""

from __future__ import annotations

import argparse
import dataclasses
import runpy
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsdjax.config.kinds import Kind
from wsdjax.wording import listed, near, shortened, shown


def missing_file(argv: Sequence[str]) -> str | None:
    """The config file that is named, if it is not there."""
    path, _ = file(argv)
    try:
        return path if path and not Path(path).is_file() else None
    except (OSError, ValueError):  # longer than a path can be; a NUL in it
        return path


def explain(argv: Sequence[str]) -> str | None:
    """What is wrong with the first override that names no field or gives it no fitting value;
    None if all of them would do, or if the config itself cannot be read."""
    flags = _flags(argv)
    path, argument = file(argv)
    if not path:
        return None
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except KeyboardInterrupt:
        raise
    except BaseException:  # a config file may end itself too
        return None
    for flag in flags:
        if flag.startswith("config.") and "=" in flag:
            name, _, value = flag.partition("=")
            if wrong := _wrong(config, name.split(".")[1:], value):
                return f"--{shortened(flag, 100)}: {wrong}"
    return None


def _flags(argv: Sequence[str]) -> list[str]:
    return [argument.removeprefix("--") for argument in argv[1:] if argument.startswith("--")]


def file(argv: Sequence[str]) -> tuple[str, str]:
    """The config file and its argument; two empty texts if none is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", default="", const="")
    path, _, argument = parser.parse_known_args(list(argv[1:]))[0].config.partition(":")
    return path, argument


def _wrong(value: Any, path: list[str], text: str) -> str | None:
    at, parent = "config", value
    for name in path:
        if dataclasses.is_dataclass(value):
            names = [f.name for f in dataclasses.fields(value)]
        elif isinstance(value, dict):
            names = list(value)
        else:
            return f"{at} is {shown(value)} and has no fields"
        if name not in names:
            return f"{at} has no {shown(name)}{near(name, names)}; it has {listed(names, 20)}"
        parent, value = value, value[name] if isinstance(value, dict) else getattr(value, name)
        at = f"{at}.{name}"
    hint: Any = typing.get_type_hints(type(parent)).get(path[-1])
    allowed = [each for each in (typing.get_args(hint) or (hint,)) if each is not type(None)]
    if dataclasses.is_dataclass(value) or isinstance(value, dict):
        kinds = [*allowed[0].kinds()] if isinstance(value, Kind) and allowed[0] else []
        choices = f", one of {', '.join(kinds)}" if len(kinds) > 1 else ""
        return (
            f"{at} is chosen in the config file{choices}; there it is a {type(value).__name__}, "
            f"and here only its fields are set, as {at}.FIELD"
        )
    for each, of in ((int, "a whole number"), (float, "a number"), (bool, "True or False")):
        if allowed == [each] and not _reads(each, text):
            return f"{at} must be {of}"
    return None


def _reads(kind: type, text: str) -> bool:
    if kind is bool:
        return text.lower() in ("", "true", "false", "t", "f", "1", "0")
    try:
        kind(text)
    except ValueError:
        return False
    return True
