"""Schedules: the rate of every update, and the shapes of cooldowns."""

from wsdjax.schedules.cooldowns import (
    COOLDOWNS,
    cooldown,
    lowered_linear,
    one_minus_power,
    power,
)
from wsdjax.schedules.formulas import (
    constant,
    cyclic_cosine,
    infinite,
    inverse_sqrt,
    rewarm,
    warmup_cosine,
    wsd,
    wsd_s,
    wsd_s_ends,
)
