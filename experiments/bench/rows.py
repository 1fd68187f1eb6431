"""What a row of the table is: some work, the lines that measure it against somebody, a goal."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

TIMES_AS_FAST, OF_ITS_TIME, OF_ITS_MEMORY = "times as fast", "of its time", "of its memory"
SECONDS, EXPONENT = "seconds", "exponent"


class Goal(NamedTuple):
    """A bound on a line's value, on a CPU and elsewhere; None for none."""

    cpu: float | None
    gpu: float | None
    at_most: bool
    """Whether less is better; else more is."""

    @property
    def here(self) -> float | None:
        return self.cpu if on_cpu() else self.gpu

    def met_by(self, value: float) -> bool | None:
        if (bound := self.here) is None:
            return None
        return value <= bound if self.at_most else value >= bound

    def __str__(self) -> str:
        return "-" if self.here is None else f"{'<=' if self.at_most else '>='} {self.here:g}"


NO_GOAL = Goal(None, None, False)


def at_least(cpu: float | None, gpu: float | None) -> Goal:
    return Goal(cpu, gpu, False)


def at_most(cpu: float | None, gpu: float | None) -> Goal:
    return Goal(cpu, gpu, True)


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
        low, median, high = quartiles(self.values)
        goal = self.goal or row.goal
        return found | {
            "unit": self.unit,
            "median": median,
            "quartiles": [low, high],
            "turns": self.values,
            "goal": str(goal),
            "met": goal.met_by(median),
            **self.also,
        }


class Row(NamedTuple):
    name: str
    """SECTION.WORK."""
    what: str
    goal: Goal
    cpu: float
    """About how many seconds it takes on two cores of a CPU."""
    gpu: float
    """The same on a GPU."""
    measure: Callable[[argparse.Namespace], Iterator[Line]]
    """Gives the lines as they are found."""

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def seconds(self) -> float:
        return self.cpu if on_cpu() else self.gpu


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"
