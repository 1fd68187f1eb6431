"""The experiment that --config=FILE and --config.field=value ask for, and why there is none."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import sys
import traceback
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsdjax import config
from wsdjax.config.kinds import Kind
from wsdjax.config.lengths import Length
from wsdjax.errors import ConfigError, UserError
from wsdjax.wording import listed, near, shortened, shown

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def is_one(argument: str) -> bool:
    """Whether it sets a field of a config."""
    return bool(_OVERRIDE.fullmatch(argument))


def experiment(given: str, arguments: Sequence[str]) -> tuple[config.Experiment, list[str]]:
    """The config file's experiment, with its fields set in the order of the arguments, and the
    arguments that are none of its own. `given` is FILE or FILE:ARGUMENT, for its ``get_config``."""
    if not given:
        raise ConfigError(f"give a config file: --config={_ours()}")
    found = _loaded(given)
    rest: list[str] = []
    seen = set()
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        override = _OVERRIDE.fullmatch(argument)
        if argument == "--":
            return found, [*rest, argument, *waiting]
        if not override:
            rest.append(argument)
            continue
        negated, path, text = override.groups()
        if path in seen:
            raise ConfigError(f"--config.{path} is given more than once: give it once")
        seen.add(path)
        try:
            _set(found, path.split("."), bool(negated), text, waiting)
        except ConfigError as wrong:
            said = "" if text is None else f"={text}"
            flag = shortened(f"--{negated or ''}config.{path}{said}", 100)
            raise ConfigError(f"{flag}: {wrong}") from None
    return found, rest


def _set(value: Any, path: list[str], negated: bool, text: str | None, waiting: list[str]) -> None:
    """Sets a field of a config; a text that does not stand in the flag is taken from `waiting`."""
    at, parent = "config", value
    kinds: list[Any] = []
    for name in path:
        made = _registered(kinds)
        if value is None and len(made) == 1:  # left out, such as a branch's averages
            value = config.TYPES[made[0]]()
            setattr(parent, at.rpartition(".")[2], value)
        is_dict = isinstance(value, dict)
        if not (is_dict or dataclasses.is_dataclass(value)):
            raise ConfigError(f"{at} is {shown(value)} and has no fields")
        has = list(value) if is_dict else [f.name for f in dataclasses.fields(value)]
        if name not in has:
            raise ConfigError(
                f"{at} has no {shown(name)}{near(name, has)}; it has {listed(has, 20)}"
            )
        parent, value = value, value[name] if is_dict else getattr(value, name)
        at = f"{at}.{name}"
        hint: Any = type(value) if is_dict else typing.get_type_hints(type(parent))[name]
        union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        kinds = list(typing.get_args(hint)) if union else [hint]
    if text is None and kinds != [bool]:
        if negated or not waiting:
            raise ConfigError(f"{at} is no switch" if negated else f"give {at} a value")
        text = waiting.pop(0)
    left_out = type(None) in kinds and str(text).lower() == "none"
    if (dataclasses.is_dataclass(value) or isinstance(value, dict)) and not left_out:
        names = _registered(kinds)
        choices = f", one of {', '.join(names)}" if len(names) > 1 else ""
        raise ConfigError(
            f"{at} is chosen in the config file{choices}; there it is a {type(value).__name__}, "
            f"and here only its fields are set, as {at}.FIELD"
        )
    new = not negated if text is None else _read(text, kinds)
    if isinstance(parent, dict):
        parent[path[-1]] = new
    else:
        setattr(parent, path[-1], new)


def _registered(kinds: list[Any]) -> list[str]:
    pieces = [each for each in kinds if isinstance(each, type) and issubclass(each, Kind)]
    return [name for piece in pieces for name in piece.kinds()]


def _read(text: str, kinds: list[Any]) -> Any:
    """The value that a text stands for; what fits none of the types is left to validation."""
    if text.lower() == "none" and type(None) in kinds:
        return None
    if str in kinds:
        return text
    if Length in kinds:
        return length(text)
    value: Any = text
    words = {"true": True, "false": False}
    if kinds == [bool]:
        words |= {"t": True, "f": False, "1": True, "0": False}
    if text.lower() in words:
        value = words[text.lower()]
    else:
        for read in (int, float, ast.literal_eval):
            with contextlib.suppress(
                ValueError, SyntaxError, TypeError, RecursionError, MemoryError
            ):
                value = read(text)
                break
    is_tuple = tuple in (kinds[0], typing.get_origin(kinds[0]))
    return (value,) if is_tuple and type(value) is not tuple else value


def length(text: str) -> Length:
    """A length as it is typed: a number of updates, or a text."""
    return int(text) if text.isdecimal() and len(text) <= 20 else text


def _loaded(given: str) -> Any:
    """Calls a config file's ``get_config``; the file is executed once."""
    path, _, argument = given.partition(":")
    flag, content = f"--config={shortened(given, 200)}", None
    with contextlib.suppress(OSError, ValueError):  # longer than a path can be; a NUL in it
        content = Path(path).read_bytes()
    if content is None:
        raise ConfigError(f"{flag}: there is no such file; ours are {_ours()}")
    module = types.ModuleType("config_file")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where dataclasses look for what they are annotated by
    try:
        exec(compile(content, path, "exec"), module.__dict__)
        return module.get_config(*([argument] if argument else []))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a config file raises, the end of the process too
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{flag}{line}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """What an error of a config says, in the words of its fields."""
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", said)
    if unknown and (kind := config.TYPES.get(unknown[1])):
        fields, wrong = [f.name for f in dataclasses.fields(kind)], unknown[2]
        return f"{unknown[1]} has no field {wrong!r}{near(wrong, fields)}; it has {listed(fields)}"
    last = shortened(said.strip().rpartition("\n")[2], 200)
    if isinstance(error, UserError):
        return last
    return f"{type(error).__name__}: {last}" if last else type(error).__name__


def _ours() -> str:
    here = Path(__file__).parents[1] / "configs"
    names = ",".join(sorted(path.stem for path in here.glob("*.py")))
    return f"experiments/configs/{{{names}}}.py"
