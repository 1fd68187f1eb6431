"""`metrics.jsonl`: a row for every update, and one for every evaluation after it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


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
    """

    def __init__(self, path: Path, step: int):
        kept = "".join(json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step)
        write_atomically(path, kept)
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

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
        return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    return Table(columns(updates), columns(evaluations))


def write_atomically(path: Path, text: str) -> None:
    """The file has the old text or the new, whenever the process is killed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
