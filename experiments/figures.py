"""The figures of a run, drawn from its workdir alone: each function returns a matplotlib Figure.

Branches are drawn along the tree: a trunk once, and each branch from where it forks.
Lines are means over seeds, bands reach from the lowest seed to the highest. Where the config
compares methods, each has one colour; else each leaf of the tree has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsdjax import theory
from wsdjax.branches import BranchStore
from wsdjax.config import (
    Cifar10,
    Constant,
    Cooldown,
    Hold,
    InverseSqrt,
    Photos,
    Rewarm,
    WarmupCosine,
)
from wsdjax.tree import Edge

# Okabe and Ito's colours, told apart by colour-blind readers too, then four of Paul Tol's; trunks
# are dark grey.
OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COLOURS = (*OKABE_ITO, "#882255", "#999933", "#332288", "#44AA99")
TRUNK = "#444444"
AVERAGES = {"ema": "exponential average", "window": "latest-window average"}
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


class Curve(NamedTuple):
    """One branch's part of a column: steps [T] and values [T, R]."""

    colour: str
    label: str
    steps: np.ndarray
    values: np.ndarray


class Overlay(NamedTuple):
    """A lineage's loss and what the convex bound makes of its rates and gradient norms."""

    leaf: str
    steps: np.ndarray
    loss: np.ndarray
    """The running mean of the training loss, mean over seeds."""
    fitted: np.ndarray
    """a + b Omega, with the a and b of least squares."""
    correlation: float
    """Of loss and Omega, after the first tenth of the updates."""


def loss_curves(store: BranchStore) -> Figure:
    """Training and held-out loss of every branch over the rate (Belloni et al., figure 1)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
        window = smoothing_window(store)
        for axis, column, title in (
            (axes[0, 0], "loss", f"training loss, mean of {_count(window, 'update')}"),
            (axes[0, 1], "eval_loss", "held-out loss"),
        ):
            drawn = list(curves(store, column, window))
            for curve in drawn:
                _draw(axis, curve)
            _zoom(axis, drawn)
            if column == "eval_loss":
                averaged = _draw_averages(axis, store)
            axis.set_title(f"{title}, {_set_of(store)}", loc="left", fontsize=10)
        axes[0, 0].set_ylabel("cross-entropy (nats)")
        rates = list(curves(store, "rate", 1))
        exponent = _exponent(max((curve.values.max() for curve in rates), default=1.0))
        for axis in axes[1]:
            for curve in rates:
                scaled = curve.values[:, 0] / 10.0**exponent
                axis.plot(curve.steps, scaled, color=curve.colour, lw=1.5)
            axis.set(xlabel="updates", ylim=(0, None))
        axes[1, 0].set_ylabel(f"rate ($10^{{{exponent}}}$)")
        for axis in axes[0]:
            _mark_cooldowns(axis, store)
        handles = _once_each(axes[0, 0]) | averaged
        if any(curve.values.shape[1] > 1 for curve in drawn):
            handles["lowest to highest seed"] = Patch(color=TRUNK, alpha=0.2, lw=0)
        columns = max(1, min(4, 150 // (10 + max(map(len, handles), default=0))))
        figure.set_figheight(5 + 0.2 * (-(-len(handles) // columns) - 1))
        figure.legend(
            handles.values(), handles, loc="outside upper center", fontsize=9, ncols=columns
        )
        return figure


def parameter_norm(store: BranchStore) -> Figure:
    """The norm of all parameters along training (Belloni et al., figure 6)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axis = figure.subplots()
        for curve in curves(store, "param_norm", 1):
            _draw(axis, curve)
        _mark_cooldowns(axis, store)
        axis.set(xlabel="updates", ylabel=r"parameter norm $\|\theta\|_2$")
        axis.set_title(_set_of(store), loc="left", fontsize=10)
        handles = _once_each(axis)
        axis.legend(handles.values(), handles, loc="best", fontsize=9)
        return figure


def convex_bound(store: BranchStore) -> Figure:
    """The bound of convex optimisation over the training loss, scaled to it by least squares
    (Schaipp et al., figure 1)."""
    with matplotlib.rc_context(STYLE):
        found = overlays(store)
        columns = min(3, max(1, len(found)))
        rows = -(-len(found) // columns) or 1
        figure = Figure(figsize=(3.6 * columns + 1, 2.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        styles = _styles(store)
        for axis, overlay in zip(axes.flat, found, strict=False):
            colour = styles[overlay.leaf][0]
            axis.plot(overlay.steps, overlay.loss, color=colour, alpha=0.6, label="training loss")
            axis.plot(overlay.steps, overlay.fitted, "k--", lw=1.2, label="bound, scaled")
            title = f"{overlay.leaf} ({schedule_name(store, overlay.leaf)})"
            axis.set_title(
                f"{title}\ncorrelation {overlay.correlation:.3f}", loc="left", fontsize=9
            )
        for axis in axes.flat[len(found) :]:
            axis.set_axis_off()
        axes[0, 0].set_ylabel("cross-entropy (nats)")
        for axis in axes[-1]:
            axis.set_xlabel("updates")
        figure.suptitle(_set_of(store), fontsize=10, x=0.01, ha="left")
        if found:
            axes[0, 0].legend(fontsize=9)
        return figure


FIGURES = {"loss": loss_curves, "parameter_norm": parameter_norm, "convex_bound": convex_bound}


def overlays(store: BranchStore, points: int = 300) -> list[Overlay]:
    """For each leaf's lineage the bound at up to `points` updates, and how well it goes with
    the loss. The distance D, which nobody measured, is that for which the run's own base rate
    is the best (`theory.implied_distance`)."""
    found = []
    window = smoothing_window(store)
    for edge in leaves(store.edges()):
        rows = store.metrics(edge.name).updates
        if not rows or len(rows["step"]) < max(20, 2 * window) or not rows["rate"].any():
            continue
        rates, norms = rows["rate"], rows["grad_norm"].mean(-1)
        steps, loss = _running_mean(rows["step"], rows["loss"].mean(-1, keepdims=True), window)
        kept = np.unique(np.linspace(0, len(steps) - 1, points).astype(int))
        kept = kept[steps[kept] > 0.1 * steps[-1]]
        steps, loss = steps[kept], loss[kept, 0]
        bound = theory.convex_bound(rates, norms, theory.implied_distance(rates, norms), steps)
        slope, offset = np.polyfit(bound, loss, 1)
        correlation = float(np.corrcoef(bound, loss)[0, 1])
        found.append(Overlay(edge.name, steps, loss, offset + slope * bound, correlation))
    return found


def save(figure: Figure, stem: Path) -> bytes:
    """Writes STEM.png and STEM.svg; returns the latter."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    return stem.with_suffix(".svg").read_bytes()


def smoothing_window(store: BranchStore) -> int:
    """Updates in the running mean of the training loss: two in a hundred of the longest branch."""
    return max(1, round(0.02 * max(edge.end for edge in store.edges().values())))


def leaves(edges: Mapping[str, Edge]) -> list[Edge]:
    """The edges without children: each ends one lineage."""
    parents = {edge.parent for edge in edges.values()}
    return [edge for name, edge in edges.items() if name not in parents]


def compared(store: BranchStore) -> dict[str, list[str]]:
    """The rows of the config's `compare`: a method and the branches that end its budgets."""
    file = store.workdir / "config.json"
    return json.loads(file.read_text()).get("compare", {}) if file.exists() else {}


def _styles(store: BranchStore) -> dict[str, tuple[str, str]]:
    """(colour, label) of each branch."""
    edges, colours = store.edges(), itertools.cycle(COLOURS)
    styles: dict[str, tuple[str, str]] = {}
    for method, names in compared(store).items():
        colour = next(colours)
        for name in [n for n in names if n in edges]:
            styles |= {s.branch: (colour, method) for s in store.lineage(name)}
    ends = {edge.name for edge in leaves(edges)}
    for name in edges:
        if name not in styles:
            label = f"{name} ({schedule_name(store, name)})"
            styles[name] = (next(colours) if name in ends else TRUNK, label)
    return styles


def curves(store: BranchStore, column: str, window: int) -> Iterator[Curve]:
    """Each branch once; means run along the lineage, so that they go on over a fork."""
    styles = _styles(store)
    for name, edge in store.edges().items():
        table = store.metrics(name)
        rows = table.evaluations if column.startswith("eval") else table.updates
        if column not in rows or rows["step"][-1] <= edge.start:
            continue  # nothing of its own yet
        steps, values = rows["step"], rows[column]
        values = values[:, None] if values.ndim == 1 else values
        if not column.startswith("eval"):
            steps, values = _running_mean(steps, values, window)
        # From the last point of the parent on, so that the line is not broken at the fork.
        first = max(np.searchsorted(steps, edge.start, side="right") - 1, 0)
        yield Curve(*styles[name], steps[first:], values[first:])


def _running_mean(steps: np.ndarray, values: np.ndarray, window: int):
    if len(steps) < window:
        return steps, values
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
    return steps[window - 1 :], (sums[window:] - sums[:-window]) / window


def _draw(axis: Axes, curve: Curve) -> None:
    mark = "." if len(curve.steps) < 50 else ""  # so that evaluations are seen to be points
    mean = curve.values.mean(1)
    axis.plot(curve.steps, mean, color=curve.colour, lw=1.5, label=curve.label, marker=mark)
    if curve.values.shape[1] > 1:
        low, high = curve.values.min(1), curve.values.max(1)
        axis.fill_between(curve.steps, low, high, color=curve.colour, alpha=0.2, lw=0)


def _draw_averages(axis: Axes, store: BranchStore) -> dict[str, Artist]:
    """The held-out loss of averaged weights, where there are any; their legend."""
    legend: dict[str, Artist] = {}
    for name, style in (("ema", ":"), ("window", "--")):
        for curve in curves(store, f"eval_{name}_loss", 1):
            axis.plot(curve.steps, curve.values.mean(1), color=curve.colour, lw=1.2, ls=style)
            label = f"{AVERAGES[name]} of the weights"
            legend[label] = Line2D([], [], color=TRUNK, lw=1.2, ls=style)
    return legend


def _once_each(axis: Axes) -> dict[str, Artist]:
    """The legend with one entry for each label."""
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def _zoom(axis: Axes, curves: list[Curve]) -> None:
    """Leaves out the first tenth's fall from the initialisation, which would flatten the rest."""
    end = max((curve.steps[-1] for curve in curves), default=0)
    shown = [curve.values[curve.steps > 0.1 * end] for curve in curves]
    shown = [values for values in shown if values.size]
    if shown:
        low, high = min(v.min() for v in shown), max(v.max() for v in shown)
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _mark_cooldowns(axis: Axes, store: BranchStore) -> None:
    for start in {e.start for e in store.edges().values() if isinstance(e.schedule, Cooldown)}:
        axis.axvline(start, color="black", ls="--", lw=1)
        axis.annotate(
            "$T_c$",
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )


def schedule_name(store: BranchStore, name: str) -> str:
    """What the field calls the schedule of a lineage, and the shape of its last decay."""
    edges = store.edges()
    lineage = [edges[segment.branch].schedule for segment in store.lineage(name)]
    kinds = [kind for kind, _ in itertools.groupby(_KINDS[type(each)] for each in lineage)]
    joined = " > ".join(kinds)
    cycles = " > ".join(["constant", "cooldown"] * (len(kinds) // 2))
    known = _NAMES.get(joined, "WSD-S" if joined == cycles else joined)
    last = lineage[-1]
    return f"{known}, {last.shape} cooldown" if isinstance(last, Cooldown) else known


_KINDS = {
    Constant: "constant",
    Hold: "held",
    InverseSqrt: "inverse square root",
    WarmupCosine: "warmup-cosine",
    Cooldown: "cooldown",
    Rewarm: "rewarmed",
}
_NAMES = {
    "constant": "constant rate",
    "constant > cooldown": "WSD",
    "warmup-cosine > held > cooldown": "infinite",
    "warmup-cosine > rewarmed": "re-warmed cosine",
}


def _exponent(value: float) -> int:
    return int(np.floor(np.log10(value))) if value > 0 else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _set_of(store: BranchStore) -> str:
    match next(iter(store.edges().values())).data:
        case Photos():
            return "photos (not CIFAR-10)"
        case Cifar10():
            return "CIFAR-10"
        case other:
            return type(other).__name__
