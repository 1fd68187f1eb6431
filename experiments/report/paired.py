"""Branches compared run by run.

Runs that have their seed in common share an initialisation and batches, so that the spread between
seeds, which a mean ± deviation tells, is no part of the difference between two branches. What they
are compared with is declared first, and not the one that came out best: of the same fork and length
if there is one, else of the same end. The intervals of one table are Student's with Bonferroni's
correction, so that all of them cover at 95%; with more rows they are wider.
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
    leaf less an earlier one; of those alone that were evaluated at the same end on the same data,
    with the same seeds, two or more."""
    ends = {name: end for name in run.branches if (end := _end(run, name)) is not None}
    first, *others = list(run.compared.values()) or [()]
    pairs = [pair for names in others for pair in zip(names, first, strict=False)]
    if not pairs:
        for i, name in enumerate(leaves):
            earlier = [other for other in leaves[:i] if _alike(run, name, other)]
            starts = [run.branches[other].start for other in earlier]
            if run.branches[name].start in starts:
                earlier = earlier[starts.index(run.branches[name].start) :]
            pairs += [(name, other) for other in earlier[:1]]
    pairs = [pair for pair in pairs if ends.keys() >= {*pair} and _alike(run, *pair)]
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
    same = (one.replicate_seeds, one.data, one.end) == (two.replicate_seeds, two.data, two.end)
    return same and one is not two and one.seeds > 1
