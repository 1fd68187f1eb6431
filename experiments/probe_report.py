"""All that `experiments.probe` measured of a run: in figures, or why not."""

from __future__ import annotations

import html
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from experiments.measured import Group, Result, caption, measured
from experiments.probe_figures import DENSITIES, FIGURES
from experiments.reading import Run
from experiments.style import STYLE
from wsdjax.wording import shortened

_BANDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."
_WITHOUT_BANDS = ("density", "plane", "components", "phases")
_UNDRAWABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What comes of a file that is not of the shape that its probe gives."""


class Drawn(NamedTuple):
    figures: dict[str, Figure]
    captions: dict[str, str]
    """In HTML, by the same names."""
    left: dict[str, str]
    """By a result's name, why it is in no figure."""


def drawn(run: Run) -> Drawn:
    """A figure for each choice of settings that a probe was measured with."""
    groups, left = measured(run)
    found = Drawn({}, {}, dict(left))
    with matplotlib.rc_context(STYLE):
        for group in groups:
            if group.probe == "density":
                few = f"only the last {DENSITIES} nodes with the same settings are drawn"
                found.left.update({r.name: few for r in group.results[:-DENSITIES]})
            try:
                _add(found, run, group)
            except _UNDRAWABLE:
                # One of them is not of the shape that its probe gives.
                whole = [result for result in group.results if _is_whole(found, run, group, result)]
                try:
                    if whole:
                        _add(found, run, group._replace(results=whole))
                except _UNDRAWABLE as error:
                    why = f"cannot be drawn with the others of its settings ({_said(error)})"
                    found.left.update({result.name: why for result in whole})
    return found


def _add(found: Drawn, run: Run, group: Group) -> None:
    draw, what = FIGURES[group.probe]
    figure = draw(run, group)
    bands = "" if group.probe in _WITHOUT_BANDS else f" {_BANDS}"
    same = sum(name.split("-")[0] == f"probe_{group.probe}" for name in found.figures)
    name = f"probe_{group.probe}" + (f"-{same + 1}" if same else "")
    found.captions[name] = f"{what}{bands} {html.escape(caption(group))}"
    found.figures[name] = figure


def _is_whole(found: Drawn, run: Run, group: Group, result: Result) -> bool:
    try:
        _add(Drawn({}, {}, {}), run, group._replace(results=[result]))
    except _UNDRAWABLE as error:
        why = f"is no {group.probe} ({_said(error)}): drop it and probe again"
        found.left[result.name] = why
        return False
    return True


def _said(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}")
