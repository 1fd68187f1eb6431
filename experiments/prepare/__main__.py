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
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

from experiments import cli  # noqa: E402
from experiments.prepare.cifar10 import prepare_cifar10  # noqa: E402
from experiments.prepare.documents import SUFFIXES  # noqa: E402
from experiments.prepare.jobs import Settings  # noqa: E402
from experiments.prepare.text import prepare_text, verify  # noqa: E402
from wsdjax.errors import ConfigError  # noqa: E402
from wsdjax.memory import cores, of_machine  # noqa: E402

_WORKER_BYTES = 2**27
"""About what a worker takes at the least: more of them than the memory holds are a mistake."""


def main(argv: Sequence[str] | None = None) -> int:
    return cli.choose({"cifar10": _cifar10, "text": _text}, "data set", __doc__, argv)


def _cifar10(argv: Sequence[str]) -> int:
    parser = cli.Parser(__doc__)
    flag = parser.add_argument
    flag("--directory", default="", help="where it goes, if not where TFDS puts its data sets")
    flag("--archive", type=Path, help="a cifar-10-binary.tar.gz to take instead of the download")
    return cli.call(parser, lambda given: prepare_cifar10(given.directory, given.archive), argv)


def _text(argv: Sequence[str]) -> int:
    parser = cli.Parser(__doc__)
    flag = parser.add_argument
    kinds = f"files ({', '.join(SUFFIXES)}), folders, patterns in quotes, hf:NAME[[:CONFIG]:SPLIT]"
    flag("--input", nargs="+", action="extend", metavar="PATH", help=kinds)
    flag("--tokenizer", help="bytes, a tokenizer.json, or a name on the hub")
    flag("--out", type=Path, help="where it goes, and what Text(directory) reads", required=True)
    share = cli.number(float, 0, 1, ends=False)
    flag("--held_out", type=share, default=0.005, help="the share of documents for testing")
    workers = cli.number(int, 1, max(1, int(min(of_machine(), 2**50) // _WORKER_BYTES)))
    flag("--workers", type=workers, default=cores(), help="processes; as many as cores if left out")
    flag("--text_field", default="text", help="where .jsonl and .parquet have a document's text")
    flag("--separator", help="the tokenizer's token that ends a document, if not a usual one")
    enough = cli.number(int, 1, 2**40)
    flag("--shard_bytes", type=enough, default=2**24, help="bytes of input in a shard, at least")
    do = "what to do about a row that cannot be read: end, or leave it out and count it"
    flag("--bad_rows", choices=("stop", "skip"), default="stop", help=do)
    lost = cli.number(float, 0, 1)
    flag("--lost", type=lost, default=0.01, help="the share of a text's bytes to go without tokens")
    parser.switch("verify", "read all that is in --out, and see that it is what was written")
    return cli.call(parser, _prepare_text, argv, "from there")


def _prepare_text(given: argparse.Namespace) -> None:
    if given.verify and given.input:
        raise ConfigError("--verify takes no --input")
    if given.verify:
        cli.refuse_unused(given, "--verify", ["verify", "out", "workers"])
        return verify(given.out, given.workers)
    if not given.input or not given.tokenizer:
        raise ConfigError("give --input and --tokenizer; see --help")
    settings = Settings(*(getattr(given, name) for name in Settings._fields))
    return prepare_text(given.input, given.tokenizer, given.out, settings, given.workers)


if __name__ == "__main__":
    cli.end(main())
