"""What an experiment is: typed dataclasses, checked before anything compiles.

A config file's ``get_config()`` returns an `Experiment`. Its ``tree`` declares the branches
of training; ``python -m experiments.run`` trains whatever of it is still missing. The classes
are mutable so that ``--config.field=value`` can override them, and import no JAX so that a
mistake is reported at once.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from wsdjax.length import Length, terms


class UserError(Exception):
    """What whoever runs this can mend; the message says what is wrong, where, and what to do."""


class ConfigError(UserError, ValueError):
    """A config that cannot be run; the message names the field, its value and what is allowed."""


def _number(default: Any, **bounds: float) -> Any:
    """A field with bounds: any of `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata=bounds)


# Models.


@dataclass
class CNN:
    """The CNN of Belloni et al.: 3x3 convolutions, each with ReLU and 2x2 max-pooling."""

    widths: tuple[int, ...] = (32, 128, 128, 128)
    classes: int = _number(10, ge=2)


# Data.


@dataclass
class Photos:
    """Crops of ten photographs; the class is the photograph (`wsdjax.data.photos`)."""

    noise: float = _number(1.0, ge=0)
    """Standard deviation of the pixel noise, in units of the crop's own."""
    size: int = _number(100_000, ge=1)
    """Training crops in one epoch."""
    eval_size: int = _number(2_000, ge=1)
    augment: bool = False

    classes = 10
    revision = 2
    """Counts the changes of what an index gives. Revision 1 had crops that showed nothing."""

    @property
    def examples(self) -> int:
        """Training examples in one epoch."""
        return self.size


@dataclass
class Cifar10:
    """CIFAR-10 as prepared by ``python -m experiments.prepare cifar10``."""

    directory: str = ""
    """Where it was prepared; empty for TFDS's own default."""
    augment: bool = False

    classes = 10
    examples = 50_000
    revision = 1


# Optimizer.


@dataclass
class AdamW:
    """AdamW with decoupled weight decay, multiplied by the rate (Loshchilov and Hutter)."""

    peak_value: float = _number(3e-3, gt=0)
    b1: float = _number(0.9, ge=0, lt=1)
    b2: float = _number(0.999, ge=0, lt=1)
    eps: float = _number(1e-8, gt=0)
    weight_decay: float = _number(0.1, ge=0)
    clip_norm: float = _number(math.inf, gt=0, le=math.inf)
    """Global norm to which gradients are clipped; inf for no clipping."""


@dataclass
class Overrides:
    """What a branch changes of its parent's optimizer; None keeps the parent's value."""

    peak_value: float | None = _number(None, gt=0)
    b1: float | None = _number(None, ge=0, lt=1)
    b2: float | None = _number(None, ge=0, lt=1)
    eps: float | None = _number(None, gt=0)
    weight_decay: float | None = _number(None, ge=0)
    clip_norm: float | None = _number(None, gt=0, le=math.inf)


@dataclass
class Averages:
    """Averages of the weights along training, kept in the state and evaluated beside them: what
    a constant rate reaches without a decay."""

    ema: float = _number(0.0, ge=0, lt=1)
    """Decay of an exponential moving average with bias correction; 0 for none."""
    window: int = _number(0, ge=0)
    """Iterates in a latest-window average (Kaddour's LAWA); 0 for none."""
    window_every: int = _number(1, ge=1)
    """Updates from one of these iterates to the next."""


# Schedules. A branch's schedule is a function of the absolute step; lengths are its own.


@dataclass
class Constant:
    """The peak, after a linear warmup over the run's first `warmup_steps` updates."""

    warmup_steps: Length = _number(0, ge=0)


@dataclass
class Hold:
    """The parent's rate at the fork, kept."""


@dataclass
class Continued:
    """The parent's own schedule, as though there were no fork: a cooldown goes on inside."""


@dataclass
class InverseSqrt:
    """Linear warmup over the run's first updates, then peak / sqrt(1 + t / timescale), t
    counted from there (Zhai et al.); `Cooldown` forks from it."""

    warmup_steps: Length = _number(0, ge=0)
    timescale: float = _number(10_000.0, gt=0)


@dataclass
class WarmupCosine:
    """Linear warmup over the run's first updates, then half a cosine to `end_value` at the end
    of the branch."""

    warmup_steps: Length = _number(0, ge=0)
    end_value: float = _number(0.0, ge=0)


@dataclass
class Cooldown:
    """From the parent's rate at the fork to `end_value`, over the branch's length."""

    shape: str = "linear"
    """One of `wsdjax.schedules.COOLDOWNS`, or ``"power(2)"``, ``"one_minus_power(0.3)"``,
    ``"lowered_linear(0.7)"``."""
    end_value: float = _number(0.0, ge=0)


@dataclass
class Rewarm:
    """From the parent's rate linearly to the peak over the branch's first `warmup_steps`
    updates (0: at once), then down to `end_value` at its end (Ibrahim et al.)."""

    warmup_steps: Length = _number(0, ge=0)
    shape: str = "cosine"
    end_value: float = _number(0.0, ge=0)


# The tree.


@dataclass
class Branch:
    """An edge of the tree: `steps` updates from a node of the parent."""

    steps: Length = field(metadata={"ge": 1})
    """A length: updates (350), "50 epochs", "3e9 tokens", or "35%" of the experiment's."""
    schedule: Constant | Hold | Continued | InverseSqrt | WarmupCosine | Cooldown | Rewarm
    parent: str = ""
    """``"trunk"`` forks at the end of `trunk`, ``"trunk@800"`` after its update 800; empty for
    a root, which starts from the initialisation."""
    optimizer: Overrides = field(default_factory=Overrides)
    reset_optimizer: bool = False
    """Whether the moments of Adam start from zero, as against going on from the parent's."""
    data: Photos | Cifar10 | None = None
    """Another data set, from its first batch on; None for the parent's."""
    data_seed: int | None = _number(None, ge=0, lt=2**31)
    """The seed of a fresh stream, which starts with its first batch at the fork; None goes on
    with the batches that the parent would have seen. Replicate i has the seed data_seed + i."""
    averages: Averages | None = None
    """None keeps the parent's; others than the parent's start anew at the fork."""


@dataclass
class Experiment:
    """Everything a run is. `seeds` replicates, with the seeds `seed`, `seed` + 1, ..., are
    trained together; a replicate's seed decides its initialisation and its batches."""

    model: CNN
    data: Photos | Cifar10
    optimizer: AdamW
    tree: dict[str, Branch]
    batch_size: int = _number(128, ge=1)
    seed: int = _number(0, ge=0, lt=2**31)
    seeds: int = _number(1, ge=1, lt=2**16)
    length: Length | None = _number(None, ge=1)
    """What percentages in the tree are of."""
    averages: Averages = field(default_factory=Averages)
    # How it is watched and kept: no part of what a branch means.
    eval_every: Length = _number(100, ge=1)
    checkpoint_every: Length = _number(500, ge=1)
    snapshot_every: Length | None = _number(None, ge=1)
    """Parameters alone are kept as often, for probes; None for never."""
    keep: int = _number(2, ge=2)
    """How many of the newest checkpoints stay beside every fork point and every end."""
    tensorboard: bool = False
    compare: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows of a table in the report: each a name and the branches of its columns."""


def validate(experiment: Experiment) -> None:
    """Checks every field's type and range.

    Raises:
      ConfigError: naming the field, the value and what is allowed.
    """
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"get_config() must return an Experiment, not {_name(type(experiment))}")
    _check("", experiment, Experiment, {})
    if not experiment.tree:
        raise ConfigError("tree: is empty; declare at least one Branch")
    if isinstance(experiment.model, CNN):
        widths = experiment.model.widths
        if not 1 <= len(widths) <= 5 or min(widths) < 1:
            raise ConfigError(f"model.widths = {widths!r}: must be 1 to 5 integers >= 1")
    for name in experiment.tree:
        _check_name(name)


def validate_branch(name: str, branch: Branch) -> None:
    """Checks a branch that is not in a config, as `validate` checks those that are."""
    _check_name(name)
    _check(f"tree.{name}", branch, Branch, {})


def _check_name(name: str) -> None:
    if not name.replace("-", "_").isidentifier():
        raise ConfigError(f"tree: {name!r} is no branch name: use letters, digits, _ and -")


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _check(path: str, value: Any, kind: Any, bounds: dict[str, float]) -> None:
    """`value`, which stands at `path`, against its annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    dot = f"{path}." if path else ""
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return
        allowed = [a for a in arguments if a is not type(None)]
        chosen = [a for a in allowed if isinstance(value, a)]
        if not chosen and len(allowed) > 1:
            names = ", ".join(_name(a) for a in allowed)
            raise ConfigError(f"{path} = {value!r}: must be one of {names}")
        _check(path, value, (chosen or allowed)[0], bounds)
    elif origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path} = {value!r}: must be a dict of {_name(arguments[1])}")
        for key, item in value.items():
            _check(f"{dot}{key}", item, arguments[1], {})
    elif origin is tuple:
        if not isinstance(value, tuple | list):
            raise ConfigError(f"{path} = {value!r}: must be a tuple of {_name(arguments[0])}")
        for i, item in enumerate(value):
            _check(f"{path}[{i}]", item, arguments[0], {})
    elif dataclasses.is_dataclass(kind):
        if not isinstance(value, typing.cast(type, kind)):
            raise ConfigError(f"{path} = {value!r}: must be a {_name(kind)}")
        hints = typing.get_type_hints(kind)
        for f in dataclasses.fields(kind):
            item = getattr(value, f.name)
            _check(dot + f.name, item, hints[f.name], dict(f.metadata))
            if hints[f.name] in (float, float | None) and isinstance(item, int):
                setattr(value, f.name, float(item))  # noise=1 and noise=1.0 are one data set
    elif kind is Length and isinstance(value, str):
        try:
            terms(value)
        except ValueError as error:
            raise ConfigError(f"{path} = {error}") from None
    else:
        # A whole number will do for a float; a bool is no number.
        accepted: Any = {float: (int, float), Length: int}.get(kind, kind)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{path} = {value!r}: must be of type {_name(kind)}")
        _check_bounds(path, value, bounds)


def _check_bounds(path: str, value: Any, bounds: dict[str, float]) -> None:
    if isinstance(value, float) and math.isinf(value) and bounds.get("le") != math.inf:
        raise ConfigError(f"{path} = {value!r}: must be finite")
    tests = {
        "ge": (">=", lambda bound: value >= bound),
        "gt": (">", lambda bound: value > bound),
        "le": ("<=", lambda bound: value <= bound),
        "lt": ("<", lambda bound: value < bound),
    }
    if not all(tests[key][1](bound) for key, bound in bounds.items()):
        allowed = " and ".join(f"{tests[key][0]} {bound}" for key, bound in bounds.items())
        raise ConfigError(f"{path} = {value!r}: must be {allowed}")


_SCHEDULE_TYPES = (Constant, Hold, Continued, InverseSqrt, WarmupCosine, Cooldown, Rewarm)
_TAGGED = (CNN, Photos, Cifar10, AdamW, Overrides, Averages, *_SCHEDULE_TYPES, Branch, Experiment)
TYPES = {kind.__name__: kind for kind in _TAGGED}
"""What a config is made of, by name."""
SCHEDULES = tuple(kind.__name__ for kind in _SCHEDULE_TYPES)
