"""Data sets of the Hugging Face hub as documents; the extra `huggingface` has the library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wsdjax.validation import UserError

INSTALL = 'pip install -c constraints.txt -e ".[huggingface]"'
_PARTS = 64


class HubError(UserError):
    """A data set that cannot be had."""


def parts(given: str) -> list[tuple[str, int]]:
    """``hf:NAME[:SPLIT]``, the split "train" if none is named, as parts that workers can share.

    Returns:
      The name of each, which `rows` understands, and its size in bytes, about.

    Raises:
      HubError: for a missing library, no network, or no such data set.
    """
    _, name, split, *rest = [*given.split(":"), "train"]
    if not name or len(rest) > 1:
        raise HubError(f"--input {given}: write hf:NAME or hf:NAME:SPLIT")
    found = _open(name, split)
    count = max(1, min(_PARTS, len(found)))
    size = (found.size_in_bytes or 0) // count
    return [(f"hf:{name}:{split}:{i + 1}/{count}", size) for i in range(count)]


def rows(part: str) -> Iterator[tuple[int, Any]]:
    """The rows of a part, each with its number, from 1."""
    _, name, split, which = part.split(":")
    number, count = map(int, which.split("/"))
    shard = _open(name, split).shard(num_shards=count, index=number - 1, contiguous=True)
    yield from enumerate(shard, 1)


def _open(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise HubError(f"hf:{name} needs the library datasets: {INSTALL}") from None
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of the library, the network or the data set's own code
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HubError(f"hf:{name}:{split} could not be fetched ({said})") from None
