"""AdamW as an optax transformation whose hyperparameters are arrays.

It is built inside the traced step, from arrays: a branch with another rate, other betas or
another weight decay runs the same compiled program, and no hyperparameter is in a checkpoint.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from wsdjax.config import AdamW
from wsdjax.models import Params

NOT_DECAYED = ("bias", "scale")
"""Names of parameters without weight decay: biases and the gains of normalisation layers."""


class Hyper(NamedTuple):
    """The hyperparameters of one update: scalars, or [R] for R replicates."""

    rate: Any
    b1: Any
    b2: Any
    eps: Any
    weight_decay: Any
    clip_norm: Any


def hyper(config: AdamW, rate: float = 0.0) -> Hyper:
    """float32 scalars for one update at `rate`."""
    values = (rate, config.b1, config.b2, config.eps, config.weight_decay, config.clip_norm)
    return Hyper(*(np.float32(value) for value in values))


def adamw(hyper: Hyper) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; the decay is decoupled and multiplied by the rate.

    Equal to ``optax.adamw`` after ``optax.clip_by_global_norm``, with parameters named in
    `NOT_DECAYED` left out of the decay (by name, since stacked layers have 2-D biases).
    """
    return optax.chain(
        optax.clip_by_global_norm(hyper.clip_norm),
        optax.scale_by_adam(hyper.b1, hyper.b2, hyper.eps),
        optax.add_decayed_weights(hyper.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(hyper.rate),
    )


def decayed(params: Params) -> Any:
    """True for each leaf that weight decay acts on."""

    def is_decayed(path, _):
        return getattr(path[-1], "key", None) not in NOT_DECAYED

    return jax.tree.map_with_path(is_decayed, params)


def init(params: Params) -> optax.OptState:
    """The state of `adamw` for these parameters; it depends on no hyperparameter."""
    return adamw(hyper(AdamW())).init(params)


def second_moment(opt_state: optax.OptState) -> tuple[Params, jax.Array]:
    """(nu, like the parameters, and the count of updates in it) of a state of `adamw`."""
    adam = next(part for part in opt_state if isinstance(part, optax.ScaleByAdamState))
    return adam.nu, adam.count
