"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--sample_seed=0] [--k=1] [--tol=1e-3] [--points=21]
    [--at_a_time=N] [--nocache]
    [--coordinator=HOST:PORT --process_count=N --process_id=I]
python -m experiments.probe drop --workdir=W RESULT...

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains). One
that was not kept is made again, exactly, by training to it from the nearest checkpoint;
"trunk@80%" is at 80% of the `length` of a config that has one. A range takes all there are from one
node to another, or every EVERY-th step, along the branch's lineage. The loss is the mean over a
sample of the branch's data, drawn without replacement and spread over the split; each result has
the loss of its sample and the sampling error of that.

At each node:
{at_nodes}
Along a range:
{along}

Each result is a small JSON file under branches/BRANCH/probes/, named by its node and settings, with
a hash of them since other nodes can be as many with the same ends, and other values print alike; it
is not computed again, and a plane goes on from the cell at which it was stopped. A node is kept
with the branch that made it. What is measured at a node depends on that node alone, not on what was
measured before. Several devices share parameters and examples as in training, and several processes
are given the same command, as for experiments.run, of which --nocache too is told; there a plane
that was stopped begins anew. At the end the report is drawn again. `drop` deletes results, each
named BRANCH/FILE, as in the report, or by its path, and draws the report without them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import cli
from experiments.cli.progress import Display
from experiments.cli.results import plain
from experiments.cli.together import together
from experiments.probe import sampling
from experiments.probe.nodes import iterates, make_again, of_one, parse_node
from experiments.report import report
from experiments.report.probes import MEASURES, results
from experiments.report.probes.measure import SPLITS, Measure, Nodes, Values, with_error
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore, MissingNode, provenance, workdir
from wsdjax.branches.shared import open_store
from wsdjax.config import ModelConfig
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, write_json
from wsdjax.placement import mesh, processes
from wsdjax.trainer import replay
from wsdjax.training import optim, state
from wsdjax.wording import shortened


def main(argv: Sequence[str] | None = None) -> int:
    at_nodes, along = (
        "\n".join(
            f"    {name:<16} {str(kind.measure.__doc__).splitlines()[0].rstrip('.')}"
            for name, kind in MEASURES.items()
            if kind.along is along
        )
        for along in (False, True)
    )
    text = str(__doc__).format(at_nodes=at_nodes, along=along)
    parser = cli.Parser(text, words=True, computes=True)
    flag = parser.add_argument
    flag("--workdir", help="the run's directory")
    flag("--node", help="BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    flag("--probe", type=cli.names, help="which probes, with commas between them")
    flag("--examples", type=cli.number(int, 1), help="in the loss; 1,000 if there are so many")
    flag("--split", default="train", choices=SPLITS, help="of the branch's data set")
    flag("--sample_seed", default=0, type=cli.number(int, 0), help="of the draw of the examples")
    at_a_time = cli.number(int, 1)
    flag("--at_a_time", type=at_a_time, help="examples in memory at a time; as many as fit")
    flag("--k", default=1, type=cli.number(int, 1), help="eigenvalues, or components")
    flag("--tol", default=1e-3, type=cli.number(float, 0), help="of a residual, relative")
    points = cli.number(int, 2, 1_001)
    flag("--points", default=21, type=points, help="of an interpolation, or a side of a plane")
    return cli.call(parser, _main, argv, "from what is finished")


def _main(given: argparse.Namespace) -> None:
    if not given.words:
        with together(given):
            found = processes.agreed(lambda: str(cli.run_directory(given.workdir)), "the workdir")
            _probe(open_store(found), given)
        return
    store = BranchStore(cli.run_directory(given.workdir))
    command, *names = given.words
    if command != "drop":
        said = shortened(command)
        raise ConfigError(f"unexpected argument {said!r}; flags begin with --, the command is drop")
    cli.refuse_unused(given, "drop", ())
    if not names:
        raise ConfigError("drop: name the results, as BRANCH/FILE")
    for path in results.drop(store, names):
        print(f"{path} is deleted")
    report(store.workdir)


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
    resolved = store.branches()[branch]
    asked = mesh.for_one(workdir.mesh_of(store.workdir, resolved))
    placed = mesh.shardings(asked, resolved.model)
    split, parts = getattr(data.load(resolved.data), given.split), placed.spread.parts
    sample = sampling.draw(split, given.split, given.examples, given.sample_seed, parts)
    if parts > 1:
        sample = sample._replace(batches=[placed.shared(batch) for batch in sample.batches])
    make_again(store, branch, steps)
    of = _Loss(store, branch, sample, placed, given)
    if len(steps) > 1:
        print(f"{branch} has the nodes {', '.join(map(str, steps))} there")
    refused = []
    for name in given.probe:
        try:
            of.measure(name, steps)
        except (probes.ProbeError, DamagedFile, processes.Told) as error:
            refused.append(f"--probe={name} at --node={given.node}: {error}")
    if store.leads:
        report(store.workdir)
    if refused:
        raise ConfigError("; ".join(refused))


class _Loss:
    """The loss of a branch's model over a sample of its data, and what is measured of it."""

    def __init__(
        self,
        store: BranchStore,
        branch: str,
        sample: sampling.Sample,
        placed: mesh.Shardings,
        flags: argparse.Namespace,
    ):
        self._store, self._branch, self._sample, self._flags = store, branch, sample, flags
        self._branches = store.branches()
        self._resolved = self._branches[branch]
        model = self._resolved.model
        self._placed, self._loss_fn = placed, _probed(model, placed, sample).loss
        self._place = placed.of if placed.mesh.size > 1 else None
        # Of a node each replicate in turn asks for the same.
        read = functools.partial(store.params, branch, place=self._place)
        self._params = functools.lru_cache(1)(read)
        self._state = functools.lru_cache(1)(self._with_moments)

    def measure(self, name: str, steps: list[int]) -> None:
        """Measures what is missing, of each node or along all of them; what is damaged is told
        before anything is computed."""
        kind, fork = MEASURES[name], self._resolved.start
        settings, tag = self._settings(kind)
        inside = steps[0] < fork < steps[-1]
        if kind.takes_fork and inside and fork in self._store.nodes(self._branch):
            steps = sorted({*steps, fork})
        missing = []
        for at in [steps] if kind.along else [[step] for step in steps]:
            owner = self._branch if kind.along else self._store.owner(self._branch, at[0])
            ends = f"{at[0]}-{at[-1]}-{len(at)}nodes" if kind.along else f"{at[0]}"
            directory = self._store.directory(owner) / "probes"
            directory.mkdir(exist_ok=True)
            stem = "-".join(filter(None, (name, ends, tag)))
            look = functools.partial(self._look, directory, stem, at, settings)
            file, there = self._store.agreed(look, f"whether {name} is measured")
            path = directory / file
            if not there:
                title = f"{name} of {owner}@{at[0]}"
                title += f":{at[-1]}, {len(at)} nodes" if kind.along else ""
                missing.append((path, title, at))
        for path, title, at in missing:
            began = time.monotonic()
            found = list(self._measured(kind, path, title, at, settings))
            content = {
                "probe": name,
                "steps": at,
                "settings": settings,
                "sample": self._sample.facts if kind.sees_examples else None,
                "results": found,
                # Without a date, so that a probe that was killed writes the same.
                "machine": provenance.machine(),
                "versions": provenance.versions(),
            }
            if not self._store.leads:
                continue
            write_json(path, content, default=plain)
            results.unlink_cells(path)
            for i, result in enumerate(found):
                print(f"{title}, seed {i}: {kind.headline(result)}")
            losses = ", ".join(with_error(r["loss"], r["loss_error"]) for r in found if "loss" in r)
            said = f"loss of the sample {losses}; " if losses else ""
            print(f"    {said}{time.monotonic() - began:.0f} s", flush=True)

    def _look(
        self, directory: Path, stem: str, steps: list[int], settings: Values
    ) -> tuple[str, bool]:
        """The name of a result's file, and whether it is there."""
        path, there = results.place(directory, stem, steps, settings)
        return path.name, there

    def _measured(
        self, kind: Measure, path: Path, title: str, steps: list[int], settings: Values
    ) -> Iterator[Values]:
        """For each seed."""
        for i in range(self._resolved.seeds):
            with contextlib.closing(Display(f"{title}, seed {i}")) as display:
                nodes = Nodes(
                    self._loss_fn,
                    self._sample.batches,
                    iterates(self._params, steps, i, self._placed),
                    steps,
                    self._resolved.start,
                    functools.partial(self._preconditioner, steps[-1], i),
                    # Several processes would not find the same there.
                    None if processes.several() else path.with_name(f"{path.stem}-seed{i}.cells"),
                    tell=display.show,
                    at_a_time=self._flags.at_a_time,
                )
                found = kind.measure(nodes, **{name: settings[name] for name in kind.settings})
                if kind.sees_examples:
                    found |= sampling.loss(
                        self._loss_fn, nodes.params, self._sample, self._flags.at_a_time
                    )
                yield found

    def _with_moments(self, step: int) -> state.State:
        """Of a checkpoint, or made again from the one before it: a snapshot has none."""
        try:
            return self._store.restore(self._branch, step, self._place)
        except MissingNode:
            with self._store.lock():
                return next(found for _, found in replay(self._store, self._branch, [step]))

    def _preconditioner(self, step: int, replicate: int) -> Any:
        nu, count = optim.second_moment(self._state(step).opt_state)
        nu, updates = of_one(nu, replicate, self._placed), int(np.asarray(count)[replicate])
        adam = self._branches[self._store.owner(self._branch, step)].optimizer
        return probes.adam_preconditioner(nu, updates, adam.b2, adam.eps)

    def _settings(self, kind: Measure) -> tuple[Values, str]:
        """The settings a result depends on, and those that flags set as part of a file's name,
        with the branch whose data are other than its root's."""
        own: Values = {
            name: getattr(self._flags, name) if fixed is None else fixed
            for name, fixed in kind.settings.items()
        }
        tags = [f"{name}{own[name]:g}" for name, fixed in kind.settings.items() if fixed is None]
        if not kind.sees_examples:
            return own, "-".join(tags)
        examples, split = self._sample.facts["examples"], self._flags.split
        seed, root = self._flags.sample_seed, self._store.lineage(self._branch)[0].branch
        tags = [f"{split}{examples}", *tags]
        if self._resolved.data != self._branches[root].data:
            own["data"] = self._branch
            tags.append(self._branch)
        loss = {"examples": examples, "split": split, "sample_seed": seed}
        return {**loss, **own}, "-".join([*tags, f"sample{seed}"])


def _probed(config: ModelConfig, placed: mesh.Shardings, sample: sampling.Sample) -> models.Model:
    """The model: on CPUs the plain one, whose products take less time, if a product for one example
    on each of them fits into memory."""
    plain = models.build(config, spread=placed.spread)
    if placed.spread.device.platform != "cpu":
        return models.for_probes(config, placed.spread)
    params = jax.eval_shape(plain.init, jax.random.key(0))
    one = jax.tree.map(lambda leaf: leaf[: placed.spread.parts], sample.batches[0])
    fits = probes.fits(plain.loss, params, one)
    return plain if fits else models.for_probes(config, placed.spread)


if __name__ == "__main__":
    cli.end(main())
