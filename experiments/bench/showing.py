"""Curvature's benchmark as a figure."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from experiments.bench.race import Point
from experiments.report.style import COLOURS, STYLE


def error_against_time(points: list[Point]) -> Figure:
    """Relative error against seconds, and against products, one row for each k."""
    ks = list(dict.fromkeys(point.k for point in points))
    names = list(dict.fromkeys(point.name for point in points))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4 * len(ks)), layout="constrained")
        axes = figure.subplots(len(ks), 2, squeeze=False, sharey="row")
        for row, k in zip(axes, ks, strict=True):
            for name, colour in zip(names, COLOURS, strict=False):
                mine = [point for point in points if (point.name, point.k) == (name, k)]
                errors = [point.error for point in mine]
                for axis, xs in (
                    (row[0], [point.median for point in mine]),
                    (row[1], [point.products for point in mine]),
                ):
                    axis.loglog(xs, errors, "o", color=colour, label=name)
            row[0].set(xlabel="seconds", ylabel=f"relative error, top {k}")
            row[1].set(xlabel="Hessian-vector products")
        axes[0, 0].legend(fontsize=9)
        return figure
