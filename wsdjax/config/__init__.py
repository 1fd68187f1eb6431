"""What config files import: an experiment and all that it is made of."""

from wsdjax.config.data import Bigram, Cifar10, Photos, Stdlib, Text
from wsdjax.config.experiment import (
    DATA,
    SCHEDULES,
    TYPES,
    AdamW,
    Averages,
    Branch,
    Constant,
    Continued,
    Cooldown,
    Experiment,
    Hold,
    InverseSqrt,
    Overrides,
    Rewarm,
    WarmupCosine,
    is_name,
    validate,
    validate_branch,
)
from wsdjax.config.models import CNN, RNN, Transformer
from wsdjax.errors import ConfigError
