"""Draws a workdir again from its files alone: figures/, report.html and the final table.

python -m experiments.report --workdir=runs/NAME [--baselines]
python -m experiments.report --workdir=runs/A --workdir=runs/B [--out=FILE]

Of several runs one page is drawn, a column each, with every figure that one of them has.

--baselines first counts n-grams on a language model's text, which takes a minute or more, and keeps
their held-out bits a byte in the workdir, where every later report finds them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli
from experiments.report import baselines
from experiments.report.reading import Run
from experiments.report.write import write_beside, write_report
from wsdjax.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", action="append", help="a run's directory")
    parser.add_argument(
        "--out", help="the page of several runs; beside.html in the first if left out"
    )
    parser.switch("baselines", "count n-grams on the run's text first: a minute or more")
    return cli.call(parser, _report, argv)


def _report(given: argparse.Namespace) -> None:
    workdirs = [cli.run_directory(workdir) for workdir in given.workdir or [None]]
    if given.baselines:
        print("Counting n-grams, which takes a minute or more.", file=sys.stderr, flush=True)
        for workdir in workdirs:
            baselines.count(Run(workdir))
    if len(workdirs) > 1:
        print(write_beside(workdirs, Path(given.out or workdirs[0] / "beside.html")))
    elif given.out:
        raise ConfigError("--out is for the page of several runs: give --workdir more than once")
    else:
        print(write_report(workdirs[0]))


if __name__ == "__main__":
    cli.end(main())
