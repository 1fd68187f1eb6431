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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.cli.progress import Display
from experiments.cli.results import here, plain
from experiments.probe import sampling
from experiments.probe.nodes import iterates, parse_node
from experiments.report.probes import MEASURES, results
from experiments.report.probes import measure as kinds
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
    flag("--split", default="train", choices=kinds.SPLITS, help="of the branch's data set")
    flag("--sample_seed", default=0, type=cli.number(int, 0), help="of the draw of the examples")
    flag("--k", default=1, type=cli.number(int, 1), help="eigenvalues, or components")
    flag("--tol", default=1e-3, type=cli.number(float, 0), help="of a residual, relative")
    points = cli.number(int, 2, 1_001)
    flag("--points", default=21, type=points, help="of an interpolation, or a side of a plane")
    return cli.call(parser, _main, argv, "from what is finished")


def _listed() -> dict[str, str]:
    def lines(along: bool) -> str:
        return "\n".join(
            f"    {name:<16} {str(kind.measure.__doc__).splitlines()[0].rstrip('.')}"
            for name, kind in MEASURES.items()
            if kind.along is along
        )

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
            of.measure(name, steps)
        except (Unmeasurable, probes.ProbeError, DamagedFile) as error:
            refused.append(f"--probe={name} at --node={given.node}: {error}")
    from experiments.report.write import write_report

    write_report(store.workdir)
    if refused:
        raise ConfigError("; ".join(refused))


_Seeds = Iterator[tuple[Any, Any]]


class _Loss:
    """The loss of a branch's model over a sample of its data, and what is measured of it."""

    def __init__(
        self, store: BranchStore, branch: str, sample: sampling.Sample, flags: dict[str, Any]
    ):
        self._store, self._branch, self._sample, self._flags = store, branch, sample, flags
        self._resolved = store.branches()[branch]
        self._loss_fn = models.by_layer(models.build(self._resolved.model)).loss

    def measure(self, name: str, steps: list[int]) -> None:
        """Measures what is missing, of each node or along all of them; what is damaged is told
        before anything is computed."""
        kind, fork = MEASURES[name], self._resolved.start
        given, tag = self._settings(kind)
        inside = steps[0] < fork < steps[-1]
        if kind.takes_fork and inside and fork in self._store.nodes(self._branch):
            steps = sorted({*steps, fork})
        asked = [(self._branch, steps)] if kind.along else [(self._owner(n), [n]) for n in steps]
        missing = []
        for owner, at in asked:
            ends = f"{at[0]}-{at[-1]}-{len(at)}nodes" if kind.along else f"{at[0]}"
            directory = self._store.directory(owner) / "probes"
            directory.mkdir(exist_ok=True)
            stem = "-".join(filter(None, (name, ends, tag)))
            path, there = results.place(directory, stem, at, given)
            if not there:
                missing.append((owner, at, path))
        for owner, at, path in missing:
            title = f"{name} of {owner}@{at[0]}"
            title += f":{at[-1]}, {len(at)} nodes" if kind.along else ""
            began, found = time.monotonic(), []
            of = self._path if kind.along else self._node
            for i, (params, one) in enumerate(of(kind, owner, at, given, path)):
                with contextlib.closing(Display(f"{title}, seed {i}")) as display:
                    found.append(kind.measure(one._replace(tell=display.show)))
                    if kind.sees_examples:
                        found[-1] |= sampling.loss(self._loss_fn, params, self._sample)
            self._write(path, kind, name, at, given, found)
            _report(title, kind, found, began)
            results.unlink_cells(path)

    def _path(self, _: Measure, owner: str, steps: list[int], given: Values, path: Path) -> _Seeds:
        """Of each seed the parameters at the end, and what a probe along nodes is given."""
        for i in range(self._resolved.seeds):
            along = iterates(self._store, owner, steps, i)
            cells = path.with_name(f"{path.stem}-seed{i}.cells")
            of = (steps, self._resolved.start, self._sample.batches, given)
            yield along[-1], kinds.Path(self._loss_fn, along, *of, file=cells)

    def _node(self, kind: Measure, owner: str, steps: list[int], given: Values, _: Path) -> _Seeds:
        """Of each seed the parameters, and what a probe of a node is given: Adam's moments too if
        it asks for them and there are any."""
        (step,) = steps
        whole = state.State(step, self._store.params(self._branch, step))
        if kind.takes_moments:
            with contextlib.suppress(MissingNode):
                whole = self._store.restore(self._branch, step)
        optimizer = self._store.branches()[owner].optimizer
        for i in range(self._resolved.seeds):
            one = state.replicate(whole, i)
            params = models.unstacked(one.params)
            of = (params, self._sample.batches, given)
            yield params, kinds.Node(self._loss_fn, *of, one.opt_state or None, optimizer)

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

    def _owner(self, step: int) -> str:
        """The branch of the lineage that made the node."""
        lineage = self._store.lineage(self._branch)
        return next(segment.branch for segment in lineage if step <= segment.stop)


def _report(title: str, kind: Measure, results: list[Values], began: float) -> None:
    """A line for each seed."""
    for i, result in enumerate(results):
        print(f"{title}, seed {i}: {kind.headline(result)}", flush=True)
    seconds = f"{time.monotonic() - began:.0f} s"
    if kind.sees_examples:
        losses = ", ".join(kinds.with_error(r["loss"], r["loss_error"]) for r in results)
        seconds = f"loss of the sample {losses}; {seconds}"
    print(f"    {seconds}", flush=True)


if __name__ == "__main__":
    cli.end(main())
