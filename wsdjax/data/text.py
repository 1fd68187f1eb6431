"""Text as a data set: windows of token shards, prepared by a command or of the standard library."""

from __future__ import annotations

from wsdjax.data.host import HostSplit
from wsdjax.data.split import Dataset
from wsdjax.data.tokens import Description, Windows


def load(described: Description, length: int, most: int) -> Dataset:
    """The training windows, and at most so many of the held-out ones, evenly spread over them.

    Raises:
      TokensError: for shards that are damaged or another tokenizer's, naming the file.
    """
    return Dataset(
        HostSplit(Windows(described, "train", length)),
        HostSplit(Windows(described, "test", length, most)),
    )
