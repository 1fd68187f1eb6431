"""Losses of many points, kept in a file as they are computed: a sweep goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wsdjax.checksum import checksums
from wsdjax.files import DamagedFile, naming, read_json_lines, write_atomically
from wsdjax.probes.vectors import ProbeError, Tree, epsilon


class Cells:
    """A loss for each point.

    The file has a line for the sweep's identity and then one for each point. The identity is of
    points, parameters and batches; a loss function has none, and is known by what it gives
    (`compare`).

    Args:
      file: where they are kept; None for nowhere.
      points: [N, ...] floats.
      arrays: the vectors that the points are sums of, and the batches.

    Raises:
      ProbeError: for a file of another sweep, or of something else.
    """

    def __init__(self, file: str | Path | None, points: np.ndarray, arrays: tuple[Tree, Tree]):
        self.losses = np.full(len(points), np.nan)
        self._known = np.zeros(len(points), bool)
        self._file = None
        if file is None:
            return
        self._tolerance = 3 * epsilon(arrays[0]) ** 0.5
        identity = _identity(points, arrays)
        if (path := Path(file)).exists():
            self._read(path, identity)
        self._file = path
        lines = [{"identity": identity}, *self._lines(np.flatnonzero(self._known))]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

    def compare(self, own: np.ndarray, loss: Callable[[int], float]) -> None:
        """Computes two of the file's losses anew, which are to be the same.

        One is at a point that is one of the vectors itself (`own` [N]), where there is nothing to
        round; the other the last of the others, which for a plane is far from that: a loss may
        differ from another by what is zero at a point. One that is the same at both, to half of
        the digits (0.1% in float32), is taken for the same.

        Raises:
          ProbeError: for losses that differ by more than half of the digits.
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
                    f"{kept:.6g}, and this one gives {found:.6g}; delete it, or name another"
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

    def _read(self, path: Path, identity: str) -> None:
        remedy = "delete it, or name another"
        try:
            lines = read_json_lines(path, remedy)
        except DamagedFile as error:
            where = str(error).removeprefix(str(path))
            raise ProbeError(f"{path} is no file of losses{where}") from None
        if not (lines and "identity" in lines[0]):
            raise ProbeError(f"{path} is no file of losses: {remedy}")
        found = lines[0]["identity"]
        cells: dict[int, Any] = {}
        for n, line in enumerate(lines[1:], 2):
            point, loss = line.get("point"), line.get("loss")
            at = f"{path} is no file of losses, line {n}:"
            if type(point) is not int or type(loss) not in (float, int) or point < 0:
                raise ProbeError(f"{at} {remedy}")
            if found == identity and point >= len(self.losses):
                raise ProbeError(f"{at} no point {point}; {remedy}")
            cells[point] = loss
        if found != identity:
            raise ProbeError(
                f"{path} has the losses of other points, parameters or batches: {remedy}"
            )
        for place, loss in cells.items():
            self.losses[place], self._known[place] = loss, True


def _identity(points: np.ndarray, arrays: tuple[Tree, Tree]) -> str:
    numbers = jax.tree.map(lambda x: x.astype(np.uint8) if x.dtype == bool else x, arrays)
    text = json.dumps([points.tolist(), checksums(numbers)])
    return hashlib.sha256(text.encode()).hexdigest()
