"""The paper's figures: the language model left and the CNN right, over their runs.

A line is the mean over runs and its band reaches from the lowest to the highest; a box has the
quartiles, its whiskers reach to the furthest value within 1.5 times their distance, and dots
are all values. The dashed line is T_c, the start of the cooldown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers.belloni.measured import (
    Components,
    Directions,
    Lengths,
    Lines,
    Losses,
    Norms,
    Preconditioned,
    Sharpness,
)
from experiments.report.style import COLOURS, STYLE, band, mark_cooldown

WSD, COSINE = COLOURS[0], COLOURS[1]
STABLE, DECAY = "#444444", COLOURS[0]

Draw = Callable[[list[Axes], Any], None]


def drawn(figure: str, numbers: Mapping[str, Any]) -> Figure:
    """One figure of the paper.

    Args:
      figure: its key in `measured.FIGURES`.
      numbers: what was measured, by the name of the architecture, in the order of the columns.
    """
    draw, panels = _DRAWN[figure]
    with matplotlib.rc_context(STYLE):
        columns = len(numbers)
        size = (5.2 * columns if panels == 1 else 7.0 * columns, 3.6)
        whole = Figure(figsize=size, layout="constrained")
        parts = whole.subfigures(1, columns, squeeze=False)[0]
        for part, (name, measured) in zip(parts, numbers.items(), strict=True):
            axes = part.subplots(1, panels, squeeze=False)[0]
            draw(list(axes), measured)
            axes[0].set_title(name, loc="left", fontsize=11, fontweight="bold")
        return whole


def _losses(axes: list[Axes], found: Losses) -> None:
    (axis,) = axes
    _band(axis, found.steps, found.wsd, WSD, "WSD")
    _band(axis, found.steps, found.cosine, COSINE, "warmup-cosine", "--")
    shown = np.concatenate([v[:, found.steps > 0.1 * found.steps[-1]] for v in found[1:3]])
    margin = 0.05 * np.ptp(shown)
    axis.set(ylim=(shown.min() - margin, shown.max() + margin))
    axis.set(xlabel="updates", ylabel="held-out loss (nats)")
    _finish(axis, found.fork)


def _lines(axes: list[Axes], found: Lines) -> None:
    for axis, losses, colour, ends in (
        (axes[0], found.stable, STABLE, ("80%", "end of the stable phase")),
        (axes[1], found.decay, DECAY, ("$T_c$", "end of the cooldown")),
    ):
        of_runs = losses.mean(1)
        _band(axis, found.alphas, of_runs, colour, "mean over runs")
        # Of the differences from the first end: what all points share tells nothing of the shape.
        moved = losses - losses[..., np.searchsorted(found.alphas, 0.0)][..., None]
        error = moved.std(1, ddof=1).mean(0) / np.sqrt(moved.shape[1])
        mean = of_runs.mean(0)
        axis.errorbar(
            found.alphas, mean, error, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2
        )
        for at in (0, 1):
            axis.axvline(at, color="black", lw=0.6, ls=":")
        axis.set(xlabel=rf"$\alpha$: 0 at {ends[0]}, 1 at {ends[1]}")
    axes[0].set_ylabel("training loss (nats)")


def _sharpness(axes: list[Axes], found: Sharpness) -> None:
    _band(axes[0], found.steps, found.eigenvalues, DECAY, "", mark=".")
    mean = found.eigenvalues.mean(0)
    error = found.residuals.max(0)
    axes[0].errorbar(
        found.steps, mean, error, fmt="none", ecolor="black", elinewidth=0.8, capsize=2
    )
    axes[0].set(xlabel="updates", ylabel=r"sharpness $\lambda_1(H)$")
    _finish(axes[0], found.fork, legend="")
    _boxes(
        axes[1],
        {"$v_s$": (found.along_stable, STABLE), "$v_d$": (found.along_decay, DECAY)},
        r"$\|H v\|$ at $T_c$",
    )


def _directions(axes: list[Axes], found: Directions) -> None:
    for axis, steps, values, label in (
        (axes[0], found.steps, found.tau, r"weak quasi-convexity $\tau_i$"),
        (
            axes[1],
            found.update_steps,
            found.cosines,
            r"$\cos(-\nabla L(x_i),\, x_{i+1} - x_i)$",
        ),
    ):
        groups = {}
        for name, chosen, colour in (
            ("stable", steps < found.fork, STABLE),
            ("cooldown", steps >= found.fork, DECAY),
        ):
            if chosen.any():
                groups[name] = (values[:, chosen].ravel(), colour)
        _boxes(axis, groups, label)
        axis.axhline(0, color="black", lw=0.8, ls=":")


def _lengths(axes: list[Axes], found: Lengths) -> None:
    (axis,) = axes
    excess = found.wsd - found.cosine[:, None]
    shares = 100 * found.shares
    _band(axis, shares, excess, WSD, "WSD less cosine, by run", mark="o")
    axis.axhline(0, color=COSINE, lw=1.5, ls="--", label="warmup-cosine")
    axis.set(xlabel="cooldown (% of the budget)", ylabel="held-out loss (nats)")
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.legend(fontsize=9, loc="center right")


def _norms(axes: list[Axes], found: Norms) -> None:
    (axis,) = axes
    _band(axis, found.steps, found.wsd, WSD, "WSD")
    _band(axis, found.steps, found.cosine, COSINE, "warmup-cosine", "--")
    axis.set(xlabel="updates", ylabel=r"parameter norm $\|\theta\|_2$")
    _finish(axis, found.fork, legend="lower right")


def _components(axes: list[Axes], found: Components) -> None:
    groups = {"stable": (100 * found.stable, STABLE), "cooldown": (100 * found.decay, DECAY)}
    _boxes(axes[0], groups, "first component (% of the variance)")
    axes[0].set_ylim(0, 100)
    axes[0].axhline(40, color="black", lw=0.8, ls=":")


def _preconditioned(axes: list[Axes], found: Preconditioned) -> None:
    (axis,) = axes
    _band(
        axis, found.steps, found.eigenvalues, DECAY, r"$\lambda_1(P^{-1/2} H P^{-1/2})$", mark="."
    )
    finite = np.isfinite(found.threshold)
    axis.plot(
        found.steps[finite],
        found.threshold[finite],
        color="black",
        ls=":",
        label="threshold of stability",
    )
    axis.set(xlabel="updates", ylabel="preconditioned sharpness", yscale="log")
    _finish(axis, found.fork)


def _band(
    axis: Axes, x: Any, values: np.ndarray, colour: str, label: str, line: str = "-", mark: str = ""
) -> None:
    """The mean over [R, T] and its band."""
    band(axis, x, values.T, color=colour, ls=line, marker=mark, ms=4, label=label)


def _boxes(axis: Axes, groups: Mapping[str, tuple[np.ndarray, str]], label: str) -> None:
    for at, (values, colour) in enumerate(groups.values()):
        box: Any = {"facecolor": colour, "alpha": 0.25, "edgecolor": colour}
        median: Any = {"color": colour, "lw": 1.5}
        axis.boxplot(
            [values],
            positions=[at],
            widths=0.5,
            patch_artist=True,
            showfliers=False,
            boxprops=box,
            medianprops=median,
        )
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [0.0]
        axis.plot(at + np.asarray(spread), values, ".", color=colour, ms=3, alpha=0.6)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel(label)
    axis.grid(axis="x", visible=False)


def _finish(axis: Axes, fork: int, legend: str = "upper right") -> None:
    mark_cooldown(axis, fork, above=True)
    if legend:
        place: Any = {"loc": legend, "frameon": True, "edgecolor": "none"}
        axis.legend(fontsize=9, **place)


_DRAWN: dict[str, tuple[Draw, int]] = {
    "1": (_losses, 1),
    "2": (_lines, 2),
    "3": (_sharpness, 2),
    "4": (_directions, 2),
    "5": (_lengths, 1),
    "6": (_norms, 1),
    "7": (_components, 1),
    "threshold": (_preconditioned, 1),
}
"""Each figure with how many axes an architecture has in it."""
