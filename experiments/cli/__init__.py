"""Command lines: each is a function of its arguments that returns an exit code.

A command describes its flags in a `Parser` and hands that and a function to `call`, which answers
what the user can mend by a line and the exit code 2. It may be called any number of times in a
process; only ``if __name__ == "__main__"`` ends one, by ``cli.end(main())``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NoReturn

from absl import logging as absl_logging

from experiments.cli import overrides
from wsdjax.config.validation import check_path
from wsdjax.errors import ConfigError, UserError
from wsdjax.files import explained
from wsdjax.memory import keep_freed_memory
from wsdjax.wording import in_short_words, near, printable, shortened, shown

_LONGEST = 8_192
"""Characters of an argument: twice as many as a path may have."""


class _Once(argparse.Action):
    """Keeps a flag's value, and refuses another; a switch is on unless it is given as --noNAME."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.dest in namespace.present:
            raise ConfigError(f"--{self.dest} is given more than once: give it once")
        namespace.present.add(self.dest)
        switched = not str(option_string).startswith("--no")
        setattr(namespace, self.dest, switched if self.nargs == 0 else values)


class Parser(argparse.ArgumentParser):
    """Flags of a command, each given once and in full, as --flag=value or --flag value.

    Args:
      text: the command's documentation, usage first.
      words: whether it takes arguments that are no flags; they become `words`.
      config: whether it takes --config=FILE and --config.field=value; the experiment that they
        make becomes `experiment`.
      computes: whether it may run in several processes at once (`experiments.cli.together`).
    """

    def __init__(
        self,
        text: str | None,
        words: bool = False,
        config: bool = False,
        computes: bool = False,
    ):
        super().__init__(
            usage=argparse.SUPPRESS,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.register("action", None, _Once)
        self._takes_words, self._takes_config = words, config
        if config:
            self.add_argument("--config", default="", help="the config file, FILE or FILE:ARGUMENT")

        if computes:
            self.add_argument("--coordinator", help="of several processes the first's HOST:PORT")
            self.add_argument("--process_count", type=number(int, 1), help="how many there are")
            self.add_argument("--process_id", type=number(int, 0), help="which of them this is")
            self.keeps_programs()

    def switch(self, name: str, help: str, default: bool = False) -> None:
        self.add_argument(f"--{name}", f"--no{name}", nargs=0, default=default, help=help)

    def keeps_programs(self) -> None:
        """Adds the flag of `experiments.cli.programs.kept`."""
        self.switch("cache", "--nocache: keep no compiled programs for the next start", True)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags' values, and in `present` the names of those that were given."""
        for argument in argv:
            if any(unicodedata.category(character) == "Cs" for character in argument):
                raise ConfigError(f"the argument {shown(argument)} is not UTF-8")
            if (long := len(argument)) > _LONGEST:
                raise ConfigError(f"{argument[:60]}...: {long:,} characters are too many")
        given, rest = self.parse_known_args(list(argv), argparse.Namespace(present=set()))
        if self._takes_config:
            # Before anything of the config file is executed.
            self._refuse(each for each in rest if each[:2] == "--" and not overrides.is_one(each))
            given.experiment, rest = overrides.experiment(given.config, rest)
        self._refuse(each for each in rest if each.startswith("-"))
        given.words = [word for word in rest if word != "--"]
        if given.words and not self._takes_words:
            word = shown(given.words[0])
            raise ConfigError(f"unexpected argument {word}; flags begin with --")
        return given

    def _refuse(self, flags: Iterable[str]) -> None:
        for name in (flag.partition("=")[0] for flag in flags if flag != "--"):
            known = near(name, self._option_string_actions)
            raise ConfigError(f"unknown flag {shown(name)}{known or ';'} --help tells the flags")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{shortened(message, 250)}; --help tells the flags")


def number(
    kind: type[int | float], least: float, most: float = inf, ends: bool = True
) -> Callable[[str], float]:
    """The type of a flag that is a number within bounds, which it may be where they are `ends`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most or (not ends and value in (least, most)):
            bounds = f"{least} or more" if most == inf else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"{shortened(text)} must be {bounds}")
        return value

    parse.__name__ = kind.__name__
    return parse


def names(text: str) -> list[str]:
    """The type of a flag that is a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def run_directory(given: str | None) -> Path:
    """The --workdir of a command that looks at a run."""
    if not given:
        raise ConfigError("give the run's directory, --workdir=runs/NAME")
    workdir = Path(given).expanduser()
    if not any(workdir.glob("branches/*/")):
        raise ConfigError(f"--workdir={workdir}: no run is there (it has no branches/NAME)")
    return workdir


def refuse_unused(given: argparse.Namespace, command: str, taken: Collection[str]) -> None:
    """A flag that a command takes no notice of is a mistake."""
    for name in sorted(given.present - {"workdir", *taken}):
        raise ConfigError(f"{command} takes no --{name}")


def check_writable(flag: str, place: str | Path | None) -> None:
    """By a file without a name in what there is of a directory, so that nothing is left behind;
    a bucket is not tried."""
    if not place or "://" in str(place):
        return
    path = Path(place).expanduser()
    check_path(flag, str(path))
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): choose another {flag}"
        ) from None


def check_file(flag: str, path: Path | None) -> None:
    """That a file, which may be there already, can be written."""
    if path and path.is_dir():
        raise ConfigError(f"{flag}={path}: a directory; name a file")
    check_writable(flag, path and path.parent)


def call(
    parser: Parser,
    function: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    goes_on: str = "from the newest checkpoint",
) -> int:
    """Calls `function` with the flags' values, those of the process if no `argv` is given.

    The exit code is the function's own, 2 for a `UserError` or `OSError`, told in a line, or 130
    after an interrupt, with the place from which the same command `goes_on`.
    """
    keep_freed_memory()
    with _told_on_standard_error():
        try:
            return function(parser.read(sys.argv[1:] if argv is None else argv)) or 0
        except (UserError, OSError) as error:
            code = getattr(error, "code", 2)  # of what ended another process
            return fail(error if isinstance(error, UserError) else explained(error), code)
        except KeyboardInterrupt:
            print(f"\nStopped. The same command goes on {goes_on}.", file=sys.stderr)
            return 130
        except SystemExit as asked:  # by --help
            return asked.code if isinstance(asked.code, int) else int(asked.code is not None)


def choose(
    commands: Mapping[str, Callable[[Sequence[str]], int]],
    what: str,
    text: str | None,
    argv: Sequence[str] | None,
) -> int:
    """Calls the one of several commands that the first argument names, with the others."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in ("--help", "-h"):
        print(text)
        return 0
    if name not in commands:
        return fail(f"name the {what} first: {' or '.join(commands)}")
    return commands[name](rest)


def fail(message: object, code: int = 2) -> int:
    """Tells what was wrong on standard error; the exit code of that."""
    print(f"error: {told(message)}", file=sys.stderr)
    return code


def told(message: object) -> str:
    """A message for a terminal: long words such as paths are cut, and what would steer the
    terminal is escaped."""
    return in_short_words(printable(str(message)))


def end(code: int) -> NoReturn:
    """Ends the process at once: an interpreter that is torn down while threads of XLA or orbax
    run can crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _ToStandardError(logging.Handler):
    """To the stream that is standard error by then: of several processes it is another one than
    when the command began (`wsdjax.placement.aborts`)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _told_on_standard_error() -> Iterator[None]:
    """Tells there what the library logs, and not what other libraries repeat."""
    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells of every step of every save
    handler, logger = _ToStandardError(), logging.getLogger("wsdjax")
    before = logger.level, logger.propagate, sys.unraisablehook
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    sys.unraisablehook = _unraisable
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate, sys.unraisablehook = before


def _unraisable(found: Any) -> None:
    """TensorStore's threads and orbax's coroutines complain, each at length, where one of them has
    failed and the others are not waited for any more; what failed, the save or the load raises."""
    said = str(found.exc_value)
    if "Event loop is closed" not in said and "TensorStore details" not in said:
        sys.__unraisablehook__(found)
