"""How time grows with what is asked, as the exponent of a power; what a long run takes."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

from experiments.bench.landscape import Place, in_process
from experiments.bench.measure import Work, alternately, exponents, ratios, seconds_of
from experiments.bench.ours import Step, branch_of, configured
from experiments.bench.rows import (
    EXPONENT,
    OF_ITS_MEMORY,
    SECONDS,
    Line,
    Row,
    at_most,
    on_cpu,
)
from experiments.report.write import write_report
from wsdjax import probes
from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import JsonLines

LINEAR = at_most(1.1, 1.1)


def _fitted(works: dict[int, Work], of: str) -> Iterator[Line]:
    fits, seconds = exponents(works)
    yield Line(of, fits, EXPONENT, {"seconds": {str(size): s for size, s in seconds.items()}})


def _seeds(_: argparse.Namespace) -> Iterator[Line]:
    base = configured("quickstart" if on_cpu() else "cnn_photos")
    sizes = (1, 2, 4) if on_cpu() else (8, 16, 32, 64)
    steps = {n: Step(branch_of(dataclasses.replace(base, seeds=n))) for n in sizes}
    return _fitted({n: step for n, step in steps.items()}, "time ~ seeds^p")


def _place(examples: int) -> Place:
    return Place.of((16, 32, 32, 32), examples)


def _examples(_: argparse.Namespace) -> Iterator[Line]:
    """Of a gradient over batches of 100."""
    place = _place(100)

    def work(batches: int) -> Work:
        given = place.loss, place.origin, batches * place.batches
        return lambda count: [jax.block_until_ready(probes.gradient(*given)) for _ in range(count)]

    sizes = (1, 2, 4, 8) if on_cpu() else (8, 16, 32, 64)
    return _fitted({100 * n: work(n) for n in sizes}, "time ~ examples^p")


def _lanczos(_: argparse.Namespace) -> Iterator[Line]:
    place = _place(32 if on_cpu() else 1_000)

    def work(depth: int) -> Work:
        given = place.loss, place.origin, place.batches
        density = probes.spectral_density
        return lambda count: [density(*given, probes=1, depth=depth) for _ in range(count)]

    return _fitted({depth: work(depth) for depth in (10, 20, 40)}, "time ~ steps^p")


def _memory(_: argparse.Namespace) -> Iterator[Line]:
    short, long = 500, 4_000

    def peak(updates: int) -> float:
        return in_process("trained", str(updates))["bytes"]

    peaks = alternately({str(n): partial(peak, n) for n in (short, long)})
    values = ratios(peaks[str(long)], peaks[str(short)])
    yield Line(f"{long:,} updates over {short}", values, OF_ITS_MEMORY, {"bytes": peaks})


def _drawing(_: argparse.Namespace) -> Iterator[Line]:
    """A report of one branch whose metrics.jsonl has so many rows."""
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


ROWS = (
    Row("growth.seeds", "an update, by seeds", LINEAR, *(50, 60), _seeds),
    Row("growth.examples", "a gradient, by examples", LINEAR, *(30, 25), _examples),
    Row("growth.lanczos", "a spectral density, by Lanczos steps", LINEAR, *(60, 40), _lanczos),
    Row("growth.memory", "memory, by a run's length", at_most(1.05, 1.05), *(70, 120), _memory),
    Row(
        "growth.drawing",
        "the report of a run of 100,000 updates",
        at_most(10, 10),
        *(50, 50),
        _drawing,
    ),
)
