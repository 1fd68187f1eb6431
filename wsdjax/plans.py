"""Plans: plain functions that return the branches of a well-known way to train.

A config's ``tree`` joins them with ``|``; lengths are updates, or texts such as "35%".
Along a lineage, root to leaf, the rate is the single formula of `wsdjax.schedules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from wsdjax.config import (
    Branch,
    Constant,
    Cooldown,
    Hold,
    InverseSqrt,
    Overrides,
    Rewarm,
    WarmupCosine,
)
from wsdjax.config.lengths import Length, combined, share
from wsdjax.errors import ConfigError

Tree = dict[str, Branch]


def wsd(
    total_steps: Length,
    warmup_steps: Length,
    decay_steps: Length,
    shape: str = "linear",
    end_value: float = 0.0,
) -> Tree:
    """`trunk` and `decay`; along them the rate is ``schedules.wsd`` over `total_steps`."""
    return {
        "trunk": Branch(combined([total_steps], [decay_steps]), Constant(warmup_steps)),
        "decay": Branch(decay_steps, Cooldown(shape, end_value), "trunk"),
    }


def cosine(total_steps: Length, warmup_steps: Length, end_value: float = 0.0) -> Tree:
    """`cosine`, one branch from the initialisation; its rate is ``schedules.warmup_cosine``."""
    return {"cosine": Branch(total_steps, WarmupCosine(warmup_steps, end_value))}


def cooldown_lengths(
    ends: Sequence[Length],
    warmup_steps: Length,
    decay_fraction: float = 0.1,
    shape: str = "linear",
    end_value: float = 0.0,
    name: str = "wsd",
) -> Tree:
    """WSD for several budgets from one trunk: NAME_1, NAME_2, ... end at `ends`, each with a
    decay over its last `decay_fraction`; the trunk, NAME_trunk, reaches to the last decay."""
    _check_some("ends", ends)
    decays = [share(end, decay_fraction) for end in ends]
    stable = [combined([end], [decay]) for end, decay in zip(ends, decays, strict=True)]
    trunk = f"{name}_trunk"
    branches = {trunk: Branch(stable[-1], Constant(warmup_steps))}
    for i, (start, decay) in enumerate(zip(stable, decays, strict=True), start=1):
        at = trunk if i == len(ends) else f"{trunk}@{start}"
        branches[f"{name}_{i}"] = Branch(decay, Cooldown(shape, end_value), at)
    return branches


def wsd_s(
    budgets: Sequence[Length],
    warmup_steps: Length,
    end_value: float,
    decay_fraction: float = 0.1,
    shape: str = "inverse",
    budgets_include_decays: bool = True,
) -> Tree:
    """WSD-S (Wen et al.): stable, decay, stable again from the decayed weights, decay, ...

    The decays are wsd_s_1, wsd_s_2, ..., each followed by the stable phase wsd_s_stable_2,
    ...; the rate is ``schedules.wsd_s``, whose docstring tells what
    `budgets_include_decays` means.
    """
    _check_some("budgets", budgets)
    branches: Tree = {}
    decays = [share(budget, decay_fraction) for budget in budgets]
    for i, (budget, decay) in enumerate(zip(budgets, decays, strict=True), start=1):
        before = [budgets[i - 2]] if i > 1 else []
        # By the paper's count earlier decays lengthen the run: of that before, its own length.
        longer = decays[i - 2 : i - 1] if i > 1 and not budgets_include_decays else []
        branches[f"wsd_s_stable_{i}"] = Branch(
            combined([budget, *longer], [decay, *before]),
            Constant(warmup_steps),
            f"wsd_s_{i - 1}" if i > 1 else "",
        )
        branches[f"wsd_s_{i}"] = Branch(decay, Cooldown(shape, end_value), f"wsd_s_stable_{i}")
    return branches


def cyclic_cosine(budgets: Sequence[Length], warmup_steps: Length, end_value: float = 0.0) -> Tree:
    """cyclic_1, cyclic_2, ...: half a cosine to each budget, from the peak again after each; the
    rate is ``schedules.cyclic_cosine``."""
    _check_some("budgets", budgets)
    first = Branch(budgets[0], WarmupCosine(warmup_steps, end_value))
    branches = {"cyclic_1": first}
    for i, (before, budget) in enumerate(pairwise(budgets), start=2):
        steps = combined([budget], [before])
        branches[f"cyclic_{i}"] = Branch(steps, Rewarm(0, "cosine", end_value), f"cyclic_{i - 1}")
    return branches


def oracle_cosines(
    budgets: Sequence[Length],
    warmup_steps: Length,
    end_value: float = 0.0,
    peak_value: float | None = None,
    name: str = "cosine",
) -> Tree:
    """NAME_1, NAME_2, ...: a cosine of its own for each budget, from the initialisation; the
    oracle that schedules without a fixed end are held against is the best of several peaks."""
    peak = Overrides(peak_value=peak_value)
    return {
        f"{name}_{i}": Branch(budget, WarmupCosine(warmup_steps, end_value), optimizer=peak)
        for i, budget in enumerate(budgets, start=1)
    }


def inverse_sqrt(
    total_steps: Length,
    warmup_steps: Length,
    decay_steps: Length,
    timescale: float = 10_000.0,
    shape: str = "linear",
    end_value: float = 0.0,
) -> Tree:
    """`rsqrt_trunk` and `rsqrt_decay`; the rate is ``schedules.inverse_sqrt``."""
    trunk = InverseSqrt(warmup_steps, timescale)
    return {
        "rsqrt_trunk": Branch(combined([total_steps], [decay_steps]), trunk),
        "rsqrt_decay": Branch(decay_steps, Cooldown(shape, end_value), "rsqrt_trunk"),
    }


def infinite(
    warmup_steps: Length,
    cosine_steps: Length,
    constant_steps: Length,
    decay_steps: Length,
    constant_value: float,
    end_value: float,
    shape: str = "exponential",
) -> Tree:
    """`fall`, `held` and `anneal` (Singh et al.); the rate is ``schedules.infinite``."""
    fall = WarmupCosine(warmup_steps, constant_value)
    return {
        "fall": Branch(combined([warmup_steps, cosine_steps]), fall),
        "held": Branch(constant_steps, Hold(), "fall"),
        "anneal": Branch(decay_steps, Cooldown(shape, end_value), "held"),
    }


def _check_some(name: str, lengths: Sequence[Length]) -> None:
    if len(lengths) == 0:
        raise ConfigError(f"{name} = {lengths!r}: must hold one length or more")
