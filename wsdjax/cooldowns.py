"""Cooldown shapes: how far a rate has fallen after a fraction p of its decay.

A shape is a function ``factor(p, end)`` of the progress p in [0, 1] and the final factor
`end`; it is 1 at p = 0 (`lowered_linear` drops at once) and `end` at p = 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

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
        return _FAMILIES[family[1]](float(family[2]))
    families = ", ".join(f"{name}(NUMBER)" for name in _FAMILIES)
    raise ValueError(
        f"unknown cooldown shape {shape!r}; the shapes are {', '.join(COOLDOWNS)}, {families}"
    )
