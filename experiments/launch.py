"""What every run does: trains what is missing of some branches, and draws the report again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.cli.progress import progress
from experiments.estimate import estimate
from experiments.report.reading import read_config
from experiments.report.write import write_report
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import Experiment, describe_all
from wsdjax.config.json import to_json
from wsdjax.errors import ConfigError
from wsdjax.files import write_atomically, write_json
from wsdjax.trainer.loop import Diverged, Stopped, Trainer
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch


def launch(
    experiment: Experiment,
    store: BranchStore,
    branches: dict[str, ResolvedBranch],
    declared: bool = True,
) -> None:
    """Trains what is missing of `branches` in a workdir and draws its report.

    Args:
      experiment: how it is watched and kept.
      store: the workdir's.
      branches: what is to be trained, old and new.
      declared: whether the experiment declares these branches, and is to be the workdir's config.
    """
    described = describe_all(experiment.data_sets())
    watched: Any = {
        field: tree.every(experiment, field, described)
        for field in ("eval_every", "checkpoint_every", "snapshot_every")
        if getattr(experiment, field) is not None
    }
    trainer = Trainer(store, progress(), tensorboard=experiment.tensorboard, **watched)
    there = store.branches()
    store.check(branches)
    _check_siblings(store, branches)
    _check_compared(experiment, {**there, **branches})
    trainer.check(
        {n: branch for n, branch in branches.items() if n not in there or not store.is_done(n)}
    )
    with store.lock():
        store.register(branches)
        page = store.workdir / "report.html"
        missing = trainer.missing(list(branches))
        old = read_config(store.workdir) or {}
        config = to_json(experiment)
        # How a finished run would be watched is no news; what its report compares is.
        unchanged = not declared or old.get("compare") == config["compare"]
        if not missing and page.exists() and unchanged:
            print(
                f"Nothing is missing in {store.workdir}: all of {', '.join(branches)} are trained."
            )
            if declared and config["snapshot_every"] not in (None, old.get("snapshot_every")):
                print(
                    f"snapshot_every = {config['snapshot_every']}: what is trained keeps no more "
                    "snapshots; train in another --workdir to have them",
                    file=sys.stderr,
                )
            _write_status(store, _status(store))  # which a kill may have kept from being told
            return
        if declared:
            content = config if missing or not old else {**old, "compare": config["compare"]}
            write_json(store.workdir / "config.json", content)
        page.unlink(missing_ok=True)  # a page that is there is up to date
        for line in estimate({name: branches[name] for name in missing}):
            print(line, file=sys.stderr)
        _print_jumps(store, missing)
        _write_status(store, "running")
        status, code = "incomplete", 0
        try:
            with _signals() as asked:
                trainer.asked_to_stop = lambda: bool(asked)
                trainer.train(list(branches))
            print(write_report(store.workdir))
            status = _status(store)
        except Stopped as error:
            status, code = f"stopped: {error}", 130
            print(f"Stopped: {error}. The same command goes on from there.", file=sys.stderr)
        except Diverged as error:
            status, code = f"diverged: {error}", 1
            print(write_report(store.workdir))
            print(f"error: {error}", file=sys.stderr)
        finally:
            _write_status(store, status)
        if code:
            sys.exit(code)


def _check_compared(experiment: Experiment, branches: Mapping[str, ResolvedBranch]) -> None:
    for row, names in experiment.compare.items():
        for name in names:
            if name not in branches:
                raise ConfigError(
                    f"compare.{row}: there is no branch {name!r}; the branches are "
                    f"{', '.join(branches)}"
                )


def _check_siblings(store: BranchStore, branches: Mapping[str, ResolvedBranch]) -> None:
    """That no branch is trained which is not asked for: those that were begun together stay in
    one program, since alone they would not be the same to the bit."""
    there = store.names()
    for name in branches:
        if name not in there or store.is_done(name):
            continue
        if others := [each for each in store.siblings(name) if each not in branches]:
            raise ConfigError(
                f"{name} was begun in one program with {', '.join(others)}, which would be "
                "trained with it and is not declared here: declare it too, as it was, or use "
                "another workdir"
            )


def _print_jumps(store: BranchStore, names: Sequence[str]) -> None:
    branches = store.branches()
    for name in names:
        if jump := lineage.jump(branches[name], branches):
            before, after = jump
            print(
                f"{name}: the rate jumps from {before:.3e} to {after:.3e} at "
                f"{branches[name].parent}@{branches[name].start}",
                file=sys.stderr,
            )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list that this gives, for the trainer to save and
    stop; a second one acts at once."""
    asked: list[int] = []

    def note(number, _):
        asked.append(number)
        print("\nStopping after this update; once more stops at once.", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _status(store: BranchStore) -> str:
    return "done" if all(map(store.is_done, store.names())) else "incomplete"


def _write_status(store: BranchStore, status: str) -> None:
    """Over the old one where the disk has no room for another: a stop is told even so."""
    file, content = store.workdir / "status.json", json.dumps({"status": status}) + "\n"
    try:
        write_atomically(file, content)
    except OSError:
        if status == "running":
            raise
        with contextlib.suppress(OSError), open(file, "r+", opener=_no_link) as there:
            there.write(content)
            there.truncate()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
