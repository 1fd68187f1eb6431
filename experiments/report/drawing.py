"""The tree in text: what `experiments.branch list` prints and a report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.cli.table import aligned
from experiments.report.reading import Run, experiment_of
from wsdjax.branches import BranchStore
from wsdjax.config import AdamW
from wsdjax.tree.branch import ResolvedBranch


def drawing(store: BranchStore, by_rows: bool = False) -> list[str]:
    """A line for each branch, indented along the tree: steps, schedule and what else it changes,
    status, final loss. `by_rows` goes by the rows, whether or not checkpoints are there."""
    branches = store.branches()
    experiment = experiment_of(store.workdir)
    base = experiment.optimizer if experiment else None

    def lines(parent: str, indent: str) -> Iterator[tuple[str, ...]]:
        children = [branch for branch in branches.values() if branch.parent == parent]
        for branch in children:
            last = branch is children[-1]
            fork, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            mark = fork if parent else ""
            steps = f"{branch.start:,} → {branch.end:,}"
            what = ", ".join(
                filter(
                    None, (summary(branch.schedule), changes(branch, branches.get(parent), base))
                )
            )
            yield (indent + mark + branch.name, steps, what, *state_of(store, branch, by_rows))
            yield from lines(branch.name, indent + below if parent else "")

    header = ("branch", "updates", "schedule and changes", "status", "held-out loss")
    return aligned([header, *lines("", "")])


def summary(value: Any) -> str:
    """A dataclass as it is written in a config: its first field, and those that are not as by
    default."""
    fields = dataclasses.fields(value)
    named = [f for f in fields if f is fields[0] or getattr(value, f.name) != f.default]
    shown = [f"{f.name}={getattr(value, f.name)!r}" for f in named]
    return f"{type(value).__name__}({', '.join(shown)})"


def state_of(store: BranchStore, branch: ResolvedBranch, by_rows: bool = False) -> tuple[str, str]:
    """(status, final held-out loss)."""
    metrics = store.metrics(branch.name)
    own = [step for step in metrics.updates.get("step", ()) if step > branch.start]
    saved = own if by_rows else store.steps(branch.name)
    status = f"at {saved[-1]:,}" if saved else "not begun"
    if branch.end in saved:
        status = "done"
    evaluations = metrics.evaluations
    if not evaluations or evaluations["step"][-1] <= branch.start:
        return status, ""
    return status, f"{evaluations['eval_loss'][-1].mean():.4f}"


def changes(branch: ResolvedBranch, parent: ResolvedBranch | None, base: AdamW | None) -> str:
    """A branch's changes to its parent, or a root's to the experiment's optimizer `base`,
    beside the schedule, as it would be written."""
    before = parent.optimizer if parent else base
    found = [
        f"{f.name}={getattr(branch.optimizer, f.name)!r}"
        for f in dataclasses.fields(branch.optimizer)
        if before and getattr(branch.optimizer, f.name) != getattr(before, f.name)
    ]
    if parent is None:
        return ", ".join(found)
    if branch.data != parent.data:
        found.append(f"data={summary(branch.data)}")
    if branch.data_seed != parent.data_seed:
        found.append(f"data_seed={branch.data_seed}")
    if branch.reset_optimizer:
        found.append("reset_optimizer")
    return ", ".join(found)


def changes_along(run: Run, name: str) -> str:
    """The changes of a lineage's branches, root to leaf."""
    along = [run.branches[segment.branch] for segment in run.lineage(name)]
    base = run.experiment.optimizer if run.experiment else None
    return ", ".join(filter(None, (changes(e, run.branches.get(e.parent), base) for e in along)))
