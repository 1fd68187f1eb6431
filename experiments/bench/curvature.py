"""Curvature side by side with other libraries, in one run: the same weights, examples and cores.

The CNN's largest Hessian eigenvalues in float32, after a brief training or at a node of a run:
relative error against float64, Hessian-vector products and seconds. Every contestant runs over
settings of its own once, which compiles whatever it compiles; those that no other of its own
beats in both error and products are then timed, in turns with everybody else's, and the median
counts. A peer is compared at its own best error with our fastest setting that does as well. The
peers come with the extra `peers`; one that is not installed is left out. PyTorch has as many
threads as XLA, and both keep freed memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from experiments import cli
from experiments.bench.peers import CONTESTANTS, OURS, PEERS, Solve
from experiments.bench.race import comparisons, race, with_compilation
from experiments.bench.showing import error_against_time, table
from experiments.bench.subject import Subject, of_run, trained
from experiments.cli.results import here, write_result
from experiments.report.style import save
from wsdjax.config import CNN
from wsdjax.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    flag = parser.add_argument
    flag("--batch", default=256, type=cli.number(int, 1), help="examples in the loss")
    flag("--repeats", default=3, type=cli.number(int, 1), help="timed runs of each setting")
    flag("--k", default=(1, 5), type=_numbers, help="how many eigenvalues, with commas")
    flag("--peers", default=list(PEERS), type=cli.names, help="against whom; all there are")
    flag("--steps", default=300, type=cli.number(int, 0), help="updates before it is measured")
    flag("--widths", default=CNN().widths, type=_numbers, help="of the CNN's layers")
    flag("--workdir", help="a run to take weights and examples from")
    flag("--node", help="the node of it: BRANCH or BRANCH@STEP")
    flag("--figure", type=Path, help="draws STEM.png and STEM.svg")
    flag("--out", type=Path, help="a JSON file for the result")
    return cli.call(parser, _curvature, argv)


def _curvature(given: argparse.Namespace) -> None:
    if bool(given.workdir) != bool(given.node):
        raise ConfigError("give --workdir and --node together")
    for name in given.peers:
        if name not in PEERS:
            raise ConfigError(f"--peers={name}: the peers are {', '.join(PEERS)}")
    load = os.getloadavg()[0]
    if given.workdir:
        subject = of_run(given.workdir, given.node, given.batch)
    else:
        subject = trained(given.widths, given.steps, given.batch)
    print(f"{subject.name}, {given.batch} examples", flush=True)
    solvers = _built(subject, given.peers)
    exact = subject.eigenvalues(max(given.k))
    points = [
        point for k in given.k for point in race(CONTESTANTS, solvers, exact[:k], given.repeats)
    ]
    compared = comparisons(points, OURS)
    shown = {(each.ours.k, each.ours.written): each.ours for each in compared if each.ours}
    cold = {key: with_compilation(solvers[OURS], point) for key, point in shown.items()}
    print("\n".join(table(compared, cold)))
    result = {
        "subject": subject.name,
        "examples": given.batch,
        "eigenvalues": exact.tolist(),
        "comparisons": [each.summary() for each in compared],
        "points": [
            point._asdict() | {"seconds_with_compilation": cold.get((point.k, point.written))}
            for point in points
        ],
        "threads": os.cpu_count(),
        "load": {"before": load, "after": os.getloadavg()[0]},
    }
    if given.out:
        made = here()
        write_result(given.out, result | made | {"versions": made["versions"] | _packages()})
    if given.figure:
        save(error_against_time(points), given.figure)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(cli.number(int, 1)(each)) for each in text.split(","))


def _built(subject: Subject, peers: list[str]) -> dict[str, Solve]:
    """The contestants that are installed."""
    solvers = {}
    for name in (OURS, *peers):
        try:
            solvers[name] = CONTESTANTS[name].build(subject)
        except ImportError:
            print(f"{name}: not installed", flush=True)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(os.cpu_count() or 1)
    return solvers


def _packages() -> dict[str, str]:
    """The versions of what is installed of the peers and what they stand on."""
    found = {}
    for name in ("torch", "scipy", *(each.package for each in CONTESTANTS.values())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
