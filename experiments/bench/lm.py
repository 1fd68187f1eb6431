"""Language models: on a GPU Pythia 160M in bfloat16, on a CPU a small plainLM in float32.

Utilisation is the model's own (Chowdhery et al., appendix B): the operations of its matrix
products, without what rematerialisation repeats, over what the device could do meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments import devices
from experiments.bench.measure import OURS, Work, contest
from experiments.bench.ours import Step, branch_of, configured, loop_over_step
from experiments.bench.rows import NO_GOAL, Line, here, on_cpu, row
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

    def work(**how: Any) -> Work:
        return in_torch(step, **how)[0]

    if on_cpu():
        return {"PyTorch eager": work, "PyTorch compiled": partial(work, compiled=True)}
    # Which may take more memory than ours, and then fit in twice as many parts.
    name, parts = "transformers' GPT-NeoX", 2 * step.branch.accumulate
    return {
        f"{name} compiled": partial(work, compiled=True),
        f"{name} compiled, {parts} parts": partial(work, compiled=True, parts=parts),
        f"{name} eager, {parts} parts": partial(work, parts=parts),
    }


def in_torch(step: Step, **how: Any) -> tuple[Work, Any]:
    """`experiments.bench.in_torch.of_step`; without PyTorch an ImportError."""
    from experiments.bench import in_torch

    return in_torch.of_step(step, **how)


def speed(branch: ResolvedBranch, seconds: float) -> dict[str, Any]:
    """Tokens or images a second of all replicates, and of the devices' peak, where that is known,
    the share."""
    flops = branch.seeds * cost.of_branch(branch).flops / seconds / jax.device_count()
    dtype = jnp.dtype(getattr(branch.model, "compute", "float32"))
    units = branch.seeds * branch.batch_size * branch.data.units
    return {
        f"{branch.data.unit}_per_second": units / seconds,
        "flops_per_second_and_device": flops,
        "share_of_peak": of_peak(flops, dtype),
    }


def of_peak(flops_per_second: float, dtype: Any) -> float | None:
    """None for a device that is not in the table, or for other than bfloat16."""
    device = devices.known(jax.devices()[0].device_kind)
    return flops_per_second / device.peak if device and dtype == jnp.bfloat16 else None


@row("lm.update", (1.0, 1.0), (90, 280))
def update(_: argparse.Namespace) -> Iterator[Line]:
    """An update of a language model: Pythia 160M on a GPU, a small plainLM on a CPU."""
    step = Step(branch_of(experiment()))
    for line in contest(step, peers(step)):
        whose = {OURS: "our_seconds", line.against: "their_seconds"}
        told = {n: speed(step.branch, line.also[s]) for n, s in whose.items() if s in line.also}
        yield line._replace(also=line.also | {"speed": told}) if told else line


@row("lm.variants", NO_GOAL, (60, 300))
def variants(_: argparse.Namespace) -> Iterator[Line]:
    """An update of the language model, against other rematerialisation and micro-batches."""
    base: Any = experiment()

    def changed(remat: str, accumulate: int) -> Work:
        model = dataclasses.replace(base.model, remat=remat)
        return Step(branch_of(dataclasses.replace(base, model=model, accumulate=accumulate)))

    tried = [(remat, parts) for remat in ("none", "dots") for parts in here(((1,), (8, 16)))]
    ways = {
        f"remat {remat}, {parts} micro-batches": partial(changed, remat, parts)
        for remat, parts in tried
        if (remat, parts) != (base.model.remat, base.accumulate)
    }
    return contest(Step(branch_of(base)), ways)


@row("lm.loop", (1.05, 1.05), (60, 150))
def loop(_: argparse.Namespace) -> Iterator[Line]:
    """An update of the language model in the trainer's loop."""
    yield loop_over_step(experiment(), here((12, 16)))
