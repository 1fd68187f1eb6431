"""Draws a workdir from its files alone: figures/, report.html and the final table."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from experiments.cli.results import write_result
from experiments.report import figures, page, style, tables
from experiments.report.probes.results import drawn
from experiments.report.reading import Run
from wsdjax.files import write_atomically

_SHOWN = 5
"""Lines about what is not drawn, at most, on a terminal."""


def write_report(workdir: str | Path) -> str:
    """Writes the figures as PNG and SVG, `results.json` and `report.html`; returns the final
    table as text."""
    run = Run(workdir)
    run.store.sweep()
    directory = run.workdir / "figures"
    directory.mkdir(exist_ok=True)
    probed = drawn(run)
    with matplotlib.rc_context(style.STYLE):
        own = {name: each.draw(run) for name, each in figures.FIGURES.items()}
    images = {n: style.save(figure, directory / n) for n, figure in (own | probed.figures).items()}
    for old in directory.glob("probe_*.*"):  # of results that were dropped
        if old.stem not in images:
            old.unlink()
    ends = tables.final_values(run)
    rows, budgets, notes = tables.table(ends), tables.budget_table(run), tables.notes(run, ends)
    result = {
        "values": [end._asdict() for end in ends],
        "rows": [dict(zip(rows[0], row, strict=True)) for row in rows[1:]],
        "compared": [dict(zip(budgets[0], row, strict=True)) for row in budgets[1:]],
        "notes": notes,
    }
    write_result(run.workdir / "results.json", result | run.made())
    file = run.workdir / "report.html"
    write_atomically(file, page.page(run, rows, budgets, notes, images, probed))
    said = ["", tables.as_text(rows, words=2)]
    if budgets:
        said += ["", tables.as_text(budgets, words=1)]
    left = [f"Not drawn: {name}: {why}" for name, why in probed.left.items()]
    if len(left) > _SHOWN:
        left[_SHOWN - 1 :] = [f"Not drawn: {len(left) - _SHOWN + 1} more, which the report lists"]
    return "\n".join([*said, "", *notes, *left, "", f"Figures: {directory}\nReport:  {file}"])
