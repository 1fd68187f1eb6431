"""Language models: on a GPU Pythia 160M in bfloat16, on a CPU a small plainLM in float32."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.measure import OURS, Work, contest
from experiments.bench.ours import Step, branch_of, configured, loop_over_step
from experiments.bench.rows import NO_GOAL, Line, Row, at_least, at_most, on_cpu
from experiments.bench.training import of_peak
from wsdjax import families
from wsdjax.config import AdamW, Bigram, Branch, Constant, Experiment
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch


def experiment() -> Experiment:
    """One branch of it; its data are synthetic, of which the shapes alone matter."""
    tree = {"trunk": Branch(1_000, Constant())}
    if on_cpu():
        return Experiment(
            model=families.plainlm(width=128, layers=4, heads=4, hidden=512),
            data=Bigram(vocabulary=4_096, length=128),
            optimizer=AdamW(b2=0.95, clip_norm=1.0),
            batch_size=8,
            tree=tree,
        )
    base: Any = configured("lm_pythia160m")
    data = Bigram(vocabulary=4_096, length=base.data.length)
    return dataclasses.replace(base, data=data, tree=tree, length=None)


def peers(step: Step) -> dict[str, Callable[[], Work]]:
    """The same model, weights, batch and micro-batches in PyTorch, with its fused attention and
    AdamW."""
    if on_cpu():
        return {
            "PyTorch eager": lambda: in_torch(step),
            "PyTorch compiled": lambda: in_torch(step, compiled=True),
        }
    # Which may take more memory than ours, and then fit in twice as many parts.
    name, parts = "transformers' GPT-NeoX", step.branch.accumulate
    return {
        f"{name} compiled": lambda: in_torch(step, compiled=True),
        f"{name} compiled, {2 * parts} parts": lambda: in_torch(step, 2 * parts, compiled=True),
        f"{name} eager, {2 * parts} parts": lambda: in_torch(step, 2 * parts),
    }


def in_torch(step: Step, parts: int | None = None, **how: Any) -> Work:
    """In as many micro-batches as ours, or in so many."""
    from experiments.bench import in_torch

    in_torch.prepare(tf32=True)
    branch, params = step.branch, step.first_params()
    config: Any = branch.model
    batch = jax.device_get(jax.tree.map(lambda leaf: leaf[0], step.batch))
    network = in_torch.Llama(config, params) if config.gated else in_torch.Neox(step.model, params)
    how |= {"parts": parts or branch.accumulate, "bfloat16": config.compute == "bfloat16"}
    given = in_torch.batch_of(batch), branch.optimizer, float(step.hyper.rate[0])
    return in_torch.updates(network, *given, **how)


def speed(branch: ResolvedBranch, seconds: float) -> dict[str, Any]:
    """Tokens a second, and of the device's peak, where that is known, the share."""
    told: dict[str, Any] = {"tokens_per_second": branch.batch_size * branch.data.units / seconds}
    dtype = jnp.dtype(getattr(branch.model, "compute", "float32"))
    return told | {"share_of_peak": of_peak(cost.of_branch(branch).flops / seconds, dtype)}


def _update(_: argparse.Namespace) -> Iterator[Line]:
    step = Step(branch_of(experiment()))
    for line in contest(step, peers(step)):
        if not line.why:
            mine, theirs = (line.also[f"{whose}_seconds"] for whose in ("our", "their"))
            told = {OURS: speed(step.branch, mine), line.against: speed(step.branch, theirs)}
            line = line._replace(also=line.also | {"speed": told})
        yield line


def _variants(_: argparse.Namespace) -> Iterator[Line]:
    """Ours with other rematerialisation and micro-batches, against ours as configured."""
    base: Any = experiment()
    step = Step(branch_of(base))

    def changed(remat: str, accumulate: int) -> Work:
        model = dataclasses.replace(base.model, remat=remat)
        return Step(branch_of(dataclasses.replace(base, model=model, accumulate=accumulate)))

    micro_batches = (1,) if on_cpu() else (8, 16)
    tried = [(remat, parts) for remat in ("none", "dots") for parts in micro_batches]
    ways = {
        f"remat {remat}, {parts} micro-batches": partial(changed, remat, parts)
        for remat, parts in tried
        if (remat, parts) != (base.model.remat, base.accumulate)
    }
    return contest(step, ways)


def _loop(_: argparse.Namespace) -> Iterator[Line]:
    yield loop_over_step(experiment(), 12 if on_cpu() else 16)


ROWS = (
    Row(
        "lm.update",
        "an update of a language model: Pythia 160M on a GPU, a small plainLM on a CPU",
        at_least(1.0, 1.0),
        *(90, 280),
        _update,
    ),
    Row("lm.loop", "the same in the trainer's loop", at_most(1.05, 1.05), *(60, 150), _loop),
    Row(
        "lm.variants",
        "the same as configured, against other rematerialisation and micro-batches",
        NO_GOAL,
        *(60, 300),
        _variants,
    ),
)
