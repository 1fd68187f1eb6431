"""The numbers of a run: where each lineage ended, what each budget cost, and notes on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.cli.table import aligned
from experiments.report import baselines, figures
from experiments.report.bound import overlays
from experiments.report.drawing import changes_along, summary
from experiments.report.naming import schedule_name
from experiments.report.reading import Run

Rows = list[tuple[str, ...]]


class Final(NamedTuple):
    """The end of one lineage, or of an average of its weights: [R] where seeds differ."""

    schedule: str
    lineage: list[str]
    """Names, with the step of a fork inside one: ``["trunk@500", "sqrt"]``."""
    updates: int
    rate: float
    training_loss: np.ndarray | None
    held_out_loss: np.ndarray
    held_out_accuracy: np.ndarray
    held_out_loss_at_fork: np.ndarray | None
    changes: str
    """Changes beside the schedule along the lineage."""


def final_values(run: Run) -> list[Final]:
    """One for each leaf of the tree that has been evaluated, and each average of its weights."""
    found = []
    for branch in run.ends():
        updates, evaluations = run.table(branch.name)
        if not evaluations or evaluations["step"][-1] <= branch.start:
            continue  # nothing of its own yet
        window = min(run.smoothing_window(branch.name), branch.end - branch.start)
        training = updates["loss"][-window:].mean(0)
        forked = evaluations["eval_loss"][evaluations["step"] == branch.start]
        begun = branch.parent or branch.weights
        if not begun or (branch.parent and branch.data != run.branches[branch.parent].data):
            forked = []  # of the parent's own held-out set, if at all
        for average in ("", *figures.AVERAGES):
            column = f"eval_{average}_" if average else "eval_"
            if np.isnan(evaluations.get(f"{column}loss", [[np.nan]])[-1]).all():
                continue
            name = schedule_name(run, branch.name)
            found.append(
                Final(
                    schedule=f"{name}, {figures.AVERAGES[average]}" if average else name,
                    lineage=[
                        node if stop == run.branches[node].end else f"{node}@{stop}"
                        for node, _, stop in run.lineage(branch.name)
                    ],
                    updates=int(updates["step"][-1]),
                    rate=float(updates["rate"][-1]),
                    training_loss=None if average else training,
                    held_out_loss=evaluations[f"{column}loss"][-1],
                    held_out_accuracy=evaluations[f"{column}accuracy"][-1],
                    held_out_loss_at_fork=forked[0] if len(forked) else None,
                    changes=changes_along(run, branch.name),
                )
            )
    return found


COLUMNS: dict[str, Callable[[Final], str]] = {
    "schedule": lambda end: end.schedule,
    "lineage": lambda end: " > ".join(_shortened(end.lineage)),
    "updates": lambda end: str(end.updates),
    "last rate": lambda end: f"{end.rate:.2e}",
    "training loss": lambda end: _mean_and_spread(end.training_loss, 4),
    "held-out loss": lambda end: _mean_and_spread(end.held_out_loss, 4),
    "held-out accuracy": lambda end: _mean_and_spread(end.held_out_accuracy, 3),
    "changes": lambda end: end.changes,
}


def table(ends: list[Final]) -> Rows:
    """The final table, its header first; without changes where there are none."""
    shown = [name for name in COLUMNS if name != "changes" or any(end.changes for end in ends)]
    return [tuple(shown), *(tuple(COLUMNS[name](end) for name in shown) for end in ends)]


def budget_table(run: Run) -> list[tuple[str, ...]]:
    """The config's comparison: for each method the held-out loss at its budgets, and the
    updates spent in all, those that its branches share counted once (Wen et al.)."""
    branches, compared = run.branches, run.compared
    if not compared:
        return []
    columns = max(len(names) for names in compared.values())
    budgets = [f"held-out loss at budget {i}" for i in range(1, columns + 1)]
    rows: list[tuple[str, ...]] = [("method", *budgets, "updates in all")]
    for method, names in compared.items():
        cells: list[str] = []
        spent: dict[str, int] = {}
        for name in names:
            evaluations = run.table(name).evaluations
            if not evaluations or evaluations["step"][-1] != branches[name].end:
                cells.append("not trained")
                continue
            loss = _mean_and_spread(evaluations["eval_loss"][-1], 4)
            cells.append(f"{loss} ({branches[name].end:,})")
            for branch, start, stop in run.lineage(name):
                spent[branch] = max(spent.get(branch, 0), stop - start)
        cells += [""] * (columns - len(cells))
        rows.append((method, *cells, f"{sum(spent.values()):,}"))
    return rows


def _shortened(lineage: list[str]) -> list[str]:
    return lineage if len(lineage) <= 3 else [lineage[0], "...", lineage[-1]]


def _mean_and_spread(values: np.ndarray | None, digits: int) -> str:
    if values is None:
        return ""
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def notes(run: Run, ends: list[Final]) -> list[str]:
    branches = run.branches
    seeds = next(iter(branches.values())).seeds
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    said = []
    sets: dict[str, list[str]] = {}
    for end in ends:
        sets.setdefault(summary(run.branches[end.lineage[-1]].data), []).append(end.lineage[-1])
    if len(sets) > 1:
        each = "; ".join(
            f"{', '.join(dict.fromkeys(names))}: {data}" for data, names in sets.items()
        )
        said.append(f"Held-out losses are of several data sets. {each}.")
    elif len(ends) > 1:
        best = min(ends, key=lambda end: end.held_out_loss.mean())
        said.append(
            f"Lowest held-out loss: {best.lineage[-1]} ({best.schedule}) after {best.updates} "
            f"updates, {_mean_and_spread(best.held_out_loss, 4)}."
        )
    said.append(
        f"Losses in nats, {over}; the training loss is a running mean over a fiftieth of the "
        "updates."
    )
    said += _bits(run, ends)
    said += filter(None, dict.fromkeys(branch.data.note() for branch in branches.values()))
    found = [f"{o.leaf} {o.correlation:.3f}" for o in overlays(run)]
    if found:
        said.append(
            "Correlation of training loss and convex bound after the first tenth: "
            f"{', '.join(found)}."
        )
    reached = {name: run.table(name).updates.get("step", [0])[-1] for name in branches}
    unfinished = [
        f"{name} (at {reached[name]} of {branch.end})"
        if reached[name] > branch.start
        else f"{name} (not begun)"
        for name, branch in branches.items()
        if reached[name] < branch.end
    ]
    if unfinished:
        said.append(f"Not finished: {', '.join(unfinished)}.")
    return said


def _bits(run: Run, ends: list[Final]) -> list[str]:
    """Bits a byte of language models and of n-grams beside them."""
    models = []
    for end in ends:
        name = end.lineage[-1]
        if size := run.facts(name).get("bytes_per_token"):
            bits = baselines.bits_a_byte(end.held_out_loss.mean(), size)
            models.append(f"{name} ({end.schedule}) {bits:.3f}")
    if not models:
        return []
    said = [f"Held-out bits a byte: {', '.join(models)}."]
    counts = baselines.kept(run)
    if not counts and baselines.are_of(run):
        said.append("N-grams beside them: experiments.report --baselines counts them in a minute.")
    for text, counted in counts.items():
        each = ", ".join(f"{name} {bits:.3f}" for name, bits in counted.items())
        said.append(f"Held-out bits a byte of Kneser-Ney n-grams counted on {text}: {each}.")
    return said


def as_text(lines: Rows, words: int) -> str:
    """Aligned columns: the first `words` to the left, numbers to the right."""
    right = [i for i, name in enumerate(lines[0]) if i >= words and name != "changes"]
    return "\n".join(aligned(lines, right))
