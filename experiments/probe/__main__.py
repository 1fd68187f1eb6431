"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--sample_seed=0] [--k=1] [--tol=1e-3] [--points=21]
python -m experiments.probe drop --workdir=W RESULT...

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains); a
range takes all there are from one node to another, or every EVERY-th step, along the branch's
lineage. The loss is the mean over a sample of the branch's data, drawn without replacement and
spread over the split; each result has the loss of its sample and the sampling error of that.

At each node:
{at_nodes}
Along a range:
{along}

Each result is a small JSON file under branches/BRANCH/probes/, named by its node and settings, with
a hash of them since other nodes can be as many with the same ends, and other values print alike; it
is not computed again, and a plane goes on from the cell at which it was stopped. A node is kept
with the branch that made it. What is measured at a node depends on that node alone, not on what
was measured before. At the end the report is drawn again. `drop` deletes results, each named
BRANCH/FILE, as in the report, or by its path, and draws the report without them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.cli.progress import Display
from experiments.cli.results import here, plain
from experiments.probe import sampling
from experiments.probe.nodes import iterates, parse_node
from experiments.report.probes import MEASURES, measure, results
from experiments.report.probes.measure import Measure, Unmeasurable, Values
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, write_json
from wsdjax.training import state
from wsdjax.wording import shortened


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(str(__doc__).format(**_listed()), words=True)
    flag = parser.add_argument
    flag("--workdir", help="the run's directory")
    flag("--node", help="BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    flag("--probe", type=cli.names, help="which probes, with commas between them")
    flag("--examples", type=cli.number(int, 1), help="in the loss; 1,000 if there are so many")
    flag("--split", default="train", choices=measure.SPLITS, help="of the branch's data set")
    flag("--sample_seed", default=0, type=cli.number(int, 0), help="of the draw of the examples")
    flag("--k", default=1, type=cli.number(int, 1), help="eigenvalues, or components")
    flag("--tol", default=1e-3, type=cli.number(float, 0), help="of a residual, relative")
    points = cli.number(int, 2, 1_001)
    flag("--points", default=21, type=points, help="of an interpolation, or a side of a plane")
    return cli.call(parser, _main, argv, "from what is finished")


def _listed() -> dict[str, str]:
    def lines(along: bool) -> str:
        found = {name: kind.about for name, kind in MEASURES.items() if kind.along is along}
        return "\n".join(f"    {name:<16} {about}" for name, about in found.items())

    return {"at_nodes": lines(False), "along": lines(True)}


def _main(given: argparse.Namespace) -> None:
    workdir = cli.run_directory(given)
    if given.words:
        _drop(workdir, given, *given.words)
    else:
        _probe(BranchStore(workdir), given)


def _drop(workdir: Path, given: argparse.Namespace, command: str, *names: str) -> None:
    if command != "drop":
        said = shortened(command)
        raise ConfigError(f"unexpected argument {said!r}; flags begin with --, the command is drop")
    cli.refuse_unused(given, "drop", ())
    if not names:
        raise ConfigError("drop: name the results, as BRANCH/FILE")
    for path in results.drop(workdir, names):
        print(f"{path} is deleted")
    from experiments.report.write import write_report

    write_report(workdir)


def _probe(store: BranchStore, given: argparse.Namespace) -> None:
    for flag in ("node", "probe"):
        if not getattr(given, flag):
            raise ConfigError(f"give --{flag}; --help tells what it is")
    for name in given.probe:
        if name not in MEASURES:
            known = ", ".join(MEASURES)
            raise ConfigError(f"--probe={shortened(name)}: the probes are {known}")
    branch, steps = parse_node(given.node, store)
    if len(steps) < 2 and (along := [name for name in given.probe if MEASURES[name].along]):
        raise ConfigError(f"--probe={along[0]} goes along nodes: give a range of two or more")
    split = getattr(data.load(store.branches()[branch].data), given.split)
    sample = sampling.draw(split, given.split, given.examples, given.sample_seed)
    of = _Loss(store, branch, sample, vars(given))
    if len(steps) > 1:
        print(f"{branch} has the nodes {', '.join(map(str, steps))} there")
    refused = []
    for name in given.probe:
        try:
            (of.along if MEASURES[name].along else of.at_nodes)(name, steps)
        except (Unmeasurable, probes.ProbeError, DamagedFile) as error:
            refused.append(f"--probe={name} at --node={given.node}: {error}")
    from experiments.report.write import write_report

    write_report(store.workdir)
    if refused:
        raise ConfigError("; ".join(refused))


class _Loss:
    """The loss of a branch's model over a sample of its data, and what is measured of it."""

    def __init__(
        self, store: BranchStore, branch: str, sample: sampling.Sample, flags: dict[str, Any]
    ):
        self._store, self._branch, self._sample, self._flags = store, branch, sample, flags
        self._resolved = store.branches()[branch]
        self._loss_fn = models.by_layer(models.build(self._resolved.model)).loss

    def at_nodes(self, name: str, steps: list[int]) -> None:
        kind = MEASURES[name]
        given, tag = self._settings(kind)
        missing = []  # looked for first: what is damaged is told before anything is computed
        for step in steps:
            directory = self._directory(owner := self._owner(step))
            path, there = results.place(directory, f"{name}-{step}-{tag}", [step], given)
            if not there:
                missing.append((step, owner, path))
        for step, owner, path in missing:
            began, found = time.monotonic(), []
            title = f"{name} of {owner}@{step}"
            for i, each in enumerate(self._replicates(step, kind.takes_moments)):
                with contextlib.closing(Display(f"{title}, seed {i}")) as display:
                    node = measure.Node(
                        self._loss_fn,
                        each.params,
                        self._sample.batches,
                        given,
                        display.show,
                        each.opt_state or None,
                        self._store.branches()[owner].optimizer,
                    )
                    found.append(kind.measure(node) | self._sampled(kind, each.params))
            self._write(path, kind, name, [step], given, found)
            _report(title, kind, found, began)

    def along(self, name: str, steps: list[int]) -> None:
        kind, fork = MEASURES[name], self._resolved.start
        given, tag = self._settings(kind)
        inside = steps[0] < fork < steps[-1]
        if kind.takes_fork and inside and fork in self._store.nodes(self._branch):
            steps = sorted({*steps, fork})
        stem = f"{name}-{steps[0]}-{steps[-1]}-{len(steps)}nodes" + (f"-{tag}" if tag else "")
        path, there = results.place(self._directory(self._branch), stem, steps, given)
        if there:
            return
        title = f"{name} of {self._branch}@{steps[0]}:{steps[-1]}, {len(steps)} nodes"
        began, found = time.monotonic(), []
        for i in range(self._resolved.seeds):
            with contextlib.closing(Display(f"{title}, seed {i}")) as display:
                each = measure.Path(
                    self._loss_fn,
                    iterates(self._store, self._branch, steps, i),
                    steps,
                    fork,
                    self._sample.batches,
                    given,
                    display.show,
                    path.with_name(f"{path.stem}-seed{i}.cells"),
                )
                found.append(kind.measure(each) | self._sampled(kind, each.iterates[-1]))
        self._write(path, kind, name, steps, given, found)
        _report(title, kind, found, began)
        results.unlink_cells(path)

    def _settings(self, kind: Measure) -> tuple[Values, str]:
        """What a result depends on, and as much of that as flags set as part of a file's name,
        with the branch whose data are other than its root's."""
        facts, root = self._sample.facts, self._store.lineage(self._branch)[0].branch
        given: Values = {name: self._flags[name] for name in kind.uses}
        tags = [f"{name}{given[name]:g}" for name in kind.uses]
        if kind.sees_examples:
            loss = {"examples": facts["examples"], "split": facts["split"]}
            given = {**loss, "sample_seed": facts["seed"], **given}
            tags = [f"{facts['split']}{facts['examples']}", *tags]
            if self._resolved.data != self._store.branches()[root].data:
                given["data"] = self._branch
                tags.append(self._branch)
            tags.append(f"sample{facts['seed']}")
        return {**given, **kind.fixed}, "-".join(tags)

    def _sampled(self, kind: Measure, params: Any) -> Values:
        if not kind.sees_examples:
            return {}
        return sampling.loss(self._loss_fn, params, self._sample)

    def _write(
        self, path: Path, kind: Measure, name: str, steps: list[int], given: Values, results: list
    ) -> None:
        content = {
            "probe": name,
            "steps": steps,
            "settings": given,
            "sample": self._sample.facts if kind.sees_examples else None,
            "results": results,
            **here(),
        }
        del content["date"]  # so that a probe that was killed writes the same
        write_json(path, content, default=plain)

    def _directory(self, branch: str) -> Path:
        directory = self._store.directory(branch) / "probes"
        directory.mkdir(exist_ok=True)
        return directory

    def _owner(self, step: int) -> str:
        """The branch of the lineage that made the node."""
        lineage = self._store.lineage(self._branch)
        return next(segment.branch for segment in lineage if step <= segment.stop)

    def _replicates(self, step: int, with_moments: bool) -> Iterator[state.State]:
        """Each seed's state; of parameters alone if no moments are asked for, or there are none."""
        whole = state.State(step, self._store.params(self._branch, step))
        if with_moments:
            with contextlib.suppress(MissingNode):
                whole = self._store.restore(self._branch, step)
        for i in range(self._resolved.seeds):
            one = state.replicate(whole, i)
            yield dataclasses.replace(one, params=models.unstacked(one.params))


def _report(title: str, kind: Measure, results: list[Values], began: float) -> None:
    """A line for each seed."""
    for i, result in enumerate(results):
        print(f"{title}, seed {i}: {kind.headline(result)}", flush=True)
    seconds = f"{time.monotonic() - began:.0f} s"
    if kind.sees_examples:
        losses = ", ".join(measure.with_error(r["loss"], r["loss_error"]) for r in results)
        seconds = f"loss of the sample {losses}; {seconds}"
    print(f"    {seconds}", flush=True)


if __name__ == "__main__":
    cli.end(main())
