"""Text as a data set: windows of token shards, prepared by a command or of the standard library."""

from __future__ import annotations

from wsdjax import config
from wsdjax.data.host import HostSplit
from wsdjax.data.split import Dataset
from wsdjax.data.tokens import Windows


def load(config: config.Text | config.Stdlib) -> Dataset:
    """The training windows, and as many of the held-out ones as are to be evaluated, evenly
    spread over them.

    Raises:
      NotPrepared: (a FileNotFoundError) if there are no shards, naming the command.
      TokensError: for shards that are damaged or another tokenizer's, naming the file.
    """
    described = config.description()
    return Dataset(
        HostSplit(Windows(described, "train", config.length)),
        HostSplit(Windows(described, "test", config.length, config.eval_windows)),
    )
