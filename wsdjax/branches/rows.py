"""Where the rows of training go: `metrics.jsonl` (`wsdjax.branches.metrics`), and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wsdjax.branches.metrics import check_end, read, sum_of
from wsdjax.files import naming, write_atomically
from wsdjax.tree.branch import ResolvedBranch


class JsonLines:
    """Appends rows to a branch's file, after dropping those later than `step`.

    The rows of a run that was killed may be ahead of its newest checkpoint; training makes
    them again. The file is replaced at once or not at all.

    The branch, which has the name of the directory, was forked at `start`; `recorded` is the
    checksum that the checkpoint of `step` keeps, if it keeps one. A `DamagedFile` tells of a row up
    to there that is not as it was written.
    """

    def __init__(self, path: Path, start: int, step: int, recorded: str | None = None):
        # One of step `start` is of the initial weights, and written when the branch begins.
        kept = read(path, step if step > start else -1)
        check_end(path, kept, start, step, recorded)
        write_atomically(path, "".join(f"{line}\n" for line in kept.lines))
        self._path, self._file = path, path.open("a")
        self.sum = kept.sums[-1] if kept.sums else ""

    def write(self, row: dict[str, Any]) -> None:
        line = json.dumps({name: _finite(value) for name, value in row.items()})
        self.sum = sum_of(self.sum or self._path.parent.name, line)
        with naming(self._path):
            self._file.write(f'{line[:-1]}, "sum": "{self.sum}"}}\n')

    def flush(self) -> None:
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._file:
            self.flush()


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


Writer = JsonLines | TensorBoard


@dataclass
class Rows:
    """The rows of siblings that train together: each gets those of its own replicates.

    A row has `step` and values: numbers, or a list of R of them.
    """

    group: Sequence[ResolvedBranch]
    files: Sequence[JsonLines]
    boards: Sequence[TensorBoard] = ()
    """One for each branch as well, if any."""

    def write(self, row: dict[str, Any], values: Mapping[str, Any], rates: Any = None) -> None:
        """`row` with what each replicate has of `values`, leaves [R], and its branch's rate."""
        host = {name: np.asarray(value) for name, value in jax.device_get(values).items()}
        first = 0
        for i, branch in enumerate(self.group):
            mine = slice(first, first + branch.seeds)
            columns = {name: value[mine].tolist() for name, value in host.items()}
            rate = {} if rates is None else {"rate": float(rates[first])}
            own: list[Writer] = [self.files[i], *self.boards[i : i + 1]]
            for writer in own:
                writer.write({**row, **rate, **columns})
            first += branch.seeds

    def flush(self) -> dict[str, str]:
        """Puts all rows on disk; returns the checksum that each branch's have by now."""
        for writer in self._all():
            writer.flush()
        return {b.name: file.sum for b, file in zip(self.group, self.files, strict=True)}

    def close(self) -> None:
        """Closes all, whatever comes of it: what a checkpoint tells of is flushed, and an error
        may be on its way already."""
        for writer in self._all():
            with contextlib.suppress(OSError):
                writer.close()

    def _all(self) -> list[Writer]:
        return [*self.files, *self.boards]


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
