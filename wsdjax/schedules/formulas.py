"""Learning-rate schedules: pure functions from a step to a rate.

Every schedule is an ``optax.Schedule``: ``eta(t)`` for the update number t = 1, 2, ...,
so that the first update of a warmup has the rate ``peak_value / warmup_steps``, update
number ``warmup_steps`` has the peak, and the last update of a decay to zero has rate 0.
Phases that do not fit in the run, and arguments out of their range, raise a ValueError.

Under ``jit`` and on JAX arrays they compute in JAX's default precision. On Python numbers
and NumPy arrays they compute in float64, which is how the trainer makes its tables: rounded
once from float64, a rate is the same number on every machine. A step may be of any type of
integer or floating-point number, unsigned or of 8 bits too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from wsdjax.schedules.cooldowns import (
    Factor,
    check,
    check_lengths,
    cooldown,
    exact,
    held,
    numpy_of,
    of_plain_numbers,
)

if TYPE_CHECKING:
    import optax


def _warmup(t, warmup_steps: int):
    return numpy_of(t).clip(exact(t) / warmup_steps, 0, 1) if warmup_steps else 1.0


@of_plain_numbers
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

    The rate stays at `end_value`, a rate and not a factor, after T_end; with ``decay_steps=0`` it
    never decays. `shape` is a name in `COOLDOWNS` or a function ``factor(p, end)``.
    """
    check_lengths(total_steps, warmup_steps=warmup_steps, decay_steps=decay_steps)
    decay = cooldown(peak_value, total_steps - decay_steps, decay_steps, shape, end_value)
    return lambda t: _warmup(t, warmup_steps) * decay(t)


@of_plain_numbers
def warmup_cosine(
    peak_value: float, warmup_steps: int, total_steps: int, end_value: float = 0.0
) -> optax.Schedule:
    """Linear warmup, then half a cosine to the end (Loshchilov and Hutter; Belloni et al.)::

    eta(t) = peak * t / T_w                                                     t < T_w
             end + (peak - end) / 2 * (1 + cos(pi (t - T_w) / (T_end - T_w)))   t >= T_w
    """
    check_lengths(total_steps, warmup_steps=warmup_steps)
    decay_steps = total_steps - warmup_steps
    return wsd(peak_value, warmup_steps, total_steps, decay_steps, "cosine", end_value)


@of_plain_numbers
def constant(peak_value: float, warmup_steps: int = 0) -> optax.Schedule:
    """Linear warmup, then the peak for ever: the trunk of every other schedule."""
    return wsd(peak_value, warmup_steps, warmup_steps, 0)


@of_plain_numbers
def inverse_sqrt(
    peak_value: float,
    warmup_steps: int,
    total_steps: int,
    decay_steps: int = 0,
    timescale: float = 10_000.0,
    shape: str | Factor = "linear",
    end_value: float = 0.0,
) -> optax.Schedule:
    """Inverse square root with a cooldown (Zhai et al., Scaling Vision Transformers)::

        eta(t) = peak * t / T_w                               t < T_w
                 peak / sqrt(1 + (t - T_w) / timescale)       T_w <= t <= T_c
                 eta(T_c) * factor((t - T_c) / decay, end)    T_c < t

    With ``timescale = warmup_steps`` it is peak * sqrt(T_w / t), as in Vaswani et al. The
    cooldown starts from the rate that was reached and has only its own shape, so that it can
    be forked anywhere; with ``decay_steps=0`` there is none.
    """
    check(peak_value, 0.0)
    check_lengths(total_steps, warmup_steps=warmup_steps, decay_steps=decay_steps)
    if not timescale > 0:
        raise ValueError(f"timescale must be > 0, got {timescale}")

    def stable(t):
        t = exact(t)
        after = numpy_of(t).clip(t - warmup_steps, 0, None)
        return peak_value * _warmup(t, warmup_steps) / numpy_of(t).sqrt(1 + after / timescale)

    if decay_steps == 0:
        return stable
    begin = total_steps - decay_steps
    decay = cooldown(float(stable(begin)), begin, decay_steps, shape, end_value)
    return _joined([(begin, stable), (total_steps, decay)])


@of_plain_numbers
def rewarm(
    start_value: float,
    peak_value: float,
    start_step: int,
    warmup_steps: int,
    total_steps: int,
    shape: str | Factor = "cosine",
    end_value: float = 0.0,
) -> optax.Schedule:
    """Back to the peak and down again, for continual training (Ibrahim et al.).

    From `start_value` at `start_step` the rate rises linearly to the peak over `warmup_steps`
    updates, then falls to `end_value` at `total_steps`. ``warmup_steps=0`` is the warm restart
    of Loshchilov and Hutter (SGDR): the peak at once.
    """
    begin = start_step + warmup_steps
    if not 0 <= start_value <= peak_value:
        raise ValueError(f"start_value must be in [0, peak_value={peak_value}], got {start_value}")
    if begin > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} is longer than the {total_steps - start_step} steps left"
        )
    down = cooldown(peak_value, begin, total_steps - begin, shape, end_value)
    if warmup_steps == 0:
        return _joined([(start_step, held(start_value)), (total_steps, down)])

    def up(t):
        p = numpy_of(t).clip((exact(t) - start_step) / warmup_steps, 0, 1)
        return start_value + (peak_value - start_value) * p

    return _joined([(begin, up), (total_steps, down)])


@of_plain_numbers
def infinite(
    peak_value: float,
    warmup_steps: int,
    cosine_steps: int,
    total_steps: int,
    decay_steps: int,
    constant_value: float,
    shape: str | Factor = "exponential",
    end_value: float | None = None,
) -> optax.Schedule:
    """The 'infinite' schedule (Singh et al., Beyond Cosine Decay): linear warmup to the peak,
    half a cosine of `cosine_steps` down to `constant_value`, which is held until the last
    `decay_steps` anneal it to `end_value` (None: a tenth of `constant_value`).
    """
    end_value = constant_value / 10 if end_value is None else end_value
    lengths = {"cosine_steps": cosine_steps, "decay_steps": decay_steps}
    check_lengths(total_steps, warmup_steps=warmup_steps, **lengths)
    fallen = warmup_steps + cosine_steps
    fall = warmup_cosine(peak_value, warmup_steps, fallen, constant_value)
    anneal = cooldown(constant_value, total_steps - decay_steps, decay_steps, shape, end_value)
    return _joined([(fallen, fall), (total_steps, anneal)])


@of_plain_numbers
def wsd_s_ends(
    budgets: Sequence[int], decay_fraction: float = 0.1, budgets_include_decays: bool = True
) -> list[tuple[int, int]]:
    """(T_c, T_end) of each cycle of `wsd_s`: where its decay starts and where it ends."""
    if not budgets or min(budgets) < 1:
        raise ValueError(f"budgets must be one or more steps >= 1, got {budgets!r}")
    if not 0 <= decay_fraction <= 1:
        raise ValueError(f"decay_fraction must be in [0, 1], got {decay_fraction}")
    ends: list[tuple[int, int]] = []
    decays = 0
    for budget in budgets:
        decay = round(decay_fraction * budget)
        end = budget + (0 if budgets_include_decays else decays)
        before = ends[-1][1] if ends else 0
        if end - decay < before:
            raise ValueError(
                f"budgets {tuple(budgets)}: the decay of {decay} steps before {end} starts before "
                f"the one that ends at {before}"
            )
        ends.append((end - decay, end))
        decays += decay
    return ends


@of_plain_numbers
def wsd_s(
    peak_value: float,
    warmup_steps: int,
    budgets: Sequence[int],
    decay_fraction: float = 0.1,
    shape: str | Factor = "inverse",
    end_value: float | None = None,
    budgets_include_decays: bool = True,
) -> optax.Schedule:
    """WSD-S (Wen et al., River valley): one run through several budgets.

    Before each budget B the rate decays over the last ``decay_fraction * B`` steps; the next
    update has the peak again and goes on from the decayed weights, without rollback.

    Args:
      end_value: the last rate of each decay; None for a tenth of the peak.
      budgets_include_decays: True takes budgets as the absolute ends of the decays: 12,500,
        25,000 and 50,000 end there, and the second is stable from 12,500 to 22,500. False is
        the paper's own count, where earlier decays lengthen the run: the second is stable
        until 23,750 and ends at 26,250, the third ends at 53,750.
    """
    end_value = peak_value / 10 if end_value is None else end_value
    ends = wsd_s_ends(budgets, decay_fraction, budgets_include_decays)
    (start, end), *_ = ends
    check_lengths(end, warmup_steps=warmup_steps, decay_steps=end - start)
    cycles = [
        (end, cooldown(peak_value, start, end - start, shape, end_value)) for start, end in ends
    ]
    return _joined([(warmup_steps, constant(peak_value, warmup_steps)), *cycles])


@of_plain_numbers
def cyclic_cosine(
    peak_value: float, warmup_steps: int, budgets: Sequence[int], end_value: float = 0.0
) -> optax.Schedule:
    """Half a cosine from the peak to `end_value` before each budget, an absolute end; the
    update after it has the peak's rate again, without a new warmup (Wen et al.).
    """
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ValueError(f"budgets must be one or more rising steps, got {budgets!r}")
    first = warmup_cosine(peak_value, warmup_steps, budgets[0], end_value)
    later = [
        (end, cooldown(peak_value, start, end - start, "cosine", end_value))
        for start, end in pairwise(budgets)
    ]
    return _joined([(budgets[0], first), *later])


def _joined(pieces: Sequence[tuple[int, optax.Schedule]]) -> optax.Schedule:
    """Each piece up to its end, that included; the last one beyond its own as well. All are
    functions of the same t, unlike those of ``optax.join_schedules``."""

    def schedule(t):
        t = exact(t)
        value = pieces[-1][1](t)
        for end, piece in reversed(pieces[:-1]):
            value = numpy_of(t).where(t <= end, piece(t), value)
        return value

    return schedule
