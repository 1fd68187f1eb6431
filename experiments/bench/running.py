"""Rows in their order, as long as there is time; the record is written after every line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

from experiments.bench.measure import reason
from experiments.bench.rows import Line, Row
from experiments.cli.results import here, write_result
from wsdjax.branches import provenance

_LAYOUT = "{:<20}  {:<34}  {:>8}  {:<16}  {:<13}  {:<7}  {}"
_HEADER = ("row", "against", "median", "quartiles", "", "goal", "met")


def run(rows: Sequence[Row], given: argparse.Namespace) -> int:
    """Measures what fits `given.minutes`, a row only if about its time is left; 1 if something of
    ours failed."""
    record = Record(given)
    machine = provenance.machine()
    print(f"On {machine}, for at most {given.minutes:g} minutes, into {given.out}.", flush=True)
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
            failed |= not isinstance(error, ImportError)  # which is a peer's
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
        print(_LAYOUT.format(*_cells(self._lines[-1])).rstrip(), flush=True)
        self.write()

    def write(self) -> None:
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


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    if "why" in found:
        return found["row"], found["against"], "", "", found["why"], "", ""
    low, high = found["quartiles"]
    spread = f"{low:.3g} to {high:.3g}"
    told = f"{found['median']:.3g}", spread, found["unit"], found["goal"], found["met"]
    return found["row"], found["against"], *told


def versions() -> dict[str, str]:
    """Those of the peers: of the packages of the extra `peers`."""
    found: dict[str, str] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):  # where the library lies beside it
        for requirement in metadata.requires("wsdjax") or []:
            package, _, condition = requirement.partition(";")
            if "peers" in condition:
                found[re.split(r"[^\w-]", package)[0]] = "not installed"
    for name in found:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _let_go() -> None:
    """Gives the device's memory to the next row."""
    gc.collect()
    jax.clear_caches()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
