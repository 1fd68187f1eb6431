"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--sample_seed=0] [--k=1] [--tol=1e-3] [--points=21]
python -m experiments.probe drop --workdir=W RESULT...

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains); a
range takes all there are from one node to another, or every EVERY-th step, along the branch's
lineage. The loss is the mean over a sample of the branch's data, drawn without replacement and
spread over the split; each result has the loss of its sample and the sampling error of that.

At each node:
    sharpness        the k largest eigenvalues of the Hessian, certified
    preconditioned   those of P^-1/2 H P^-1/2 for Adam's P; where there is a checkpoint
    density          the whole spectrum, by stochastic Lanczos quadrature
    moments          trace and Frobenius norm of the Hessian, trace by layer
    noise            trace and top eigenvalue of the gradient's covariance, noise scale
Along a range:
    interpolate      the loss from its first node to its last
    plane            the loss over its first two principal components, and the way through
    components       how much of its variance the first k explain
    phases           v_s and v_d, and the curvature along them; a range over the branch's fork
    convexity        weak quasi-convexity against its last node
    alignment        cosine of each move with the negative gradient
    distances        norms, distance travelled and moved

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
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.cli.progress import SECONDS_BETWEEN_LINES
from experiments.probe import measured, measures, sampling
from experiments.probe.measures import ALONG, AT_A_NODE, Measure, Result, Unmeasurable
from experiments.probe.nodes import iterates, parse_node
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore, MissingNode, provenance
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, write_json
from wsdjax.training import state
from wsdjax.wording import shortened


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, words=True)
    flag = parser.add_argument
    flag("--workdir", help="the run's directory")
    flag("--node", help="BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    flag("--probe", type=cli.names, help="which probes, with commas between them")
    flag("--examples", type=cli.number(int, 1), help="in the loss; 1,000 if there are so many")
    flag("--split", default="train", choices=measured.SPLITS, help="of the branch's data set")
    flag("--sample_seed", default=0, type=cli.number(int, 0), help="of the draw of the examples")
    flag("--k", default=1, type=cli.number(int, 1), help="eigenvalues, or components")
    flag("--tol", default=1e-3, type=cli.number(float, 0), help="of a residual, relative")
    points = cli.number(int, 2, 1_001)
    flag("--points", default=21, type=points, help="of an interpolation, or a side of a plane")
    return cli.call(parser, _main, argv, "from what is finished")


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
    for path in measured.drop(workdir, names):
        print(f"{path} is deleted")
    from experiments.report.write import write_report

    write_report(workdir)


def _probe(store: BranchStore, given: argparse.Namespace) -> None:
    for flag in ("node", "probe"):
        if not getattr(given, flag):
            raise ConfigError(f"give --{flag}; --help tells what it is")
    for name in given.probe:
        if name not in measured.MEASURES:
            known = ", ".join(measured.MEASURES)
            raise ConfigError(f"--probe={shortened(name)}: the probes are {known}")
    branch, steps = parse_node(given.node, store)
    if len(steps) < 2 and (along := [name for name in given.probe if name in ALONG]):
        raise ConfigError(f"--probe={along[0]} goes along nodes: give a range of two or more")
    split = getattr(data.load(store.branches()[branch].data), given.split)
    sample = sampling.draw(split, given.split, given.examples, given.sample_seed)
    of = _Loss(store, branch, sample, vars(given))
    if len(steps) > 1:
        print(f"{branch} has the nodes {', '.join(map(str, steps))} there")
    refused = []
    for name in given.probe:
        try:
            (of.at_nodes if name in AT_A_NODE else of.along)(name, steps)
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
        kind = AT_A_NODE[name]
        given, tag = self._settings(kind)
        missing = []  # looked for first: what is damaged is told before anything is computed
        for step in steps:
            directory = self._directory(owner := self._owner(step))
            path, there = measured.place(directory, f"{name}-{step}-{tag}", [step], given)
            if not there:
                missing.append((step, owner, path))
        for step, owner, path in missing:
            began, results = time.monotonic(), []
            for i, each in enumerate(self._replicates(step, name == "preconditioned")):
                node = measures.Node(
                    self._loss_fn,
                    each.params,
                    self._sample.batches,
                    given,
                    _teller(f"{name} of {owner}@{step}, seed {i}"),
                    each.opt_state or None,
                    self._store.branches()[owner].optimizer,
                )
                results.append(kind.measure(node) | self._sampled(kind, each.params))
            self._write(path, kind, name, [step], given, results)
            _report(f"{name} of {owner}@{step}", kind, results, began)

    def along(self, name: str, steps: list[int]) -> None:
        kind, fork = ALONG[name], self._resolved.start
        given, tag = self._settings(kind)
        if (
            name == "phases"
            and steps[0] < fork < steps[-1]
            and fork in self._store.nodes(self._branch)
        ):
            steps = sorted({*steps, fork})
        stem = f"{name}-{steps[0]}-{steps[-1]}-{len(steps)}nodes" + (f"-{tag}" if tag else "")
        path, there = measured.place(self._directory(self._branch), stem, steps, given)
        if there:
            return
        title = f"{name} of {self._branch}@{steps[0]}:{steps[-1]}, {len(steps)} nodes"
        began, results = time.monotonic(), []
        for i in range(self._resolved.seeds):
            each = measures.Path(
                self._loss_fn,
                iterates(self._store, self._branch, steps, i),
                steps,
                fork,
                self._sample.batches,
                given,
                _teller(f"{title}, seed {i}"),
                path.with_name(f"{path.stem}-seed{i}.cells"),
            )
            results.append(kind.measure(each) | self._sampled(kind, each.iterates[-1]))
        self._write(path, kind, name, steps, given, results)
        _report(title, kind, results, began)
        measured.unlink_cells(path)

    def _settings(self, kind: Measure) -> tuple[Result, str]:
        """What a result depends on, and as much of that as flags set as part of a file's name,
        with the branch whose data are other than its root's."""
        facts, root = self._sample.facts, self._store.lineage(self._branch)[0].branch
        given: Result = {name: self._flags[name] for name in kind.uses}
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

    def _sampled(self, kind: Measure, params: Any) -> Result:
        if not kind.sees_examples:
            return {}
        return sampling.loss(self._loss_fn, params, self._sample)

    def _write(
        self, path: Path, kind: Measure, name: str, steps: list[int], given: Result, results: list
    ) -> None:
        content = {
            "probe": name,
            "steps": steps,
            "settings": given,
            "sample": self._sample.facts if kind.sees_examples else None,
            "results": results,
            "machine": provenance.machine(),
            "versions": provenance.versions(),
        }
        write_json(path, content, default=_plain)

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


def _report(title: str, kind: Measure, results: list[Result], began: float) -> None:
    """A line for each seed."""
    _teller("")("")
    for i, result in enumerate(results):
        print(f"{title}, seed {i}: {kind.headline(result)}", flush=True)
    seconds = f"{time.monotonic() - began:.0f} s"
    if kind.sees_examples:
        losses = ", ".join(measured.with_error(r["loss"], r["loss_error"]) for r in results)
        seconds = f"loss of the sample {losses}; {seconds}"
    print(f"    {seconds}", flush=True)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _teller(title: str) -> measures.Tell:
    """Writes over one line of a terminal; elsewhere a line every so often."""
    last = time.monotonic()

    def tell(text: str) -> None:
        nonlocal last
        if sys.stderr.isatty():
            print(f"\r\033[K{title}: {text}" if title else "\r\033[K", end="", file=sys.stderr)
        elif text and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{title}: {text}", file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    cli.end(main())
