"""From the branches that a config declares to resolved ones: what each inherits and comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from wsdjax.config import Branch, Constant, DataConfig, Described, Experiment, Schedule
from wsdjax.config.json import key
from wsdjax.config.kinds import Kind
from wsdjax.config.lengths import Length, updates
from wsdjax.config.validation import SIZE
from wsdjax.errors import ConfigError
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed, near, shown

Known = Mapping[str, Described]
"""Facts about data sets, as `wsdjax.config.describe_all` gives them; no others are looked at."""
_NOTHING: Known = MappingProxyType({})


def resolve(experiment: Experiment, described: Known = _NOTHING) -> dict[str, ResolvedBranch]:
    """The branches of a config's tree by name, parents before their children.

    Without a description of a data set, what its config does not tell by itself is not compared,
    and no length can be in its epochs. Nothing is read or written.

    Raises:
      ConfigError: for a parent that does not exist, a cycle, a fork outside its parent, or a
        schedule that does not fit its branch.
    """
    inherited: Any = {f.name for f in dataclasses.fields(ResolvedBranch)} & set(vars(experiment))
    inherited = {name: getattr(experiment, name) for name in inherited}
    begun: Any = {"name": "", "parent": "", "start": 0, "end": 0, "schedule": Constant()}
    stream: Any = {"data_seed": experiment.seed, "data_start": 0, "reset_optimizer": False}
    origin = ResolvedBranch(**inherited, **begun, **stream)
    parents = {n: _parent_of(f"tree.{n}", b)[0] for n, b in experiment.tree.items()}
    length = run_length(experiment, described)
    if length is not None and not measured_in(experiment, "%"):
        raise ConfigError(
            f"length = {shown(experiment.length)}: no length of the tree is in percent of it; set "
            "those of the branches, tree.NAME.steps"
        )
    branches: dict[str, ResolvedBranch] = {}
    waiting = dict(experiment.tree)
    while waiting:
        ready = next((name for name in waiting if parents[name] in ("", *branches)), None)
        if ready is None:
            name = next(iter(waiting))
            parent = parents[name]
            absent = f"does not exist{near(parent, experiment.tree)}"
            why = "is its own ancestor" if parent in experiment.tree else absent
            raise ConfigError(
                f"tree.{name}.parent = {shown(waiting[name].parent)}: {shown(parent)} {why}; "
                f"the branches are {listed(experiment.tree)}"
            )
        above, branch = branches.get(parents[ready], origin), waiting.pop(ready)
        branches[ready] = resolve_branch(ready, branch, above, branches, length, described)
    return branches


def resolve_branch(
    name: str,
    branch: Branch,
    parent: ResolvedBranch,
    branches: Mapping[str, ResolvedBranch],
    length: int | None = None,
    described: Known = _NOTHING,
) -> ResolvedBranch:
    """The resolved branch that `branch` makes, with what it inherits from `parent`, whose ancestors
    are among `branches`; lengths in percent are of `length`, in updates.

    Raises:
      ConfigError: for a fork outside the parent, a length that means nothing here, fewer
        classes than the data's, or a schedule that does not fit.
    """
    where = f"tree.{name}"
    at = _parent_of(where, branch)[1]
    data = branch.data or parent.data
    if data.unit != parent.model.reads:
        raise ConfigError(
            f"{f'{where}.data' if branch.data else 'data'} = {shown(data)}: gives {data.unit}, "
            f"which model = {type(parent.model).__name__} does not read"
        )
    known = _known(data, described)
    if known and parent.model.classes < known.classes:  # more are a vocabulary that was padded
        field = "vocabulary" if data.unit == "tokens" else "classes"
        raise ConfigError(
            f"model.{field} = {parent.model.classes}: the data of {where}, "
            f"{type(data).__name__}, have {known.classes}; set at least that many"
        )
    start = parent.end
    if at:
        along_parent = units(parent.data, parent.batch_size, length, described)
        start = _updates(f"{where}.parent = {shown(branch.parent)}: the step", at, along_parent)
        if not parent.start < start <= parent.end:
            raise ConfigError(
                f"{where}.parent = {shown(branch.parent)}: {parent.name} has the steps "
                f"{parent.start + 1} to {parent.end}"
            )
    one = units(data, parent.batch_size, length, described)
    steps = _updates(f"{where}.steps", branch.steps, one, 1)
    if start + steps >= SIZE:
        raise ConfigError(
            f"{where}.steps = {shown(branch.steps)}: would end at update {start + steps:,}, and "
            f"they are counted to {SIZE - 1:,}"
        )
    schedule, peak = branch.schedule, branch.optimizer.peak_value
    if schedule.from_parents_rate and parent.name and peak is not None:
        raise ConfigError(
            f"{where}.optimizer.peak_value = {peak}: a {type(schedule).__name__} starts from its "
            "parent's rate and has no peak"
        )
    changed = {k: v for k, v in dataclasses.asdict(branch.optimizer).items() if v is not None}
    new_stream = branch.data is not None or branch.data_seed is not None
    resolved = dataclasses.replace(
        parent,
        name=name,
        parent=parent.name,
        start=start,
        end=start + steps,
        schedule=_with_updates(f"{where}.schedule", schedule, one),
        optimizer=dataclasses.replace(parent.optimizer, **changed),
        data=data,
        data_seed=parent.data_seed if branch.data_seed is None else branch.data_seed,
        data_start=start if new_stream else parent.data_start,
        reset_optimizer=branch.reset_optimizer,
        averages=branch.averages or parent.averages,
    )
    try:
        lineage.schedule_of(resolved, branches)
    except ValueError as error:
        raise ConfigError(f"{where}.schedule: {error}") from None
    return resolved


def measured_in(experiment: Experiment, unit: str) -> bool:
    """Whether any length is, in "epoch" or "%": that of a branch, of its schedule, a fork, or how
    often something is done."""
    forks = (_parent_of(f"tree.{name}", each)[1] for name, each in experiment.tree.items())
    return any(unit in str(length) for length in (*forks, *_lengths(experiment)))


def _lengths(config: Kind) -> Iterator[Length]:
    for f in dataclasses.fields(config):
        item = getattr(config, f.name)
        if f.type in (Length, Length | None):
            yield item
        for each in item.values() if isinstance(item, dict) else (item,):
            if isinstance(each, Kind):
                yield from _lengths(each)


def _parent_of(where: str, branch: Branch) -> tuple[str, str]:
    """(the parent's name, the step; empty for its end)"""
    name, at, step = branch.parent.partition("@")
    if branch.parent and not (name and bool(step) == bool(at) and "@" not in step):
        raise ConfigError(
            f'{where}.parent = {shown(branch.parent)}: write "NAME", or "NAME@STEP" for a fork '
            "before its end"
        )
    return name, step


def units(
    data: DataConfig, batch_size: int, length: int | None = None, described: Known = _NOTHING
) -> dict[str, float]:
    """One epoch and one token of `data`, and one percent of `length`, in updates."""
    one: dict[str, float] = {}
    if known := _known(data, described):
        one["epochs"] = known.examples // batch_size
    if data.unit == "tokens":
        one["tokens"] = 1 / (batch_size * data.units)
    if length is not None:
        one["%"] = length / 100
    return one


def _known(data: DataConfig, described: Known) -> Described | None:
    return data.describe() if data.inert else described.get(key(data))


def run_length(experiment: Experiment, described: Known = _NOTHING) -> int | None:
    """The experiment's `length` in updates, measured in its own data set."""
    if experiment.length is None:
        return None
    one = units(experiment.data, experiment.batch_size, None, described)
    return _updates("length", experiment.length, one)


def every(experiment: Experiment, field: str, described: Known = _NOTHING) -> int:
    """The experiment's `eval_every`, `checkpoint_every` or `snapshot_every` in updates; a
    `ConfigError` tells of one that means nothing here, or comes to nothing."""
    length = run_length(experiment, described)
    one = units(experiment.data, experiment.batch_size, length, described)
    return _updates(field, getattr(experiment, field), one, 1, 2**63)  # so many: never


def _updates(
    path: str, length: Length, one: Mapping[str, float], least: int = 0, below: int = SIZE
) -> int:
    try:
        count = updates(length, one)
    except ValueError as error:
        raise ConfigError(f"{path} = {error}") from None
    if not least <= count < below:
        raise ConfigError(
            f"{path} = {shown(length)}: comes to {shown(count)} updates, must be >= {least} and "
            f"< {below}"
        )
    return count


def _with_updates(path: str, schedule: Schedule, one: Mapping[str, float]) -> Schedule:
    """The schedule with its lengths in updates."""
    lengths = [f.name for f in dataclasses.fields(schedule) if f.type is Length]
    counts = {n: _updates(f"{path}.{n}", getattr(schedule, n), one) for n in lengths}
    return dataclasses.replace(schedule, **counts)


def groups(branches: Mapping[str, ResolvedBranch]) -> list[list[ResolvedBranch]]:
    """The branches that train together, in an order in which parents come first.

    Branches that fork at the same node and are equally long differ in arrays only, so they
    are replicates of one program.
    """
    together: dict[str, list[ResolvedBranch]] = {}
    for branch in branches.values():
        program = key(
            *(branch.parent, branch.start, branch.end, branch.model, branch.data, branch.averages),
            *(branch.batch_size, branch.accumulate, branch.data_start, branch.weights),
        )
        together.setdefault(program, []).append(branch)
    return list(together.values())
