"""Draws a workdir from its files alone: figures/, report.html and the final table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

from experiments.cli.results import write_result
from experiments.report import figures, page, paired, style, tables
from experiments.report.probes import results
from experiments.report.reading import Run
from wsdjax.files import write_atomically

_SHOWN = 5
"""Lines about what is not drawn, at most, on a terminal."""


class Drawn(NamedTuple):
    """Whatever a page shows of a run."""

    run: Run
    ends: list[tables.Final]
    tables: list[tables.Rows]
    """The final table; the config's comparison; differences by seed. Some may be empty."""
    notes: list[str]
    images: dict[str, bytes]
    """SVG, by the name of the figure."""
    probed: results.Drawn


def draw(workdir: str | Path) -> Drawn:
    """Writes the figures of a run as PNG and SVG."""
    run = Run(workdir)
    run.store.sweep()
    directory = run.workdir / "figures"
    directory.mkdir(exist_ok=True)
    probed = results.drawn(run)
    with matplotlib.rc_context(style.STYLE):
        own = {name: each.draw(run) for name, each in figures.FIGURES.items()}
    images = {n: style.save(figure, directory / n) for n, figure in (own | probed.figures).items()}
    for old in directory.glob("probe_*.*"):  # of results that were dropped
        if old.stem not in images:
            old.unlink()
    ends = tables.final_values(run)
    differences = paired.differences(run, [end.lineage[-1] for end in ends])
    lines = [tables.table(ends), tables.budget_table(run), paired.table(differences)]
    return Drawn(run, ends, lines, tables.notes(run, ends), images, probed)


def write_report(workdir: str | Path) -> str:
    """Writes the figures as PNG and SVG, `results.json` and `report.html`; returns the final
    table as text."""
    drawn = draw(workdir)
    run, (rows, budgets, differences) = drawn.run, drawn.tables

    def as_objects(lines: tables.Rows) -> list[dict[str, str]]:
        return [dict(zip(lines[0], row, strict=True)) for row in lines[1:]]

    result = {
        "values": [end._asdict() for end in drawn.ends],
        "rows": as_objects(rows),
        "compared": as_objects(budgets),
        "differences": as_objects(differences),
        "notes": drawn.notes,
    }
    write_result(run.workdir / "results.json", result | run.made())
    file = run.workdir / "report.html"
    write_atomically(file, page.page(drawn))
    said = ["", tables.as_text(rows, words=2)]
    for lines, words in ((budgets, 1), (differences, 2)):
        said += ["", tables.as_text(lines, words)] if lines else []
    left = [f"Not drawn: {name}: {why}" for name, why in drawn.probed.left.items()]
    if len(left) > _SHOWN:
        left[_SHOWN - 1 :] = [f"Not drawn: {len(left) - _SHOWN + 1} more, which the report lists"]
    where = [f"Figures: {run.workdir / 'figures'}", f"Report:  {file}"]
    return "\n".join([*said, "", *drawn.notes, *left, "", *where])


def write_beside(workdirs: Sequence[str | Path], file: Path) -> str:
    """Writes one page of several runs, a column each; returns where it is."""
    write_atomically(file, page.beside([draw(workdir) for workdir in workdirs]))
    return f"Report:  {file}"
