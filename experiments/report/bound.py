"""The bound of convex optimisation over a run's training losses (Schaipp et al.)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from experiments.report.reading import Run, running_mean
from wsdjax import theory


class Overlay(NamedTuple):
    """A lineage's loss and what the convex bound makes of its rates and gradient norms."""

    leaf: str
    steps: np.ndarray
    loss: np.ndarray
    """The running mean of the training loss, mean over seeds."""
    fitted: np.ndarray
    """a + b Omega, with the a and b of least squares."""
    correlation: float
    """The correlation of loss and Omega, after the first tenth of the updates."""


@functools.lru_cache(maxsize=1)
def overlays(run: Run, points: int = 300) -> list[Overlay]:
    """For each leaf's lineage the bound at up to `points` updates, and how well it goes with
    the loss. The distance D, which nobody measured, is that for which the run's own base rate
    is the best (`theory.implied_distance`)."""
    found = []
    for branch in run.ends():
        window = run.smoothing_window(branch.name)
        rows = run.table(branch.name).updates
        if not rows or len(rows["step"]) < max(20, 2 * window) or not rows["rate"].any():
            continue
        if rows["step"][-1] <= branch.start:
            continue  # nothing of its own yet
        if not (np.isfinite(rows["grad_norm"]).all() and np.isfinite(rows["loss"]).all()):
            continue
        rates, norms = rows["rate"], rows["grad_norm"].mean(-1)
        steps = rows["step"]
        loss = running_mean(rows["loss"].mean(-1, keepdims=True), window)
        kept = np.unique(np.linspace(0, len(steps) - 1, points).astype(int))
        kept = kept[steps[kept] > 0.1 * steps[-1]]
        steps, loss = steps[kept], loss[kept, 0]
        bound = theory.convex_bound(rates, norms, theory.implied_distance(rates, norms), steps)
        slope, offset = np.polyfit(bound, loss, 1)
        correlation = float(np.corrcoef(bound, loss)[0, 1])
        found.append(Overlay(branch.name, steps, loss, offset + slope * bound, correlation))
    return found
