"""A probe that `experiments.probe` knows, and what was measured with one choice of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as File
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.report.reading import Run

Values = dict[str, Any]
"""What was measured of one seed."""
Tell = Callable[[str], None]


class Node(NamedTuple):
    loss_fn: Callable
    params: Any
    batches: list[Any]
    given: dict[str, Any]
    """The settings, by the flag's name."""
    opt_state: Any = None
    """None for a snapshot, which has parameters alone."""
    optimizer: Any = None
    """Its `AdamW`."""
    tell: Tell = print
    """Shows how far it is."""


class Path(NamedTuple):
    loss_fn: Callable
    iterates: Sequence[Any]
    """Parameters at each step, read when they are asked for."""
    steps: list[int]
    fork: int
    """Completed updates at the branch's fork."""
    batches: list[Any]
    given: dict[str, Any]
    file: File | None = None
    """Where a sweep may keep what it has, to go on after a stop."""
    tell: Tell = print


class Unmeasurable(Exception):
    """Why a measure has nothing to go by here."""


class Measure(NamedTuple):
    """A probe: what it measures, how that is told, and the figure of it."""

    measure: Callable[[Any], Values]
    """Of a `Node`, or of a `Path`; the first line of its documentation is one of the help."""
    headline: Callable[[Values], str]
    """What of a result is told when it is there."""
    drawn: tuple[str, ...]
    """What of a result its figure takes: numbers, or lists or objects of them."""
    figure: Callable[[Run, Group], Figure]
    caption: str
    """In HTML."""
    along: bool = False
    """Whether it goes along a range of nodes, and is not of one."""
    uses: tuple[str, ...] = ()
    """The flags that it goes by, beside those of the loss."""
    fixed: Mapping[str, int] = MappingProxyType({})
    """What else a result goes by, which no flag sets."""
    sees_examples: bool = True
    """False for what goes by parameters alone."""
    takes_moments: bool = False
    """Whether it wants Adam's, which a checkpoint has and a snapshot has not."""
    takes_fork: bool = False
    """Whether a range over the branch's fork is to have its node."""
    bands: bool = True
    """Whether the figure has lines of means over seeds, and bands."""
    most: int | None = None
    """How many results a figure takes, if not all; the last ones."""


class Result(NamedTuple):
    name: str
    """BRANCH/FILE, by which it is dropped."""
    branch: str
    content: dict[str, Any]
    """Of its file: `probe`, `steps`, `settings`, `sample`, `results` (one for each seed)."""


SPLITS = {"train": "training", "test": "held-out"}


class Group(NamedTuple):
    """What a probe measured with one choice of settings."""

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
    def title(self) -> str:
        """What was measured, and with which settings."""
        rest = dict(self.settings)
        said = "of the parameters alone"
        if self.measure.sees_examples:
            split, examples, seed = (rest.pop(n) for n in ("split", "examples", "sample_seed"))
            said = f"loss over {examples:,} {SPLITS[split]} examples, sample seed {seed}"
        return "; ".join(filter(None, (said, ", ".join(f"{n} {v}" for n, v in rest.items()))))

    @property
    def losses(self) -> str:
        """Of the sample, at the first and the last node, each with its sampling error; nothing
        for a probe that sees no example."""
        if not self.measure.sees_examples:
            return ""
        ordered = sorted(self.results, key=lambda result: result.content["steps"][-1])
        ends = ordered[:1] + ordered[1:][-1:]
        return f"loss of the sample {', '.join(map(_loss, ends))}"

    @property
    def heading(self) -> str:
        """Of the figure."""
        return "\n".join(filter(None, (self.title, self.losses)))

    @property
    def caption(self) -> str:
        """Settings, sample and its loss in sentences."""
        said = self.title
        if self.measure.sees_examples:
            sample = self.results[0].content["sample"]
            said += (
                f". The sample is {sample['examples']:,} of the split's {sample['of']:,} examples, "
                f"spread over it, drawn with the seed {sample['seed']}; {self.losses} nats, ± the "
                "sampling error"
            )
        return f"{said[0].upper()}{said[1:]}."


def _loss(result: Result) -> str:
    """At its last node, the mean over seeds, which all see the same sample."""
    rows = result.content["results"]
    loss = sum(row["loss"] for row in rows) / len(rows)
    errors = [row["loss_error"] for row in rows]
    said = with_error(loss, None if None in errors else sum(errors) / len(errors))
    return f"{said} at {result.branch}@{result.content['steps'][-1]:,}"


def with_error(loss: float, error: float | None) -> str:
    """Of a split that was drawn whole the error is 0, of one example it is unknown."""
    return f"{loss:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"
