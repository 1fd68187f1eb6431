"""How figures look: colours, legends, and one look for each branch in all of them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.drawing import changes_along
from experiments.report.naming import schedule_name
from experiments.report.reading import Run
from wsdjax.files import write_atomically
from wsdjax.wording import shortened

# Okabe and Ito's colours, told apart by colour-blind readers too, then four of Paul Tol's; trunks
# are dark grey.
OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COLOURS = (*OKABE_ITO, "#882255", "#999933", "#332288", "#44AA99")
TRUNK = "#444444"
BANDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "wsdjax",  # the same figure gives the same file
}


def save(figure: Figure, stem: Path, pdf: bool = False) -> bytes:
    """Writes STEM.png and STEM.svg, and STEM.pdf if asked to; returns the SVG."""
    dateless: dict[str, Any] = {".pdf": {"CreationDate": None}} if pdf else {}
    with matplotlib.rc_context(STYLE):
        for suffix, metadata in {".png": {}, **dateless, ".svg": {"Date": None}}.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format=suffix[1:], dpi=150, metadata=metadata)
            write_atomically(stem.with_suffix(suffix), drawn.getvalue())
    return drawn.getvalue()


def plain(text: object, most: int = 120) -> str:
    """A text from outside, such as a branch's name or a data set's directory, as matplotlib and
    an SVG show it letter by letter: short, on one line, and no formula.

    A label that begins with an underscore would be left out of legends; it begins with a space
    without width.
    """
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    shown = shortened(shown, most).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


class Look(NamedTuple):
    colour: str
    line: str
    label: str


def looks(run: Run) -> dict[str, Look]:
    """The look of each branch; once the colours are used up the lines are dash-dotted."""
    unused = itertools.chain.from_iterable(
        ((colour, line) for colour in COLOURS) for line in itertools.cycle(("-", "-."))
    )
    found: dict[str, Look] = {}
    for method, names in run.compared.items():
        colour, line = next(unused)
        for name in names:
            label = plain(method)
            found |= {s.branch: Look(colour, line, label) for s in run.lineage(name)}
    ends = {branch.name for branch in run.ends()}
    for name in run.branches:
        if name not in found:
            colour, line = next(unused) if name in ends else (TRUNK, "-")
            found[name] = Look(colour, line, plain(f"{name} ({_differs(run, name)})"))
    return found


def _differs(run: Run, name: str) -> str:
    """What a branch is, as far as others are not: its schedule, its length, what it changes."""
    branch, called = run.branches[name], schedule_name(run, name)
    alike = [b for b in run.ends() if schedule_name(run, b.name) == called]
    length = branch.end - branch.start
    lengths = {b.end - b.start for b in alike if b.schedule.decays}
    said = [called, f"{length:,} updates" if branch in alike and len(lengths) > 1 else ""]
    return ", ".join(filter(None, (*said, changes_along(run, name))))


def band(axis: Axes, x: Any, values: np.ndarray, **look: Any) -> None:
    """The mean over [T, R], and a band from the lowest to the highest."""
    axis.plot(x, values.mean(1), lw=1.5, **look)
    if values.shape[1] > 1:
        axis.fill_between(x, values.min(1), values.max(1), color=look["color"], alpha=0.2, lw=0)


def legend_above(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Above the axes, in as many columns as fit, the figure as much higher as it needs."""
    width, height = figure.get_size_inches()
    columns = max(1, min(4, int(15 * width) // (10 + max(map(len, handles), default=0))))
    figure.set_figheight(height + 0.2 * (-(-len(handles) // columns) - 1))
    place: Any = {"loc": "outside upper center", "fontsize": 9, "ncols": columns}
    figure.legend(handles.values(), handles, **place)


def once_each(axis: Axes) -> dict[str, Artist]:
    """The legend with one entry for each label."""
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def mark_cooldowns(axis: Axes, run: Run) -> None:
    cooldowns = [b for b in run.branches.values() if b.schedule.decays]
    for start in {b.start for b in cooldowns if b.schedule.from_parents_rate}:
        mark_cooldown(axis, start)


def mark_cooldown(axis: Axes, start: int, above: bool = False) -> None:
    """A dashed line with its name, inside the axes or above them."""
    axis.axvline(start, color="black", ls="--", lw=1)
    axis.annotate(
        "$T_c$",
        (start, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2) if above else (3, -2),
        textcoords="offset points",
        va="bottom" if above else "top",
        ha="center" if above else "left",
        fontsize=9,
    )
