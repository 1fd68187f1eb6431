"""The names that config files import: an experiment and all that it is made of."""

from wsdjax.config.data import Bigram, Cifar10, Photos, Stdlib, Text
from wsdjax.config.experiment import (
    AdamW,
    Averages,
    Branch,
    Experiment,
    Mesh,
    Overrides,
    describe_all,
    is_name,
    validate,
    validate_branch,
)
from wsdjax.config.kinds import TYPES, DataConfig, Described, ModelConfig, Schedule
from wsdjax.config.models import CNN, RNN, Transformer
from wsdjax.config.schedules import (
    Constant,
    Continued,
    Cooldown,
    Hold,
    InverseSqrt,
    Rewarm,
    WarmupCosine,
)
from wsdjax.errors import ConfigError
