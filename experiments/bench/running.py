"""Rows in their order, as long as there is time; the record is written after every line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

from experiments.bench.measure import reason
from experiments.bench.rows import Line, Row, quartiles
from experiments.cli.results import here, write_result
from wsdjax.branches import provenance

PEERS = {
    "torch": "torch",
    "transformers": "transformers",
    "scikit-learn": "scikit-learn",
    "scipy": "scipy",
    "curvlinops": "curvlinops-for-pytorch",
    "hessian-eigenthings": "hessian-eigenthings",
    "PyHessian": "pyhessian",
    "matfree": "matfree",
}
"""What is compared with, and the package that it comes in."""
_LAYOUT = "{:<20}  {:<34}  {:>8}  {:<16}  {:<13}  {:<7}  {}"
_HEADER = ("row", "against", "median", "quartiles", "", "goal", "met")


def run(rows: Sequence[Row], given: argparse.Namespace) -> int:
    """Measures what fits `given.minutes`, a row only if about its time is left; 1 if something of
    ours failed."""
    record = Record(given)
    print(f"On {provenance.machine()}, for at most {given.minutes:g} minutes.", flush=True)
    print(_LAYOUT.format(*_HEADER), flush=True)
    failed, expected = False, 0.0
    for row in rows:
        # A machine that has been slower than the estimates will go on to be.
        slower = max(1.0, sum(record.seconds.values()) / expected) if expected else 1.0
        if slower * row.seconds > 60 * given.minutes - record.elapsed:
            record.add(row, Line("-", [], why="not reached: no time"))
            continue
        begun = record.elapsed
        try:
            for line in row.measure(given):
                record.add(row, line)
        except Exception as error:  # of one row: the machine may be lent for all of them
            record.add(row, Line("-", [], why=reason(error)))
            failed = True
        record.seconds[row.name] = record.elapsed - begun
        expected += row.seconds
        _let_go()
    record.write()
    return int(failed)


class Record:
    """The lines so far, on the screen and in `given.out`."""

    def __init__(self, given: argparse.Namespace):
        self._given, self._begun, self._load = given, time.monotonic(), os.getloadavg()[0]
        self._lines: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        """What each row took."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def add(self, row: Row, line: Line) -> None:
        self._lines.append(line.summary(row))
        print(_LAYOUT.format(*_cells(row, line)).rstrip(), flush=True)
        self.write()

    def write(self) -> None:
        if not self._given.out:
            return
        made = here()
        content = {
            "rows": self._lines,
            "seconds": self.seconds,
            "minutes": self.elapsed / 60,
            "threads": os.cpu_count(),
            "load": {"before": self._load, "after": os.getloadavg()[0]},
            "command": sys.argv[1:],
            "float32_on_a_gpu": "TF32 on both sides in train and lm, on neither in curvature",
        }
        made["versions"] |= versions()
        write_result(self._given.out, content | made)


def _cells(row: Row, line: Line) -> tuple[str, ...]:
    if line.why:
        return row.name, line.against, "", "", line.why, "", ""
    low, median, high = quartiles(line.values)
    goal = line.goal or row.goal
    met = {True: "yes", False: "no", None: ""}[goal.met_by(median)]
    spread = f"{low:.3g} to {high:.3g}"
    return row.name, line.against, f"{median:.3g}", spread, line.unit, str(goal), met


def versions() -> dict[str, str]:
    """Those of the peers."""
    found = dict.fromkeys(PEERS, "not installed")
    for name, package in PEERS.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    return found


def _let_go() -> None:
    """Gives the device's memory to the next row."""
    gc.collect()
    jax.clear_caches()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
