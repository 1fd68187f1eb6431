"""Curvature: a product against a gradient, and eigenvalues against other libraries'.

Eigenvalues are the CNN's largest, of its Hessian in float32 after a brief training or at a node of
a run; errors are relative, against float64. Every contestant runs over settings of its own once,
which compiles whatever it compiles; those that no other of its own beats in both error and products
are then timed in turns with everybody else's. A peer is compared at its own best error with our
fastest setting that does as well. All have the same weights, examples and cores, and on a GPU
products of float32 at full precision.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from experiments import cli
from experiments.bench import lm
from experiments.bench.measure import Work, overhead, ratios, reason
from experiments.bench.ours import branch_of, random_batch
from experiments.bench.peers import CONTESTANTS, OURS, PEERS, Solve
from experiments.bench.race import comparisons, race, with_compilation
from experiments.bench.rows import Line, Row, at_least, at_most, on_cpu
from experiments.bench.showing import error_against_time
from experiments.bench.subject import Subject, of_run, trained
from experiments.report.style import save
from wsdjax import models, probes
from wsdjax.config import CNN
from wsdjax.errors import ConfigError
from wsdjax.probes.vectors import random_like

FLAGS = ("batch", "repeats", "k", "peers", "steps", "widths", "workdir", "node", "figure")


def add_flags(parser: cli.Parser) -> None:
    flag = parser.add_argument
    flag("--batch", default=256, type=cli.number(int, 1), help="examples in the loss")
    flag("--repeats", default=3, type=cli.number(int, 1), help="timed runs of each setting")
    flag("--k", default=(1, 5), type=_numbers, help="how many eigenvalues, with commas")
    flag("--peers", default=list(PEERS), type=cli.names, help="against whom; all there are")
    flag("--steps", default=300, type=cli.number(int, 0), help="updates before it is measured")
    flag("--widths", type=_numbers, help="of the CNN's layers; on a CPU the quickstart's")
    flag("--workdir", help="a run to take weights and examples from")
    flag("--node", help="the node of it: BRANCH or BRANCH@STEP")
    flag("--figure", type=Path, help="draws STEM_top1.png and .svg, and so on")


def check_flags(given: argparse.Namespace) -> None:
    if bool(given.workdir) != bool(given.node):
        raise ConfigError("give --workdir and --node together")
    for name in given.peers:
        if name not in PEERS:
            raise ConfigError(f"--peers={name}: the peers are {', '.join(PEERS)}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(cli.number(int, 1)(each)) for each in text.split(","))


def _product_of_cnn(_: argparse.Namespace) -> Iterator[Line]:
    examples, widths = (256, _quickstart()) if on_cpu() else (5_000, CNN().widths)
    model = models.build(CNN(widths))
    shape = (examples, 32, 32, 3)
    batch = {
        "inputs": jax.random.normal(jax.random.key(1), shape),
        "targets": jax.random.randint(jax.random.key(2), (examples,), 0, 10),
    }
    goal = at_most(2.3, 2.3)
    yield from _product(model, batch, goal, f"CNN{widths}, {examples} crops")


def _product_of_lm(_: argparse.Namespace) -> Iterator[Line]:
    branch = branch_of(lm.experiment())
    windows = 2 if on_cpu() else 4
    batch = {name: leaf[0, :windows] for name, leaf in random_batch(branch).items()}
    model = models.for_probes(branch.model)
    yield from _product(model, batch, at_most(2.5, 2.5), f"{windows} windows")


def _product(model: models.Model, batch: Any, goal: Any, what: str) -> Iterator[Line]:
    """A product with all that comes before it, and a further one of the same Hessian."""
    params = model.init(jax.random.key(0))
    vector, batches = random_like(jax.random.key(1), params), [batch]

    def times(function: Callable[[], Any]) -> Work:
        return lambda count: [jax.block_until_ready(function()) for _ in range(count)]

    gradient = times(lambda: probes.gradient(model.loss, params, batches))
    product = times(lambda: probes.hvp(model.loss, params, vector, batches))
    yield from overhead(product, gradient, "a gradient", goal, of=what)
    hessian = probes.Hessian(model.loss, params, batches)
    further = times(lambda: hessian(vector))
    yield from overhead(further, gradient, "a gradient, each further one", goal, of=what)


def _quickstart() -> tuple[int, ...]:
    return (16, 32, 32, 32)


def top(k: int) -> Row:
    """The row of the k largest eigenvalues."""
    what = f"the {k} largest eigenvalues, certified, at equal error"
    seconds = (150, 90) if k == 1 else (330, 200)
    return Row(f"curvature.top{k}", what, at_least(2.0, 2.0), *seconds, functools.partial(_top, k))


def _top(k: int, given: argparse.Namespace) -> Iterator[Line]:
    subject = _subject(given)
    solvers: dict[str, Solve] = {}
    for name in ("wsdjax", *given.peers):
        try:
            solvers[name] = CONTESTANTS[name].build(subject)
        except ImportError as error:
            yield Line(name, [], why=reason(error))
    exact = subject.eigenvalues(k)
    points = race(CONTESTANTS, solvers, exact, given.repeats)
    for each in comparisons(points, OURS):
        of = {"subject": subject.name, "examples": given.batch} | each.summary()
        if each.ours is None:
            yield Line(each.peer.name, [], also=of, why=f"error {each.peer.error:.1e} not reached")
            continue
        of["seconds_with_compilation"] = with_compilation(solvers[OURS], each.ours)
        yield Line(each.peer.name, ratios(each.peer.seconds, each.ours.seconds), also=of)
    if given.figure:
        save(error_against_time(points), given.figure.with_name(f"{given.figure.name}_top{k}"))


def _subject(given: argparse.Namespace) -> Subject:
    if given.workdir:
        return of_run(given.workdir, given.node, given.batch)
    widths = given.widths or (_quickstart() if on_cpu() else CNN().widths)
    return _trained(widths, given.steps, given.batch)


_trained = functools.lru_cache(maxsize=1)(trained)


ROWS = (
    Row(
        "curvature.hvp_cnn",
        "a Hessian-vector product of the CNN",
        at_most(2.3, 2.3),
        *(60, 60),
        _product_of_cnn,
    ),
    Row(
        "curvature.hvp_lm",
        "a Hessian-vector product of the language model",
        at_most(2.5, 2.5),
        *(90, 120),
        _product_of_lm,
    ),
    top(1),
    top(5),
)
