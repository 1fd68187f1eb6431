"""Fetches a data set, or takes one's own text, and writes it in the form that training reads.

python -m experiments.prepare cifar10 [--directory=DIR] [--archive=cifar-10-binary.tar.gz]
python -m experiments.prepare text --input PATH_OR_PATTERN ... --tokenizer TOKENIZER --out DIR
    [--held_out=0.005] [--workers=N] [--text_field=text] [--bad_rows=skip]
python -m experiments.prepare text --verify --out DIR
"""

from __future__ import annotations

import multiprocessing
import os
import signal


def _stop(*_: object) -> None:
    """Ends the process at once, wherever it is: what is written has its name once it is whole."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
        os.write(2, b"\nStopped. The same command goes on from there.\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _stop)  # before the imports, which take a while

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NoReturn  # noqa: E402

from experiments import cli  # noqa: E402
from experiments.prepare.cifar10 import prepare_cifar10  # noqa: E402
from experiments.prepare.documents import SUFFIXES  # noqa: E402
from experiments.prepare.jobs import Plan, Tolerance  # noqa: E402
from experiments.prepare.text import prepare_text, verify  # noqa: E402
from wsdjax.errors import UserError  # noqa: E402
from wsdjax.files import explained  # noqa: E402
from wsdjax.wording import shortened  # noqa: E402

_MOST = 290
"""Characters of an error."""


class _Once(argparse.Action):
    """Keeps a flag's value, and refuses another."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, "given_once", ())
        if self.dest in given:
            parser.error(f"{option_string} is given more than once: give it once")
        namespace.given_once = (*given, self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(**options)
        self.register("action", None, _Once)

    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; see --help")


def _fail(error: object) -> NoReturn:
    cli.fail(shortened(str(error), _MOST))


def main(arguments: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m experiments.prepare", description="Prepares a data set.")
    names = parser.add_subparsers(required=True, dest="NAME", metavar="NAME")
    _add_cifar10(names.add_parser("cifar10", help="CIFAR-10 as ArrayRecord, through TFDS"))
    _add_text(names.add_parser("text", help="text as token shards"))
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.error(f"name the data set to prepare: {', '.join(names.choices)}")
    given = parser.parse_args(arguments)
    try:
        given.prepare(given)
    except UserError as error:
        _fail(error)
    except OSError as error:
        _fail(explained(error))


def _add_cifar10(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(prepare=lambda given: prepare_cifar10(given.directory, given.archive))
    parser.add_argument(
        "--directory",
        default="",
        help="where it goes, and what Cifar10(directory=...) reads; TFDS's own default if left out",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        help="a cifar-10-binary.tar.gz that is already here, taken instead of the download",
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(
        prepare=lambda given: (
            verify(given.out, given.workers) if given.verify else _text(parser, given)
        )
    )
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        metavar="PATH",
        help=f"files ({', '.join(SUFFIXES)}), folders, patterns in quotes, or "
        "hf:NAME[[:CONFIG]:SPLIT]",
    )
    parser.add_argument("--tokenizer", help="bytes, a tokenizer.json, or a name on the hub")
    parser.add_argument(
        "--out", type=Path, required=True, help="where it goes, and what Text(directory) reads"
    )
    parser.add_argument(
        "--held_out", type=float, default=0.005, help="the share of documents for testing"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes; as many as there are cores if left out",
    )
    parser.add_argument(
        "--text_field", default="text", help="where .jsonl and .parquet have a document's text"
    )
    parser.add_argument(
        "--separator", help="the tokenizer's token that ends a document, if it is not a usual one"
    )
    parser.add_argument(
        "--shard_bytes",
        type=int,
        default=2**24,
        help="bytes of input, at least, in one shard; there are at most some 2,048 shards",
    )
    parser.add_argument(
        "--bad_rows",
        choices=("stop", "skip"),
        default="stop",
        help="whether a row that cannot be read ends the command, or is left out and counted",
    )
    parser.add_argument(
        "--lost",
        type=float,
        default=0.01,
        help="the greatest share of a text's bytes that the tokenizer may have no tokens for",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all that is prepared in --out, and see that it is what was written",
    )


def _text(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if not given.input or not given.tokenizer:
        parser.error("give --input and --tokenizer")
    prepare_text(
        given.input,
        given.tokenizer,
        given.out,
        Plan(given.held_out, given.text_field, given.shard_bytes, given.separator),
        given.workers,
        Tolerance(given.bad_rows, given.lost),
    )


if __name__ == "__main__":
    main()
