"""The two trees of the study, and which of their iterates the figures need.

WSD's stable phase is one trunk, from which a cooldown forks for each length of figure 5; the one
whose length the paper found to match cosine is what the other figures look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.papers.belloni.verdicts import CNN, LM, Architecture
from wsdjax import config, families, plans
from wsdjax.config import AdamW, Branch, Constant, Cooldown, DataConfig, Experiment
from wsdjax.config.lengths import Length
from wsdjax.errors import ConfigError
from wsdjax.tree.branch import ResolvedBranch

SHARES = (5, 10, 20, 35, 50)
"""The cooldowns of figure 5, in percent of the budget."""
DENSE = 17
"""Iterates of the last fifth of the stable phase, and of the first fifth of the cooldown."""
REGULAR = 21
"""Iterates of the whole run after the warmup."""
SINGLE = 8
"""Iterates of each phase whose next update is looked at."""


def cooldown(share: float) -> str:
    """The branch that decays over this share of the budget."""
    return f"decay_{100 * share:02.0f}"


def tree() -> plans.Tree:
    branches = {"trunk": Branch(f"{100 - min(SHARES)}%", Constant("5%"))}
    for share in SHARES:
        node = "trunk" if share == min(SHARES) else f"trunk@{100 - share}%"
        branches[cooldown(share / 100)] = Branch(f"{share}%", Cooldown(), node)
    return branches | plans.cosine("100%", "5%")


class Budget(NamedTuple):
    """How large a study is."""

    seeds: int
    cnn: Callable[[DataConfig | None], Experiment]
    lm: Callable[[DataConfig | None], Experiment]
    examples: Mapping[str, int]
    """Of the sample that the probes see, by architecture."""


def _experiment(length: Length, **fields: Any) -> Experiment:
    """Evaluated twenty times along the budget."""
    often: Any = {"eval_every": "5%", "checkpoint_every": "25%"}
    return Experiment(tree=tree(), length=length, **often, **fields)


def _cnn(length: int, batch_size: int, data: DataConfig, model: config.CNN) -> Experiment:
    optimizer = AdamW(peak_value=3e-3, weight_decay=0.1)
    return _experiment(length, model=model, data=data, optimizer=optimizer, batch_size=batch_size)


def _laptop_cnn(data: DataConfig | None) -> Experiment:
    photos = config.Photos(noise=0.8, eval_size=1_000)
    return _cnn(900, 64, data or photos, config.CNN(widths=(16, 32, 32, 32)))


def _gpu_cnn(data: DataConfig | None) -> Experiment:
    # The data of `cnn_photos`, whose loss stays away from zero; 50 epochs of 50,000.
    photos = config.Photos(noise=3.0, size=400_000, eval_size=5_000)
    return _cnn(19_500, 128, data or photos, config.CNN())


def _lm(length: Length, peak_value: float, batch_size: int, **fields: Any) -> Experiment:
    optimizer = AdamW(peak_value=peak_value, b2=0.95, weight_decay=0.1, clip_norm=1.0)
    return _experiment(length, optimizer=optimizer, batch_size=batch_size, **fields)


def _laptop_lm(data: DataConfig | None) -> Experiment:
    model = families.pythia(width=64, layers=3, heads=4, hidden=256, **_vocabulary(data))
    data = data or config.Stdlib(length=128, eval_size=200)
    return _lm(700, 3e-3, 8, model=model, data=data)


def _gpu_lm(data: DataConfig | None) -> Experiment:
    model = families.pythia(width=256, layers=6, heads=8, hidden=1_024, **_vocabulary(data))
    data = data or config.Stdlib(length=256, eval_size=1_000)
    return _lm(4_000, 1e-3, 64, model=model, data=data)


def _full_lm(data: DataConfig | None) -> Experiment:
    if not isinstance(data, config.Text):
        raise ConfigError(
            "--budget=full trains Pythia 160M on 3 billion tokens: prepare text for it with "
            "experiments.prepare and name its directory, --lm=text:DIR"
        )
    model = families.pythia("160M", compute="bfloat16", loss_chunk=16_384)
    return _lm("3e9 tokens", 6e-4, 256, accumulate=8, model=model, data=data)


def _vocabulary(data: DataConfig | None) -> dict[str, Any]:
    """That of bytes, and that of a text which is there."""
    size = 257 if data is None else data.describe().classes
    return {"vocabulary": size, "loss_chunk": 1_024}


BUDGETS = {
    "laptop": Budget(3, _laptop_cnn, _laptop_lm, {CNN.name: 1_000, LM.name: 64}),
    "gpu": Budget(5, _gpu_cnn, _gpu_lm, {CNN.name: 5_000, LM.name: 256}),
    "full": Budget(5, _gpu_cnn, _full_lm, {CNN.name: 5_000, LM.name: 16}),
}


class Nodes(NamedTuple):
    """Steps along the trunk to the fork of a cooldown, and along that to its end."""

    fork: int
    end: int
    stable: list[int]
    """Of the last fifth of the stable phase, the fork among them."""
    decay: list[int]
    """Of the first fifth of the cooldown, the fork among them."""
    regular: list[int]
    """From the end of the warmup to the end of the cooldown."""
    updates: list[int]
    """Those whose next update is looked at."""
    curvature: list[int]
    """Those whose sharpness is measured, the fork and the end among them."""

    def all(self) -> list[int]:
        steps = {*self.stable, *self.decay, *self.regular, *self.curvature}
        return sorted(steps | {step + i for step in self.updates for i in (0, 1)})

    def kept(self, trunk: str, decay: str) -> dict[str, frozenset[int]]:
        """Which updates' parameters training is to keep, by branch."""
        steps = self.all()
        return {
            trunk: frozenset(step for step in steps if step <= self.fork),
            decay: frozenset(step for step in steps if step > self.fork),
        }


def nodes(branches: Mapping[str, ResolvedBranch], of: Architecture) -> Nodes:
    """Those of the cooldown that the paper found to match cosine.

    Raises:
      ConfigError: for a run too short for them.
    """
    decay, trunk = branches[cooldown(of.matching)], branches["trunk"]
    fork, end = decay.start, decay.end
    assert isinstance(trunk.schedule, Constant)
    warm = max(1, int(trunk.schedule.warmup_steps))
    fifth = round(0.2 * (end - fork))
    if fifth < 4:
        raise ConfigError(
            f"{of.name}: a fifth of its cooldown is {fifth} updates, of which no direction can be "
            "told: give it a longer run"
        )
    within = [_spread(warm, fork - 1, SINGLE), _spread(fork, end - 2, SINGLE)]
    return Nodes(
        fork,
        end,
        stable=_spread(round(0.8 * fork), fork, DENSE),
        decay=_spread(fork, fork + fifth, DENSE),
        regular=_spread(warm, end, REGULAR),
        updates=[*within[0], *within[1]],
        curvature=sorted({*_spread(round(fork / 2), fork, 3), *_spread(fork, end, 5)}),
    )


def _spread(first: int, last: int, count: int) -> list[int]:
    return sorted({round(step) for step in np.linspace(first, last, count)})
