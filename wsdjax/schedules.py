"""Learning-rate schedules: pure functions from a step to a rate.

Every schedule is an ``optax.Schedule``: ``eta(t)`` for the update number t = 1, 2, ...,
so that the first update of a warmup has the rate ``peak_value / warmup_steps``, update
number ``warmup_steps`` has the peak, and the last update of a decay to zero has rate 0.

Under ``jit`` and on JAX arrays they compute in JAX's default precision. On Python numbers
and NumPy arrays they compute in float64, which is how the trainer makes its tables: rounded
once from float64, a rate is the same number on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

Factor = Callable[[Any, Any], Any]
"""A cooldown's shape: ``factor(p, end)`` for progress p in [0, 1], equal to `end` at p = 1."""


def _numpy_of(x: Any) -> ModuleType:
    return np if isinstance(x, int | float | np.ndarray | np.generic) else jnp


def _linear(p, end):
    return end + (1 - end) * (1 - p)


def _cosine(p, end):
    return end + (1 - end) * (1 + _numpy_of(p).cos(np.pi * p)) / 2


def power(k: float) -> Factor:
    """``end + (1 - end) (1 - p)^k``: drops fast at first for k > 1; k = 1 is linear."""
    if not k > 0:
        raise ValueError(f"power(k): k must be > 0, got {k}")
    return lambda p, end: end + (1 - end) * (1 - p) ** k


def one_minus_power(k: float) -> Factor:
    """``end + (1 - end) (1 - p^k)``: k = 1/2 is `sqrt`, k = 2 is `square` (Dremov et al.)."""
    if not k > 0:
        raise ValueError(f"one_minus_power(k): k must be > 0, got {k}")
    return lambda p, end: end + (1 - end) * (1 - p**k)


def _mirror_cosine(p, end):
    return 2 * _linear(p, end) - _cosine(p, end)


def _exponential(p, end):
    return end**p


def _inverse(p, end):
    return 1 / (p / end + (1 - p))


def lowered_linear(start: float = 0.5) -> Factor:
    """``end + (start - end) (1 - p)``: the rate drops to `start` at once (Dremov et al.)."""
    if not 0 < start <= 1:
        raise ValueError(f"lowered_linear(start): start must be in (0, 1], got {start}")
    return lambda p, end: end + (start - end) * (1 - p)


COOLDOWNS: dict[str, Factor] = {
    "linear": _linear,
    "cosine": _cosine,
    "sqrt": one_minus_power(0.5),
    "square": one_minus_power(2),
    "mirror_cosine": _mirror_cosine,
    "exponential": _exponential,
    "inverse": _inverse,
    "lowered_linear": lowered_linear(),
}
"""The cooldown shapes by name. `exponential` and `inverse` (Wen et al.: linear in 1/rate)
never reach zero and need an end above it."""

NEVER_ZERO = ("exponential", "inverse")


def _check(peak_value: float, end_value: float, **steps: int) -> None:
    if not peak_value > 0:
        raise ValueError(f"peak_value must be > 0, got {peak_value}")
    if not 0 <= end_value <= peak_value:
        raise ValueError(f"end_value must be in [0, peak_value={peak_value}], got {end_value}")
    for name, value in steps.items():
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")


def _factor(shape: str | Factor, end_value: float) -> Factor:
    if callable(shape):
        return shape
    if shape not in COOLDOWNS:
        raise ValueError(f"unknown cooldown shape {shape!r}; the shapes are {', '.join(COOLDOWNS)}")
    if shape in NEVER_ZERO and end_value == 0:
        raise ValueError(f"a cooldown of shape {shape!r} never reaches 0: give it an end_value > 0")
    return COOLDOWNS[shape]


def _warmup(t, warmup_steps: int):
    return _numpy_of(t).clip(t / warmup_steps, 0, 1) if warmup_steps else 1.0


def cooldown(
    start_value: float,
    start_step: int,
    decay_steps: int,
    shape: str | Factor = "linear",
    end_value: float = 0.0,
) -> optax.Schedule:
    """From `start_value` at `start_step` to `end_value` at ``start_step + decay_steps``.

    Constant before and after; with ``decay_steps=0`` constant throughout.

    Raises:
      ValueError: for an unknown shape, a negative length, an end above the start, or an end
        of 0 for a shape that never reaches it.
    """
    _check(start_value, end_value, start_step=start_step, decay_steps=decay_steps)
    if decay_steps == 0:
        return lambda t: start_value * _numpy_of(t).ones_like(t, dtype=float)
    factor = _factor(shape, end_value)
    end = end_value / start_value

    def schedule(t):
        xp = _numpy_of(t)
        p = xp.clip((t - start_step) / decay_steps, 0, 1)
        # t = start_step still has the start's rate: it is the last update before the decay,
        # which matters for a shape that jumps (lowered_linear).
        return start_value * xp.where(p > 0, factor(p, end), 1.0)

    return schedule


def wsd(
    peak_value: float,
    warmup_steps: int,
    total_steps: int,
    decay_steps: int,
    shape: str | Factor = "linear",
    end_value: float = 0.0,
) -> optax.Schedule:
    """Warmup-Stable-Decay (Belloni et al.; Hu et al., MiniCPM).

    With T_w = `warmup_steps`, T_end = `total_steps`, T_c = T_end - `decay_steps`::

        eta(t) = peak * t / T_w                                 t < T_w
                 peak                                           T_w <= t <= T_c
                 peak * factor((t - T_c) / (T_end - T_c), end)  T_c < t <= T_end

    Args:
      peak_value: the rate of the stable phase.
      warmup_steps: T_w; 0 for none.
      total_steps: T_end; the rate stays at `end_value` after it.
      decay_steps: length of the cooldown; 0 never decays.
      shape: a name in `COOLDOWNS` or a function ``factor(p, end)``.
      end_value: the last rate (a rate, not a factor).

    Raises:
      ValueError: if warmup and decay do not fit in the run, or an argument is out of range.
    """
    _check(peak_value, end_value, warmup_steps=warmup_steps, decay_steps=decay_steps)
    if warmup_steps + decay_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and decay_steps={decay_steps} do not fit in "
            f"total_steps={total_steps}"
        )
    decay = cooldown(peak_value, total_steps - decay_steps, decay_steps, shape, end_value)
    return lambda t: _warmup(t, warmup_steps) * decay(t)


def warmup_cosine(
    peak_value: float, warmup_steps: int, total_steps: int, end_value: float = 0.0
) -> optax.Schedule:
    """Linear warmup, then half a cosine to the end (Loshchilov and Hutter; Belloni et al.)::

        eta(t) = peak * t / T_w                                                     t < T_w
                 end + (peak - end) / 2 * (1 + cos(pi (t - T_w) / (T_end - T_w)))   t >= T_w

    Raises:
      ValueError: if the warmup is longer than the run, or an argument is out of range.
    """
    if warmup_steps > total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} is longer than total_steps={total_steps}")
    return wsd(
        peak_value, warmup_steps, total_steps, total_steps - warmup_steps, "cosine", end_value
    )
