"""Draws a workdir again from its files alone: figures/, report.html and the final table.

python -m experiments.report --workdir=runs/NAME
"""

from __future__ import annotations

import base64
import html
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import baselines, cli, figures, probe_figures, style
from experiments.bound import overlays
from experiments.drawing import changes, drawing, summary
from experiments.naming import schedule_name
from experiments.reading import Run
from wsdjax.config import Photos
from wsdjax.files import write_atomically
from wsdjax.validation import ConfigError

Rows = list[tuple[str, ...]]
STAND_IN = (
    "Data: photos, crops of ten photographs that stand in for CIFAR-10 where there is no network; "
    "its numbers are not those of CIFAR-10."
)
HEADER = (
    "schedule",
    "lineage",
    "updates",
    "last rate",
    "training loss",
    "held-out loss",
    "held-out accuracy",
    "changes",
)
_CAPTIONS = {
    "loss": "Loss against updates, over the learning rate; the training loss as the running mean "
    "over a fiftieth of the updates. The dashed lines are at T<sub>c</sub>, "
    "where cooldowns fork. The fall in the first tenth of the updates is cut off above.",
    "parameter_norm": "Euclidean norm of all parameters against updates.",
    "convex_bound": "Training loss and the bound of convex optimisation, computed from the run's "
    "rates and gradient norms alone (Schaipp et al.): for the distance D of which the run's own "
    "base rate would be the best, then moved and scaled to each loss by least squares, so that "
    "shapes can be compared and levels cannot.",
}
_WITHOUT_BANDS = (
    "convex_bound",
    "probe_density",
    "probe_plane",
    "probe_components",
    "probe_phases",
)
_BANDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."
_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
img { width: 100%; height: auto; } figure { margin: 1.5rem 0; }
#parameter_norm, [id^=probe] { width: 65%; }
summary { font-size: 1.5rem; font-weight: bold; margin: 1rem 0; cursor: pointer; }
figcaption, .note { color: #555; font-size: 0.9rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; text-align: right; }
td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
.table:first-of-type td:nth-child(2), .table:first-of-type th:nth-child(2) { text-align: left; }
tr { border-bottom: 1px solid #ddd; }
.table { overflow-x: auto; } ul.note { padding-left: 1.2rem; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 0.8rem; }
"""


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    if not (workdir / "branches").is_dir():
        raise ConfigError(f"--workdir={workdir}: no run is there (it has no branches/)")
    print(write(workdir))


def write(workdir: str | Path) -> str:
    """Writes the figures as PNG and SVG, `results.json` and `report.html`; returns the final
    table as text."""
    run = Run(workdir)
    directory = run.workdir / "figures"
    directory.mkdir(exist_ok=True)
    images = {name: style.save(figure, directory / name) for name, figure in _figures(run).items()}
    ends = final_values(run)
    rows, budgets, notes = table(ends), budget_table(run), _notes(run, ends)
    write_atomically(run.workdir / "results.json", _results(run, ends, rows, budgets, notes))
    page = run.workdir / "report.html"
    write_atomically(page, _page(run, rows, budgets, notes, images))
    where = f"Figures: {directory}\nReport:  {page}"
    tables = ["", _text(rows, words=2)]
    if budgets:
        tables += ["", _text(budgets, words=1)]
    return "\n".join([*tables, "", *notes, "", where])


def _figures(run: Run) -> dict[str, Figure]:
    always = {name: draw(run) for name, draw in figures.FIGURES.items()}
    return {**always, **probe_figures.drawn(run)}


class Final(NamedTuple):
    """The end of one lineage, or of an average of its weights: [R] where seeds differ."""

    schedule: str
    lineage: list[str]
    """Names, with the step of a fork inside one: ``["trunk@500", "sqrt"]``."""
    updates: int
    rate: float
    training_loss: np.ndarray | None
    held_out_loss: np.ndarray
    held_out_accuracy: np.ndarray
    held_out_loss_at_fork: np.ndarray | None
    changes: str
    """What was changed beside the schedule along the lineage."""


def final_values(run: Run) -> list[Final]:
    """Of each leaf of the tree that has been evaluated, and of each average of its weights."""
    found = []
    for edge in run.ends():
        updates, evaluations = run.table(edge.name)
        if not evaluations or evaluations["step"][-1] <= edge.start:
            continue  # nothing of its own yet
        window = min(run.smoothing_window(edge.name), edge.end - edge.start)
        training = updates["loss"][-window:].mean(0)
        forked = evaluations["eval_loss"][evaluations["step"] == edge.start]
        if not edge.parent or edge.data != run.edges[edge.parent].data:
            forked = []  # of the parent's own held-out set, if at all
        for average in ("", *figures.AVERAGES):
            column = f"eval_{average}_" if average else "eval_"
            if np.isnan(evaluations.get(f"{column}loss", [[np.nan]])[-1]).all():
                continue
            name = schedule_name(run, edge.name)
            found.append(
                Final(
                    schedule=f"{name}, {figures.AVERAGES[average]}" if average else name,
                    lineage=_nodes(run, edge.name),
                    updates=int(updates["step"][-1]),
                    rate=float(updates["rate"][-1]),
                    training_loss=None if average else training,
                    held_out_loss=evaluations[f"{column}loss"][-1],
                    held_out_accuracy=evaluations[f"{column}accuracy"][-1],
                    held_out_loss_at_fork=forked[0] if len(forked) else None,
                    changes=_changes(run, edge.name),
                )
            )
    return found


def table(ends: list[Final]) -> Rows:
    """The final table, its header first."""
    rows: Rows = [HEADER]
    for end in ends:
        training = "" if end.training_loss is None else _mean_and_spread(end.training_loss, 4)
        rows.append(
            (
                end.schedule,
                " > ".join(_shortened(end.lineage)),
                str(end.updates),
                f"{end.rate:.2e}",
                training,
                _mean_and_spread(end.held_out_loss, 4),
                _mean_and_spread(end.held_out_accuracy, 3),
                end.changes,
            )
        )
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return rows


def _changes(run: Run, name: str) -> str:
    along = [run.edges[segment.branch] for segment in run.lineage(name)]
    base = run.experiment.optimizer if run.experiment else None
    return ", ".join(filter(None, (changes(e, run.edges.get(e.parent), base) for e in along)))


def _nodes(run: Run, name: str) -> list[str]:
    nodes = []
    for branch, _, stop in run.lineage(name):
        nodes.append(branch if stop == run.edges[branch].end else f"{branch}@{stop}")
    return nodes


def budget_table(run: Run) -> list[tuple[str, ...]]:
    """What the config compares: for each method the held-out loss at its budgets, and the
    updates spent in all, those that its branches share counted once (Wen et al.)."""
    edges, compared = run.edges, run.compared
    if not compared:
        return []
    columns = max(len(names) for names in compared.values())
    budgets = [f"held-out loss at budget {i}" for i in range(1, columns + 1)]
    rows: list[tuple[str, ...]] = [("method", *budgets, "updates in all")]
    for method, names in compared.items():
        cells: list[str] = []
        spent: dict[str, int] = {}
        for name in names:
            evaluations = run.table(name).evaluations if name in edges else {}
            if not evaluations or evaluations["step"][-1] != edges[name].end:
                cells.append("not trained")
                continue
            loss = _mean_and_spread(evaluations["eval_loss"][-1], 4)
            cells.append(f"{loss} ({edges[name].end:,})")
            for branch, start, stop in run.lineage(name):
                spent[branch] = max(spent.get(branch, 0), stop - start)
        cells += [""] * (columns - len(cells))
        rows.append((method, *cells, f"{sum(spent.values()):,}"))
    return rows


def _shortened(lineage: list[str]) -> list[str]:
    return lineage if len(lineage) <= 3 else [lineage[0], "...", lineage[-1]]


def _mean_and_spread(values: np.ndarray, digits: int) -> str:
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def _notes(run: Run, ends: list[Final]) -> list[str]:
    edges = run.edges
    seeds = next(iter(edges.values())).seeds
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    notes = []
    sets: dict[str, list[str]] = {}
    for end in ends:
        sets.setdefault(summary(run.edges[end.lineage[-1]].data), []).append(end.lineage[-1])
    if len(sets) > 1:
        each = "; ".join(
            f"{', '.join(dict.fromkeys(names))}: {data}" for data, names in sets.items()
        )
        notes.append(f"Held-out losses are of several data sets. {each}.")
    elif len(ends) > 1:
        best = min(ends, key=lambda end: end.held_out_loss.mean())
        notes.append(
            f"Lowest held-out loss: {best.lineage[-1]} ({best.schedule}) after {best.updates} "
            f"updates, {_mean_and_spread(best.held_out_loss, 4)}."
        )
    notes.append(
        f"Losses in nats, {over}; the training loss is a running mean over a fiftieth of the "
        "updates."
    )
    notes += _bits(run, ends)
    if any(isinstance(edge.data, Photos) for edge in edges.values()):
        notes.append(STAND_IN)
    found = [f"{o.leaf} {o.correlation:.3f}" for o in overlays(run)]
    if found:
        notes.append(
            "Correlation of training loss and convex bound after the first tenth: "
            f"{', '.join(found)}."
        )
    reached = {name: run.table(name).updates.get("step", [0])[-1] for name in edges}
    unfinished = [
        f"{name} (at {max(reached[name], edge.start)} of {edge.end})"
        for name, edge in edges.items()
        if reached[name] < edge.end
    ]
    if unfinished:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    return notes


def _bits(run: Run, ends: list[Final]) -> list[str]:
    """Of language models and of n-grams beside them."""
    models = []
    for end in ends:
        name = end.lineage[-1]
        if baselines.is_text(config := run.edges[name].data):
            bits = baselines.bits_a_byte(end.held_out_loss.mean(), config)
            models.append(f"{name} ({end.schedule}) {bits:.3f}")
    if not models:
        return []
    counted = [f"{name}, {bits:.3f}" for name, bits in baselines.ngrams(run).items()]
    beside = f" Beside them, Kneser-Ney: {'; '.join(counted)}." if counted else ""
    return [f"Held-out bits a byte: {', '.join(models)}.{beside}"]


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
        "date": _date(run),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _date(run: Run) -> str:
    """When the last row was written."""
    files = run.workdir.glob("branches/*/metrics.jsonl")
    trained = max((path.stat().st_mtime for path in files), default=time.time())
    return time.strftime("%Y-%m-%d", time.gmtime(trained))


def _text(lines: Rows, words: int) -> str:
    """Aligned columns: the first `words` to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words or lines[0][i] == "changes" else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _page(run: Run, rows: Rows, budgets: Rows, notes: list[str], images: dict[str, bytes]) -> str:
    tables = "".join(_html(lines) for lines in (rows, budgets) if lines)
    captions = _CAPTIONS | {f"probe_{n}": text for n, (_, text) in probe_figures.FIGURES.items()}
    drawings = "".join(
        f'<figure id="{name}"><img alt="{name}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
        f"<figcaption>{captions[name]} {'' if name in _WITHOUT_BANDS else _BANDS}</figcaption>"
        "</figure>"
        for name, svg in images.items()
    )
    first_probe = next((name for name in images if name.startswith("probe_")), None)
    drawings = drawings.replace(
        f'<figure id="{first_probe}">', f'<h2>Probes</h2><figure id="{first_probe}">'
    )
    config_file = run.workdir / "config.json"
    config = config_file.read_text() if config_file.exists() else "(no config.json in the workdir)"
    first = run.record()
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    machine = html.escape(
        f"{first.get('machine', 'machine not recorded')}; {versions}; {_date(run)}"
    )
    title = html.escape(run.workdir.name)
    tree = "\n".join(drawing(run.store, by_rows=True))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_CSS}</style></head>
<body><h1>{title}</h1>
{tables}
<ul class="note">{"".join(f"<li>{html.escape(note)}</li>" for note in notes)}</ul>
{drawings}
<details><summary>The tree</summary><pre>{html.escape(tree)}</pre></details>
<details><summary>Config</summary><pre>{html.escape(config)}</pre></details>
<h2>Machine, versions and date</h2><p>{machine}</p>
<p class="note">Drawn from the files of the run; again by
<code>python -m experiments.report --workdir=RUN</code>.</p>
</body></html>
"""


def _html(lines: Rows) -> str:
    def row(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in lines[1:])
    head = f"<thead>{row(lines[0], 'th')}</thead>"
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>'


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run's directory.")
    flags.mark_flag_as_required("workdir")
    cli.run(main)
