"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--k=1] [--tol=1e-3] [--points=21]

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains); a
range takes all there are in it, along the branch's lineage. The loss is the mean over the first
examples of a split.

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

Each result is a small JSON file under branches/BRANCH/probes/, named by its node and settings; it
is not computed again, and a plane goes on from the cell at which it was stopped. A node is kept
with the branch that made it. At the end the report is drawn again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli, measures
from experiments.measures import ALONG, AT_A_NODE, Measure, Result, Unmeasurable
from experiments.progress import SECONDS_BETWEEN_LINES
from wsdjax import data, models, probes, provenance, state
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.files import write_atomically
from wsdjax.validation import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", "", "The run's directory.")
_NODE = flags.DEFINE_string("node", "", "BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY].")
_PROBE = flags.DEFINE_list("probe", [], "Which probes, with commas between them.")
_EXAMPLES = flags.DEFINE_integer("examples", 1_000, "Examples in the loss.", lower_bound=1)
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "test"], "Of the branch's data set.")
_K = flags.DEFINE_integer("k", 1, "Eigenvalues, or components.", lower_bound=1)
_TOL = flags.DEFINE_float("tol", 1e-3, "Of an eigenvalue's residual, relative.", lower_bound=0)
_POINTS = flags.DEFINE_integer(
    "points", 21, "Of an interpolation, or a side of a plane.", lower_bound=2
)

_KEPT = 2**30
"""Bytes of iterates that stay in memory."""


def main() -> None:
    for flag in (_WORKDIR, _NODE, _PROBE):
        if not flag.value:
            raise ConfigError(f"give --{flag.name}; --help tells what it is")
    known = [*AT_A_NODE, *ALONG]
    for name in _PROBE.value:
        if name not in known:
            raise ConfigError(f"--probe={name}: the probes are {', '.join(known)}")
    store = BranchStore(_WORKDIR.value)
    branch, steps = parse_node(_NODE.value, store)
    if len(steps) < 2 and (along := [name for name in _PROBE.value if name in ALONG]):
        raise ConfigError(f"--probe={along[0]} goes along nodes: give a range of two or more")
    edge = store.edges()[branch]
    split = getattr(data.load(edge.data), _SPLIT.value)
    of = _Loss(
        store,
        branch,
        models.by_layer(models.build(edge.model)).loss,
        data.in_order(split, examples=_EXAMPLES.value),
    )
    if len(steps) > 1:
        print(f"{branch} has the nodes {', '.join(map(str, steps))} there")
    refused = []
    try:
        for name in _PROBE.value:
            try:
                (of.at_nodes if name in AT_A_NODE else of.along)(name, steps)
            except (Unmeasurable, probes.ProbeError) as error:
                refused.append(f"--probe={name} at --node={_NODE.value}: {error}")
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from what is finished.", file=sys.stderr)
        cli.end(130)
    from experiments import report

    report.write(store.workdir)
    if refused:
        raise ConfigError("; ".join(refused))


def parse_node(text: str, store: BranchStore) -> tuple[str, list[int]]:
    """The branch and the steps that a node or a range of nodes names.

    Raises:
      ConfigError, MissingNode: for what is no node, or is not there.
    """
    branch, _, range_ = text.partition("@")
    store.record(branch)
    nodes = store.nodes(branch)
    if not range_:
        if not nodes:
            raise ConfigError(f"--node={text}: {branch} has no node yet")
        return branch, [nodes[-1]]
    parts = range_.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--node={text}: write BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    first, last = int(parts[0]), int(parts[min(1, len(parts) - 1)])
    every = max(1, int(parts[2])) if len(parts) == 3 else 1
    if last < first:
        raise ConfigError(f"--node={text}: the range goes backwards, from {first} to {last}")
    steps = [s for s in nodes if first <= s <= last and (s - first) % every == 0]
    if not steps:
        raise ConfigError(
            f"--node={text}: no such node; {branch} has {', '.join(map(str, nodes)) or 'none'}. "
            "--config.snapshot_every keeps more while a run trains"
        )
    return branch, steps


class _Loss:
    """The loss of a branch's model over the chosen examples, and what is measured of it."""

    def __init__(self, store: BranchStore, branch: str, loss_fn: Callable, batches: list[Any]):
        self._store, self._branch = store, branch
        self._loss_fn, self._batches = loss_fn, batches
        self._edge = store.edges()[branch]

    def at_nodes(self, name: str, steps: list[int]) -> None:
        kind = AT_A_NODE[name]
        given, tag = self._settings(kind)
        starts: dict[int, Any] = {}
        for step in steps:
            owner = self._owner(step)
            path = self._directory(owner) / f"{name}-{step}-{tag}.json"
            if _is_there(path, [step]):
                starts = {}
                continue
            began, results = time.monotonic(), []
            for i, each in enumerate(self._replicates(step, name == "preconditioned")):
                node = measures.Node(
                    self._loss_fn,
                    each.params,
                    self._batches,
                    given,
                    _teller(f"{name} of {owner}@{step}, seed {i}"),
                    starts.get(i),
                    each.opt_state or None,
                    self._store.edges()[owner].optimizer,
                )
                result, starts[i] = kind.measure(node)
                results.append(result)
            _write(path, name, [step], given, results)
            _report(f"{name} of {owner}@{step}", kind, results, began)

    def along(self, name: str, steps: list[int]) -> None:
        kind, fork = ALONG[name], self._edge.start
        given, tag = self._settings(kind)
        if (
            name == "phases"
            and steps[0] < fork < steps[-1]
            and fork in self._store.nodes(self._branch)
        ):
            steps = sorted({*steps, fork})
        stem = f"{name}-{steps[0]}-{steps[-1]}-{len(steps)}nodes-{tag}"
        path = self._directory(self._branch) / f"{stem}.json"
        if _is_there(path, steps):
            return
        began, results = time.monotonic(), []
        for i in range(self._edge.seeds):
            each = measures.Path(
                self._loss_fn,
                _iterates(self._store, self._branch, steps, i),
                steps,
                fork,
                self._batches,
                given,
                _teller(f"{name} of {_NODE.value}, seed {i}"),
                path.with_name(f"{stem}-seed{i}.cells"),
            )
            results.append(kind.measure(each))
        _write(path, name, steps, given, results)
        _report(f"{name} of {_NODE.value}", kind, results, began)
        for file in path.parent.glob(f"{stem}-seed*.cells"):
            file.unlink()

    def _settings(self, kind: Measure) -> tuple[Result, str]:
        """What a result depends on, the loss's flags and those that the measure goes by; and the
        same as part of a file's name, with the branch whose data are other than its root's."""
        given = {name: flags.FLAGS[name].value for name in ("examples", "split", *kind.uses)}
        more = "".join(f"-{name}{given[name]:g}" for name in kind.uses)
        root = self._store.lineage(self._branch)[0].branch
        if self._edge.data != self._store.edges()[root].data:
            given["data"] = self._branch
            more += f"-{self._branch}"
        return given, f"{given['split']}{given['examples']}{more}"

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
        for i in range(self._edge.seeds):
            one = state.replicate(whole, i)
            yield dataclasses.replace(one, params=models.unstacked(one.params))


class _Iterates(Sequence):
    """Parameters at each step, read when they are asked for."""

    def __init__(self, read: Callable[[int], Any], steps: list[int]):
        self._read, self._steps = read, steps

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return _Iterates(self._read, self._steps[i])
        return self._read(self._steps[i])


def _iterates(store: BranchStore, branch: str, steps: list[int], replicate: int) -> _Iterates:
    """One replicate's. The latest reads are kept, a gigabyte of them: principal components ask
    for every pair."""

    def read(step: int) -> Any:
        params = jax.tree.map(lambda leaf: leaf[replicate], store.params(branch, step))
        return models.unstacked(params)

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(read(steps[0])))
    return _Iterates(functools.lru_cache(max(1, _KEPT // size))(read), steps)


def _is_there(path: Path, steps: list[int]) -> bool:
    """Whether it is, and of these nodes: others may be as many, with the same ends."""
    try:
        there = json.loads(path.read_text())["steps"] == steps
    except (FileNotFoundError, ValueError, KeyError):
        return False
    if there:
        print(f"{path} is there")
    return there


def _write(path: Path, name: str, steps: list[int], given: Result, results: list) -> None:
    content = {
        "probe": name,
        "steps": steps,
        "settings": given,
        "results": results,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    write_atomically(path, json.dumps(content, default=_plain, indent=1) + "\n")


def _report(title: str, kind: Measure, results: list[Result], began: float) -> None:
    """A line for each seed."""
    _teller("")("")
    for i, result in enumerate(results):
        print(f"{title}, seed {i}: {kind.headline(result)}", flush=True)
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


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
    cli.run(main)
