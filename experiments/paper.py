"""A paper's study from runs of one's own: every figure, and every claim with a verdict.

python -m experiments.paper belloni [--budget=laptop|gpu|full] [--workdir=runs/belloni] [--seeds=N]
    [--cnn=photos|cifar10] [--lm=stdlib|text:DIR] [--only=3,7] [--dry_run]

belloni is 'Universal Dynamics of WSD' of Belloni, Noci and Orvieto: a language model and a CNN, a
tree of branches each. It tells first what it costs, which is all that --dry_run does; then it
trains both trees, measures, draws each figure as soon as its numbers are there, and judges.
Stopped and given again, it does what is missing. --only measures and draws some of the figures,
by the paper's numbers, or `threshold`, which is not the paper's; both trees are trained whole.

The page is WORKDIR/index.html, the table of claims WORKDIR/claims.json, the figures are in
WORKDIR/figures/. The two runs, WORKDIR/lm and WORKDIR/cnn, are ordinary ones, to which
experiments.branch and experiments.probe can add.

--budget: laptop takes two CPU cores some 20 minutes; gpu has the paper's CNN at full width, five
seeds and 50 epochs, and a language model of six layers; full has Pythia 160M on 3 billion tokens,
for which --lm=text:DIR names text that experiments.prepare has made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli
from wsdjax import config
from wsdjax.config import DataConfig
from wsdjax.errors import ConfigError
from wsdjax.wording import near, shortened

LENGTHS = {"laptop": 128, "gpu": 256, "full": 2_048}
"""Tokens of a window of text, by budget."""


def main(argv: Sequence[str] | None = None) -> int:
    return cli.choose({"belloni": _belloni}, "paper", __doc__, argv)


def _belloni(argv: Sequence[str]) -> int:
    parser = cli.Parser(__doc__)
    flag = parser.add_argument
    flag("--budget", default="laptop", choices=("laptop", "gpu", "full"), help="its size")
    flag("--workdir", default="runs/belloni", help="where the study lives")
    flag("--seeds", type=cli.number(int, 1, 1_000), help="runs of each; the budget's if left out")
    flag("--cnn", default="photos", choices=("photos", "cifar10"), help="the CNN's data")
    flag("--lm", default="stdlib", help="the language model's: stdlib or text:DIR")
    flag("--only", type=cli.names, help="figures, with commas between them; all if left out")
    parser.switch("dry_run", "tell what the study would cost, and stop")
    parser.keeps_programs()
    return cli.call(parser, _run, argv, "with what is missing")


def _run(given: argparse.Namespace) -> int:
    data: dict[str, DataConfig | None] = {
        "cnn": config.Cifar10() if given.cnn == "cifar10" else None,
        "lm": _text(given.lm, LENGTHS[given.budget]),
    }
    cli.check_writable("--workdir", given.workdir)

    # JAX, once all flags are known good.
    from experiments.cli import programs
    from experiments.papers.belloni import measured, study

    asked = given.only or list(measured.FIGURES)
    for name in asked:
        if name not in measured.FIGURES:
            known = near(name, measured.FIGURES) or f"; they are {', '.join(measured.FIGURES)}"
            raise ConfigError(f"--only={shortened(name)}: no such figure{known}")
    command = " ".join(["python -m experiments.paper belloni", *sorted(_said(given))])
    figures = [name for name in measured.FIGURES if name in asked]
    asks = study.Given(
        Path(given.workdir).expanduser(), given.budget, given.seeds, data, figures, command
    )
    with programs.kept(given):
        return study.run(asks, given.dry_run)


def _said(given: argparse.Namespace) -> list[str]:
    values = {name: getattr(given, name) for name in given.present - {"cache"}}
    plain = {n: ",".join(v) if isinstance(v, list) else v for n, v in values.items()}
    return [f"--{name}={value}" for name, value in plain.items()]


def _text(lm: str, length: int) -> DataConfig | None:
    kind, _, directory = lm.partition(":")
    if kind == "text" and directory:
        return config.Text(directory, length=length)
    if lm != "stdlib":
        raise ConfigError(f"--lm={shortened(lm)}: give stdlib, or text:DIR of prepared text")
    return None


if __name__ == "__main__":
    cli.end(main(sys.argv[1:]))
