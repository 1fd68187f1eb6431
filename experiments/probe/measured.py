"""What `experiments.probe` measured of a run: its files, read and told apart."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.probe.measures import ALONG, AT_A_NODE, Measure
from experiments.report.reading import Run
from wsdjax.branches import BranchStore
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json
from wsdjax.wording import shortened

Content = dict[str, Any]
"""Of one file: `probe`, `steps`, `settings`, `sample`, `results` (one for each seed)."""
MEASURES = {**AT_A_NODE, **ALONG}
SPLITS = {"train": "training", "test": "held-out"}
_FIRST = (
    "measured on the first examples of its split, not on a sample of all of it: probe again, and "
    "drop this one"
)


class Result(NamedTuple):
    name: str
    """BRANCH/FILE, by which it is dropped."""
    branch: str
    content: Content


class Group(NamedTuple):
    """What a probe measured with one choice of settings."""

    probe: str
    settings: Content
    results: list[Result]
    """Branch by branch, in the order of their last steps."""

    @property
    def of(self) -> dict[str, list[Content]]:
        """By branch. A node is in the list of the branch that made it."""
        found: dict[str, list[Content]] = {}
        for result in self.results:
            found.setdefault(result.branch, []).append(result.content)
        return found


class Measured(NamedTuple):
    groups: list[Group]
    """Probe by probe, of most results first."""
    left: dict[str, str]
    """By name, why a result is in no group."""


def measured(run: Run) -> Measured:
    """All results of a workdir."""
    groups: dict[tuple[str, str], Group] = {}
    left: dict[str, str] = {}
    for branch in run.branches:
        found = []
        for path in sorted(_directory(run.store, branch).glob("*.json")):
            name = f"{branch}/{path.name}"
            try:
                content = read(path)
            except DamagedFile as error:
                left[name] = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
                continue
            except OSError as error:
                left[name] = f"cannot be read ({error.strerror})"
                continue
            if len(content["results"]) != run.branches[branch].seeds:
                left[name] = f"has {len(content['results'])} results for as many seeds"
            elif MEASURES[content["probe"]].sees_examples and not content.get("sample"):
                left[name] = _FIRST
            else:
                found.append(Result(name, branch, content))
        found.sort(key=lambda r: (r.content["steps"][-1], len(r.content["steps"])))
        for result in found:
            probe, settings = result.content["probe"], result.content["settings"]
            key = probe, json.dumps(settings, sort_keys=True)
            groups.setdefault(key, Group(probe, settings, [])).results.append(result)
    order = list(MEASURES)
    by_size = sorted(groups.values(), key=lambda g: (order.index(g.probe), -len(g.results)))
    return Measured(by_size, left)


def place(directory: Path, stem: str, steps: Sequence[int], settings: Content) -> tuple[Path, bool]:
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


def read(path: Path) -> Content:
    """What a result's file holds.

    Raises:
      DamagedFile: if it is no result, saying how to drop it.
      OSError: if it cannot be read.
    """
    remedy = "drop it (python -m experiments.probe drop) and probe again"
    content = read_json(path, remedy)
    measure = MEASURES.get(str(content.get("probe")))
    steps, results = content.get("steps"), content.get("results")
    if (
        measure is None
        or not isinstance(content.get("settings"), dict)
        or not isinstance(steps, list)
        or not isinstance(results, list)
        or not all(type(step) is int for step in steps)
        or not all(isinstance(result, dict) for result in results)
        or not (steps and results)
    ):
        raise DamagedFile(f"{path}: is no result of a probe; {remedy}")
    if not _is_whole(content, measure):
        raise DamagedFile(f"{path}: is no {content['probe']}, or lacks some of it; {remedy}")
    if not measure.sees_examples:
        # Files of before told of examples here too.
        kept = {n: value for n, value in content["settings"].items() if n in measure.uses}
        content = {**content, "settings": kept}
    return content


def _is_whole(content: Content, measure: Measure) -> bool:
    """Whether it has what the report takes of it."""
    settings, sample, results = content["settings"], content.get("sample"), content["results"]
    of_sample = True
    if measure.sees_examples and sample:
        of_sample = (
            isinstance(sample, dict)
            and {"examples", "of", "seed"} <= sample.keys()
            and {"examples", "sample_seed"} <= settings.keys()
            and settings.get("split") in list(SPLITS)
            and all({"loss", "loss_error"} <= result.keys() for result in results)
        )
    return of_sample and all(
        isinstance(result.get(key), int | float | list | dict)
        for result in results
        for key in measure.drawn
    )


def drop(workdir: Path, names: Sequence[str]) -> list[Path]:
    """Deletes results, each named BRANCH/FILE or by its path; returns which.

    Raises:
      ConfigError: for what is no result of this workdir, and then nothing is deleted.
    """
    store = BranchStore(workdir)
    there: dict[str, Path] = {}
    for branch in store.names():
        for path in _directory(store, branch).glob("*.*"):
            there[f"{branch}/{path.name}"] = path
    by_path = {path.resolve(): path for path in there.values()}
    chosen = []
    for name in names:
        found = there.get(name) or there.get(f"{name}.json") or by_path.get(Path(name).resolve())
        if found is None:
            near = difflib.get_close_matches(name[:200], there, n=1, cutoff=0.3)
            known = f"the nearest is {near[0]}" if near else f"there are {len(there)}"
            raise ConfigError(
                f"drop: no result {shortened(name)} in {store.workdir}; {known}. Name it as "
                "BRANCH/FILE, as the report does"
            )
        chosen.append(found)
    for path in dict.fromkeys(chosen):
        path.unlink()
    return list(dict.fromkeys(chosen))


def title(group: Group) -> str:
    """What was measured, and with which settings."""
    rest = dict(group.settings)
    said = "of the parameters alone"
    if MEASURES[group.probe].sees_examples:
        split, examples, seed = (rest.pop(n) for n in ("split", "examples", "sample_seed"))
        said = f"loss over {examples:,} {SPLITS[split]} examples, sample seed {seed}"
    others = ", ".join(f"{name} {value}" for name, value in rest.items())
    return f"{said}; {others}" if others else said


def losses(group: Group) -> str:
    """Of the sample, at the first and the last node, each with its sampling error; nothing for a
    probe that sees no example."""
    if not MEASURES[group.probe].sees_examples:
        return ""
    ordered = sorted(group.results, key=lambda result: result.content["steps"][-1])
    ends = ordered[:1] + ordered[1:][-1:]
    return f"loss of the sample {', '.join(map(_loss, ends))}"


def heading(group: Group) -> str:
    """Of a figure."""
    return "\n".join(filter(None, (title(group), losses(group))))


def caption(group: Group) -> str:
    """Settings, sample and its loss in sentences."""
    said = title(group)
    if MEASURES[group.probe].sees_examples:
        sample = group.results[0].content["sample"]
        said += (
            f". The sample is {sample['examples']:,} of the split's {sample['of']:,} examples, "
            f"spread over it, drawn with the seed {sample['seed']}; {losses(group)} nats, ± the "
            "sampling error"
        )
    return f"{said[0].upper()}{said[1:]}."


def _loss(result: Result) -> str:
    """At its last node, the mean over seeds, which all see the same sample."""
    rows = result.content["results"]
    loss = sum(row["loss"] for row in rows) / len(rows)
    errors = [row["loss_error"] for row in rows]
    said = with_error(loss, None if None in errors else sum(errors) / len(errors))
    return f"{said} at {result.branch}@{result.content['steps'][-1]:,}"


def with_error(loss: float, error: float | None) -> str:
    """Of a split that was drawn whole the error is 0, of one example it is unknown."""
    return f"{loss:.4g} ± {'unknown' if error is None else f'{error:.2g}'}"


def _directory(store: BranchStore, branch: str) -> Path:
    return store.directory(branch) / "probes"
