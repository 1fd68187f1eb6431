"""Branches compared run by run.

Runs that have their seed in common share an initialisation and batches, so that the spread between
seeds, which a mean ± deviation tells, is no part of the difference between two branches. What they
are compared with is the first that is declared, and not the one that came out best; the intervals
of one table are Student's with Bonferroni's correction, so that all of them cover at 95%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.claims import LEVEL, Finding, Verdict, above
from experiments.report.reading import Run

HEADER = ("held-out loss of", "less that of", "difference by seed", "95% for all rows", "which is")


class Difference(NamedTuple):
    """The held-out loss at the end of a branch less that of another, in nats."""

    branch: str
    other: str
    finding: Finding


def differences(run: Run, leaves: Sequence[str]) -> list[Difference]:
    """Each method that the config compares less the first of them, at each budget, or else each
    leaf less the first; of those alone that were evaluated at their end on the same data, with the
    same seeds, two or more."""
    ends = {name: end for name in run.branches if (end := _end(run, name)) is not None}
    first, *others = list(run.compared.values()) or [()]
    pairs = [pair for names in others for pair in zip(names, first, strict=False)]
    if not pairs:
        pairs = [(name, leaves[0]) for name in dict.fromkeys(leaves[1:])]
    pairs = [
        (name, other)
        for name, other in pairs
        if name != other and {name, other} <= ends.keys() and _alike(run, name, other)
    ]
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    return [
        Difference(name, other, above(ends[name] - ends[other], level=level))
        for name, other in pairs
    ]


def table(found: Sequence[Difference]) -> list[tuple[str, ...]]:
    """In text, its header first; nothing for no difference."""
    rows = list(map(_row, found))
    return [HEADER, *rows] if rows else []


def _row(difference: Difference) -> tuple[str, ...]:
    found = difference.finding
    low, high = found.interval
    said = {Verdict.HELD: "higher", Verdict.NOT_HELD: "lower"}.get(found.verdict, found.verdict)
    interval = f"{low:+.4f} to {high:+.4f}"
    return difference.branch, difference.other, f"{found.value:+.4f}", interval, str(said)


def _end(run: Run, name: str) -> np.ndarray | None:
    evaluations = run.table(name).evaluations
    if not evaluations or evaluations["step"][-1] != run.branches[name].end:
        return None
    last = evaluations["eval_loss"][-1]
    return last if np.isfinite(last).all() else None


def _alike(run: Run, name: str, other: str) -> bool:
    one, two = run.branches[name], run.branches[other]
    seeds = one.replicate_seeds
    return len(seeds) > 1 and seeds == two.replicate_seeds and one.data == two.data
