"""What every run does: trains what is missing of some branches, and draws the report again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from experiments import report
from experiments.progress import progress
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import Experiment
from wsdjax.metrics import write_atomically
from wsdjax.train import Diverged, Trainer
from wsdjax.tree import Edge


def grow(
    experiment: Experiment, store: BranchStore, edges: dict[str, Edge], config: str | None = None
) -> None:
    """Trains what is missing of `edges` in a workdir and draws its report.

    Args:
      experiment: how it is watched and kept.
      store: the workdir's.
      edges: what is to be trained, old and new.
      config: the new content of `config.json`, if it changes.
    """
    trainer = Trainer(
        store,
        progress(),
        tree.every(experiment, "eval_every"),
        tree.every(experiment, "checkpoint_every"),
        experiment.tensorboard,
    )
    trainer.check(edges)
    with store.lock():
        store.register(edges)
        if config is not None:
            write_atomically(store.workdir / "config.json", config)
        page = store.workdir / "report.html"
        missing = trainer.missing(list(edges))
        if not missing and page.exists():
            print(f"Nothing is missing in {store.workdir}: all of {', '.join(edges)} are trained.")
            return
        page.unlink(missing_ok=True)  # a page that is there is up to date
        _print_jumps(store, missing)
        _write_status(store, "running")
        try:
            trainer.grow(list(edges))
        except Diverged as error:
            _write_status(store, f"diverged: {error}")
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except BaseException:
            _write_status(store, "incomplete")
            raise
        print(report.write(store.workdir))
        _write_status(store, "done")


def _print_jumps(store: BranchStore, names: Sequence[str]) -> None:
    edges = store.edges()
    for name in names:
        if jump := tree.jump(edges[name], edges):
            before, after = jump
            print(
                f"{name}: the rate jumps from {before:.3e} to {after:.3e} at "
                f"{edges[name].parent}@{edges[name].start}",
                file=sys.stderr,
            )


def _write_status(store: BranchStore, status: str) -> None:
    branches = {
        name: {"start": edge.start, "end": edge.end, "saved": store.steps(name)}
        for name, edge in store.edges().items()
    }
    content = json.dumps({"status": status, "branches": branches}, indent=2) + "\n"
    write_atomically(store.workdir / "status.json", content)
