"""How fast, against whom: ratios of interleaved runs, and whether goals are met.

python -m experiments.bench all|SECTION [--minutes=15] [--only=ROW,...] [--out=bench.json]
    SECTION is one of train, checkpoint, lm, curvature, landscape, data, startup, growth
    of `curvature` also: [--batch=256] [--repeats=3] [--k=1,5] [--peers=NAME,...]
    [--workdir=W --node=BRANCH[@STEP]]
python -m experiments.bench training --config=experiments/configs/NAME.py [--updates=10]
    [--config.field=value ...] [--out=FILE.json]

The most telling rows come first; one is begun only if about its time is left. A goal is met if the
worse quartile of the turns meets it, and "not told" if the better one alone does. The record is
written after every line. Peers come with the extra `peers`; of one that is not installed, that is
said. `training` tells how fast one config trains, in tokens a second and as a share of the device's
peak.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments import cli
from experiments.bench import curvature, data, growth, landscape, lm, startup, train, training
from experiments.bench.rows import Row
from experiments.bench.running import run
from wsdjax.errors import ConfigError

_MODULES = (train, lm, curvature, landscape, data, startup, growth)
_FOUND = [each for module in _MODULES for each in vars(module).values() if isinstance(each, Row)]
ROWS = {row.name: row for row in _FOUND}
SECTIONS = list(dict.fromkeys(row.section for row in _FOUND))
ORDER = (
    *("lm.update", "train.update", "train.quickstart", "train.many", "train.loop"),
    *("curvature.hvp_cnn", "startup.run", "curvature.hvp_lm", "landscape.plane"),
    *("landscape.line", "checkpoint.async", "curvature.top1", "train.whole", "lm.loop"),
    *("data.text", "data.images", "landscape.pca_cnn", "growth.drawing", "curvature.top5"),
    *("growth.seeds", "growth.lanczos", "growth.examples", "startup.probe"),
    *("landscape.pca_lm", "growth.memory", "lm.variants"),
)
"""All rows, the most telling first."""


def main(argv: Sequence[str] | None = None) -> int:
    measured = {name: partial(_measured, name) for name in ("all", *SECTIONS)}
    return cli.choose(measured | {"training": training.main}, "benchmark", __doc__, argv)


def _measured(section: str, argv: Sequence[str]) -> int:
    # Or JAX would take most of a GPU's memory, and leave the peers none: read at the first use of
    # a device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = cli.Parser(__doc__)
    flag = parser.add_argument
    flag("--minutes", default=15.0, type=cli.number(float, 0), help="for all of it")
    flag("--only", default=[], type=cli.names, help="rows, with commas")
    flag("--out", default=Path("bench.json"), type=Path, help="a JSON file for the record")
    curvature.add_flags(parser)
    return cli.call(parser, partial(_run, section), argv, goes_on="from the beginning")


def _run(section: str, given: argparse.Namespace) -> int:
    if section not in ("all", "curvature"):
        cli.refuse_unused(given, section, ("minutes", "only", "out"))
    curvature.check_flags(given)
    cli.check_file("--out", given.out)
    rows = [ROWS[name] for name in ORDER if section in ("all", ROWS[name].section)]
    if "k" in given.present:
        own = [curvature.top(k) for k in given.k]
        rows = [row for row in rows if not row.name.startswith("curvature.top")] + own
    known = {row.name: row for row in rows}
    for name in given.only:
        if name not in known:
            raise ConfigError(f"--only={name}: the rows are {', '.join(known)}")
    return run([known[name] for name in given.only or known], given)


if __name__ == "__main__":
    cli.end(main())
