"""Losses of many points, kept in a file as they are computed: a sweep goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wsdjax.checksum import checksums
from wsdjax.files import write_atomically
from wsdjax.probes.vectors import ProbeError


class Cells:
    """A loss for each point.

    The file has a line for the sweep's identity and then one for each point. The identity is of
    points, parameters and batches; a loss function has none, and is the caller's to keep.

    Args:
      file: where they are kept; None for nowhere.
      points: [N, ...] floats.
      arrays: the pytree that the points are points of, and the batches.

    Raises:
      ProbeError: for a file of another sweep, or of something else.
    """

    def __init__(self, file: str | Path | None, points: np.ndarray, arrays: Any):
        self.losses = np.full(len(points), np.nan)
        self._known = np.zeros(len(points), bool)
        self._file = None
        if file is None:
            return
        identity = _identity(points, arrays)
        if (path := Path(file)).exists():
            self._read(path, identity)
        self._file = path
        lines = [{"identity": identity}, *self._lines(np.flatnonzero(self._known))]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

    def missing(self) -> np.ndarray:
        """The indices of points without a loss."""
        return np.flatnonzero(~self._known)

    def put(self, indices: np.ndarray, losses: np.ndarray) -> None:
        self.losses[indices], self._known[indices] = losses, True
        if self._file:
            with self._file.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in self._lines(indices))

    def _lines(self, indices: np.ndarray) -> list[dict[str, float]]:
        return [{"point": int(i), "loss": float(self.losses[i])} for i in indices]

    def _read(self, path: Path, identity: str) -> None:
        try:
            first, *rest = path.read_text().split("\n")
            found = json.loads(first)["identity"]
            # What follows the last line's end was cut short by whatever stopped the sweep.
            lines = [json.loads(line) for line in rest[:-1]]
            cells = {int(line["point"]): float(line["loss"]) for line in lines}
            if found == identity and not cells.keys() <= set(range(len(self.losses))):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ProbeError(f"{path} is no file of losses: delete it, or name another") from None
        if found != identity:
            raise ProbeError(
                f"{path} has the losses of other points, parameters or batches: delete it, or "
                "name another"
            )
        for place, loss in cells.items():
            self.losses[place], self._known[place] = loss, True


def _identity(points: np.ndarray, arrays: Any) -> str:
    numbers = jax.tree.map(lambda x: x.astype(np.uint8) if x.dtype == bool else x, arrays)
    text = json.dumps([points.tolist(), checksums(numbers)])
    return hashlib.sha256(text.encode()).hexdigest()
