"""The figures of what `experiments.probe` measured, drawn from its files alone.

As everywhere, a line is a mean over seeds and a band reaches from the lowest to the highest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.probes.measure import Group, Values
from experiments.report.reading import Run
from experiments.report.style import band, legend_above, looks, mark_cooldowns, once_each

LINES = ("-", "--", ":", "-.")


def along_training(value: Callable[[Values], Any], label: str) -> Callable:
    """A figure of one number a node against updates."""

    def draw(run: Run, group: Group) -> Figure:
        figure, axis = _axis()
        for name, contents in group.of.items():
            parent = group.of.get(run.branches[name].parent, [])
            # From the fork on, so that the line is not broken there.
            at_fork = [c for c in parent if c["steps"][-1] == run.branches[name].start]
            shown = [*at_fork, *contents]
            steps = [content["steps"][-1] for content in shown]
            values = np.array([[value(r) for r in c["results"]] for c in shown])
            _line(axis, run, name, steps, values, looks(run)[name].label, "-")
        mark_cooldowns(axis, run)
        axis.set(xlabel="updates", ylabel=label)
        _finish(figure, axis, group)
        return figure

    return draw


def along_range(
    columns: dict[str, str], label: str, levels: tuple[float, ...] = (), alphas: str = ""
) -> Callable:
    """A figure of the ranges of each branch: values for their first nodes, or for the entry
    `alphas` of places on the line between the first and the last."""

    def draw(run: Run, group: Group) -> Figure:
        figure, axis = _axis()
        for name, contents in group.of.items():
            styles = itertools.cycle(LINES)
            for content, (column, said) in itertools.product(contents, columns.items()):
                values = np.array([result[column] for result in content["results"]], float).T
                range_ = _range(content) if len(contents) > 1 or alphas else ""
                legend = ", ".join(filter(None, (looks(run)[name].label, range_, said)))
                at = content["results"][0][alphas] if alphas else content["steps"][: len(values)]
                _line(axis, run, name, at, values, legend, next(styles))
        for level in levels:
            axis.axhline(level, color="black", lw=0.8, ls=":")
        if not alphas:
            mark_cooldowns(axis, run)
        xlabel = r"$\alpha$: 0 at the first node, 1 at the last" if alphas else "updates"
        axis.set(xlabel=xlabel, ylabel=label)
        _finish(figure, axis, group)
        return figure

    return draw


def _range(content: Values) -> str:
    return f"{content['steps'][0]:,} to {content['steps'][-1]:,}"


def densities(run: Run, group: Group) -> Figure:
    """The density of the Hessian's eigenvalues at the last nodes, on a logarithmic scale."""
    shown = group.results[-(group.measure.most or 0) :]
    figure = Figure(figsize=(7, 1.2 + 1.5 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (_, name, content) in zip(axes, shown, strict=True):
        look = looks(run)[name]
        for i, result in enumerate(content["results"]):
            label = look.label if i == 0 else ""
            alpha = 1 if i == 0 else 0.4
            grid, density = result["grid"], result["density"]
            axis.semilogy(grid, density, color=look.colour, lw=1.2, label=label, alpha=alpha)
        greatest = max(max(result["density"]) for result in content["results"])
        axis.set(ylim=(1e-7 * greatest, 3 * greatest), ylabel="density")
        said = f"after update {content['steps'][-1]:,}"
        axis.annotate(said, (0.99, 0.85), xycoords="axes fraction", ha="right", fontsize=9)
    axes[-1].set_xlabel("eigenvalue of the Hessian")
    axes[0].set_title(group.heading, loc="left", fontsize=9)
    legend_above(figure, {name: one for axis in axes for name, one in once_each(axis).items()})
    return figure


def explained(run: Run, group: Group) -> Figure:
    """The share of the variance of its nodes that each principal component explains."""
    figure, axis = _axis()
    several = len(group.results) > len(group.of)
    width = 0.8 / len(group.results)
    for i, (_, name, content) in enumerate(group.results):
        ratios = np.array([r["explained_variance_ratio"] for r in content["results"]])
        at = np.arange(1, ratios.shape[1] + 1) + width * i
        look = looks(run)[name]
        label = f"{look.label}, {_range(content)}" if several else look.label
        axis.bar(at, ratios.mean(0), width, color=look.colour, alpha=0.7, label=label)
        axis.plot(at, ratios.T, "k.", ms=4)
    axis.set(xlabel="principal component", ylabel="share of the variance", ylim=(0, 1))
    axis.set_xticks(range(1, ratios.shape[1] + 1))
    _finish(figure, axis, group)
    return figure


def planes(run: Run, group: Group) -> Figure:
    """The loss over the plane of the first two principal components, first seed."""
    rows = -(-len(group.results) // 3)
    columns = min(3, len(group.results))
    figure = Figure(figsize=(1 + 4.6 * columns, 4.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(group.results) :]:
        axis.set_axis_off()
    for axis, (_, name, content) in zip(axes, group.results, strict=False):
        first, steps = content["results"][0], content["steps"]
        axis.set_title(f"{name}, {_range(content)} (star)", loc="left", fontsize=9)
        axis.grid(False)
        losses = np.array(first["losses"], float)
        # Logarithmic above the lowest, since a valley is flat beside its walls.
        finite = losses[np.isfinite(losses)]
        if not finite.size or np.ptp(finite) == 0:
            said = "all losses are equal" if finite.size else "no loss is finite"
            axis.annotate(said, (0.5, 0.5), xycoords="axes fraction", ha="center")
            continue
        levels = finite.min() + np.geomspace(1e-2, 1, 18) * np.ptp(finite)
        drawn = axis.contourf(
            first["coords_1"], first["coords_2"], losses.T, levels, extend="both", cmap="viridis_r"
        )
        figure.colorbar(drawn, ax=axis, label="loss (nats)", format="%.3f")
        way = np.array(first["trajectory"])
        axis.plot(*way.T, ".-", color="white", mec="black", mew=0.4, lw=1)
        axis.plot(*way[-1], "*", color="white", mec="black", ms=12)
        if (fork := run.branches[name].start) in steps[1:-1]:
            axis.plot(*way[steps.index(fork)], "D", color="white", mec="black", ms=6)
            axis.annotate("$T_c$", way[steps.index(fork)], (6, 6), textcoords="offset points")
        ratios = [f"{ratio:.0%}" for ratio in first["explained_variance_ratio"]]
        axis.set(xlabel=f"first component ({ratios[0]})", ylabel=f"second ({ratios[1]})")
    figure.suptitle(group.heading, x=0.01, ha="left", fontsize=9)
    return figure


def phases(run: Run, group: Group) -> Figure:
    """||H v|| and v' H v along the dominant direction of each phase, at the fork and the end."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, column, label in (
        (axes[0], "norm_of_product", r"$\|Hv\|$"),
        (axes[1], "quotient", r"curvature $v^T H v$"),
    ):
        ticks = []
        for i, (_, name, content) in enumerate(group.results):
            results, look = content["results"], looks(run)[name]
            for j, row in enumerate(results[0]["along"]):
                values = np.array([result["along"][j][column] for result in results])
                at, faint = 5 * i + j, 0.5 if row["direction"] == "v_s" else 1
                label_once = look.label if j == 1 else ""
                axis.bar(at, values.mean(), color=look.colour, alpha=faint, label=label_once)
                axis.plot([at] * len(values), values, "k.", ms=4)
                ticks.append((at, f"${row['direction']}$ at\n{row['step']:,}"))
        axis.set_xticks(*zip(*ticks, strict=True))
        axis.set_ylabel(label)
    said = []
    for _, name, content in group.results:
        v_s, v_d = np.mean([result["explained"] for result in content["results"]], axis=0)
        cosine = np.mean([result["cosine"] for result in content["results"]])
        said.append(
            f"{name}, {_range(content)}: $v_s$ explains {v_s:.0%} of its phase, $v_d$ {v_d:.0%}, "
            f"cosine {cosine:.2f}"
        )
    axes[0].set_title("\n".join([*said, group.heading]), loc="left", fontsize=9)
    legend_above(figure, once_each(axes[0]))
    return figure


def _axis() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    return figure, figure.subplots()


def _line(
    axis: Axes, run: Run, name: str, x: Any, values: np.ndarray, label: str, style: str
) -> None:
    look = {"color": looks(run)[name].colour, "ls": style, "marker": ".", "label": label}
    band(axis, x, values, **look)


def _finish(figure: Figure, axis: Axes, group: Group) -> None:
    axis.set_title(group.heading, loc="left", fontsize=9)
    legend_above(figure, once_each(axis))
