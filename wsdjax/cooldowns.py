"""Cooldowns: how far a rate has fallen after a fraction p of its decay, and the decay itself.

A shape is a function ``factor(p, end)`` of the progress p in [0, 1] and the final factor
`end`; it is 1 at p = 0 (`lowered_linear` drops at once) and `end` at p = 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from wsdjax.wording import shown

Factor = Callable[[Any, Any], Any]
"""A cooldown's shape: ``factor(p, end)`` for progress p in [0, 1], equal to `end` at p = 1."""


def numpy_of(x: Any) -> ModuleType:
    return np if isinstance(x, int | float | np.ndarray | np.generic) else jnp


def _linear(p, end):
    return end + (1 - end) * (1 - p)


def _cosine(p, end):
    return end + (1 - end) * (1 + numpy_of(p).cos(np.pi * p)) / 2


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

_NEVER_ZERO = ("exponential", "inverse")

_FAMILIES: dict[str, Callable[[float], Factor]] = {
    "power": power,
    "one_minus_power": one_minus_power,
    "lowered_linear": lowered_linear,
}


def factor_of(shape: str | Factor, end_value: float) -> Factor:
    """The factor of a shape: a name in `COOLDOWNS`, a family with its number such as
    ``"power(2)"``, ``"one_minus_power(0.3)"`` or ``"lowered_linear(0.7)"``, or a factor.

    Raises:
      ValueError: for a shape that does not exist, or an end of 0 that it never reaches.
    """
    if callable(shape):
        return shape
    if shape in COOLDOWNS:
        if shape in _NEVER_ZERO and end_value == 0:
            raise ValueError(
                f"a cooldown of shape {shape!r} never reaches 0: give it an end_value > 0"
            )
        return COOLDOWNS[shape]
    family = re.fullmatch(r"(\w+)\(([0-9.e+-]+)\)", shape)
    if family and family[1] in _FAMILIES:
        return _FAMILIES[family[1]](_finite(family[2], shape))
    families = ", ".join(f"{name}(NUMBER)" for name in _FAMILIES)
    raise ValueError(
        f"unknown cooldown shape {shown(shape)}; the shapes are {', '.join(COOLDOWNS)}, {families}"
    )


def _finite(text: str, shape: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"the shape {shown(shape)} has no finite number in its brackets")
    return number


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
    check(start_value, end_value, start_step=start_step, decay_steps=decay_steps)
    if decay_steps == 0:
        return held(start_value)
    factor = factor_of(shape, end_value)
    end = end_value / start_value

    def schedule(t):
        xp = numpy_of(t)
        p = xp.clip((t - start_step) / decay_steps, 0, 1)
        # t = start_step still has the start's rate: it is the last update before the decay,
        # which matters for a shape that jumps (lowered_linear).
        return start_value * xp.where(p > 0, factor(p, end), 1.0)

    return schedule


def check(peak_value: float, end_value: float, **steps: int) -> None:
    if not peak_value > 0:
        raise ValueError(f"peak_value must be > 0, got {peak_value}")
    if not 0 <= end_value <= peak_value:
        raise ValueError(f"end_value must be in [0, peak_value={peak_value}], got {end_value}")
    for name, value in steps.items():
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")


def held(value: float) -> optax.Schedule:
    return lambda t: value * numpy_of(t).ones_like(t, dtype=float)
