"""What an experiment is: typed dataclasses, checked before anything compiles.

A config file's ``get_config()`` returns an `Experiment`. Its ``tree`` declares the branches
of training; ``python -m experiments.run`` trains whatever of it is still missing. The classes
are mutable so that ``--config.field=value`` can override them, and import no JAX so that a
mistake is reported at once.
"""

import math
from dataclasses import dataclass, field

from wsdjax.config.data import Bigram, Cifar10, Photos, Stdlib, Text, check_data
from wsdjax.config.lengths import Length
from wsdjax.config.models import CNN, RNN, Transformer, validate_model
from wsdjax.config.validation import SIZE, check, check_path, count, kind_name, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown

# Optimizer.


@dataclass
class AdamW:
    """AdamW with decoupled weight decay, multiplied by the rate (Loshchilov and Hutter)."""

    peak_value: float = number(3e-3, gt=0)
    b1: float = number(0.9, ge=0, lt=1)
    b2: float = number(0.999, ge=0, lt=1)
    eps: float = number(1e-8, gt=0)
    weight_decay: float = number(0.1, ge=0)
    clip_norm: float = number(math.inf, gt=0, le=math.inf)
    """Global norm to which gradients are clipped; inf for no clipping."""


@dataclass
class Overrides:
    """What a branch changes of its parent's optimizer; None keeps the parent's value."""

    peak_value: float | None = number(None, gt=0)
    b1: float | None = number(None, ge=0, lt=1)
    b2: float | None = number(None, ge=0, lt=1)
    eps: float | None = number(None, gt=0)
    weight_decay: float | None = number(None, ge=0)
    clip_norm: float | None = number(None, gt=0, le=math.inf)


@dataclass
class Averages:
    """Averages of the weights along training, kept in the state and evaluated beside them: what
    a constant rate reaches without a decay."""

    ema: float = number(0.0, ge=0, lt=1)
    """Decay of an exponential moving average with bias correction; 0 for none."""
    window: int = count(0, least=0)
    """Iterates in a latest-window average (Kaddour's LAWA); 0 for none."""
    window_every: int = count(1)
    """Updates from one of these iterates to the next."""


# Schedules. A branch's schedule is a function of the absolute step; lengths are its own.


@dataclass
class Constant:
    """The peak, after a linear warmup over the run's first `warmup_steps` updates."""

    warmup_steps: Length = number(0, ge=0)


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

    warmup_steps: Length = number(0, ge=0)
    timescale: float = number(10_000.0, gt=0)


@dataclass
class WarmupCosine:
    """Linear warmup over the run's first updates, then half a cosine to `end_value` at the end
    of the branch."""

    warmup_steps: Length = number(0, ge=0)
    end_value: float = number(0.0, ge=0)


@dataclass
class Cooldown:
    """From the parent's rate at the fork to `end_value`, over the branch's length."""

    shape: str = "linear"
    """One of `wsdjax.schedules.COOLDOWNS`, or ``"power(2)"``, ``"one_minus_power(0.3)"``,
    ``"lowered_linear(0.7)"``."""
    end_value: float = number(0.0, ge=0)


@dataclass
class Rewarm:
    """From the parent's rate linearly to the peak over the branch's first `warmup_steps`
    updates (0: at once), then down to `end_value` at its end (Ibrahim et al.)."""

    warmup_steps: Length = number(0, ge=0)
    shape: str = "cosine"
    end_value: float = number(0.0, ge=0)


# The tree.


@dataclass
class Branch:
    """A branch of the tree: `steps` updates from a node of the parent."""

    steps: Length = field(metadata={"ge": 1})
    """A length: updates (350), "50 epochs", "3e9 tokens", or "35%" of the experiment's."""
    schedule: Constant | Hold | Continued | InverseSqrt | WarmupCosine | Cooldown | Rewarm
    parent: str = ""
    """``"trunk"`` forks at the end of `trunk`, ``"trunk@800"`` after its update 800; empty for
    a root, which starts from the initialisation."""
    optimizer: Overrides = field(default_factory=Overrides)
    reset_optimizer: bool = False
    """Whether the moments of Adam start from zero, as against going on from the parent's."""
    data: Photos | Cifar10 | Text | Stdlib | Bigram | None = None
    """Another data set, from its first batch on; None for the parent's."""
    data_seed: int | None = number(None, ge=0, lt=SIZE)
    """The seed of a fresh stream, which starts with its first batch at the fork; None goes on
    with the batches that the parent would have seen. Replicate i has the seed data_seed + i."""
    averages: Averages | None = None
    """None keeps the parent's; others than the parent's start anew at the fork."""


@dataclass
class Experiment:
    """Everything a run is. `seeds` replicates, with the seeds `seed`, `seed` + 1, ..., are
    trained together; a replicate's seed decides its initialisation and its batches."""

    model: CNN | Transformer | RNN
    data: Photos | Cifar10 | Text | Stdlib | Bigram
    optimizer: AdamW
    tree: dict[str, Branch]
    batch_size: int = count(128)
    accumulate: int = count(1)
    """Micro-batches that a batch is cut into: an update's memory is that of one of them."""
    weights: str = ""
    """A Hugging Face directory whose weights every root starts from; empty for the
    initialisation."""
    seed: int = number(0, ge=0, lt=SIZE)
    seeds: int = number(1, ge=1, lt=2**16)
    length: Length | None = number(None, ge=1)
    """What percentages in the tree are of."""
    averages: Averages = field(default_factory=Averages)
    # How it is watched and kept: no part of what a branch means.
    eval_every: Length = number(100, ge=1)
    checkpoint_every: Length = number(500, ge=1)
    snapshot_every: Length | None = number(None, ge=1)
    """Parameters alone are kept as often, for probes; None for never."""
    keep: int = count(2, least=2)
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
        raise ConfigError(
            f"get_config() must return an Experiment, not {kind_name(type(experiment))}"
        )
    check("", experiment, Experiment, {})
    if not experiment.tree:
        raise ConfigError("tree: is empty; declare at least one Branch")
    _check_optimizer("optimizer", experiment.optimizer)
    check_path("weights", experiment.weights)
    validate_model("model", experiment.model)
    check_data("data", experiment.data)
    if experiment.batch_size % experiment.accumulate:
        raise ConfigError(
            f"accumulate = {experiment.accumulate}: must divide batch_size = "
            f"{experiment.batch_size}"
        )
    for name, branch in experiment.tree.items():
        _check_name(name)
        _check_branch(name, branch)
    for row in experiment.compare:
        if not (row.isprintable() and row.strip() and len(row) <= LONGEST_NAME):
            raise ConfigError(
                f"compare: {shown(row)} is no name of a row: use 1 to {LONGEST_NAME} characters, "
                "on one line"
            )


def validate_branch(name: str, branch: Branch) -> None:
    """Checks a branch that is not in a config, as `validate` checks those that are."""
    _check_name(name)
    check(f"tree.{name}", branch, Branch, {})
    _check_branch(name, branch)


def _check_branch(name: str, branch: Branch) -> None:
    _check_optimizer(f"tree.{name}.optimizer", branch.optimizer)
    check_data(f"tree.{name}.data", branch.data)


def _check_optimizer(path: str, optimizer: AdamW | Overrides) -> None:
    """That a decay of the moments is below 1 in float32 too, in which they are computed."""
    for name in ("b1", "b2"):
        value = getattr(optimizer, name)
        if value is not None and value >= 1 - 2**-25:
            raise ConfigError(f"{path}.{name} = {value!r}: is 1 in float32, and must be < 1")


LONGEST_NAME = 100


def is_name(name: object) -> bool:
    """Whether a branch can have this name, which is that of a directory too."""
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        return False
    return not name.startswith("-") and len(name.encode()) <= LONGEST_NAME


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ConfigError(
            f"tree: {shown(name)} is no branch name: use letters, digits, _ and -, at most "
            f"{LONGEST_NAME} bytes of them"
        )


_SCHEDULE_TYPES = (Constant, Hold, Continued, InverseSqrt, WarmupCosine, Cooldown, Rewarm)
_MODELS = (CNN, Transformer, RNN)
_DATA_TYPES = (Photos, Cifar10, Text, Stdlib, Bigram)
_TAGGED = (
    *_MODELS,
    *_DATA_TYPES,
    AdamW,
    Overrides,
    Averages,
    *_SCHEDULE_TYPES,
    Branch,
    Experiment,
)
TYPES = {kind.__name__: kind for kind in _TAGGED}
"""What a config is made of, by name."""
DATA = tuple(kind.__name__ for kind in _DATA_TYPES)
SCHEDULES = tuple(kind.__name__ for kind in _SCHEDULE_TYPES)
