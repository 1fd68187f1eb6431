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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from wsdjax import config, serial
from wsdjax.config import Branch, ConfigError, Overrides

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
flags.mark_flag_as_required("workdir")


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
        raise ConfigError(f"{name!r} is no command; the commands are {', '.join(commands)}")
    count, command = commands[name]
    if len(rest) != count:
        raise ConfigError(f"{name} takes {count} branch names, got {' '.join(rest) or 'none'}")
    workdir = Path(_WORKDIR.value or "")
    if not (workdir / "branches").is_dir():
        raise ConfigError(f"--workdir={workdir}: no run is there (it has no branches/)")

    from experiments.reading import experiment_of
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
    print("\n".join(drawing(store)))


def drawing(store) -> list[str]:
    """A line for each branch, indented along the tree: steps, schedule, status, final loss."""
    edges = store.edges()

    def lines(parent: str, indent: str) -> Iterator[tuple[str, ...]]:
        children = [edge for edge in edges.values() if edge.parent == parent]
        for edge in children:
            last = edge is children[-1]
            fork, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            mark = fork if parent else ""
            steps = f"{edge.start:,} → {edge.end:,}"
            yield (indent + mark + edge.name, steps, summary(edge.schedule), *_state(store, edge))
            yield from lines(edge.name, indent + below if parent else "")

    rows = [("branch", "updates", "schedule", "status", "held-out loss"), *lines("", "")]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def summary(value: Any) -> str:
    """A dataclass as it is written in a config: its first field, and those that are not as by
    default."""
    fields = dataclasses.fields(value)
    named = [f for f in fields if f is fields[0] or getattr(value, f.name) != f.default]
    shown = [f"{f.name}={getattr(value, f.name)!r}" for f in named]
    return f"{type(value).__name__}({', '.join(shown)})"


def _state(store, edge) -> tuple[str, str]:
    """(status, final held-out loss)."""
    saved = store.steps(edge.name)
    status = f"at {saved[-1]:,}" if saved else "not begun"
    if edge.end in saved:
        status = "done"
    evaluations = store.metrics(edge.name).evaluations
    if not evaluations or evaluations["step"][-1] <= edge.start:
        return status, ""
    return status, f"{evaluations['eval_loss'][-1].mean():.4f}"


def _show(store, name: str) -> None:
    record = store.record(name)
    edge = store.edges()[name]
    status, loss = _state(store, edge)
    lineage = " > ".join(f"{s.branch}@{s.stop:,}" for s in store.lineage(name))
    print(f"{name}: updates {edge.start + 1:,} to {edge.end:,}, {status}")
    print(f"lineage       {lineage}")
    print(f"schedule      {summary(edge.schedule)}")
    print(f"optimizer     {summary(edge.optimizer)}")
    print(f"model         {summary(edge.model)}")
    print(f"data          {summary(edge.data)}, batch {edge.batch_size}, {edge.seeds} seeds")
    for what, how in record.get("at_the_fork", {}).items():
        print(f"at the fork   {what}: {how}")
    print(f"checkpoints   {', '.join(map(str, store.steps(name))) or 'none yet'}")
    print(f"held-out loss {loss or 'none yet'}")
    for path, both in record["differs_from_parent"].items():
        print(f"differs       {path}: {both['parent']} in {edge.parent}, {both['here']} here")


def _diff(store, one: str, two: str) -> None:
    edges = store.edges()
    for name in (one, two):
        store.record(name)  # or an error that tells which there are
    rows: list[tuple[str, ...]] = [("", one, two)]
    a, b = (edges[name].to_json() for name in (one, two))
    rows += [(path, str(x), str(y)) for path, x, y in serial.differences(a, b) if path != "name"]
    rows.append(("held-out loss", *(_state(store, edges[name])[1] or "-" for name in (one, two))))
    shared = {s.branch for s in store.lineage(one)} & {s.branch for s in store.lineage(two)}
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    print(f"They share {', '.join(n for n in edges if n in shared) or 'no ancestor'}.")


# Adding.


def _fork(store, node: str) -> None:
    if not _NAME.value:
        raise ConfigError("fork: give the new branch a name with --name")
    _add(store, _NAME.value, node, parse(_SCHEDULE.value, "--schedule"))


def _extend(store, name: str) -> None:
    store.record(name)
    edge = store.edges()[name]
    new = _NAME.value or f"{name}-from-{edge.end}"
    _add(store, new, f"{name}@{edge.end}", edge.schedule)


def _add(store, name: str, node: str, schedule: Any) -> None:
    """Trains a new branch by the same code as the config's tree, and draws the report."""
    from experiments.launch import launch
    from experiments.reading import experiment_of
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
        data=parse(_DATA.value, "--data"),
        data_seed=_DATA_SEED.value,
        averages=parse(_AVERAGES.value, "--averages"),
    )
    config.validate_branch(name, branch)
    parent, edges = node.partition("@")[0], store.edges()
    store.record(parent)
    experiment = experiment_of(store.workdir)
    if experiment is None:
        raise ConfigError(f"{store.workdir} has no config.json, which tells how it is watched")
    length = tree.run_length(experiment)
    edge = tree.resolve_branch(name, branch, edges[parent], edges, length)
    launch(experiment, store, {name: edge}, declared=False)


def parse(text: str | None, flag: str) -> Any:
    """A piece of a config, written as in a config file: ``Cooldown("sqrt", end_value=1e-4)``.

    Raises:
      ConfigError: for anything else.
    """
    if text is None:
        return None
    allowed = f"{flag}={text}: write it as in a config file, such as Cooldown or Cooldown('sqrt')"
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        positional = [ast.literal_eval(each) for each in call.args]
        named = {each.arg or "": ast.literal_eval(each.value) for each in call.keywords}
        kind = config.TYPES[call.func.id]  # type: ignore[attr-defined]
        return kind(*positional, **named)
    except (SyntaxError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(allowed) from error
    except TypeError as error:
        raise ConfigError(f"{flag}={text}: {error}") from error


if __name__ == "__main__":
    cli.run(main, positional=True)
