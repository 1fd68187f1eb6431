"""Schedules equal their closed forms at every t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsdjax import schedules

PEAK, T = 3e-3, 40
CLOSED = {
    "linear": lambda p, f: f + (1 - f) * (1 - p),
    "cosine": lambda p, f: f + (1 - f) * (1 + np.cos(np.pi * p)) / 2,
    "sqrt": lambda p, f: f + (1 - f) * (1 - np.sqrt(p)),
    "square": lambda p, f: f + (1 - f) * (1 - p * p),
    "mirror_cosine": lambda p, f: (
        2 * (f + (1 - f) * (1 - p)) - f - (1 - f) * (1 + np.cos(np.pi * p)) / 2
    ),
    "exponential": lambda p, f: np.exp(p * np.log(f)),
    "inverse": lambda p, f: 1 / (p / f + 1 - p),
    "lowered_linear": lambda p, f: f + (0.5 - f) * (1 - p),
}


def eta(t, warmup, total, decay, shape, end):
    """Belloni et al., and their kin, one t at a time in float64."""
    if t < warmup:
        return PEAK * t / warmup
    start = total - decay
    if decay == 0 or t <= start:
        return PEAK
    return PEAK * CLOSED[shape](min(t - start, decay) / decay, end / PEAK)


@pytest.mark.parametrize("shape", schedules.COOLDOWNS)
@pytest.mark.parametrize(("warmup", "decay"), [(5, 14), (0, 14), (5, 0), (0, 0), (5, 1), (5, 35)])
@pytest.mark.parametrize("end", [0.0, 3e-4])
def test_wsd_is_the_closed_form_at_every_t(shape, warmup, decay, end):
    if end == 0 and decay and shape in ("exponential", "inverse"):
        with pytest.raises(ValueError, match="never reaches 0"):
            schedules.wsd(PEAK, warmup, T, decay, shape, end)
        return
    schedule = schedules.wsd(PEAK, warmup, T, decay, shape, end)
    t = np.arange(T + 6)
    expected = np.array([eta(s, warmup, T, decay, shape, end) for s in t])
    np.testing.assert_allclose(schedule(t), expected, rtol=1e-13, atol=1e-18)
    jitted = jax.jit(jax.vmap(schedule))(jnp.asarray(t))
    assert jitted.dtype == jnp.float32
    np.testing.assert_allclose(jitted, expected, rtol=0, atol=1e-6 * PEAK)
    assert (jitted >= 0).all()
    if decay and end == 0:
        assert jitted[T] == 0


@pytest.mark.parametrize("warmup", [0, 7, T])
@pytest.mark.parametrize("end", [0.0, 3e-4])
def test_warmup_cosine_is_the_closed_form_at_every_t(warmup, end):
    schedule = schedules.warmup_cosine(PEAK, warmup, T, end)
    t = np.arange(T + 1)
    p = (t - warmup) / max(T - warmup, 1)
    after = end + (PEAK - end) / 2 * (1 + np.cos(np.pi * p))
    expected = np.where(t < warmup, PEAK * t / max(warmup, 1), after)
    np.testing.assert_allclose(schedule(t), expected, rtol=1e-13, atol=1e-18)
    jitted = jax.jit(schedule)(jnp.asarray(t))
    np.testing.assert_allclose(jitted, expected, rtol=0, atol=1e-6 * PEAK)


def test_the_updates_rates():
    """The first is peak/warmup, number `warmup` has the peak, the last of a decay is 0."""
    schedule = schedules.wsd(PEAK, 10, 100, 20)
    rates = schedule(np.arange(1, 101))
    assert rates[0] == PEAK / 10
    assert rates[9] == rates[79] == PEAK
    assert rates[8] < PEAK > rates[80]
    assert rates[-1] == 0


def test_inverse_is_linear_in_one_over_the_rate():
    rates = schedules.wsd(PEAK, 0, T, T, "inverse", PEAK / 10)(np.arange(T + 1))
    np.testing.assert_allclose(np.diff(1 / rates, 2), 0, atol=1e-9 / PEAK)


def test_families_and_functions_as_shapes():
    """power(1) and one_minus_power(1) are linear; k = 1/2, 2 are sqrt and square."""
    t = np.arange(T + 1)
    linear = schedules.wsd(PEAK, 3, T, 9)(t)
    for shape in (schedules.power(1), schedules.one_minus_power(1)):
        np.testing.assert_allclose(schedules.wsd(PEAK, 3, T, 9, shape)(t), linear, atol=1e-18)
    p = np.linspace(0, 1, 9)
    np.testing.assert_allclose(schedules.power(3)(p, 0.1), 0.1 + 0.9 * (1 - p) ** 3)
    np.testing.assert_allclose(schedules.lowered_linear(0.3)(p, 0.1), 0.1 + 0.2 * (1 - p))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((PEAK, 30, 40, 20), "do not fit in total_steps=40"),
        ((PEAK, 5, 40, 20, "linea"), "the shapes are linear, cosine"),
        ((0.0, 5, 40, 20), "peak_value must be > 0"),
        ((PEAK, -1, 40, 20), "warmup_steps must be >= 0"),
        ((PEAK, 5, 40, 20, "linear", 1.0), "end_value must be in"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        schedules.wsd(*arguments)
