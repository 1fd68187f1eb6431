"""Results of `experiments.probe` for a run: its files read, told apart, and in figures."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from experiments.report.probes import MEASURES
from experiments.report.probes.measure import Group, Result
from experiments.report.reading import Run
from experiments.report.style import BANDS, STYLE
from wsdjax.branches import BranchStore
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json
from wsdjax.wording import near, shortened


def measured(run: Run) -> tuple[list[Group], dict[str, str]]:
    """All results of a workdir, probe by probe, of most results first; and by the names of those
    that are in no group, why."""
    groups: dict[tuple[str, str], Group] = {}
    left: dict[str, str] = {}
    for branch, resolved in run.branches.items():
        for path in sorted((run.store.directory(branch) / "probes").glob("*.json")):
            name = f"{branch}/{path.name}"
            try:
                content = read(path)
            except DamagedFile as error:
                left[name] = str(error).removeprefix(str(path)).lstrip(":, ")
                continue
            except OSError as error:
                left[name] = f"cannot be read ({error.strerror})"
                continue
            probe, settings, count = content["probe"], content["settings"], len(content["results"])
            if count != resolved.seeds:
                left[name] = f"has {count} results, and the branch has {resolved.seeds} seeds"
                continue
            key = probe, json.dumps(settings, sort_keys=True)
            group = groups.setdefault(key, Group(probe, MEASURES[probe], settings, []))
            group.results.append(Result(name, branch, content))
    place = {branch: i for i, branch in enumerate(run.branches)}
    for group in groups.values():
        group.results.sort(
            key=lambda r: (place[r.branch], r.content["steps"][-1], len(r.content["steps"]))
        )
    order = list(MEASURES)
    return sorted(groups.values(), key=lambda g: (order.index(g.probe), -len(g.results))), left


_MISSHAPEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Drawn(NamedTuple):
    figures: dict[str, Figure]
    captions: dict[str, str]
    """In HTML, by the same names."""
    left: dict[str, str]
    """By a result's name, why it is in no figure."""


def drawn(run: Run) -> Drawn:
    """A figure for each choice of settings that a probe was measured with."""
    groups, left = measured(run)
    found = Drawn({}, {}, left)
    for group in groups:
        kind = group.measure
        if kind.most:
            few = f"only the last {kind.most} nodes with the same settings are drawn"
            found.left.update({result.name: few for result in group.results[: -kind.most]})
        try:
            with matplotlib.rc_context(STYLE):
                figure = kind.figure(run, group)
        except _MISSHAPEN:  # results without a checksum, which anything may have changed
            lacks = "is, or is drawn with, one that lacks some of its figure; drop that"
            found.left.update({result.name: lacks for result in group.results})
            continue
        same = sum(name.split("-")[0] == f"probe_{group.probe}" for name in found.figures)
        name = f"probe_{group.probe}" + (f"-{same + 1}" if same else "")
        bands = f" {BANDS}" if kind.bands else ""
        of = html.escape(group.heading.replace("\n", "; "))
        found.captions[name] = f"{kind.caption}{bands} {of[0].upper()}{of[1:]}."
        found.figures[name] = figure
    return found


def place(
    directory: Path, stem: str, steps: Sequence[int], settings: dict[str, Any]
) -> tuple[Path, bool]:
    """The file of a result, and whether it is there; earlier ones have no hash in their names.

    Raises:
      DamagedFile: for a file that is no result.
    """
    of = json.dumps([steps, settings], sort_keys=True)
    path = directory / f"{stem}-{hashlib.sha256(of.encode()).hexdigest()[:8]}.json"
    for each in (path, directory / f"{stem}.json"):
        if each.exists():
            content = read(each)
            if (content["steps"], content["settings"]) == (steps, settings):
                print(f"{each} is there")
                unlink_cells(each)
                return each, True
    return path, False


def unlink_cells(path: Path) -> None:
    """Deletes what a sweep kept to go on after a stop, now that its result is there."""
    for file in path.parent.glob(f"{path.stem}-seed*.cells"):
        file.unlink()


def read(path: Path) -> dict[str, Any]:
    """Reads a result's file.

    Raises:
      DamagedFile: if its settings, sample and values cannot be told of, saying how to drop it.
      OSError: if it cannot be read.
    """
    remedy = "drop it (python -m experiments.probe drop) and probe again"
    content = read_json(path, remedy)
    try:
        measure, steps, results = MEASURES[content["probe"]], content["steps"], content["results"]
        group = Group("", measure, {**content["settings"]}, [Result("", "", content)])
        whole = bool(steps) and all(type(step) is int for step in steps)
        whole = whole and all([group.heading, results, *map(measure.headline, results)])
    except _MISSHAPEN:
        whole = False
    if not whole:
        raise DamagedFile(f"{path}: is no result of a probe, or lacks some of it; {remedy}")
    if not measure.sees_examples:
        # Files of before told of examples here too.
        kept = {n: value for n, value in content["settings"].items() if n in measure.settings}
        content = {**content, "settings": kept}
    return content


def drop(store: BranchStore, names: Sequence[str]) -> list[Path]:
    """Deletes results, each named BRANCH/FILE or by its path; returns which.

    Raises:
      ConfigError: for what is no result of this workdir, and then nothing is deleted.
    """
    there = {
        f"{branch}/{path.name}": path
        for branch in store.names()
        for path in (store.directory(branch) / "probes").glob("*.*")
    }
    by_path = {path.resolve(): path for path in there.values()}
    chosen = []
    for name in names:
        found = there.get(name) or there.get(f"{name}.json") or by_path.get(Path(name).resolve())
        if found is None:
            raise ConfigError(
                f"drop: no result {shortened(name)} in {store.workdir}{near(name, there) or '.'} "
                "Name it as BRANCH/FILE, as the report does"
            )
        chosen.append(found)
    chosen = list(dict.fromkeys(chosen))
    for path in chosen:
        path.unlink()
    return chosen
