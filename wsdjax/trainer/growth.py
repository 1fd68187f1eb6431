"""How a workdir grows by branches: from a command, a config or a session of Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wsdjax import tree
from wsdjax.branches import BranchStore, workdir
from wsdjax.config import Branch, Experiment, describe_all, validate_branch
from wsdjax.config.json import to_json
from wsdjax.errors import ConfigError
from wsdjax.files import write_json
from wsdjax.trainer.loop import Diverged, Stopped
from wsdjax.trainer.trainer import Trainer
from wsdjax.trainer.watch import Progress, Watch
from wsdjax.tree.branch import ResolvedBranch


def grow(
    store: BranchStore,
    branches: Mapping[str, ResolvedBranch],
    watch: Watch,
    declares: Experiment | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    planned: Callable[[list[str]], None] = lambda missing: None,
    draw: Callable[[Path], None] = lambda workdir: None,
) -> list[str]:
    """Trains whatever is missing of some branches; returns which they were.

    Args:
      store: the workdir's.
      branches: what is to be trained, old and new.
      watch: how it is watched.
      declares: the experiment that declares these branches, if it is to be the workdir's config.
      asked_to_stop: asked after every update.
      planned: told what is missing, before it is trained.
      draw: draws the report, of a workdir whose branches or comparisons are others than before.
        One that is there is deleted first, so that none is out of date.

    Raises:
      ConfigError, MissingNode: for branches that cannot be; nothing is written then.
      Diverged, Stopped: as `Trainer.train`; the workdir's status tells.
    """
    trainer = Trainer(store, watch, asked_to_stop)
    there, names = store.branches(), list(branches)
    store.check(branches)
    _check_siblings(store, branches)
    trainer.check(
        {n: branch for n, branch in branches.items() if n not in there or not store.is_done(n)}
    )
    with store.lock():
        store.register(branches)
        missing = trainer.missing(names)
        page = workdir.report_of(store.workdir)
        old = workdir.read_config(store.workdir) or {}
        config = to_json(declares) if declares else old
        # How a finished run would be watched is no news; what its report compares is.
        if not missing and page.exists() and old.get("compare") == config.get("compare"):
            _write_status(store)  # which a kill may have kept from being told
            return []
        if declares:
            content = config if missing or not old else {**old, "compare": config["compare"]}
            write_json(store.workdir / "config.json", content)
        page.unlink(missing_ok=True)
        planned(missing)
        _write_status(store, "running")
        status: str | None = "incomplete"
        try:
            trainer.train(names)
            draw(store.workdir)
            status = None
        except Stopped as error:
            status = f"stopped: {error}"
            raise
        except Diverged as error:
            status = f"diverged: {error}"
            draw(store.workdir)
            raise
        finally:
            _write_status(store, status)
    return missing


def fork(
    store: BranchStore,
    name: str,
    branch: Branch,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> ResolvedBranch:
    """Adds a branch to a workdir, or goes on with it, and trains it to its end.

    Args:
      store: the workdir's.
      name: the new branch's.
      branch: what it is; its `parent` is in the workdir.
      watch: how it is watched; as the workdir's config says if None.
      progress: told of every update, where `watch` is None.

    Raises:
      ConfigError, MissingNode: for a branch that cannot be; nothing is written then.
      Diverged: at a loss or an update that is not finite.
    """
    experiment = workdir.experiment_of(store.workdir)
    resolved = resolved_in(store, name, branch, experiment)
    if watch is None:
        watch = Watch.of(experiment, progress) if experiment else Watch()
    grow(store, {name: resolved}, watch)
    return resolved


def resolved_in(
    store: BranchStore, name: str, branch: Branch, experiment: Experiment | None
) -> ResolvedBranch:
    """A branch of a workdir, whose experiment says what its lengths in percent are of.

    Raises:
      ConfigError, MissingNode: for one that cannot be.
    """
    validate_branch(name, branch)
    branches, parent = store.branches(), branch.parent.partition("@")[0]
    store.record(parent)  # or an error that tells which there are
    sets = experiment.data_sets() if experiment else []
    described = describe_all([*sets, branch.data, branches[parent].data])
    length = tree.run_length(experiment, described) if experiment else None
    return tree.resolve_branch(name, branch, branches[parent], branches, length, described)


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


def _write_status(store: BranchStore, status: str | None = None) -> None:
    """By default whether all is done."""
    done = "done" if all(map(store.is_done, store.names())) else "incomplete"
    workdir.write_status(store.workdir, status or done)
