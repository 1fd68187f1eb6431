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

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags

from experiments.bench import output, referee
from experiments.bench.peers import CONTESTANTS, OURS, PEERS, Solve
from experiments.bench.race import Comparison, comparisons, race, with_compilation
from experiments.bench.showing import error_against_time, table
from experiments.bench.subject import Subject, of_run, trained
from experiments.report.style import save
from wsdjax.config import CNN
from wsdjax.errors import ConfigError

_BATCH = flags.DEFINE_integer("batch", 256, "Examples in the loss.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each setting.", lower_bound=1)
_K = flags.DEFINE_list("k", ["1", "5"], "How many eigenvalues, with commas between them.")
_PEERS = flags.DEFINE_list("peers", list(PEERS), "Against whom; all there are.")
_STEPS = flags.DEFINE_integer("steps", 300, "Updates before it is measured.", lower_bound=0)
_WIDTHS = flags.DEFINE_list("widths", [str(w) for w in CNN().widths], "Of the CNN's layers.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run to take weights and examples from.")
_NODE = flags.DEFINE_string("node", "", "The node of it: BRANCH or BRANCH@STEP.")
_FIGURE = flags.DEFINE_string("figure", "", "Draws STEM.png and STEM.svg.")


def main() -> None:
    if bool(_WORKDIR.value) != bool(_NODE.value):
        raise ConfigError("give --workdir and --node together")
    for name in _PEERS.value:
        if name not in PEERS:
            raise ConfigError(f"--peers={name}: the peers are {', '.join(PEERS)}")
    ks, widths = _numbers(_K), _numbers(_WIDTHS)
    load = os.getloadavg()[0]
    if _WORKDIR.value:
        subject = of_run(_WORKDIR.value, _NODE.value, _BATCH.value)
    else:
        subject = trained(widths, _STEPS.value, _BATCH.value)
    print(f"{subject.name}, {_BATCH.value} examples", flush=True)
    solvers = _built(subject)
    referee.check(subject)
    exact = referee.reference(subject, max(ks))
    if "torch" in _packages():
        referee.check_torch(subject, exact)

    points = [point for k in ks for point in race(CONTESTANTS, solvers, exact[:k], _REPEATS.value)]
    compared = comparisons(points, OURS)
    shown = {(each.ours.k, each.ours.written): each.ours for each in compared if each.ours}
    cold = {key: with_compilation(solvers[OURS], point) for key, point in shown.items()}
    print("\n".join(table(compared, cold)))
    result = {
        "subject": subject.name,
        "examples": _BATCH.value,
        "eigenvalues": exact.tolist(),
        "comparisons": [_plain(each) for each in compared],
        "points": [
            point._asdict() | {"seconds_with_compilation": cold.get((point.k, point.written))}
            for point in points
        ],
        "threads": os.cpu_count(),
        "load": {"before": load, "after": os.getloadavg()[0]},
    }
    output.write(result, _packages())
    if _FIGURE.value:
        save(error_against_time(points), Path(_FIGURE.value))


def _numbers(flag: Any) -> tuple[int, ...]:
    if not flag.value or not all(text.isdecimal() and int(text) for text in flag.value):
        raise ConfigError(f"--{flag.name} is positive whole numbers with commas between them")
    return tuple(map(int, flag.value))


def _built(subject: Subject) -> dict[str, Solve]:
    """The contestants that are installed."""
    solvers = {}
    for name in (OURS, *_PEERS.value):
        try:
            solvers[name] = CONTESTANTS[name].build(subject)
        except ImportError:
            print(f"{name}: not installed", flush=True)
    if "torch" in _packages():
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
    return solvers


def _packages() -> dict[str, str]:
    """The versions of what is installed of the peers and what they stand on."""
    found = {}
    for name in ("torch", "scipy", *(each.package for each in CONTESTANTS.values())):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(compared: Comparison) -> dict[str, Any]:
    points = {"peer": compared.peer, "ours": compared.ours}
    rows = {
        who: point
        and {
            "name": point.name,
            "k": point.k,
            "setting": point.setting,
            "error": point.error,
            "products": point.products,
            "seconds": point.median,
        }
        for who, point in points.items()
    }
    return {**rows, "times_as_fast": compared.times}
