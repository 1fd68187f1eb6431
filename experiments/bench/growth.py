"""How time grows with what is asked, as the exponent of a power; what a long run takes."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from experiments.bench import child
from experiments.bench.landscape import Place
from experiments.bench.measure import (
    Work,
    alternately,
    in_turns,
    ratios,
    repeating,
    seconds_of,
    timed,
)
from experiments.bench.ours import NARROW, Step, branch_of, configured, small
from experiments.bench.rows import EXPONENT, OF_ITS_MEMORY, SECONDS, Goal, Line, here, row
from experiments.report.write import write_report
from wsdjax import probes
from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import JsonLines

LINEAR: Goal = (1.1, 1.1)


def fitted(works: Mapping[int, Work], of: str) -> Line:
    """p of seconds ~ size^p, fitted in each turn."""
    for work in works.values():
        work(1)
    times = in_turns(works, timed())
    sizes = np.log(list(works))
    fits = [
        float(np.polyfit(sizes, np.log(turn), 1)[0]) for turn in zip(*times.values(), strict=True)
    ]
    told = {str(size): float(np.median(times[size])) for size in works}
    return Line(of, fits, EXPONENT, {"seconds": told})


@row("growth.seeds", LINEAR, (50, 60))
def seeds(_: argparse.Namespace) -> Iterator[Line]:
    """An update, by seeds."""
    sizes = here(((1, 2, 4), (8, 16, 32, 64)))
    yield fitted({n: Step(branch_of(small(n))) for n in sizes}, "time ~ seeds^p")


@row("growth.examples", LINEAR, (30, 25))
def examples(_: argparse.Namespace) -> Iterator[Line]:
    """A gradient over batches of 100, by examples."""
    place = Place.of(NARROW, 100)
    gradient = partial(probes.gradient, place.loss, place.origin)
    sizes = here(((1, 2, 4, 8), (8, 16, 32, 64)))
    works = {100 * n: repeating(partial(gradient, n * place.batches)) for n in sizes}
    yield fitted(works, "time ~ examples^p")


@row("growth.lanczos", LINEAR, (60, 40))
def lanczos(_: argparse.Namespace) -> Iterator[Line]:
    """A spectral density, by Lanczos steps."""
    place = Place.of(NARROW, here((32, 1_000)))
    density = partial(probes.spectral_density, place.loss, place.origin, place.batches, probes=1)
    works = {depth: repeating(partial(density, depth=depth)) for depth in (10, 20, 40)}
    yield fitted(works, "time ~ steps^p")


@row("growth.memory", (1.05, 1.05), (70, 120))
def memory(_: argparse.Namespace) -> Iterator[Line]:
    """Memory, by a run's length."""
    short, long = 500, 4_000
    peaks = alternately({n: partial(child.in_process, child.trained, n) for n in (short, long)})
    values = ratios(peaks[long], peaks[short])
    yield Line(f"{long:,} updates over {short}", values, OF_ITS_MEMORY, {"bytes": peaks})


@row("growth.drawing", (10, 10), (50, 50))
def drawing(_: argparse.Namespace) -> Iterator[Line]:
    """The report of a run of 100,000 updates."""
    rows = 100_000
    with tempfile.TemporaryDirectory() as directory:
        workdir = written(Path(directory) / "run", rows)
        values = alternately({"drawing": lambda: seconds_of(lambda: write_report(workdir))})
    yield Line(f"{rows:,} rows of 2 seeds", values["drawing"], SECONDS)


def written(workdir: Path, rows: int) -> Path:
    """A workdir whose one branch has so many rows of metrics, and an evaluation each 100."""
    branch = dataclasses.replace(branch_of(configured("quickstart")), end=rows)
    store = BranchStore(workdir)
    store.register({branch.name: branch})
    metrics = JsonLines(store.directory(branch.name) / "metrics.jsonl", 0, 0, "")
    for n in range(1, rows + 1):
        loss = [1 + 1 / n, 1 + 2 / n]
        norms = dict.fromkeys(("grad_norm", "param_norm", "update_norm"), loss)
        metrics.write({"step": n, "seconds": 0.01, "loss": loss, **norms, "rate": 1e-3})
        if n % 100 == 0:
            metrics.write({"step": n, "eval_loss": loss, "eval_accuracy": [0.5, 0.6]})
    metrics.close()
    return workdir
