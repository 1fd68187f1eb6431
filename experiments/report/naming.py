"""What the field calls the schedule of a lineage, and what its data are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from experiments.report.reading import Run
from wsdjax.tree.branch import ResolvedBranch


def schedule_name(run: Run, name: str) -> str:
    """What the field calls the schedule of a lineage, and the shape of its last decay."""
    schedules = [run.branches[segment.branch].schedule for segment in run.lineage(name)]
    schedules = [each for each in schedules if each.called]
    kinds = [kind for kind, _ in itertools.groupby(each.called for each in schedules)]
    joined = " > ".join(kinds)
    cycles = " > ".join(["constant", "cooldown"] * (len(kinds) // 2))
    known = _NAMES.get(joined, "WSD-S" if joined == cycles else joined)
    rewarmed = [each for each in schedules if each.called == "rewarmed"]
    if known == "re-warmed cosine" and not any(each.warmup_steps for each in rewarmed):
        known = "cyclic cosine"
    return ", ".join(filter(None, (known, schedules[-1].shape_called)))


_NAMES = {
    "constant": "constant rate",
    "constant > cooldown": "WSD",
    "warmup-cosine > held > cooldown": "infinite",
    "warmup-cosine > rewarmed": "re-warmed cosine",
}


def data_name(branches: Iterable[ResolvedBranch]) -> str:
    return ", ".join(dict.fromkeys(branch.data.called for branch in branches))
