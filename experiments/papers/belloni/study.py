"""The study as a command: trains both trees, measures, judges and draws, whatever is missing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import estimate
from experiments.claims import Claim
from experiments.cli.progress import Display
from experiments.launch import launch
from experiments.papers import page as pages
from experiments.papers.belloni import captions, figures, measured, trees, verdicts
from experiments.papers.belloni.measure import MEASURES, Subject
from experiments.papers.belloni.verdicts import CNN, LM, Architecture
from experiments.probe.nodes import make_again
from experiments.report import style
from experiments.report.drawing import drawing
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import DataConfig, Experiment, describe_all, validate
from wsdjax.files import DamagedFile, write_atomically
from wsdjax.lock import held
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch

ARCHITECTURES = {"lm": LM, "cnn": CNN}
"""By the names of their workdirs; the columns of every figure in this order."""


class Given(NamedTuple):
    """What the command line asks for."""

    workdir: Path
    budget: str
    seeds: int | None
    data: Mapping[str, DataConfig | None]
    """By architecture's workdir; None for the budget's own."""
    figures: Sequence[str]
    command: str
    """As it was typed."""


class Side(NamedTuple):
    """One architecture's part of the study."""

    of: Architecture
    experiment: Experiment
    branches: Mapping[str, ResolvedBranch]
    nodes: trees.Nodes
    examples: int

    def settings(self) -> dict[str, Any]:
        """By which the numbers of one study are told from those of another in the same place."""
        branches = {name: branch.to_json() for name, branch in self.branches.items()}
        content = json.dumps([branches, self.nodes], sort_keys=True).encode()
        return {"examples": self.examples, "study": hashlib.sha256(content).hexdigest()[:16]}


def run(given: Given, dry_run: bool) -> int:
    """Does whatever of the study is missing.

    Returns:
      An exit code, as that of `experiments.launch.launch`.
    """
    sides = {name: _side(given, name, of, dry_run) for name, of in ARCHITECTURES.items()}
    for name, side in sides.items():
        for line in _costs(side):
            print(f"{name}: {line}", file=sys.stderr)
    if dry_run:
        return 0
    with held(given.workdir):
        for name in reversed(sides):  # what is quick is seen first
            side, store = sides[name], BranchStore(given.workdir / name)
            kept = side.nodes.kept("trunk", trees.cooldown(side.of.matching))
            if code := launch(side.experiment, store, side.branches, snapshot_at=kept):
                return code
            _measure(given, name, sides, store)
        print(f"\n{_write_page(given, sides)}\nPage: {given.workdir / 'index.html'}")
    return 0


def _side(given: Given, name: str, of: Architecture, dry_run: bool) -> Side:
    budget = trees.BUDGETS[given.budget]
    experiment = {"cnn": budget.cnn, "lm": budget.lm}[name](given.data[name])
    experiment.seeds = given.seeds or budget.seeds
    validate(experiment)
    # Its lengths are in percent and tokens, so that what it costs is told without its data.
    described = describe_all([] if dry_run else experiment.data_sets())
    branches = tree.resolve(experiment, described)
    return Side(of, experiment, branches, trees.nodes(branches, of), budget.examples[of.name])


def _costs(side: Side) -> list[str]:
    trunk = side.branches["trunk"]
    kept = sum(map(len, side.nodes.kept("trunk", "decay").values()))
    size = 4 * cost.of_branch(trunk).parameters * trunk.seeds * kept
    return [
        *estimate.estimate(side.branches),
        f"{kept} snapshots of {size / 2**30:.2g} GiB in all; curvature at "
        f"{len(side.nodes.curvature)} nodes on {side.examples:,} examples, for each seed",
    ]


def _measure(given: Given, name: str, sides: Mapping[str, Side], store: BranchStore) -> None:
    """Measures the figures that are missing, and draws each as soon as it is there."""
    side, subject = sides[name], None
    settings = side.settings()
    for figure in given.figures:
        path = _numbers(given, name, figure)
        if _kept(path, figure, settings) is None:
            title = f"{side.of.name}, {captions.CAPTIONS[figure].heading.partition(':')[0]}"
            began = time.monotonic()
            with contextlib.closing(Display(title)) as display:
                if subject is None:
                    make_again(store, trees.cooldown(side.of.matching), side.nodes.all())
                    subject = Subject(side.of, store, side.nodes, side.examples)
                subject.tell = display.show
                numbers = MEASURES[figure](subject)
            seconds = round(time.monotonic() - began, 1)
            path.parent.mkdir(exist_ok=True)
            measured.write(path, numbers, {**settings, "seconds": seconds})
            for claim in _judged(figure, numbers, side.of):
                said = f"{claim.claim}: {pages.with_interval(claim)}, {claim.finding.verdict}"
                print(f"{title}: {said}", flush=True)
            print(f"    {seconds:.0f} s", flush=True)
            _draw(given, figure, _found(given, figure, sides))


def _judged(figure: str, numbers: Any, of: Architecture) -> list[Claim]:
    try:
        return verdicts.judged(figure, numbers, of)
    except ValueError as error:  # such as a loss that is not finite
        print(f"{of.name}, figure {figure} is not judged: {error}", file=sys.stderr)
        return []


def _numbers(given: Given, name: str, figure: str) -> Path:
    return given.workdir / "numbers" / f"{name}-{figure}.json"


Found = dict[Architecture, tuple[Any, dict[str, Any]]]
"""A figure's numbers, and what is told of them, of the architectures that have them."""


def _kept(
    path: Path, figure: str, settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """What was measured already, by these settings, if it is whole."""
    if not path.exists():
        return None
    try:
        numbers, told = measured.read(path, figure)
    except DamagedFile as error:
        print(f"{error}; it is left out until it is measured again", file=sys.stderr)
        return None
    return (numbers, told) if told.items() >= settings.items() else None


def _found(given: Given, figure: str, sides: Mapping[str, Side]) -> Found:
    kept = {
        side.of: _kept(_numbers(given, name, figure), figure, side.settings())
        for name, side in sides.items()
    }
    return {of: found for of, found in kept.items() if found}


def _draw(given: Given, figure: str, found: Found) -> bytes:
    """Draws a figure of what there is; returns it as SVG."""
    numbers = {of.name: each for of, (each, _) in found.items()}
    stem = given.workdir / "figures" / _file(figure)
    stem.parent.mkdir(exist_ok=True)
    return style.save(figures.drawn(figure, numbers), stem, pdf=True)


def _file(figure: str) -> str:
    return f"figure{figure}" if figure.isdigit() else figure


def _write_page(given: Given, sides: Mapping[str, Side]) -> str:
    """Writes the page and `claims.json` of all figures that there are; returns the answer."""
    claims: list[Claim] = []
    drawn: list[pages.Drawn] = []
    seconds = dict.fromkeys(sides, 0.0)
    for figure in measured.FIGURES:
        if not (found := _found(given, figure, sides)):
            continue
        for name, side in sides.items():
            if side.of in found:
                claims += _judged(figure, found[side.of][0], side.of)
                seconds[name] += found[side.of][1]["seconds"]
        told = {of.name: facts for of, (_, facts) in found.items()}
        runs = next(iter(sides.values())).experiment.seeds
        said = captions.caption(figure, runs, told)
        heading = captions.CAPTIONS[figure].heading
        drawn.append(pages.Drawn(_file(figure), heading, said, _draw(given, figure, found)))
    answer = pages.answer(claims)
    parts = [_part(given.workdir / name, sides[name], seconds[name]) for name in sides]
    whole = pages.page(
        captions.TITLE, captions.QUESTION, answer, drawn, claims, parts, given.command
    )
    write_atomically(given.workdir / "index.html", whole)
    content = json.dumps([claim.as_json() for claim in claims], indent=1, ensure_ascii=False)
    write_atomically(given.workdir / "claims.json", content + "\n")
    return answer


def _part(workdir: Path, side: Side, measuring: float) -> pages.Part:
    store = BranchStore(workdir)
    record = store.record("trunk")
    training = sum(
        row
        for name in side.branches
        for row in store.metrics(name).updates.get("seconds", [])
        if np.isfinite(row)
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    made = (
        f"{record['machine']}; {versions}; updates took {training / 60:.1f} min, measuring "
        f"{measuring / 60:.1f} min. The run is {workdir.name}/, with a report of its own."
    )
    config = (workdir / "config.json").read_text()
    return pages.Part(side.of.name, "\n".join(drawing(store)), config, made)
