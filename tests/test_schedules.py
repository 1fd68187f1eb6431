"""Schedules equal their closed forms at every t."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
        ((PEAK, 5, 40, 20, "power(-1)"), "k must be > 0"),
        ((PEAK, 5, 40, 20, "power(x)"), r"shape 'power\(x\)'; the shapes are .*, power\(NUMBER\)"),
        ((PEAK, 5, 40, 20, "power(1.2.3)"), r"unknown cooldown shape 'power\(1.2.3\)'"),
        ((PEAK, 5, 40, 20, "power(nan)"), r"unknown cooldown shape 'power\(nan\)'"),
        ((PEAK, 5, 40, 20, "power(1_0)"), r"unknown cooldown shape 'power\(1_0\)'"),
        ((PEAK, 5, 40, 20, "power((2))"), r"unknown cooldown shape 'power\(\(2\)\)'"),
        ((PEAK, 5, 40, 20, "power(2))"), r"unknown cooldown shape 'power\(2\)\)'"),
        ((PEAK, 5, 40, 20, "power()"), r"unknown cooldown shape 'power\(\)'"),
        ((PEAK, 5, 40, 20, "power(1e999)"), "k must be > 0 and finite, got inf"),
        ((PEAK, 5, 40, 20, f"one_minus_power({'9' * 5000})"), "and finite, got inf"),
        ((PEAK, 5, 40, 20, "x" * 5000), r"'x{20,40}\.\.\.x{20,40}'; the shapes are linear"),
        ((PEAK, 5, 40, 20, None), "unknown cooldown shape None"),
        ((PEAK, 5, 40, 20, ["linear"]), r"unknown cooldown shape \('linear',\)"),
        ((math.inf, 5, 40, 20), "peak_value must be > 0 and finite"),
        ((PEAK, math.nan, 40, 20), "warmup_steps must be >= 0, got nan"),
        ((PEAK, 5, math.nan, 20), "do not fit in total_steps=nan"),
        ((PEAK, 5, 40, 20, schedules.COOLDOWNS["exponential"]), "'exponential' never reaches 0"),
        ((PEAK, 5, 40, 20, schedules.COOLDOWNS["inverse"]), "'inverse' never reaches 0"),
        ((PEAK, 5, 40, 20, "lowered_linear(2)"), r"must be in \(0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        schedules.wsd(*arguments)
    assert len(str(caught.value)) < 300


# The schedules of several phases, one t at a time in float64, each phase written out.


def by_budgets(t, warmup, cycles, fall):
    """Cycles (T_c, T_end): warm up, hold the peak to T_c, then `fall` of the progress."""
    if t < warmup:
        return PEAK * t / warmup
    for start, end in cycles:
        if t <= start:
            return PEAK
        if t <= end:
            return fall((t - start) / (end - start))
    return fall(1.0)


def inverse(p):
    return 1 / (p / (PEAK / 10) + (1 - p) / PEAK)


def half_cosine(p, top=PEAK, end=0.0):
    return end + (top - end) * (1 + math.cos(math.pi * p)) / 2


def by_inverse_sqrt(t, warmup, total, decay, timescale):
    stop = min(t, total - decay) if decay else t
    rate = PEAK * t / warmup if t < warmup else PEAK / math.sqrt(1 + (stop - warmup) / timescale)
    return rate * (1 - min(max(t - (total - decay), 0) / decay, 1)) if decay else rate


def by_infinite(t):
    """Warmup 5, a cosine to 1e-3 at 15, held to 30, then exponentially to 1e-4 at 40."""
    if t < 5:
        return PEAK * t / 5
    if t <= 15:
        return half_cosine((t - 5) / 10, end=1e-3)
    return 1e-3 * 0.1 ** (min(max(t - 30, 0), 10) / 10)


def by_rewarm(t, warmup):
    """From 1e-4 at 10 to the peak at 10 + warmup, then half a cosine to 0 at 40."""
    if t <= 10:
        return 1e-4
    if t <= 10 + warmup:
        return 1e-4 + (PEAK - 1e-4) * (t - 10) / warmup
    return half_cosine(min((t - 10 - warmup) / (30 - warmup), 1))


PHASES = {
    "wsd_s": (
        schedules.wsd_s(PEAK, 3, (10, 20, 40), 0.2),
        lambda t: by_budgets(t, 3, [(8, 10), (16, 20), (32, 40)], inverse),
    ),
    "wsd_s, earlier decays excluded": (
        schedules.wsd_s(PEAK, 0, (10, 20, 40), 0.2, budgets_include_decays=False),
        lambda t: by_budgets(t, 0, [(8, 10), (18, 22), (38, 46)], inverse),
    ),
    "wsd_s of one budget and no stable phase": (
        schedules.wsd_s(PEAK, 8, (10,), 0.2, "linear", 0.0),
        lambda t: by_budgets(t, 8, [(8, 10)], lambda p: PEAK * (1 - p)),
    ),
    "wsd_s without decays": (
        schedules.wsd_s(PEAK, 3, (10, 20), 0.0),
        lambda t: PEAK * min(t / 3, 1),
    ),
    "cyclic_cosine": (
        schedules.cyclic_cosine(PEAK, 4, (10, 20, 40), 1e-4),
        lambda t: (
            PEAK * t / 4
            if t < 4
            else by_budgets(t, 0, [(4, 10), (10, 20), (20, 40)], lambda p: half_cosine(p, end=1e-4))
        ),
    ),
    "inverse_sqrt": (
        schedules.inverse_sqrt(PEAK, 5, 40, 12, 7.0),
        lambda t: by_inverse_sqrt(t, 5, 40, 12, 7.0),
    ),
    "inverse_sqrt without warmup and cooldown": (
        schedules.inverse_sqrt(PEAK, 0, 40, 0, 7.0),
        lambda t: by_inverse_sqrt(t, 0, 40, 0, 7.0),
    ),
    "infinite": (schedules.infinite(PEAK, 5, 10, 40, 10, 1e-3), by_infinite),
    "rewarm": (schedules.rewarm(1e-4, PEAK, 10, 6, 40), lambda t: by_rewarm(t, 6)),
    "rewarm at once": (schedules.rewarm(1e-4, PEAK, 10, 0, 40), lambda t: by_rewarm(t, 0)),
    "rewarm, one update": (schedules.rewarm(1e-4, PEAK, 10, 1, 40), lambda t: by_rewarm(t, 1)),
    "constant": (schedules.constant(PEAK, 5), lambda t: PEAK * min(t / 5, 1)),
    "constant without warmup": (schedules.constant(PEAK), lambda t: PEAK),
}


@pytest.mark.parametrize("name", PHASES)
def test_schedules_of_several_phases_are_their_closed_forms(name):
    """At every t, beyond the end too; under jit and vmap; and one t at a time."""
    schedule, closed_form = PHASES[name]
    t = np.arange(52)
    expected = np.array([closed_form(int(s)) for s in t])
    np.testing.assert_allclose(schedule(t), expected, rtol=1e-13, atol=1e-18)
    one_by_one = [schedule(int(s)) for s in t]
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-13, atol=1e-18)
    jitted = jax.jit(jax.vmap(schedule))(jnp.asarray(t))
    assert jitted.dtype == jnp.float32
    np.testing.assert_allclose(jitted, expected, rtol=0, atol=1e-6 * PEAK)


WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
LATE = {
    # What no number of 8 bits can hold.
    "late wsd": schedules.wsd(PEAK, 300, 1000, 400),
    "late rewarm": schedules.rewarm(1e-4, PEAK, 300, 300, 1000),
    "late wsd_s": schedules.wsd_s(PEAK, 300, (500, 1000)),
    "late inverse_sqrt": schedules.inverse_sqrt(PEAK, 0, 1000, 400, 7.0),
}
SHAPES = {
    shape: schedules.wsd(PEAK, 5, T, 14, shape, 1e-4)
    for shape in (*schedules.COOLDOWNS, "power(2)", "one_minus_power(0.3)", "lowered_linear(0.7)")
}


@pytest.mark.parametrize("name", [*PHASES, *LATE, *SHAPES])
def test_a_step_of_any_type_has_the_same_rate(name):
    """Of unsigned steps too, as a step counter may be, where t - start would wrap around."""
    schedule = (LATE | SHAPES | {name: of for name, (of, _) in PHASES.items()})[name]
    t = np.arange(60)
    expected = schedule(t)
    np.testing.assert_allclose([schedule(int(s)) for s in t], expected, rtol=1e-14)
    for dtype in (*WHOLE, "float16", "float32", "float64", jnp.bfloat16):
        found = schedule(t.astype(dtype))
        assert np.asarray(found).dtype == np.float64
        np.testing.assert_array_equal(found, expected, err_msg=str(dtype))
        assert schedule(t.astype(dtype)[30]) == schedule(30)
        if np.dtype(dtype).itemsize < 8:
            traced = jax.jit(jax.vmap(schedule)) if dtype == "uint32" else schedule
            found = traced(jnp.asarray(t, dtype))
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * PEAK)
    with jax.enable_x64(True):
        for dtype in ("uint8", "uint64"):
            found = schedule(jnp.asarray(t, dtype))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * PEAK)


def test_the_largest_unsigned_steps_are_after_the_end():
    """Without a warmup, in which a step that wrapped would have the rate 0 too."""
    ends = (schedules.wsd(PEAK, 0, T, 14), schedules.wsd(PEAK, 0, T, 14, end_value=1e-4))
    for schedule, end in zip(ends, (0, np.float32(1e-4)), strict=True):
        for step in (jnp.uint32(2**32 - 1), np.uint64(2**64 - 1)):
            np.testing.assert_allclose(schedule(step), end, rtol=1e-6)


@pytest.mark.parametrize("shape", schedules.COOLDOWNS)
def test_a_progress_of_any_type_has_the_same_factor(shape):
    factor = schedules.COOLDOWNS[shape]
    for of in (factor, schedules.power(2), schedules.one_minus_power(0.5)):
        expected = [of(0.0, 0.1), of(1.0, 0.1)]
        for dtype in (*WHOLE, "float16", jnp.bfloat16):
            np.testing.assert_array_equal(of(np.arange(2).astype(dtype), 0.1), expected)
        for dtype in ("uint8", "uint32", "int8", "float16"):
            found = of(jnp.arange(2).astype(dtype), 0.1)
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_lengths_of_any_type_are_the_same_schedule():
    """200 + 100 is 44 in 8 bits, and 5 - 10 is 4,294,967,291 in unsigned 32."""
    t = np.arange(0, 260, 5)
    for dtype in (np.uint8, np.uint16, np.int64, jnp.uint32):
        warmup, decay, total = dtype(5), dtype(100), dtype(250)
        expected = schedules.wsd(PEAK, 5, 250, 100)(t)
        np.testing.assert_array_equal(schedules.wsd(PEAK, warmup, total, decay)(t), expected)
        with pytest.raises(ValueError, match="do not fit in total_steps=250"):
            schedules.wsd(PEAK, dtype(200), total, decay)
        budgets = np.array([100, 200, 250], dtype)
        found = schedules.wsd_s(PEAK, warmup, budgets, 0.2)(t)
        np.testing.assert_array_equal(found, schedules.wsd_s(PEAK, 5, (100, 200, 250), 0.2)(t))
        found = schedules.cyclic_cosine(PEAK, warmup, budgets)(t)
        expected = schedules.cyclic_cosine(PEAK, 5, (100, 200, 250))(t)
        np.testing.assert_array_equal(found, expected)


def test_wsd_s_counts_budgets_in_both_ways():
    """Wen et al.'s own numbers: 12.5k, 25k and 50k at 10%."""
    budgets = (12_500, 25_000, 50_000)
    assert schedules.wsd_s_ends(budgets) == [(11_250, 12_500), (22_500, 25_000), (45_000, 50_000)]
    assert schedules.wsd_s_ends(budgets, 0.1, False) == [
        (11_250, 12_500),
        (23_750, 26_250),
        (48_750, 53_750),
    ]
    schedule = schedules.wsd_s(PEAK, 100, budgets)
    assert schedule(12_500) == pytest.approx(PEAK / 10, rel=1e-14)
    assert schedule(12_501) == PEAK


def test_inverse_sqrt_with_the_warmup_as_timescale_is_vaswanis():
    t = np.arange(5, 60)
    rates = schedules.inverse_sqrt(PEAK, 5, 60, timescale=5)(t)
    np.testing.assert_allclose(rates, PEAK * np.sqrt(5 / t), rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "theirs", "end"),
    [
        ("linear", "linear", 0.0),
        ("cosine", "cosine", 0.0),
        ("sqrt", "1-sqrt", 0.0),
        ("linear", "linear", 3e-4),
        ("cosine", "cosine", 3e-4),
        ("sqrt", "1-sqrt", 3e-4),
    ],
)
def test_wsd_is_hugging_faces(shape, theirs, end):
    """transformers.get_wsd_schedule; a floor lifts its warmup too, so that is compared without."""
    import torch
    from transformers import get_wsd_schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=PEAK)
    scheduler = get_wsd_schedule(
        optimizer, 5, 14, num_training_steps=T, decay_type=theirs, min_lr_ratio=end / PEAK
    )
    rates = []
    for _ in range(T + 4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    first = 5 if end else 0
    ours = schedules.wsd(PEAK, 5, T, 14, shape, end)(np.arange(T + 4))
    np.testing.assert_allclose(ours[first:], rates[first:], rtol=1e-12, atol=1e-18)


def test_warmup_cosine_is_optaxs():
    theirs = optax.warmup_cosine_decay_schedule(0.0, PEAK, 5, T, 3e-4)
    t = np.arange(T + 4)
    ours = schedules.warmup_cosine(PEAK, 5, T, 3e-4)(t)
    np.testing.assert_allclose(ours, [theirs(s) for s in t], rtol=2e-6)


def test_families_by_name():
    """ "power(2)" in a config is schedules.power(2)."""
    t = np.arange(T + 1)
    for name, factor in {
        "power(2)": schedules.power(2),
        "one_minus_power(0.3)": schedules.one_minus_power(0.3),
        "lowered_linear(0.7)": schedules.lowered_linear(0.7),
    }.items():
        by_name, by_factor = (schedules.wsd(PEAK, 3, T, 9, shape)(t) for shape in (name, factor))
        np.testing.assert_array_equal(by_name, by_factor)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: schedules.wsd_s(PEAK, 3, (20, 10)), "starts before the one that ends at 20"),
        (lambda: schedules.wsd_s(PEAK, 3, ()), "one or more steps"),
        (lambda: schedules.wsd_s(PEAK, 9, (10, 20), 0.2), "do not fit in total_steps=10"),
        (lambda: schedules.wsd_s(PEAK, 3, (10, 20), 1.2), "decay_fraction must be in"),
        (lambda: schedules.wsd_s(PEAK, 3, (10,), end_value=0.0), "never reaches 0"),
        (lambda: schedules.cyclic_cosine(PEAK, 3, (10, 10)), "rising steps"),
        (lambda: schedules.cyclic_cosine(PEAK, 30, (10, 20)), "=30 do not fit in total_steps=10"),
        (lambda: schedules.inverse_sqrt(PEAK, 3, 10, 8), "do not fit"),
        (lambda: schedules.inverse_sqrt(PEAK, 3, 10, 2, 0.0), "timescale must be > 0"),
        (lambda: schedules.infinite(PEAK, 5, 10, 20, 10, 1e-3), "do not fit in total_steps=20"),
        (lambda: schedules.infinite(PEAK, 5, 10, 40, 10, 1.0), "end_value must be in"),
        (lambda: schedules.rewarm(1.0, PEAK, 10, 5, 40), "start_value must be in"),
        (lambda: schedules.rewarm(0.0, PEAK, 10, 31, 40), "longer than the 30 steps left"),
    ],
)
def test_phases_that_do_not_fit_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
