"""Data sets of the Hugging Face hub as documents; the extra `huggingface` has the library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.prepare import PrepareError
from wsdjax.wording import shortened

INSTALL = 'pip install -c constraints.txt -e ".[huggingface]"'
_PARTS = 64


def parts(given: str) -> list[tuple[str, int]]:
    """``hf:NAME``, ``hf:NAME:SPLIT`` or ``hf:NAME:CONFIG:SPLIT`` as parts that workers can share:
    the name of each, for `rows`, and its size in bytes, about. The split is "train" by default."""
    whole = given if given.count(":") > 1 else f"{given}:train"
    if whole.count(":") > 3 or not all(whole.split(":")):
        raise PrepareError(f"--input {given}: write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    found = _open(whole)
    count = max(1, min(_PARTS, len(found)))
    size = (found.size_in_bytes or 0) // count
    return [(f"{whole}:{i + 1}/{count}", size) for i in range(count)]


def rows(part: str) -> Iterator[tuple[int, Any]]:
    """The rows of a part, each with its number, from 1."""
    whole, _, which = part.rpartition(":")
    number, count = map(int, which.split("/"))
    opened, row = _open(whole), 0
    try:
        shard = opened.shard(num_shards=count, index=number - 1, contiguous=True)
        for row, content in enumerate(shard, 1):
            yield row, content
    except Exception as error:  # of the library or the network; none of whoever takes the rows
        said = shortened(f"{type(error).__name__}: {error}", 150)
        raise PrepareError(f"{part} cannot be read after row {row} ({said})") from None


def _open(whole: str) -> Any:
    _, name, *config, split = whole.split(":")
    try:
        import datasets
    except ImportError:
        raise PrepareError(f"{whole} needs the library datasets: {INSTALL}") from None
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, *config, split=split)
    except Exception as error:  # of the library, the network or the data set's own code
        said = shortened(f"{type(error).__name__}: {error}", 200)
        raise PrepareError(f"{whole} could not be fetched ({said})") from None
