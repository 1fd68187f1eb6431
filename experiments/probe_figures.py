"""The figures of what `experiments.probe` measured, drawn from its files alone.

As everywhere, a line is a mean over seeds and a band reaches from the lowest to the highest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reading import Run
from experiments.style import STYLE, legend_above, looks, mark_cooldowns, once_each

Content = dict[str, Any]


def measured(run: Run, probe: str) -> dict[str, list[Content]]:
    """By branch what the files of a probe hold, in the order of their last steps. Of several
    settings those of the newest file: curves of different losses are not to be compared."""
    files = [
        (path.stat().st_mtime, name, json.loads(path.read_text()))
        for name in run.edges
        for path in (run.store.directory(name) / "probes").glob(f"{probe}-*.json")
    ]
    if not files:
        return {}
    newest = max(files, key=lambda each: each[0])[2]["settings"]
    found: dict[str, list[Content]] = {}
    for _, name, content in files:
        if content["settings"] == newest:
            found.setdefault(name, []).append(content)
    return {
        name: sorted(each, key=lambda c: (c["steps"][-1], len(c["steps"])))
        for name, each in found.items()
    }


def _of_loss(content: Content) -> str:
    given = content["settings"]
    split = {"train": "training", "test": "held-out"}[given["split"]]
    return f"loss over {given['examples']:,} {split} examples"


def _along_training(probe: str, value: Callable[[Content], Any], label: str) -> Callable:
    """A figure of one number a node against updates."""

    def draw(run: Run) -> Figure | None:
        found = measured(run, probe)
        if not found:
            return None
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axis = figure.subplots()
        for name, contents in found.items():
            steps = [content["steps"][-1] for content in contents]
            values = np.array([[value(r) for r in content["results"]] for content in contents])
            _line(axis, run, name, steps, values)
        mark_cooldowns(axis, run)
        axis.set(xlabel="updates", ylabel=label)
        _finish(figure, axis, next(iter(found.values()))[0])
        return figure

    return draw


def _along_range(probe: str, column: str, label: str, levels: tuple[float, ...] = ()) -> Callable:
    """A figure of the last range of each branch: a value for each of its first nodes."""

    def draw(run: Run) -> Figure | None:
        found = measured(run, probe)
        if not found:
            return None
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axis = figure.subplots()
        for name, contents in found.items():
            values = np.array([result[column] for result in contents[-1]["results"]], float).T
            _line(axis, run, name, contents[-1]["steps"][: len(values)], values)
        for level in levels:
            axis.axhline(level, color="black", lw=0.8, ls=":")
        mark_cooldowns(axis, run)
        axis.set(xlabel="updates", ylabel=label)
        _finish(figure, axis, next(iter(found.values()))[-1])
        return figure

    return draw


def interpolations(run: Run) -> Figure | None:
    """The loss along the line from the first node of each range to its last."""
    found = measured(run, "interpolate")
    if not found:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, contents in found.items():
        for content, style in zip(contents[-3:], ("-", "--", ":"), strict=False):
            values = np.array([result["losses"] for result in content["results"]]).T
            steps = f"{content['steps'][0]:,} to {content['steps'][-1]:,}"
            alphas = content["results"][0]["alphas"]
            _line(axis, run, name, alphas, values, f"{name}, {steps}", style)
    axis.set(xlabel=r"$\alpha$: 0 at the first node, 1 at the last", ylabel="loss (nats)")
    _finish(figure, axis, next(iter(found.values()))[-1])
    return figure


def densities(run: Run) -> Figure | None:
    """The density of the Hessian's eigenvalues at each node, on a logarithmic scale, first seed."""
    found = measured(run, "density")
    if not found:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    shown = [(name, content) for name, contents in found.items() for content in contents]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
    for (name, content), colour in zip(shown, colours, strict=True):
        first = content["results"][0]
        label = f"{name}@{content['steps'][-1]}"
        axis.semilogy(first["grid"], first["density"], color=colour, lw=1.2, label=label)
    axis.set(xlabel="eigenvalue", ylabel="density", ylim=(1e-6, None))
    _finish(figure, axis, shown[-1][1])
    return figure


def planes(run: Run) -> Figure | None:
    """The loss over the plane of the first two principal components, first seed."""
    found = measured(run, "plane")
    if not found:
        return None
    figure = Figure(figsize=(1 + 4.6 * len(found), 4.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (name, contents) in zip(axes, found.items(), strict=True):
        first, steps = contents[-1]["results"][0], contents[-1]["steps"]
        losses = np.array(first["losses"], float)
        # Logarithmic above the lowest, since a valley is flat beside its walls.
        levels = np.nanmin(losses) + np.geomspace(1e-2, 1, 18) * np.ptp(losses[~np.isnan(losses)])
        drawn = axis.contourf(
            first["coords_1"], first["coords_2"], losses.T, levels, extend="both", cmap="viridis_r"
        )
        figure.colorbar(drawn, ax=axis, label="loss (nats)", format="%.3f")
        way = np.array(first["trajectory"])
        axis.plot(*way.T, ".-", color="white", mec="black", mew=0.4, lw=1)
        axis.plot(*way[-1], "*", color="white", mec="black", ms=12)
        if (fork := run.edges[name].start) in steps[1:-1]:
            axis.plot(*way[steps.index(fork)], "D", color="white", mec="black", ms=6)
            axis.annotate("$T_c$", way[steps.index(fork)], (6, 6), textcoords="offset points")
        ratios = [f"{ratio:.0%}" for ratio in first["explained_variance_ratio"]]
        axis.set(xlabel=f"first component ({ratios[0]})", ylabel=f"second ({ratios[1]})")
        title = f"{name}, {steps[0]:,} to {steps[-1]:,} (star), {_of_loss(contents[-1])}"
        axis.set_title(title, loc="left", fontsize=9)
        axis.grid(False)
    return figure


def phases(run: Run) -> Figure | None:
    """v' H v along the dominant direction of each phase, at the fork and at the end."""
    found = measured(run, "phases")
    if not found:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    labels = []
    for i, (name, contents) in enumerate(found.items()):
        results = contents[-1]["results"]
        for j, row in enumerate(results[0]["along"]):
            values = np.array([result["along"][j]["quotient"] for result in results])
            at, colour = 5 * i + j, looks(run)[name].colour
            axis.bar(at, values.mean(), color=colour, alpha=0.5 if row["direction"] == "v_s" else 1)
            axis.plot([at] * len(values), values, "k.", ms=4)
            labels.append((at, f"${row['direction']}$ at\n{row['step']:,}"))
        axis.bar(0, 0, color=looks(run)[name].colour, label=looks(run)[name].label)
    axis.set_xticks(*zip(*labels, strict=True))
    axis.set_ylabel("$v'Hv$")
    _finish(figure, axis, next(iter(found.values()))[-1])
    return figure


def _line(axis: Axes, run: Run, name: str, x: Any, values: np.ndarray, label="", style="") -> None:
    """The mean over [T, R] and its band."""
    look = looks(run)[name]
    mean, line = values.mean(1), style or look.line
    axis.plot(x, mean, line, color=look.colour, marker=".", lw=1.5, label=label or look.label)
    if values.shape[1] > 1:
        axis.fill_between(x, values.min(1), values.max(1), color=look.colour, alpha=0.2, lw=0)


def _finish(figure: Figure, axis: Axes, content: Content) -> None:
    axis.set_title(_of_loss(content), loc="left", fontsize=10)
    legend_above(figure, once_each(axis))


FIGURES: dict[str, tuple[Callable[[Run], Figure | None], str]] = {
    "sharpness": (
        _along_training("sharpness", lambda r: r["eigenvalues"][0], r"sharpness $\lambda_1(H)$"),
        "Largest eigenvalue of the Hessian against updates (Belloni et al., figure 3).",
    ),
    "preconditioned": (
        _along_training(
            "preconditioned", lambda r: r["eigenvalues"][0], r"$\lambda_1(P^{-1/2} H P^{-1/2})$"
        ),
        "Largest eigenvalue of the Hessian as Adam's preconditioner P scales it (Cohen et al.).",
    ),
    "density": (densities, "Density of the Hessian's eigenvalues at nodes, of the first seed."),
    "moments": (
        _along_training("moments", lambda r: r["trace"]["value"], r"$\mathrm{tr}\,H$"),
        "Trace of the Hessian, by Hutchinson's estimator.",
    ),
    "noise": (
        _along_training("noise", lambda r: r["noise_scale"], "gradient noise scale (examples)"),
        "The batch at which the gradient's signal and noise are equal (McCandlish et al.).",
    ),
    "interpolate": (interpolations, "Loss along the line between two nodes."),
    "plane": (
        planes,
        "Loss over the plane of the first two principal components of the nodes, and their way "
        "through it; first seed, levels logarithmic above the lowest.",
    ),
    "phases": (
        phases,
        "Curvature along v<sub>s</sub>, the first principal component of the stable phase, and "
        "v<sub>d</sub>, that of the cooldown; dots are seeds (Belloni et al., figure 4).",
    ),
    "convexity": (
        _along_range("convexity", "tau", r"$\tau$", (0, 1)),
        "Weak quasi-convexity against the last node: of a convex loss it is at least 1 "
        "(Belloni et al., figure 7).",
    ),
    "alignment": (
        _along_range("alignment", "cosines", r"$\cos(-\nabla L, \Delta\theta)$", (0,)),
        "Cosine of the negative gradient with the move to the next node.",
    ),
    "distances": (
        _along_range("distances", "moved", r"$\|\theta_t - \theta_0\|$"),
        "Distance moved from the first node.",
    ),
}


def drawn(run: Run) -> dict[str, Figure]:
    """The figures of those probes that were measured."""
    with matplotlib.rc_context(STYLE):
        figures = {name: draw(run) for name, (draw, _) in FIGURES.items()}
    return {f"probe_{name}": figure for name, figure in figures.items() if figure}
