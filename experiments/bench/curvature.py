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
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax

from experiments import cli
from experiments.bench import lm
from experiments.bench.landscape import Place
from experiments.bench.measure import overhead, reason, repeating, seconds_of
from experiments.bench.ours import branch_of, random_batch, widths
from experiments.bench.peers import CONTESTANTS, OURS, PEERS, Solve
from experiments.bench.race import comparisons, race
from experiments.bench.rows import Line, Row, here, row
from experiments.bench.subject import Subject, of_run, trained
from wsdjax import models, probes
from wsdjax.errors import ConfigError
from wsdjax.probes.vectors import random_like


def add_flags(parser: cli.Parser) -> None:
    flag = parser.add_argument
    flag("--batch", default=256, type=cli.number(int, 1), help="examples in the loss")
    flag("--repeats", default=3, type=cli.number(int, 1), help="timed runs of each setting")
    flag("--k", default=(1, 5), type=_numbers, help="how many eigenvalues, with commas")
    flag("--peers", default=list(PEERS), type=cli.names, help="against whom; all there are")
    flag("--workdir", help="a run to take weights and examples from")
    flag("--node", help="the node of it: BRANCH or BRANCH@STEP")


def check_flags(given: argparse.Namespace) -> None:
    if bool(given.workdir) != bool(given.node):
        raise ConfigError("give --workdir and --node together")
    for name in given.peers:
        if name not in PEERS:
            raise ConfigError(f"--peers={name}: the peers are {', '.join(PEERS)}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(cli.number(int, 1)(each)) for each in text.split(","))


@row("curvature.hvp_cnn", (2.3, 2.3), (60, 60))
def hvp_cnn(_: argparse.Namespace) -> Iterator[Line]:
    """A Hessian-vector product of the CNN."""
    place = Place.of(widths(), here((256, 5_000)))
    return _product(place.loss, place.origin, place.batches)


@row("curvature.hvp_lm", (2.5, 2.5), (90, 120))
def hvp_lm(_: argparse.Namespace) -> Iterator[Line]:
    """A Hessian-vector product of the language model, on 2 windows, on a GPU 4."""
    branch, windows = branch_of(lm.experiment()), here((2, 4))
    batch = {name: leaf[0, :windows] for name, leaf in random_batch(branch).items()}
    model = models.for_probes(branch.model)
    return _product(model.loss, model.init(jax.random.key(0)), [batch])


def _product(loss: Any, params: Any, batches: list[Any]) -> Iterator[Line]:
    """A product with all that comes before it, and a further one of the same Hessian."""
    vector = random_like(jax.random.key(1), params)
    gradient = repeating(lambda: probes.gradient(loss, params, batches))
    product = repeating(lambda: probes.hvp(loss, params, vector, batches))
    yield overhead(product, gradient, "a gradient")
    hessian = probes.Hessian(loss, params, batches)
    further = repeating(lambda: hessian(vector))
    yield overhead(further, gradient, "a gradient, each further one")


def top(k: int) -> Row:
    """The row of the k largest eigenvalues."""
    what = f"The {k} largest eigenvalues, certified, at equal error."
    about = (150, 90) if k == 1 else (330, 200)
    return Row(f"curvature.top{k}", what, (2.0, 2.0), about, partial(_top, k))


def _top(k: int, given: argparse.Namespace) -> Iterator[Line]:
    if given.workdir:
        subject = of_run(given.workdir, given.node, given.batch)
    else:
        subject = _trained(given.batch)
    solvers: dict[str, Solve] = {}
    for name in (OURS, *given.peers):
        try:
            solvers[name] = CONTESTANTS[name].build(subject)
        except ImportError as error:
            yield Line(name, [], why=reason(error))
    points = race(CONTESTANTS, solvers, subject.eigenvalues(k), given.repeats)
    for line in comparisons(points, OURS):
        of: dict[str, Any] = {"subject": subject.name, "examples": given.batch} | line.also
        if "ours" in of:
            jax.clear_caches()
            whole = partial(solvers[OURS], k, **of["ours"]["setting"])
            of["seconds_with_compilation"] = seconds_of(whole)
        yield line._replace(also=of)


@lru_cache(maxsize=1)
def _trained(examples: int) -> Subject:
    return trained(widths(), 300, examples)


TOP_1, TOP_5 = top(1), top(5)
