"""Draws a workdir again from its files alone: figures/, report.html and the final table.

python -m experiments.report --workdir=runs/NAME
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from experiments import cli
from experiments.report.write import write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", help="a run's directory")
    return cli.call(parser, _report, argv)


def _report(given: argparse.Namespace) -> None:
    print(write_report(cli.run_directory(given)))


if __name__ == "__main__":
    cli.end(main())
