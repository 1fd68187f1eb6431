"""What the field calls the schedule of a lineage, and what its data are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from experiments.report.reading import Run
from wsdjax.config import (
    Cifar10,
    Constant,
    Continued,
    Cooldown,
    Hold,
    InverseSqrt,
    Photos,
    Rewarm,
    Stdlib,
    Text,
    WarmupCosine,
)
from wsdjax.tree.branch import ResolvedBranch


def schedule_name(run: Run, name: str) -> str:
    """What the field calls the schedule of a lineage, and the shape of its last decay."""
    branches = run.branches
    lineage = [branches[segment.branch].schedule for segment in run.lineage(name)]
    lineage = [each for each in lineage if not isinstance(each, Continued)]
    kinds = [kind for kind, _ in itertools.groupby(_KINDS[type(each)] for each in lineage)]
    joined = " > ".join(kinds)
    cycles = " > ".join(["constant", "cooldown"] * (len(kinds) // 2))
    known = _NAMES.get(joined, "WSD-S" if joined == cycles else joined)
    last = lineage[-1]
    if joined == "warmup-cosine > rewarmed" and all(
        each.warmup_steps == 0 for each in lineage if isinstance(each, Rewarm)
    ):
        known = "cyclic cosine"
    return f"{known}, {last.shape} cooldown" if isinstance(last, Cooldown) else known


_KINDS = {
    Constant: "constant",
    Hold: "held",
    InverseSqrt: "inverse square root",
    WarmupCosine: "warmup-cosine",
    Cooldown: "cooldown",
    Rewarm: "rewarmed",
}
_NAMES = {
    "constant": "constant rate",
    "constant > cooldown": "WSD",
    "warmup-cosine > held > cooldown": "infinite",
    "warmup-cosine > rewarmed": "re-warmed cosine",
}


def data_name(branches: Iterable[ResolvedBranch]) -> str:
    names = {
        Photos: "photos (not CIFAR-10)",
        Cifar10: "CIFAR-10",
        Stdlib: "source of Python's standard library",
    }
    called = [
        branch.data.directory
        if isinstance(branch.data, Text)
        else names.get(type(branch.data), type(branch.data).__name__)
        for branch in branches
    ]
    return ", ".join(dict.fromkeys(called))
