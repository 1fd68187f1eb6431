"""A paper's study as one page of HTML, which needs no other file."""

from __future__ import annotations

import base64
import collections
import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.claims import Claim, Verdict

_CSS = """
:root { --held: #009E73; --not: #D55E00; --open: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto;
       padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .3rem; }
.answer { font-size: 1.1rem; max-width: 60rem; }
figure { margin: .5rem 0 1.5rem; } .wide { overflow-x: auto; }
.wide img { width: 100%; min-width: 40rem; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; max-width: 60rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.held { color: var(--held); font-weight: 600; } .not-held { color: var(--not); font-weight: 600; }
.not-told-apart { color: var(--open); }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } .wide img { min-width: 0; }
  figure, tr { break-inside: avoid; } }
"""


_FILES = ("png", "svg", "pdf")


class Drawn(NamedTuple):
    name: str
    """Of its files, without a suffix."""
    heading: str
    caption: str
    """In HTML."""
    svg: bytes


class Part(NamedTuple):
    """One run that the study rests on."""

    name: str
    tree: str
    config: str
    made: str
    """Machine, versions, date and time."""


def page(
    title: str,
    question: str,
    answer: str,
    figures: Sequence[Drawn],
    claims: Sequence[Claim],
    parts: Sequence[Part],
    command: str,
) -> str:
    """The page: question, answer, the first figure and the claims; then the other figures, and
    how all of it was made."""
    runs = max((claim.finding.runs for claim in claims), default=0)
    first, rest = list(map(_figure, figures[:1])), list(map(_figure, figures[1:]))
    made = "".join(
        f"<h3>{_text(part.name)}</h3><p>{_text(part.made)}</p>"
        f"<details><summary>Tree</summary><pre>{_text(part.tree)}</pre></details>"
        f"<details><summary>Config</summary><pre>{_text(part.config)}</pre></details>"
        for part in parts
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(title)}</title>
<style>{_CSS}</style></head><body>
<h1>{_text(title)}</h1>
<p>{_text(question)}</p>
<p class="answer"><b>{_text(answer)}</b></p>
{"".join(first)}
<h2>Claims</h2>
{_claims(claims)}
<p class="note">Values are means over {runs} runs of each model, with an interval that covers the
mean of such runs at 95% (Student's t; for the matching cooldown where its bounds cross zero). What
is compared within a run is compared by its difference, run by run. <i>Held</i> and <i>not held</i>
mean that the whole interval lies on one side; <i>not told apart</i>, that it does not. A line is
convex, or descends, if it does so on the whole and none of its points within [0, 1] speaks against
it, all of them judged at once. In the figures a line is the
mean over runs and its band reaches from the lowest to the highest; a box has the quartiles of all
values, which are its dots.</p>
{"".join(rest)}
<h2>How it was made</h2>
<pre>{_text(command)}</pre>
{made}
</body></html>
"""


def answer(claims: Sequence[Claim]) -> str:
    """How many claims held, and which did in all models, or did not in one."""
    by_verdict: dict[Verdict, list[Claim]] = {verdict: [] for verdict in Verdict}
    for claim in claims:
        by_verdict[claim.finding.verdict].append(claim)
    held, failed, undecided = by_verdict.values()
    said = [
        f"{len(held)} of {len(claims)} claims held, {len(failed)} did not, and {len(undecided)} "
        "could not be told apart."
    ]
    models = {claim.model for claim in claims}
    counts = collections.Counter(claim.claim for claim in held)
    if everywhere := [claim for claim, count in counts.items() if count == len(models) > 1]:
        said.append(f"Held in both models: {'; '.join(everywhere)}.")
    if failed:
        listed = "; ".join(f"{claim.claim} ({claim.model})" for claim in failed)
        said.append(f"Not held: {listed}.")
    return " ".join(said)


def with_interval(claim: Claim) -> str:
    """The value and its interval, in few digits."""
    value, interval = claim.finding.value, claim.finding.interval
    low, high = ("∞" if math.isinf(each) else f"{each:.3g}" for each in interval)
    low = "-∞" if interval[0] == -math.inf else low
    said = "none" if math.isinf(value) else f"{value:.3g}"
    return f"{said} [{low}, {high}]"


def _claims(claims: Sequence[Claim]) -> str:
    """A row for each claim, with a value and a verdict for each model."""
    models = list(dict.fromkeys(claim.model for claim in claims))
    rows: dict[tuple[int | None, str], dict[str, Claim]] = {}
    for claim in claims:
        rows.setdefault((claim.figure, claim.claim), {})[claim.model] = claim
    body = "".join(
        f"<tr><td>{figure or '–'}</td><td>{_text(said)}</td>"
        + "".join(_judged(found.get(model)) for model in models)
        + "</tr>"
        for (figure, said), found in rows.items()
    )
    heads = "".join(f"<th>{_text(model)}</th><th></th>" for model in models)
    head = f"<tr><th>Fig.</th><th>Claim</th>{heads}</tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _judged(claim: Claim | None) -> str:
    if claim is None:
        return "<td></td><td></td>"
    verdict = str(claim.finding.verdict)
    value = f"{with_interval(claim)} {claim.unit}"
    return (
        f'<td class="number">{_text(value)}</td>'
        f'<td class="number {verdict.replace(" ", "-")}">{verdict}</td>'
    )


def _figure(drawn: Drawn) -> str:
    source = base64.b64encode(drawn.svg).decode()
    links = [f'<a href="figures/{drawn.name}.{kind}">{kind.upper()}</a>' for kind in _FILES]
    return (
        f'<h2>{_text(drawn.heading)}</h2><figure id="{drawn.name}"><div class="wide">'
        f'<img alt="{_text(drawn.heading)}" src="data:image/svg+xml;base64,{source}"></div>'
        f"<figcaption>{drawn.caption} ({', '.join(links)})</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value))
