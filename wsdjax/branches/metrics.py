"""`metrics.jsonl`: a row for every update, and one for every evaluation after it.

Each line ends with a checksum of itself and of all lines before it, the first of which goes on
from the branch's name, so that a row that was changed, lost, doubled, moved or brought from
another branch shows, and where. That nothing is missing at the end shows by the checkpoint's
record, which keeps the checksum that the rows had when it was saved. Rows written before there
were checksums (by format 2 as it began) are held to their order alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsdjax.files import DamagedFile, naming, object_of, read_lines, write_atomically


class Table(NamedTuple):
    """Rows as arrays: `step` [T], `rate` [T], and [T, R] for what each replicate has."""

    updates: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]


class Kept(NamedTuple):
    """The rows of a file, as objects and as lines."""

    rows: list[dict[str, Any]]
    lines: list[str]
    sums: list[str]
    """The running checksum after each of them; "" as long as none has one."""


_SUM = re.compile(r', "sum": "([0-9a-f]{12})"\}$')
_LOST = "bring the file back, or move the branch's directory away to train it again"


def read(path: Path, until: int | None = None) -> Kept:
    """The file of the branch that has its directory's name, as far as a kill let it be; rows later
    than `until` are left out, whatever they hold. A `DamagedFile` names the line of a row that is
    not as it was written, or not where it was."""
    kept = Kept([], [], [])
    try:
        for row, line, total in _checked(path):
            if until is not None and row["step"] > until:
                break
            kept.rows.append(row)
            kept.lines.append(line)
            kept.sums.append(total)
    except DamagedFile:
        reached = kept.rows[-1]["step"] if kept.rows else -1
        if until is None or reached < until:
            raise
    return kept


def _checked(path: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each row, as an object and as its line, with the running checksum."""
    last, update, evaluation = "", 0, -1
    for n, content in enumerate(read_lines(path), 1):
        at = f"{path}, line {n}"
        row = object_of(path, content, _LOST, n)
        line = content.decode()
        if found := _SUM.search(line):
            del row["sum"]
            last = _sum_of(last or path.parent.name, line[: found.start()] + "}")
            if last != found[1]:
                raise DamagedFile(f"{at}: is not what was written after the line before; {_LOST}")
        elif last:
            raise DamagedFile(f"{at}: has no checksum; {_LOST}")
        _check_values(at, row)
        step = row["step"]
        if "loss" in row:
            # What comes first may be any update: a branch begins at its fork.
            if step != (update + 1 if update else step) or step < 1:
                raise DamagedFile(f"{at}: update {step} stands after update {update}; {_LOST}")
            update = step
        elif step != update or evaluation == step:
            raise DamagedFile(f"{at}: an evaluation at {step} after update {update}; {_LOST}")
        else:
            evaluation = step
        yield row, line, last


def check_end(path: Path, kept: Kept, start: int, step: int, recorded: str | None) -> None:
    """That the rows up to `step` are those of a branch which has been trained from `start` to
    there, and whose last one has the checksum `recorded`; else a `DamagedFile` tells."""
    count = sum(row["step"] <= step for row in kept.rows)
    updates = [row["step"] for row in kept.rows[:count] if "loss" in row]
    first, last = (updates[0], updates[-1]) if updates else (start + 1, start)
    if first != start + 1 or last < step:
        raise DamagedFile(
            f"{path} should have a row for each update from {start + 1} to {step}, and has "
            f"{len(updates)}, to line {count}; {_LOST}"
        )
    # Rows that were written before there were checksums say nothing.
    if recorded and (kept.sums[count - 1] if count else "") != recorded:
        raise DamagedFile(
            f"{path}, line {count + 1}: a row is missing, or those before it are not the "
            f"ones that the checkpoint of update {step} was saved with; {_LOST}"
        )


def _sum_of(before: str, line: str) -> str:
    return hashlib.sha256(f"{before}\n{line}".encode()).hexdigest()[:12]


_NUMBERS = (float, int, type(None))


def _check_values(at: str, row: dict[str, Any]) -> None:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise DamagedFile(f"{at}: no row, it has no step; {_LOST}")
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if not all(type(each) in _NUMBERS for each in values):
            raise DamagedFile(f"{at}: no row, its {name[:40]!r} is no number; {_LOST}")


class JsonLines:
    """Appends rows to a branch's file, after dropping those later than `step`: of a run that was
    killed they may be ahead of its newest checkpoint, and training makes them again.

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
        self.sum = _sum_of(self.sum or self._path.parent.name, line)
        with naming(self._path):
            self._file.write(f'{line[:-1]}, "sum": "{self.sum}"}}\n')

    def flush(self) -> None:
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._file:
            self.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows of one lineage as arrays."""
    updates = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "loss" not in row]

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
