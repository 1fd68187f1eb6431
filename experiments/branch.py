"""The tree of a workdir: look at it, fork any saved node of it, extend it.

python -m experiments.branch list --workdir=W
python -m experiments.branch show BRANCH --workdir=W
python -m experiments.branch diff BRANCH BRANCH --workdir=W
python -m experiments.branch fork BRANCH[@STEP] --workdir=W --name=NAME --steps=LENGTH
    [--schedule='Cooldown("sqrt")'] [--b2=0.95 --weight_decay=0 --clip_norm=1 ...]
    [--data_seed=7] [--data='Photos(noise=1.2)'] [--reset_optimizer]
python -m experiments.branch extend BRANCH --workdir=W --steps=LENGTH [--name=NAME]

fork and extend train what they add and draw the report again; typed again after a stop they
go on. Schedules and data sets are written as in a config file.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path

from absl import flags

from experiments import cli
from wsdjax import config
from wsdjax.config import Averages, Branch, DataConfig, Overrides, Schedule
from wsdjax.config import json as serial
from wsdjax.config.kinds import K
from wsdjax.errors import ConfigError
from wsdjax.wording import near, shortened, shown

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")
_NAME = flags.DEFINE_string("name", None, "fork, extend: the new branch's name.")
_STEPS = flags.DEFINE_string(
    "steps", None, 'fork, extend: its length; 350, "5 epochs", "3e9 tokens", "10%".'
)
_SCHEDULE = flags.DEFINE_string("schedule", "Cooldown", "fork: its schedule, as in a config file.")
_DATA = flags.DEFINE_string("data", None, "fork, extend: another data set, as in a config file.")
_DATA_SEED = flags.DEFINE_integer("data_seed", None, "fork, extend: a fresh stream of this seed.")
_RESET = flags.DEFINE_bool("reset_optimizer", False, "fork, extend: Adam's moments from zero.")
_AVERAGES = flags.DEFINE_string("averages", None, 'fork, extend: "Averages(ema=0.99)", say.')
_CHECKPOINT_DIR = flags.DEFINE_string("checkpoint_dir", None, "As for experiments.run.")
for _field in dataclasses.fields(Overrides):
    flags.DEFINE_float(_field.name, None, "fork, extend: in place of the parent's.")


def main(arguments: list[str]) -> None:
    commands: dict[str, tuple[int, Callable]] = {
        "list": (0, _list),
        "show": (1, _show),
        "diff": (2, _diff),
        "fork": (1, _fork),
        "extend": (1, _extend),
    }
    name, *rest = arguments or [""]
    if name not in commands:
        raise ConfigError(f"{shown(name)} is no command; the commands are {', '.join(commands)}")
    count, command = commands[name]
    if len(rest) != count:
        takes = ("no branch", "one branch", "two branches")[count]
        given = shortened(" ".join(rest), 100) or "none"
        raise ConfigError(f"{name} takes {takes}, got {given}")
    if not _WORKDIR.value:
        raise ConfigError(f"{name}: give the run's directory, --workdir=runs/NAME")
    workdir = Path(_WORKDIR.value)
    if not (workdir / "branches").is_dir():
        raise ConfigError(f"--workdir={workdir}: no run is there (it has no branches/)")

    from experiments.report.reading import experiment_of
    from wsdjax.branches import BranchStore

    experiment = experiment_of(workdir)
    keep = {} if experiment is None else {"keep": experiment.keep}
    _refuse_unused(name)
    command(BranchStore(workdir, _CHECKPOINT_DIR.value, **keep), *rest)


def _refuse_unused(command: str) -> None:
    """A flag that a command takes no notice of is a mistake."""
    growing = [_NAME, _STEPS, _SCHEDULE, _DATA, _DATA_SEED, _RESET, _AVERAGES, _CHECKPOINT_DIR]
    names = [flag.name for flag in growing] + [f.name for f in dataclasses.fields(Overrides)]
    used = {"fork": names, "extend": [name for name in names if name != _SCHEDULE.name]}
    for name in names:
        if flags.FLAGS[name].present and name not in used.get(command, []):
            raise ConfigError(f"{command} takes no --{name}")


# Looking.


def _list(store) -> None:
    from experiments.report.drawing import drawing

    print("\n".join(drawing(store)))


def _show(store, name: str) -> None:
    from experiments.report.drawing import state_of, summary

    record, branches = store.record(name), store.branches()
    branch = branches[name]
    status, loss = state_of(store, branch)
    lineage = " > ".join(f"{s.branch}@{s.stop:,}" for s in store.lineage(name))
    print(f"{name}: updates {branch.start + 1:,} to {branch.end:,}, {status}")
    print(f"lineage       {lineage}")
    before = f", after {summary(branches[branch.parent].schedule)}" if branch.parent else ""
    print(f"schedule      {summary(branch.schedule)}{before}")
    print(f"optimizer     {summary(branch.optimizer)}")
    print(f"model         {summary(branch.model)}")
    print(f"data          {summary(branch.data)}, batch {branch.batch_size}, {branch.seeds} seeds")
    if branch.weights and not branch.parent:
        print(f"weights       {branch.weights}")
    for what, how in record.get("at_the_fork", {}).items():
        print(f"at the fork   {what}: {how}")
    print(f"checkpoints   {', '.join(map(str, store.steps(name))) or 'none yet'}")
    print(f"held-out loss {loss or 'none yet'}")
    for path, both in record["differs_from_parent"].items():
        if path.startswith("schedule."):
            continue  # told above, whole
        print(f"differs       {path}: {both['parent']} in {branch.parent}, {both['here']} here")


def _diff(store, one: str, two: str) -> None:
    from experiments.report.drawing import state_of

    branches = store.branches()
    for name in (one, two):
        store.record(name)  # or an error that tells which there are
    rows: list[tuple[str, ...]] = [("", one, two)]
    a, b = (branches[name].to_json() for name in (one, two))
    rows += [(path, str(x), str(y)) for path, x, y in serial.differences(a, b) if path != "name"]
    rows.append(
        ("held-out loss", *(state_of(store, branches[name])[1] or "-" for name in (one, two)))
    )
    shared = {s.branch for s in store.lineage(one)} & {s.branch for s in store.lineage(two)}
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    print(f"They share {', '.join(n for n in branches if n in shared) or 'no ancestor'}.")


# Adding.


def _fork(store, node: str) -> None:
    if not _NAME.value:
        raise ConfigError("fork: give the new branch a name with --name")
    _add(store, _NAME.value, node, parse(_SCHEDULE.value, "--schedule", Schedule))


def _extend(store, name: str) -> None:
    store.record(name)
    branch = store.branches()[name]
    if not branch.schedule.endless:
        raise ConfigError(
            f"extend goes on with a trunk's own schedule, and that of {name}, "
            f"{type(branch.schedule).__name__}, has ended: use fork, with a --schedule"
        )
    new = _NAME.value or f"{name}-from-{branch.end}"
    _add(store, new, f"{name}@{branch.end}", branch.schedule)


def _add(store, name: str, node: str, schedule: Schedule) -> None:
    """Trains a new branch by the same code as the config's tree, and draws the report."""
    from experiments.launch import launch
    from experiments.report.reading import experiment_of
    from wsdjax import tree

    if _STEPS.value is None:
        raise ConfigError("give the new branch's length with --steps")
    overrides = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Overrides)}
    branch = Branch(
        steps=cli.length(_STEPS.value),
        schedule=schedule,
        parent=node,
        optimizer=Overrides(**overrides),
        reset_optimizer=_RESET.value,
        data=_piece(_DATA, DataConfig),
        data_seed=_DATA_SEED.value,
        averages=_piece(_AVERAGES, Averages),
    )
    config.validate_branch(name, branch)
    parent, branches = node.partition("@")[0], store.branches()
    store.record(parent)
    experiment = experiment_of(store.workdir)
    if experiment is None:
        raise ConfigError(f"{store.workdir} has no config.json, which tells how it is watched")
    if _CHECKPOINT_DIR.value and "://" not in _CHECKPOINT_DIR.value:
        cli.check_writable("--checkpoint_dir", Path(_CHECKPOINT_DIR.value).expanduser())
    sets = [*experiment.data_sets(), branches[parent].data, branch.data]
    described = config.describe_all(sets)
    length = tree.run_length(experiment, described)
    resolved = tree.resolve_branch(name, branch, branches[parent], branches, length, described)
    launch(experiment, store, {name: resolved}, declared=False)


def _piece(flag: flags.FlagHolder, base: type[K]) -> K | None:
    return None if flag.value is None else parse(flag.value, f"--{flag.name}", base)


def parse(text: str, flag: str, base: type[K]) -> K:
    """A piece of a config, written as in a config file: ``Cooldown("sqrt", end_value=1e-4)``.

    Raises:
      ConfigError: for anything else.
    """
    given = f"{flag}={shortened(text, 100)}"
    example = "write it as in a config file, such as Cooldown or Cooldown('sqrt')"
    if len(text) > 1_000:  # and so no deeper than Python can read
        raise ConfigError(f"{given}: {example}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        positional = [ast.literal_eval(each) for each in call.args]
        named = {each.arg or "": ast.literal_eval(each.value) for each in call.keywords}
        name = call.func.id  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        raise ConfigError(f"{given}: {example}") from None
    kinds = base.kinds()
    if name not in kinds:
        raise ConfigError(
            f"{given}: no {shown(name)[1:-1]}{near(name, kinds)}; there are {', '.join(kinds)}"
        )
    kind = kinds[name]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    has = f"it has {', '.join(fields) or 'no fields'}"
    if len(positional) > len(fields):
        raise ConfigError(f"{given}: {name} takes {len(fields)} values at most; {has}")
    values = dict(zip(fields, positional, strict=False))
    for field, value in named.items():
        if field not in fields:
            wrong = f"{shown(field)}{near(field, fields)}"
            raise ConfigError(f"{given}: {name} has no field {wrong}; {has}")
        if field in values:
            raise ConfigError(f"{given}: {field} of {name} is given twice")
        values[field] = value
    for field, f in fields.items():
        if field not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{given}: {name} needs its {field}, as {name}({field}=...)")
    return kind(**values)


if __name__ == "__main__":
    cli.run(main, positional=True)
