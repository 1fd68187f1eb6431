"""All that `experiments.probe` measured of a run: in figures, or why not."""

from __future__ import annotations

import html
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from experiments.probe.measured import Group, caption, measured
from experiments.report.probe_figures import DENSITIES, FIGURES
from experiments.report.reading import Run
from experiments.report.style import STYLE

BANDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."
_WITHOUT_BANDS = ("density", "plane", "components", "phases")


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
            _add(found, run, group)
    return found


def _add(found: Drawn, run: Run, group: Group) -> None:
    draw, what = FIGURES[group.probe]
    figure = draw(run, group)
    bands = "" if group.probe in _WITHOUT_BANDS else f" {BANDS}"
    same = sum(name.split("-")[0] == f"probe_{group.probe}" for name in found.figures)
    name = f"probe_{group.probe}" + (f"-{same + 1}" if same else "")
    found.captions[name] = f"{what}{bands} {html.escape(caption(group))}"
    found.figures[name] = figure
