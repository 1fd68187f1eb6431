"""A probe that `experiments.probe` knows, and what was measured with one choice of settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.report.reading import Run

Values = dict[str, Any]
"""The values measured for one seed."""


class Nodes(NamedTuple):
    """A node of a run, or several along a branch, of one replicate."""

    loss_fn: Callable
    batches: list[Any]
    iterates: Sequence[Any]
    """Parameters at each step, read when they are asked for."""
    steps: list[int]
    fork: int
    """Completed updates at the branch's fork."""
    preconditioner: Callable[[], Any]
    """Adam's at the last node."""
    file: Path | None
    """Where a sweep may keep what it has, to go on after a stop; None for nowhere."""
    tell: Callable[[str], None] = print
    """Shows how far it is."""
    at_a_time: int | None = None
    """Examples in memory at a time; None for as many as fit."""

    @property
    def params(self) -> Any:
        """The last node's."""
        return self.iterates[-1]


class Measure(NamedTuple):
    """A probe: what it measures, how that is told, and the figure of it."""

    measure: Callable[..., Values]
    """Measures `Nodes`. Its further parameters are settings of the result: those without a default
    are flags of the command. The first line of its documentation is one of the help."""
    headline: Callable[[Values], str]
    """The line that tells a result when it is there."""
    figure: Callable[[Run, Group], Figure]
    caption: str
    """In HTML."""
    along: bool = False
    """Whether it goes along a range of nodes, and is not of one."""
    sees_examples: bool = True
    """False for what goes by parameters alone."""
    takes_fork: bool = False
    """Whether a range over the branch's fork is to have its node."""
    bands: bool = True
    """Whether the figure has lines of means over seeds, and bands."""
    most: int | None = None
    """How many results a figure takes, if not all; the last ones."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it goes by, beside those of the loss, by name; None for a flag's."""
        _, *rest = inspect.signature(self.measure).parameters.values()
        return {each.name: None if each.default is each.empty else each.default for each in rest}


class Result(NamedTuple):
    name: str
    """BRANCH/FILE, by which it is dropped."""
    branch: str
    content: dict[str, Any]
    """Its file's content: `probe`, `steps`, `settings`, `sample`, `results` (one for each seed)."""


SPLITS = {"train": "training", "test": "held-out"}


class Group(NamedTuple):
    """The results of a probe with one choice of settings."""

    probe: str
    measure: Measure
    settings: dict[str, Any]
    results: list[Result]
    """Branch by branch, in the order of their last steps."""

    @property
    def of(self) -> dict[str, list[dict[str, Any]]]:
        """By branch. A node is in the list of the branch that made it."""
        found: dict[str, list[dict[str, Any]]] = {}
        for result in self.results:
            found.setdefault(result.branch, []).append(result.content)
        return found

    @property
    def heading(self) -> str:
        """What was measured, with which settings; the sample's loss at the first and the last
        node."""
        settings = dict(self.settings)
        said, losses = "of the parameters alone", []
        if self.measure.sees_examples:
            split, _, seed = (settings.pop(n) for n in ("split", "examples", "sample_seed"))
            sample = self.results[0].content["sample"]
            said = f"loss over {sample['examples']:,} of {sample['of']:,} {SPLITS[split]} examples"
            said += f", sample seed {seed}"
            ordered = sorted(self.results, key=lambda result: result.content["steps"][-1])
            ends = ", ".join(map(_loss, ordered[:1] + ordered[1:][-1:]))
            losses = [f"loss of the sample {ends} (nats, ± the sampling error)"]
        rest = ", ".join(f"{name} {value}" for name, value in settings.items())
        return "\n".join([f"{said}; {rest}" if rest else said, *losses])


def _loss(result: Result) -> str:
    """At its last node, the mean over seeds, which all see the same sample."""
    rows = result.content["results"]
    loss = sum(row["loss"] for row in rows) / len(rows)
    errors = [row["loss_error"] for row in rows]
    said = with_error(loss, None if None in errors else sum(errors) / len(errors))
    return f"{said} at {result.branch}@{result.content['steps'][-1]:,}"


def with_error(loss: float, error: float | None) -> str:
    """The error of a split that was drawn whole is 0, that of one example is unknown."""
    return f"{loss:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"
