"""`metrics.jsonl`: a row for every update, and one for every evaluation after it."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from wsdjax.edge import Edge
from wsdjax.files import write_atomically
from wsdjax.validation import UserError


class Table(NamedTuple):
    """Rows as arrays: `step` [T], `rate` [T], and [T, R] for what each replicate has."""

    updates: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]


class Writer(Protocol):
    """Where rows go. A row has `step` and values: numbers, or a list of R of them."""

    def write(self, row: dict[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """Appends rows to a file, after dropping those later than `step`.

    The rows of a run that was killed may be ahead of its newest checkpoint; training makes
    them again. The file is replaced at once or not at all.

    Raises:
      UserError: if a row of the updates `start` + 1, ..., `step` is not there.
    """

    def __init__(self, path: Path, start: int, step: int):
        # One of step `start` is of the initial weights, and written when the branch begins.
        kept = [row for row in read_rows(path) if row["step"] <= step and step > start]
        there = [row["step"] for row in kept if "loss" in row]
        if there != list(range(start + 1, step + 1)):
            raise UserError(
                f"{path} should have a row for each update from {start + 1} to {step}, and has "
                f"{len(there)}: bring it back, or delete {path.parent} to train the branch again"
            )
        write_atomically(path, "".join(_line(row) for row in kept))
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


class TensorBoard:
    """The same rows as TensorBoard scalars, a curve for each replicate."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                values = value if isinstance(value, list) else [value]
                tags = [f"{name}/{i}" for i in range(len(values))] if len(values) > 1 else [name]
                for tag, scalar in zip(tags, values, strict=True):
                    self._writer.add_scalar(tag, scalar, row["step"])

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Rows:
    """The rows of siblings that train together: each gets those of its own replicates."""

    def __init__(self, group: Sequence[Edge], writers: Sequence[Sequence[Writer]]):
        self._group, self._writers = group, writers

    def write(self, row: dict[str, Any], values: Mapping[str, Any], rates: Any = None) -> None:
        """`row` with what each replicate has of `values`, leaves [R], and its branch's rate."""
        host = {name: np.asarray(value) for name, value in jax.device_get(values).items()}
        first = 0
        for edge, writers in zip(self._group, self._writers, strict=True):
            mine = slice(first, first + edge.seeds)
            columns = {name: value[mine].tolist() for name, value in host.items()}
            rate = {} if rates is None else {"rate": float(rates[first])}
            for writer in writers:
                writer.write({**row, **rate, **columns})
            first += edge.seeds

    def flush(self) -> None:
        for writer in itertools.chain(*self._writers):
            writer.flush()

    def close(self) -> None:
        for writer in itertools.chain(*self._writers):
            writer.close()


def _line(row: dict[str, Any]) -> str:
    """A row as JSON, which has no infinity and no NaN: null stands for both."""
    return json.dumps({name: _finite(value) for name, value in row.items()}) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, without a last line that a kill cut short; [] if there is none."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # a whole line ends with a newline


def table(rows: Iterable[dict[str, Any]]) -> Table:
    """Rows of one lineage as arrays."""
    updates: list[dict] = []
    evaluations: list[dict] = []
    for row in rows:
        (updates if "loss" in row else evaluations).append(row)

    def columns(rows):
        # A branch that averages its weights has columns that its ancestors lack: NaN there.
        names = dict.fromkeys(itertools.chain(*rows))
        replicates = max(
            (len(v) for row in rows for v in row.values() if isinstance(v, list)), default=0
        )
        lacking = [math.nan] * replicates or math.nan
        found = {name: [row.get(name, lacking) for row in rows] for name in names}
        # null, of a loss that was not finite, reads as NaN
        return {
            name: np.array(values, None if name == "step" else float)
            for name, values in found.items()
        }

    return Table(columns(updates), columns(evaluations))
