"""The tree of a workdir: look at it, fork any saved node of it, extend it.

python -m experiments.branch list --workdir=W
python -m experiments.branch show BRANCH --workdir=W
python -m experiments.branch diff BRANCH BRANCH --workdir=W
python -m experiments.branch fork BRANCH[@STEP] --workdir=W --name=NAME --steps=LENGTH
    [--schedule='Cooldown("sqrt")'] [--b2=0.95 --weight_decay=0 --clip_norm=1 ...]
    [--data_seed=7] [--data='Photos(noise=1.2)'] [--reset_optimizer]
python -m experiments.branch extend BRANCH --workdir=W --steps=LENGTH [--name=NAME]

fork and extend train what they add and draw the report again; typed again after a stop they
go on. Schedules and data sets are written as in a config file. Several processes are given the same
command, with --coordinator=HOST:PORT --process_count=N --process_id=I as for experiments.run;
--nocache too is as there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from experiments import cli
from experiments.cli.overrides import length, one_line
from experiments.cli.table import aligned
from wsdjax.config import Averages, Branch, DataConfig, Overrides, Schedule
from wsdjax.config import json as serial
from wsdjax.config.kinds import K
from wsdjax.errors import ConfigError
from wsdjax.wording import listed, near, shortened, shown

Given = argparse.Namespace
_HYPERPARAMETERS = [field.name for field in dataclasses.fields(Overrides)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, words=True, computes=True)
    flag, schedule = parser.add_argument, partial(_piece, Schedule)
    data, averages = partial(_piece, DataConfig), partial(_piece, Averages)
    flag("--workdir", help="the run's directory")
    flag("--name", help="fork, extend: the new branch's name")
    flag("--steps", type=length, help='its length; 350, "5 epochs", "3e9 tokens", "10%%"')
    flag("--schedule", type=schedule, default="Cooldown", help="fork: as in a config file")
    flag("--data", type=data, help="fork, extend: another data set, as in a config file")
    flag("--data_seed", type=int, help="a fresh stream of this seed")
    parser.switch("reset_optimizer", "fork, extend: Adam's moments from zero")
    flag("--averages", type=averages, help='fork, extend: "Averages(ema=0.99)", say')
    flag("--checkpoint_dir", help="as for experiments.run")
    for name in _HYPERPARAMETERS:
        flag(f"--{name}", type=float, help="fork, extend: in place of the parent's")
    return cli.call(parser, _branch, argv)


def _branch(given: Given) -> int | None:
    commands: dict[str, tuple[int, Callable, list[str]]] = {
        "list": (0, _list, []),
        "show": (1, _show, []),
        "diff": (2, _diff, []),
        "fork": (1, _fork, [*_GROWING, "schedule"]),
        "extend": (1, _extend, _GROWING),
    }
    name, *rest = given.words or [""]
    if name not in commands:
        raise ConfigError(f"{shown(name)} is no command; the commands are {', '.join(commands)}")
    count, command, taken = commands[name]
    if len(rest) != count:
        takes = ("no branch", "one branch", "two branches")[count]
        raise ConfigError(f"{name} takes {takes}, got {shortened(' '.join(rest), 100) or 'none'}")
    cli.refuse_unused(given, name, taken)

    from experiments.cli.together import together
    from wsdjax.branches.shared import open_store
    from wsdjax.branches.workdir import experiment_of
    from wsdjax.placement import processes

    with together(given) if taken else contextlib.nullcontext():
        workdir = processes.agreed(lambda: str(cli.run_directory(given.workdir)), "the workdir")
        store = open_store(workdir, given.checkpoint_dir)
        given.experiment = experiment_of(store.workdir)
        if given.experiment:
            store.keep = given.experiment.keep
        return command(store, given, *rest)


_GROWING = [
    *("coordinator", "process_count", "process_id", "cache"),
    *("name", "steps", "data", "data_seed", "reset_optimizer", "averages", "checkpoint_dir"),
    *_HYPERPARAMETERS,
]


def _list(store, given: Given) -> None:
    from experiments.report.drawing import drawing

    print("\n".join(drawing(store)))


def _show(store, given: Given, name: str) -> None:
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
    print(f"snapshots     {listed(map(str, store.snapshots(name)))}")
    print(f"held-out loss {loss or 'none yet'}")
    for path, both in record["differs_from_parent"].items():
        if not path.startswith("schedule."):  # told above, whole
            print(f"differs       {path}: {both['parent']} in {branch.parent}, {both['here']} here")


def _diff(store, given: Given, one: str, two: str) -> None:
    from experiments.report.drawing import state_of

    branches = store.branches()
    for name in (one, two):
        store.record(name)  # or an error that tells which there are
    a, b = (branches[name].to_json() for name in (one, two))
    rows = [(path, str(x), str(y)) for path, x, y in serial.differences(a, b) if path != "name"]
    a_loss, b_loss = (state_of(store, branches[name])[1] or "-" for name in (one, two))
    rows = [("", one, two), *rows, ("held-out loss", a_loss, b_loss)]
    shared = {s.branch for s in store.lineage(one)} & {s.branch for s in store.lineage(two)}
    print("\n".join(aligned(rows)))
    print(f"They share {', '.join(n for n in branches if n in shared) or 'no ancestor'}.")


def _fork(store, given: Given, node: str) -> int:
    if not given.name:
        raise ConfigError("fork: give the new branch a name with --name")
    return _add(store, given, given.name, node, given.schedule)


def _extend(store, given: Given, name: str) -> int:
    store.record(name)
    branch = store.branches()[name]
    if not branch.schedule.endless:
        raise ConfigError(
            f"extend goes on with a trunk's own schedule, and that of {name}, "
            f"{type(branch.schedule).__name__}, has ended: use fork, with a --schedule"
        )
    new = given.name or f"{name}-from-{branch.end}"
    return _add(store, given, new, f"{name}@{branch.end}", branch.schedule)


def _add(store, given: Given, name: str, node: str, schedule: Schedule) -> int:
    """Trains a new branch by the same code as the config's tree, and draws the report."""
    from experiments.launch import launch
    from wsdjax.branches.workdir import mesh_of
    from wsdjax.trainer import resolved_in

    if given.steps is None:
        raise ConfigError("give the new branch's length with --steps")
    branch = Branch(
        steps=given.steps,
        schedule=schedule,
        parent=node,
        optimizer=Overrides(**{each: getattr(given, each) for each in _HYPERPARAMETERS}),
        reset_optimizer=given.reset_optimizer,
        data=given.data,
        data_seed=given.data_seed,
        averages=given.averages,
    )
    if (experiment := given.experiment) is None:
        raise ConfigError(f"{store.workdir} has no config.json, which tells how it is watched")
    cli.check_writable("--checkpoint_dir", given.checkpoint_dir)
    resolved = resolved_in(store, name, branch, experiment)
    experiment = dataclasses.replace(experiment, mesh=mesh_of(store.workdir, resolved))
    return launch(experiment, store, {name: resolved}, declared=False)


def _piece(base: type[K], text: str) -> K:
    """A piece of a config, written as in a config file: ``Cooldown("sqrt", end_value=1e-4)``."""
    try:
        if len(text) > 1_000:  # and so no deeper than Python can read
            raise ValueError
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        positional = [ast.literal_eval(each) for each in call.args]
        named = {each.arg or "": ast.literal_eval(each.value) for each in call.keywords}
        name = call.func.id  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        example = "write it as in a config file, such as Cooldown or Cooldown('sqrt')"
        raise argparse.ArgumentTypeError(f"{shortened(text, 100)}: {example}") from None
    if name not in (kinds := base.kinds()):
        known = f"{near(name, kinds)}; there are {', '.join(kinds)}"
        raise argparse.ArgumentTypeError(f"no {shown(name)[1:-1]}{known}")
    try:
        return kinds[name](*positional, **named)
    except TypeError as error:
        raise argparse.ArgumentTypeError(one_line(error)) from None


if __name__ == "__main__":
    cli.end(main())
