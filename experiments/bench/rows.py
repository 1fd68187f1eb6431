"""What a row of the table is: some work, the lines that measure it against somebody, a goal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

TIMES_AS_FAST = "times as fast"
"""The one unit of which more is better."""
OF_ITS_TIME, OF_ITS_MEMORY = "of its time", "of its memory"
SECONDS, EXPONENT = "seconds", "exponent"

Goal = tuple[float | None, float | None]
"""A bound on a line's median, (on a CPU, on a GPU)."""
NO_GOAL: Goal = (None, None)


class Line(NamedTuple):
    """The work against one peer, or against another work of our own."""

    against: str
    values: list[float]
    """One of each turn; none where there is nothing to tell but why."""
    unit: str = TIMES_AS_FAST
    also: dict[str, Any] = {}  # noqa: RUF012 - never written to
    why: str = ""
    """Without values: "not installed", or what went wrong."""
    goal: Goal | None = None
    """Instead of the row's."""

    def summary(self, row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {"row": row.name, "what": row.what, "against": self.against}
        if self.why:
            return found | {"why": self.why} | self.also
        low, median, high = np.quantile(self.values, (0.25, 0.5, 0.75)).tolist()
        bound, more = here(self.goal or row.goal), self.unit == TIMES_AS_FAST
        found |= {"unit": self.unit, "median": median, "quartiles": [low, high]}
        found |= {"turns": self.values, "goal": "-", "met": "-"}
        if bound is not None:
            found["goal"] = f"{'>=' if more else '<='} {bound:g}"
            # The better quartile and the worse one, as far as the goal goes.
            best, worst = (high >= bound, low >= bound) if more else (low <= bound, high <= bound)
            found["met"] = "yes" if worst else "not told" if best else "no"
        return found | self.also


Measure = Callable[[argparse.Namespace], Iterator[Line]]


class Row(NamedTuple):
    name: str
    """SECTION.WORK."""
    what: str
    goal: Goal
    about: tuple[float, float]
    """Seconds that it takes on two cores of a CPU, and on a GPU."""
    measure: Measure
    """Gives the lines as they are found."""

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def seconds(self) -> float:
        return here(self.about)


def row(name: str, goal: Goal, about: tuple[float, float]) -> Callable[[Measure], Row]:
    """Makes a row of what measures it, whose documentation begins with what that is."""

    def made(measure: Measure) -> Row:
        what = (measure.__doc__ or "").split("\n\n")[0]
        return Row(name, " ".join(what.split()), goal, about, measure)

    return made


def here(pair: tuple[Any, Any]) -> Any:
    """The one that is for this backend of (on a CPU, on a GPU)."""
    return pair[0] if on_cpu() else pair[1]


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"
