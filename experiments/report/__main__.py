"""Draws a workdir again from its files alone: figures/, report.html and the final table.

python -m experiments.report --workdir=runs/NAME [--baselines]

--baselines first counts n-grams on a language model's text, which takes a minute or more, and keeps
their held-out bits a byte in the workdir, where every later report finds them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments import cli
from experiments.report import baselines
from experiments.report.reading import Run
from experiments.report.write import write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", help="a run's directory")
    parser.switch("baselines", "count n-grams on the run's text first: a minute or more")
    return cli.call(parser, _report, argv)


def _report(given: argparse.Namespace) -> None:
    workdir = cli.run_directory(given)
    if given.baselines:
        print("Counting n-grams, which takes a minute or more.", file=sys.stderr, flush=True)
        baselines.count(Run(workdir))
    print(write_report(workdir))


if __name__ == "__main__":
    cli.end(main())
