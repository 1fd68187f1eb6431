"""The report as one page of HTML, which needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.report.drawing import drawing
from experiments.report.figures import FIGURES
from experiments.report.reading import Run
from experiments.report.tables import Rows
from wsdjax.wording import printable

if TYPE_CHECKING:
    from experiments.report.write import Drawn

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; }
summary { font-size: 1.5rem; font-weight: bold; margin: 1rem 0; cursor: pointer; }
figcaption, .note { color: #555; font-size: 0.9rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; text-align: right; }
td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
.table:first-of-type td:nth-child(2), .table:first-of-type th:nth-child(2) { text-align: left; }
tr { border-bottom: 1px solid #ddd; }
.table { overflow-x: auto; } ul.note { padding-left: 1.2rem; }
.beside { display: grid; gap: 0 2rem; overflow-x: auto; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 0.8rem; }
"""


def page(drawn: Drawn) -> str:
    run, probed = drawn.run, drawn.probed
    drawings = _drawings({name: each.caption for name, each in FIGURES.items()}, drawn.images)
    if probed.figures:
        drawings += "<h2>Probes</h2>" + _drawings(probed.captions, drawn.images)
    config_file = run.workdir / "config.json"
    config = config_file.read_text() if config_file.exists() else "(no config.json in the workdir)"
    made = run.made()
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    machine = html.escape(f"{made['machine']}; {versions}; {made['date']}")
    tree = "\n".join(drawing(run.store, by_rows=True))
    return _whole(
        _name(run),
        f"""<h1>{_name(run)}</h1>
{_numbers(drawn)}
{drawings}{_left(probed.left)}
<details><summary>The tree</summary><pre>{html.escape(tree)}</pre></details>
<details><summary>Config</summary><pre>{html.escape(config)}</pre></details>
<h2>Machine, versions and date</h2><p>{machine}</p>
<p class="note">Drawn from the files of the run; again by
<code>python -m experiments.report --workdir=RUN</code>.</p>""",
    )


def beside(runs: Sequence[Drawn]) -> str:
    """Several runs, a column each: their tables, and every figure that one of them has."""
    captions = [
        {name: each.caption for name, each in FIGURES.items()} | drawn.probed.captions
        for drawn in runs
    ]

    def cell(name: str, drawn: Drawn, captions: dict[str, str]) -> str:
        if name in captions:
            return _drawings({name: captions[name]}, drawn.images)
        return f'<p class="note">{_name(drawn.run)} has no such figure.</p>'

    cells = [
        f'<h1>{_name(drawn.run)}</h1><p class="note">{html.escape(str(drawn.run.workdir))}</p>'
        f"{_numbers(drawn)}"
        for drawn in runs
    ]
    for name in dict.fromkeys(name for each in captions for name in each):
        cells += [cell(name, drawn, each) for drawn, each in zip(runs, captions, strict=True)]
    grid = "".join(f"<div>{each}</div>" for each in cells)
    columns = f"repeat({len(runs)}, minmax(22rem, 1fr))"
    title = " and ".join(_name(drawn.run) for drawn in runs)
    return _whole(
        title, f'<div class="beside" style="grid-template-columns: {columns}">{grid}</div>'
    )


def _whole(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{_CSS}</style></head>
<body>{body}
</body></html>
"""


def _name(run: Run) -> str:
    return html.escape(printable(run.workdir.name))


def _numbers(drawn: Drawn) -> str:
    tables = "".join(_html(lines) for lines in drawn.tables if lines)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in drawn.notes)
    return f'{tables}<ul class="note">{notes}</ul>'


def _drawings(captions: dict[str, str], images: dict[str, bytes]) -> str:
    return "".join(
        f'<figure id="{name}"><img alt="{name}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(images[name]).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for name, caption in captions.items()
    )


def _left(left: dict[str, str]) -> str:
    """The results of probes that are in no figure."""
    if not left:
        return ""
    rows = (f"<li>{html.escape(f'{name}: {why}')}</li>" for name, why in left.items())
    return f"""<details open id="not_drawn"><summary>Results of probes that are not drawn</summary>
<ul class="note">{"".join(rows)}</ul>
<p class="note">To drop one:
<code>python -m experiments.probe drop --workdir=RUN BRANCH/FILE</code>.</p></details>"""


def _html(lines: Rows) -> str:
    def row(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in lines[1:])
    head = f"<thead>{row(lines[0], 'th')}</thead>"
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>'
