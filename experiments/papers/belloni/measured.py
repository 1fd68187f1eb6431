"""The numbers behind each figure, of one architecture over R runs that differ in their seed.

All are plain arrays, so that figures and verdicts are pure functions of them and a file holds
nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsdjax.files import read_json, write_json


class Losses(NamedTuple):
    """Held-out loss in nats under WSD and under warmup-cosine (figure 1)."""

    steps: np.ndarray
    """[T] completed updates."""
    wsd: np.ndarray
    """[R, T]."""
    cosine: np.ndarray
    """[R, T]."""
    fork: int
    """Updates before the cooldown, T_c."""


class Lines(NamedTuple):
    """The loss on lines between iterates (figure 2), over K disjoint parts of one sample."""

    alphas: np.ndarray
    """[P], some beyond [0, 1]."""
    stable: np.ndarray
    """[R, K, P]: from 80% of the stable phase, alpha 0, to its end, alpha 1."""
    decay: np.ndarray
    """[R, K, P]: from the start of the cooldown to its end."""


class Sharpness(NamedTuple):
    """Curvature along training and along each phase's direction (figure 3)."""

    steps: np.ndarray
    """[N], the fork and the end among them."""
    eigenvalues: np.ndarray
    """[R, N]: the largest of the Hessian."""
    residuals: np.ndarray
    """[R, N]: ||H y - rho y|| for unit y."""
    along_stable: np.ndarray
    """[R]: ||H v_s|| at the cooldown's start; v_s unit, of the last 20% of the stable phase."""
    along_decay: np.ndarray
    """[R]: ||H v_d|| there; v_d unit, of the first 20% of the cooldown."""
    fork: int


class Directions(NamedTuple):
    """Weak quasi-convexity, and the direction of updates (figure 4)."""

    steps: np.ndarray
    """[N]."""
    tau: np.ndarray
    """[R, N]: <grad L(x_i), x_i - x*> / (L(x_i) - L(x*)), x* the last iterate."""
    update_steps: np.ndarray
    """[M]: the iterates whose next update is looked at."""
    cosines: np.ndarray
    """[R, M]: of -grad L(x_i) with x_{i+1} - x_i."""
    fork: int


class Lengths(NamedTuple):
    """The end's held-out loss after cooldowns of several lengths, of one budget (figure 5)."""

    shares: np.ndarray
    """[L], ascending: of the budget."""
    wsd: np.ndarray
    """[R, L]."""
    cosine: np.ndarray
    """[R]."""


class Norms(NamedTuple):
    """The norm of all parameters (figure 6)."""

    steps: np.ndarray
    """[T], after the warmup."""
    wsd: np.ndarray
    """[R, T]."""
    cosine: np.ndarray
    """[R, T]."""
    fork: int


class Components(NamedTuple):
    """The first principal component's share of the variance of a phase's iterates (figure 7)."""

    stable: np.ndarray
    """[R]."""
    decay: np.ndarray
    """[R]."""


class Preconditioned(NamedTuple):
    """The sharpness that Adam sees, beside its threshold of stability (arXiv 2601.16979)."""

    steps: np.ndarray
    """[N]."""
    eigenvalues: np.ndarray
    """[R, N]: the largest of P^-1/2 H P^-1/2."""
    threshold: np.ndarray
    """[N]: (2 + 2 b1) / ((1 - b1) eta); NaN where the rate is zero."""
    fork: int


FIGURES: dict[str, Any] = {
    "1": Losses,
    "2": Lines,
    "3": Sharpness,
    "4": Directions,
    "5": Lengths,
    "6": Norms,
    "7": Components,
    "threshold": Preconditioned,
}
"""The figures of a study by their names in the paper, and one from another side."""


def write(path: Path, numbers: Any, told: dict[str, Any]) -> None:
    """Keeps one figure's numbers as JSON, with what is told of how they were measured."""
    plain = {
        name: _plain(value) if isinstance(value, np.ndarray) else value
        for name, value in numbers._asdict().items()
    }
    write_json(path, {"figure": plain, "told": told})


def _plain(values: np.ndarray) -> list[Any]:
    """The values in lists, None for NaN, which JSON does not have."""
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return plain.tolist()


def read(path: Path, figure: str) -> tuple[Any, dict[str, Any]]:
    """What `write` kept.

    Raises:
      DamagedFile: for a file that is not as it was written.
    """
    content = read_json(path, remedy=f"delete {path} to measure it again")
    kind = FIGURES[figure]
    fields = {
        name: value if isinstance(value, int) else np.asarray(value, np.float64)
        for name, value in content["figure"].items()
    }
    return kind(**fields), content["told"]
