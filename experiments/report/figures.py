"""The figures of a run, drawn from its workdir alone: each function returns a matplotlib Figure.

Branches are drawn along the tree: a trunk once, and each branch from where it forks.
Lines are means over seeds, bands reach from the lowest seed to the highest. Where the config
compares methods, each has one colour; else each leaf of the tree has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.report.bound import overlays
from experiments.report.naming import data_name, schedule_name
from experiments.report.reading import Run, running_mean
from experiments.report.style import (
    BANDS,
    TRUNK,
    band,
    legend_above,
    looks,
    mark_cooldowns,
    once_each,
    plain,
)

AVERAGES = {"ema": "exponential average", "window": "latest-window average"}


class Curve(NamedTuple):
    """One branch's part of a column: steps [T] and values [T, R]."""

    colour: str
    line: str
    label: str
    steps: np.ndarray
    values: np.ndarray


def loss_curves(run: Run) -> Figure:
    """Training and held-out loss of every branch over the rate (Belloni et al., figure 1)."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for axis, column, title in (
        (axes[0, 0], "loss", "training loss, running mean"),
        (axes[0, 1], "eval_loss", "held-out loss"),
    ):
        drawn = list(curves(run, column))
        for curve in drawn:
            _draw(axis, curve)
        _zoom(axis, drawn)
        if column == "eval_loss":
            averaged = _draw_averages(axis, run)
        axis.set_title(f"{title}, {_data_name(run)}", loc="left", fontsize=10)
    axes[0, 0].set_ylabel("cross-entropy (nats)")
    for axis in axes[1]:
        for curve in curves(run, "rate"):
            axis.plot(curve.steps, curve.values, color=curve.colour, ls=curve.line, lw=1.5)
        axis.set(xlabel="updates", ylim=(0, None))
        axis.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
    axes[1, 0].set_ylabel("rate")
    for axis in axes[0]:
        mark_cooldowns(axis, run)
    handles = once_each(axes[0, 0]) | averaged
    if any(curve.values.shape[1] > 1 for curve in drawn):
        handles["lowest to highest seed"] = Patch(color=TRUNK, alpha=0.2, lw=0)
    legend_above(figure, handles)
    return figure


def parameter_norm(run: Run) -> Figure:
    """The norm of all parameters along training (Belloni et al., figure 6)."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axis = figure.subplots()
    for curve in curves(run, "param_norm"):
        _draw(axis, curve)
    mark_cooldowns(axis, run)
    axis.set(xlabel="updates", ylabel=r"parameter norm $\|\theta\|_2$")
    axis.set_title(_data_name(run), loc="left", fontsize=10)
    legend_above(figure, once_each(axis))
    return figure


def convex_bound(run: Run) -> Figure:
    """The bound of convex optimisation over the training loss, scaled to it by least squares
    (Schaipp et al., figure 1)."""
    found = overlays(run)
    columns = min(3, max(1, len(found)))
    rows = -(-len(found) // columns) or 1
    figure = Figure(figsize=(3.6 * columns + 1, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looked = looks(run)
    for axis, overlay in zip(axes.flat, found, strict=False):
        colour = looked[overlay.leaf].colour
        axis.plot(overlay.steps, overlay.loss, color=colour, alpha=0.6, label="training loss")
        axis.plot(overlay.steps, overlay.fitted, "k--", lw=1.2, label="bound, scaled")
        title = plain(f"{overlay.leaf} ({schedule_name(run, overlay.leaf)})", 60)
        title = f"{title}\ncorrelation {overlay.correlation:.3f}"
        axis.set_title(title, loc="left", fontsize=9)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(len(found) - columns, 0) : len(found)]:
        axis.set_xlabel("updates")
        axis.tick_params(labelbottom=True)
    axes[0, 0].set_ylabel("cross-entropy (nats)")
    figure.suptitle(_data_name(run), fontsize=10, x=0.01, ha="left")
    if found:
        axes[0, 0].legend(fontsize=9)
    return figure


def _data_name(run: Run) -> str:
    return plain(data_name(run.branches.values()), 80)


class Described(NamedTuple):
    draw: Callable[[Run], Figure]
    caption: str
    """In HTML."""


FIGURES = {
    "loss": Described(
        loss_curves,
        "Loss against updates, over the learning rate; the training loss as the running mean over "
        "a fiftieth of the updates. The dashed lines are at T<sub>c</sub>, where cooldowns fork. "
        f"The fall in the first tenth of the updates is cut off above. {BANDS}",
    ),
    "parameter_norm": Described(
        parameter_norm, f"Euclidean norm of all parameters against updates. {BANDS}"
    ),
    "convex_bound": Described(
        convex_bound,
        "Training loss and the bound of convex optimisation, computed from the run's rates and "
        "gradient norms alone (Schaipp et al.): for the distance D of which the run's own base "
        "rate would be the best, then moved and scaled to each loss by least squares, so that "
        "shapes can be compared and levels cannot.",
    ),
}
"""By name: a new one is a file with a function of the run, and a line here."""


def curves(run: Run, column: str) -> Iterator[Curve]:
    """Each branch once; means run along the lineage, so that they go on over a fork."""
    looked = looks(run)
    for name, branch in run.branches.items():
        table = run.table(name)
        rows = table.evaluations if column.startswith("eval") else table.updates
        if column not in rows or rows["step"][-1] <= branch.start:
            continue  # nothing of its own yet
        steps, values = rows["step"], rows[column]
        values = values[:, None] if values.ndim == 1 else values
        if column == "loss":
            values = running_mean(values, run.smoothing_window(name))
        # From the last point of the parent on, so that the line is not broken at the fork,
        # unless the held-out set is another from there on.
        first = int(np.searchsorted(steps, branch.start, side="right"))
        same = not branch.parent or branch.data == run.branches[branch.parent].data
        if same or not column.startswith("eval"):
            first = max(first - 1, 0)
        yield Curve(*looked[name], steps[first:], values[first:])


def _draw(axis: Axes, curve: Curve) -> None:
    mark = "." if len(curve.steps) < 30 else ""  # so that evaluations are seen to be points
    look = {"color": curve.colour, "ls": curve.line, "marker": mark, "label": curve.label}
    band(axis, curve.steps, curve.values, **look)


def _draw_averages(axis: Axes, run: Run) -> dict[str, Artist]:
    """The held-out loss of averaged weights, where there are any; their legend."""
    legend: dict[str, Artist] = {}
    for name, style in (("ema", ":"), ("window", "--")):
        for curve in curves(run, f"eval_{name}_loss"):
            axis.plot(curve.steps, curve.values.mean(1), color=curve.colour, lw=1.2, ls=style)
            label = f"{AVERAGES[name]} of the weights"
            legend[label] = Line2D([], [], color=TRUNK, lw=1.2, ls=style)
    return legend


def _zoom(axis: Axes, curves: list[Curve]) -> None:
    """Leaves out the first tenth's fall from the initialisation, which would flatten the rest."""
    end = max((curve.steps[-1] for curve in curves), default=0)
    shown = [curve.values[curve.steps > 0.1 * end] for curve in curves]
    shown = [values for values in shown if np.isfinite(values).any()]
    if shown:
        low, high = min(map(np.nanmin, shown)), max(map(np.nanmax, shown))
        high = max(high, low + 1e-6)  # of one point alone
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
