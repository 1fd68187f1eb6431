"""The figures of a run, drawn from its workdir alone: each function returns a matplotlib Figure.

Branches are drawn along the tree: a trunk once, and each branch from where it forks.
Lines are means over seeds, bands reach from the lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsdjax.branches import BranchStore
from wsdjax.config import Cifar10, Constant, Cooldown, Photos, WarmupCosine
from wsdjax.tree import Edge

# Okabe and Ito's colours, told apart by colour-blind readers too; trunks are dark grey.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TRUNK = "#444444"
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

    edge: Edge
    colour: str
    steps: np.ndarray
    values: np.ndarray


def loss_curves(store: BranchStore) -> Figure:
    """Training and held-out loss of every branch over the rate (Belloni et al., figure 1)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
        window = smoothing_window(store)
        for axis, column, title in (
            (axes[0, 0], "loss", f"training loss, mean of {window} updates"),
            (axes[0, 1], "eval_loss", f"held-out loss, {_set_of(store)}"),
        ):
            curves = list(_curves(store, column, window))
            for curve in curves:
                _draw(axis, curve, label=_label(curve.edge))
            _zoom(axis, curves)
            axis.set_title(title, loc="left", fontsize=10)
            axis.set_ylabel("cross-entropy (nats)")
        for axis in axes[1]:
            for curve in _curves(store, "rate", 1):
                axis.plot(curve.steps, curve.values[:, 0], color=curve.colour, lw=1.5)
            axis.set(xlabel="updates", ylabel="learning rate", ylim=(0, None))
            axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        for axis in axes[0]:
            _mark_cooldowns(axis, store)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        return figure


def parameter_norm(store: BranchStore) -> Figure:
    """The norm of all parameters along training (Belloni et al., figure 6)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axis = figure.subplots()
        for curve in _curves(store, "param_norm", 1):
            _draw(axis, curve, label=_label(curve.edge))
        _mark_cooldowns(axis, store)
        axis.set(xlabel="updates", ylabel=r"parameter norm $\|\theta\|_2$")
        axis.legend(loc="best", fontsize=9)
        return figure


FIGURES = {"loss": loss_curves, "parameter_norm": parameter_norm}


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


def _curves(store: BranchStore, column: str, window: int) -> Iterator[Curve]:
    """Each branch once; means run along the lineage, so that they go on over a fork."""
    edges = store.edges()
    colours = iter(COLOURS * len(edges))
    ends = {edge.name for edge in leaves(edges)}
    for name, edge in edges.items():
        colour = next(colours) if name in ends else TRUNK
        table = store.metrics(name)
        rows = table.evaluations if column.startswith("eval") else table.updates
        if column not in rows:
            continue
        steps, values = rows["step"], rows[column]
        values = values[:, None] if values.ndim == 1 else values
        if not column.startswith("eval"):
            steps, values = _running_mean(steps, values, window)
        # From the last point of the parent on, so that the line is not broken at the fork.
        first = max(np.searchsorted(steps, edge.start, side="right") - 1, 0)
        yield Curve(edge, colour, steps[first:], values[first:])


def _running_mean(steps: np.ndarray, values: np.ndarray, window: int):
    if len(steps) < window:
        return steps, values
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
    return steps[window - 1 :], (sums[window:] - sums[:-window]) / window


def _draw(axis: Axes, curve: Curve, label: str) -> None:
    axis.plot(curve.steps, curve.values.mean(1), color=curve.colour, lw=1.5, label=label)
    if curve.values.shape[1] > 1:
        low, high = curve.values.min(1), curve.values.max(1)
        axis.fill_between(curve.steps, low, high, color=curve.colour, alpha=0.2, lw=0)


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


def _label(edge: Edge) -> str:
    match edge.schedule:
        case Constant():
            kind = "constant rate"
        case Cooldown(shape=shape):
            kind = f"{shape} cooldown"
        case WarmupCosine():
            kind = "warmup-cosine"
        case other:
            kind = type(other).__name__
    return f"{edge.name} ({kind})"


def _set_of(store: BranchStore) -> str:
    match next(iter(store.edges().values())).data:
        case Photos():
            return "photos (not CIFAR-10)"
        case Cifar10():
            return "CIFAR-10"
        case other:
            return type(other).__name__
