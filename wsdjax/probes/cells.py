"""Losses of many points, kept in a file as they are computed: a sweep goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from wsdjax.checksum import checksums
from wsdjax.files import DamagedFile, naming, read_json_lines, write_atomically
from wsdjax.probes.vectors import ProbeError, Tree, epsilon


class Cells:
    """A loss for each point.

    The file has a line for the sweep's identity and then one for each point. The identity is of
    points, parameters and batches; a loss function has none, and is known by what it gives
    (`compare`). `arrays` are the vectors that the points [N, ...] are sums of, and the batches.
    """

    def __init__(self, file: str | Path | None, points: np.ndarray, arrays: tuple[Tree, Tree]):
        self.losses = np.full(len(points), np.nan)
        self._known = np.zeros(len(points), bool)
        self._file = None if file is None else Path(file)
        if self._file is None:
            return
        self._tolerance = 3 * epsilon(arrays[0]) ** 0.5
        identity = {"identity": _identity(points, arrays)}
        if self._file.exists():
            self._read(self._file, identity)
        lines = [identity, *self._lines(np.flatnonzero(self._known))]
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in lines))

    def compare(self, own: np.ndarray, loss: Callable[[int], float]) -> None:
        """Computes two of the file's losses anew, and refuses it if they differ by more than half
        of the digits (0.1% in float32).

        One is at a point that is one of the vectors itself (`own` [N]), where there is nothing to
        round; the other the last of the others, which for a plane is far from that: a loss may
        differ from another by what is zero at a point.
        """
        for among in (own, ~own):
            known = np.flatnonzero(self._known & among)
            if not len(known):
                continue
            i = int(known[np.argmax(self.losses[known] != 0)] if among is own else known[-1])
            found, kept = loss(i), float(self.losses[i])
            if not np.isclose(found, kept, rtol=self._tolerance, atol=0, equal_nan=True):
                raise ProbeError(
                    f"{self._file} has the losses of another loss function: of point {i} it has "
                    f"{kept:.6g}, and this one gives {found:.6g}; {_REMEDY}"
                )

    def missing(self) -> np.ndarray:
        """The indices of points without a loss."""
        return np.flatnonzero(~self._known)

    def put(self, indices: np.ndarray, losses: np.ndarray) -> None:
        self.losses[indices], self._known[indices] = losses, True
        if self._file:
            with naming(self._file), self._file.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in self._lines(indices))

    def _lines(self, indices: np.ndarray) -> list[dict[str, float]]:
        return [{"point": int(i), "loss": float(self.losses[i])} for i in indices]

    def _read(self, path: Path, identity: dict[str, str]) -> None:
        found, *cells = read_json_lines(path, _REMEDY) or [{}]
        if found != identity:
            raise ProbeError(
                f"{path} has the losses of other points, parameters or batches, or none: {_REMEDY}"
            )
        for n, cell in enumerate(cells, 2):
            point, loss = cell.get("point"), cell.get("loss")
            there = type(point) is int and 0 <= point < len(self.losses)
            if not there or type(loss) not in (float, int):
                raise DamagedFile(f"{path}, line {n}: no loss of one of the points; {_REMEDY}")
            self.losses[point], self._known[point] = loss, True


_REMEDY = "delete it, or name another"


def _identity(points: np.ndarray, arrays: tuple[Tree, Tree]) -> str:
    numbers = jax.tree.map(lambda x: x.astype(np.uint8) if x.dtype == bool else x, arrays)
    text = json.dumps([points.tolist(), checksums(numbers)])
    return hashlib.sha256(text.encode()).hexdigest()
