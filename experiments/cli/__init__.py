"""Command lines whose mistakes are answered by a line or two and the exit code 2."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import re
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from experiments.cli import overrides
from wsdjax import config
from wsdjax.config.lengths import Length
from wsdjax.config.validation import check_path
from wsdjax.errors import ConfigError, UserError
from wsdjax.files import explained
from wsdjax.memory import keep_freed_memory
from wsdjax.wording import in_short_words, listed, near, printable, shortened, shown


def fail(message: object) -> NoReturn:
    """Ends the program with a message on standard error."""
    print(f"error: {told(message)}", file=sys.stderr)
    sys.exit(2)


def told(message: object) -> str:
    """A message for a terminal: long words such as paths are cut, and what would steer the
    terminal is escaped."""
    return in_short_words(printable(str(message)))


def length(text: str | int) -> Length:
    """A length as it is typed: a number of updates, or a text."""
    return int(text) if str(text).isdecimal() and len(str(text)) <= 20 else text


def check_writable(flag: str, path: Path) -> None:
    """By a file without a name in what there is of a directory, so that nothing is left behind.

    Raises:
      ConfigError: for one that cannot be written.
    """
    check_path(flag, str(path))
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): choose another {flag}"
        ) from None


class _LengthParser(flags.ArgumentParser):
    def parse(self, argument):
        return length(argument)


config_flags.register_flag_parser_for_type(Length, _LengthParser())


def end(code: int) -> NoReturn:
    """Ends the process at once: an interpreter that is torn down while threads of XLA or orbax
    run can crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def parse(argv: Sequence[str], read_config: bool = False, positional: bool = False) -> list[str]:
    """The positional arguments, once the flags are parsed and the config is read; what is wrong
    with them ends the program with one message."""
    for argument in argv[1:]:
        if any(unicodedata.category(character) == "Cs" for character in argument):
            fail(f"the argument {shown(argument)} is not UTF-8")
        if len(argument) > _LONGEST:
            fail(f"{argument[:60]}...: an argument of {len(argument):,} characters: too many")
    if twice := _repeated(argv):
        fail(f"--{twice} is given more than once: give it once")
    if read_config and (file := overrides.missing_file(argv)):
        fail(f"--config={file}: there is no such file; ours are {_configs()}")
    given = shortened(" ".join(a for a in argv[1:] if a.startswith("--config")), 200)
    try:
        flags.FLAGS.set_gnu_getopt(positional)  # flags may stand after positional arguments
        rest = flags.FLAGS(list(argv))
        if len(rest) > 1 and not positional:
            raise flags.Error(f"unexpected argument {shown(rest[1])}; flags begin with --")
        if read_config:
            # A config file that fails to load raises only when something of it is read.
            getattr(flags.FLAGS.config, "tree", None)
        return rest
    except KeyboardInterrupt:
        raise
    except (UserError, FileNotFoundError) as error:
        fail(error)
    except BaseException as error:  # a mistyped flag or override, or what a config file raises
        if isinstance(error, SystemExit) and any(a.startswith(_HELP) for a in argv):
            raise
        if read_config and not given:
            fail(f"give a config file: --config={_configs()}")
        if why := overrides.explain(argv):
            fail(why)
        if isinstance(error, flags.Error) and "config file:" not in str(error):
            fail(f"{shortened(str(error), 300)}; --help tells the flags")
        fail(f"{given}{_line_of(error, overrides.file(argv)[0])}: {_one_line(error)}")


_LONGEST = 8_192
"""Characters of an argument: twice as many as a path may have."""
_HELP = ("--help", "-help", "-?")


def run(main: Callable[..., None], read_config: bool = False, positional: bool = False) -> None:
    """Parses the flags and calls `main`, with a list of the positional arguments if it takes
    any; a `UserError` or `OSError` ends it with one message."""

    def guarded(arguments: Sequence[str]) -> None:
        absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells of every step of every save
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger("wsdjax")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        sys.unraisablehook = _unraisable
        try:
            main(*([list(arguments[1:])] if positional else []))
        except (UserError, OSError) as error:
            said = error if isinstance(error, UserError) else explained(error)
            print(f"error: {told(said)}", file=sys.stderr)
            end(2)
        except SystemExit as asked:
            end(int(asked.code or 0))

    keep_freed_memory()
    parser = functools.partial(parse, read_config=read_config, positional=positional)
    try:
        app.run(guarded, flags_parser=parser)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the newest checkpoint.", file=sys.stderr)
        end(130)


def _repeated(argv: Sequence[str]) -> str | None:
    """A flag that is given twice, of which absl would take the last without a word."""
    seen = set()
    before_rest = itertools.takewhile(lambda argument: argument != "--", argv[1:])
    for given in filter(None, (re.match(r"--?([a-z_][^=]*)", each) for each in before_rest)):
        name = given[1] if given[1] in flags.FLAGS else given[1].removeprefix("no")
        if name in seen:
            return name
        seen.add(name)
    return None


def _unraisable(found: Any) -> None:
    """TensorStore's threads complain, each in eight lines, where the write of one of them has
    failed and the others are not waited for any more; what failed, the save raises."""
    if "Event loop is closed" not in str(found.exc_value):
        sys.__unraisablehook__(found)


def _configs() -> str:
    here = Path(__file__).parents[1] / "configs"
    names = ",".join(sorted(path.stem for path in here.glob("*.py")))
    return f"experiments/configs/{{{names}}}.py"


def _line_of(error: BaseException, file: str) -> str:
    """Where in the config file it was raised; absl makes another error of some."""
    raised = [error, *filter(None, (error.__cause__, error.__context__))]
    lines = [
        frame.lineno
        for each in raised
        for frame in traceback.extract_tb(each.__traceback__)
        if file and os.path.abspath(frame.filename) == os.path.abspath(file)
    ]
    return f", line {lines[-1]}" if lines else ""


def _one_line(error: BaseException) -> str:
    # The string of a KeyError is in quotes, and of ml_collections' errors the last line tells.
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    last = shortened(said.strip().rpartition("\n")[2], 200)
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", said)
    if unknown and (kind := config.TYPES.get(unknown[1])):
        fields = [f.name for f in dataclasses.fields(kind)]
        wrong = unknown[2]
        return f"{unknown[1]} has no field {wrong!r}{near(wrong, fields)}; it has {listed(fields)}"
    if isinstance(error, flags.Error):
        return last
    return f"{type(error).__name__}: {last}" if last else type(error).__name__
