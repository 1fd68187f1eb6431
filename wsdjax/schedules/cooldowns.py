"""Cooldowns: how far a rate has fallen after a fraction p of its decay, and the decay itself.

A shape is a function ``factor(p, end)`` of the progress p in [0, 1] and the final factor
`end`; it is 1 at p = 0 (`lowered_linear` drops at once) and `end` at p = 1.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from wsdjax.wording import shown

if TYPE_CHECKING:
    import optax

Make = TypeVar("Make", bound=Callable)

Factor = Callable[[Any, Any], Any]
"""A cooldown's shape: ``factor(p, end)`` for progress p in [0, 1], equal to `end` at p = 1."""


def numpy_of(x: Any) -> ModuleType:
    if isinstance(x, int | float | np.ndarray | np.generic):
        return np
    import jax.numpy  # so that plain numbers, and configs, do without

    return jax.numpy


def exact(x: Any) -> Any:
    """A step or a progress in a type in which nothing wraps around, overflows or is rounded.

    Numbers and NumPy arrays become float64. JAX arrays stay as they are but for unsigned
    integers, which become signed ones (the largest stand for what lies beyond), and for types of
    fewer than 32 bits, which become int32 or float32.
    """
    if (jnp := numpy_of(x)) is np:
        return np.asarray(x, np.float64)[()]
    x = jnp.asarray(x)
    if x.dtype.itemsize < 4:
        return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)
    if not jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return x
    signed = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    return jnp.minimum(x, np.asarray(jnp.iinfo(signed).max, x.dtype)).astype(signed)


def of_plain_numbers(make: Make) -> Make:
    """`make`, told Python's numbers in place of NumPy's and JAX's: a difference of those may
    wrap around as well."""

    def plain(x: Any) -> Any:
        x = x.tolist() if hasattr(x, "tolist") else x
        return tuple(map(plain, x)) if isinstance(x, tuple | list) else x

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        return make(*map(plain, args), **{name: plain(x) for name, x in kwargs.items()})

    return cast(Make, made)


def _factor(formula: Factor) -> Factor:
    """The formula of a progress of any type."""
    return functools.wraps(formula)(lambda p, end: formula(exact(p), end))


@_factor
def _linear(p, end):
    return end + (1 - end) * (1 - p)


@_factor
def _cosine(p, end):
    return end + (1 - end) * (1 + numpy_of(p).cos(np.pi * p)) / 2


def power(k: float) -> Factor:
    """``end + (1 - end) (1 - p)^k``: drops fast at first for k > 1; k = 1 is linear."""
    if not 0 < k < math.inf:
        raise ValueError(f"power(k): k must be > 0 and finite, got {k}")
    return _factor(lambda p, end: end + (1 - end) * (1 - p) ** k)


def one_minus_power(k: float) -> Factor:
    """``end + (1 - end) (1 - p^k)``: k = 1/2 is `sqrt`, k = 2 is `square` (Dremov et al.)."""
    if not 0 < k < math.inf:
        raise ValueError(f"one_minus_power(k): k must be > 0 and finite, got {k}")
    return _factor(lambda p, end: end + (1 - end) * (1 - p**k))


@_factor
def _mirror_cosine(p, end):
    return 2 * _linear(p, end) - _cosine(p, end)


@_factor
def _exponential(p, end):
    return end**p


@_factor
def _inverse(p, end):
    return 1 / (p / end + (1 - p))


def lowered_linear(start: float = 0.5) -> Factor:
    """``end + (start - end) (1 - p)``: the rate drops to `start` at once (Dremov et al.)."""
    if not 0 < start <= 1:
        raise ValueError(f"lowered_linear(start): start must be in (0, 1], got {start}")
    return _factor(lambda p, end: end + (start - end) * (1 - p))


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
"""The cooldown shapes by name; `inverse` is Wen et al.'s, linear in 1/rate."""
_NEVER_ZERO = ("exponential", "inverse")
"""Those that need an end above 0."""
_FAMILIES: dict[str, Callable[[float], Factor]] = {
    "power": power,
    "one_minus_power": one_minus_power,
    "lowered_linear": lowered_linear,
}
_FAMILY = re.compile(r"(\w+)\(([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\)")


def factor_of(shape: str | Factor, end_value: float) -> Factor:
    """The factor of a shape: a name in `COOLDOWNS`, a family with its number such as
    ``"power(2)"``, ``"one_minus_power(0.3)"`` or ``"lowered_linear(0.7)"``, or a factor."""
    factor = COOLDOWNS.get(shape, shape) if isinstance(shape, str) else shape
    if callable(factor):
        for name in _NEVER_ZERO:
            if factor is COOLDOWNS[name] and end_value == 0:
                raise ValueError(
                    f"a cooldown of shape {name!r} never reaches 0: give it an end_value > 0"
                )
        return factor
    family = _FAMILY.fullmatch(shape) if isinstance(shape, str) else None
    if family and family[1] in _FAMILIES:
        return _FAMILIES[family[1]](float(family[2]))
    names = [*COOLDOWNS, *(f"{name}(NUMBER)" for name in _FAMILIES)]
    raise ValueError(f"unknown cooldown shape {shown(shape)}; the shapes are {', '.join(names)}")


@of_plain_numbers
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
    check(start_value, end_value)
    check_lengths(start_step=start_step, decay_steps=decay_steps)
    if decay_steps == 0:
        return held(start_value)
    factor = factor_of(shape, end_value)
    end = end_value / start_value

    def schedule(t):
        t = exact(t)
        xp = numpy_of(t)
        p = xp.clip((t - start_step) / decay_steps, 0, 1)
        # t = start_step still has the start's rate: it is the last update before the decay,
        # which matters for a shape that jumps (lowered_linear).
        return start_value * xp.where(p > 0, factor(p, end), 1.0)

    return schedule


def check(peak_value: float, end_value: float) -> None:
    if not 0 < peak_value < math.inf:
        raise ValueError(f"peak_value must be > 0 and finite, got {peak_value}")
    if not 0 <= end_value <= peak_value:
        raise ValueError(f"end_value must be in [0, peak_value={peak_value}], got {end_value}")


def check_lengths(total_steps: float = math.inf, **phases: int) -> None:
    """That phases, named as the arguments they are from, fit in the run."""
    for name, value in phases.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if not sum(phases.values()) <= total_steps:
        said = " and ".join(f"{name}={value}" for name, value in phases.items())
        raise ValueError(f"{said} do not fit in total_steps={total_steps}")


def held(value: float) -> optax.Schedule:
    return lambda t: value * numpy_of(t).ones_like(t, dtype=float)
