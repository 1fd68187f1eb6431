"""Draws a workdir from its files alone: figures/, report.html and the final table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.report import figures, page, style, tables
from experiments.report import probes as probe_report
from experiments.report.reading import Run
from experiments.report.tables import Final, Rows
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
    probed = probe_report.drawn(run)
    drawn = {name: draw(run) for name, draw in figures.FIGURES.items()} | probed.figures
    images = {name: style.save(figure, directory / name) for name, figure in drawn.items()}
    for old in directory.glob("probe_*.*"):  # of results that were dropped
        if old.stem not in images:
            old.unlink()
    ends = tables.final_values(run)
    rows, budgets, notes = tables.table(ends), tables.budget_table(run), tables.notes(run, ends)
    write_atomically(run.workdir / "results.json", _results(run, ends, rows, budgets, notes))
    file = run.workdir / "report.html"
    write_atomically(file, page.page(run, rows, budgets, notes, images, probed))
    said = ["", tables.as_text(rows, words=2)]
    if budgets:
        said += ["", tables.as_text(budgets, words=1)]
    left = [f"Not drawn: {name}: {why}" for name, why in probed.left.items()]
    if len(left) > _SHOWN:
        left[_SHOWN - 1 :] = [f"Not drawn: {len(left) - _SHOWN + 1} more, which the report lists"]
    return "\n".join([*said, "", *notes, *left, "", f"Figures: {directory}\nReport:  {file}"])


def _results(run: Run, ends: list[Final], rows: Rows, budgets: Rows, notes: list[str]) -> str:
    """All of it as JSON, with what is needed to quote it: machine, versions and date."""
    first = run.record()

    def plain(value):
        return value.tolist() if isinstance(value, np.ndarray) else value

    content = {
        "values": [{name: plain(v) for name, v in end._asdict().items()} for end in ends],
        "rows": [dict(zip(rows[0], row, strict=True)) for row in rows[1:]],
        "compared": [dict(zip(budgets[0], row, strict=True)) for row in budgets[1:]],
        "notes": notes,
        "machine": first.get("machine", "not recorded"),
        "versions": first["versions"],
        "date": run.date(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
