"""Where the rows of siblings go: to each one's `metrics.jsonl`, and to TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wsdjax.branches.metrics import JsonLines
from wsdjax.tree.branch import ResolvedBranch


class TensorBoard:
    """The same rows as TensorBoard scalars, a curve for each replicate."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            for i, scalar in enumerate(values if name != "step" else []):
                tag = f"{name}/{i}" if len(values) > 1 else name
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
