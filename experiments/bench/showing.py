"""The benchmark as a table and as a figure."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from experiments.bench.race import Comparison, Point
from experiments.cli.table import aligned
from experiments.report.style import COLOURS, STYLE

_OURS = ("our error", "products", "seconds", "compiling", "times as fast")
_HEADER: tuple[str, ...] = ("k", "peer", "error", "products", "seconds", *_OURS)


def table(compared: list[Comparison], cold: dict[tuple[int, str], float]) -> list[str]:
    """A line for each peer and k; `cold` has our seconds with compilation."""
    rows = [_HEADER]
    for peer, ours, times in compared:
        row = (str(peer.k), f"{peer.name} ({peer.written})", *_numbers(peer))
        if ours is None:
            rows.append((*row, "not reached", *[""] * (len(_OURS) - 1)))
        else:
            first = f"{cold[ours.k, ours.written]:.2f}"
            rows.append((*row, *_numbers(ours), first, f"{times:.2f}"))
    return aligned(rows, range(len(_HEADER)))


def _numbers(point: Point) -> tuple[str, str, str]:
    return f"{point.error:.1e}", str(point.products), f"{point.median:.2f}"


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
