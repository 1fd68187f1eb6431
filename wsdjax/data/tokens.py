"""Token shards on disk, and windows over them. Nothing here needs JAX.

    DIR/tokens.json             the tokenizer, the vocabulary, and each split's shards
    DIR/train-00000.tokens ...  a header of 64 bytes, then little-endian uint16 or uint32 tokens
    DIR/test-00000.tokens ...

A separator ends each document. A window is length + 1 tokens of one shard, and the next one starts
`length` later: inputs are the first `length`, targets the last, so that a shard's every token but
its first is a target once, save for fewer than `length` at its end. Windows cross the borders of
documents, not of shards.

A flipped bit can make one token of the vocabulary another. Reading every token to see that the
digest in each header is theirs takes 0.75 s a GB (SHA-256 at 1.35 GB/s, one core of an AMD EPYC;
a disk may take longer): 10 ms for the standard library, a quarter of an hour at every start of
every host for 1.3 TB. A run therefore does so when it opens a split of up to 1 GiB; of more it
says that it has not, and ``python -m experiments.prepare text --verify --out DIR`` does it once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wsdjax.data.shards import (
    AGAIN,
    FORMAT,
    HEADER_BYTES,
    MOST_TOKENS,
    Shard,
    ShardWriter,
    TokensError,
    check_vocabulary,
    read_shard,
    verify,
    width,
)
from wsdjax.data.split import Batch
from wsdjax.files import DamagedFile, read_json, write_json

__all__ = ["HEADER_BYTES", "Shard", "ShardWriter", "TokensError", "read_shard", "verify"]

JSON = "tokens.json"
SPLITS = ("train", "test")
VERIFIED_BYTES = 2**30
"""The largest split that is verified whenever it is opened."""
_MAPPED = 256
"""Shards of a split that are mapped at a time: each is an open file, of which a process may have
some 1,000."""
_AGAIN = "delete it and give the command that prepared it again"
_log = logging.getLogger(__name__)


class NotPrepared(TokensError, FileNotFoundError):
    """No token shards where they were looked for."""


class Description(NamedTuple):
    """The content of `tokens.json`."""

    directory: Path
    tokenizer: str
    fingerprint: str
    """The tokenizer's SHA-256, which every shard's header begins to tell too."""
    vocabulary: int
    """Tokens are 0, ..., vocabulary - 1."""
    separator: int
    splits: dict[str, list[Shard]]
    lost_bytes: int = 0
    """Bytes of text that the tokenizer has no tokens for."""
    rows_left_out: int = 0
    """Rows that could not be read, and were to be left out."""

    def windows(self, split: str, length: int) -> int:
        """How many windows of length + 1 tokens a split has."""
        count = sum(windows_in(shard.tokens, length) for shard in self.splits[split])
        if count == 0:
            longest = max((shard.tokens for shard in self.splits[split]), default=0)
            asked = f"{length + 1:,}" if length < 2**63 else "more than can be counted"
            raise TokensError(
                f"{self.directory / JSON}: the longest shard of {split!r} has {longest:,} tokens, "
                f"and a window {asked}: choose a smaller length or prepare more text"
            )
        return count

    @property
    def sha256(self) -> str:
        """The hash of the tokenizer and of all tokens: another text has another."""
        content = json.dumps([self.fingerprint, self.separator, self.splits])
        return hashlib.sha256(content.encode()).hexdigest()

    def bytes_per_token(self, split: str) -> float:
        """Mean bytes of text a token: nats a token / (this times ln 2) are bits a byte."""
        shards = self.splits[split]
        return sum(s.text_bytes for s in shards) / sum(s.tokens for s in shards)


Told = TypeVar("Told", Shard, Description)


def windows_in(tokens: int, length: int) -> int:
    return max(0, tokens - 1) // length


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.tokens"


def not_there(directory: str | Path) -> str:
    """That there is no tokens.json, and the command that makes it; "" if there is one."""
    directory = Path(directory).expanduser()
    if (path := directory / JSON).exists():
        return ""
    return (
        f"{path} is not there. Prepare it: python -m experiments.prepare text --input FILE ... "
        f"--tokenizer TOKENIZER --out {directory}"
    )


def describe(directory: str | Path) -> Description:
    """Describes what is prepared in a directory, without a look at the shards.

    Raises:
      NotPrepared: if there is no tokens.json, naming the command that makes it.
      TokensError: for one that cannot be read.
    """
    if missing := not_there(directory):
        raise NotPrepared(missing)
    directory = Path(directory).expanduser()
    path = directory / JSON
    try:
        content = read_json(path, _AGAIN)
    except DamagedFile as error:
        raise TokensError(f"{path} is damaged: {error}") from None
    if content.get("format", FORMAT) != FORMAT:
        raise TokensError(
            f"{path} has format {str(content['format'])[:20]}, and this wsdjax reads {FORMAT}: "
            "prepare the text again"
        )
    try:
        splits = {
            split: [_typed(Shard, shard) for shard in content["splits"][split]] for split in SPLITS
        }
        told = {**content, "directory": directory, "splits": splits}
        del told["format"]
        described = _typed(Description, told)
        if not described.separator < described.vocabulary <= MOST_TOKENS:
            raise ValueError(f"{described.separator} of {described.vocabulary}"[:60])
        for split, shards in splits.items():
            if not any(shard.tokens for shard in shards):
                raise ValueError(f"no token for {split!r}")
            for shard in shards:
                if Path(shard.file).name != shard.file:
                    raise ValueError(f"a shard is called {shard.file[:20]}")
        return described
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:80]
        raise TokensError(f"{path} is damaged ({said}): {_AGAIN}") from None


def _typed(kind: type[Told], content: dict[str, Any]) -> Told:
    """A `Shard` or a `Description` of what JSON tells, if its fields are of their types."""
    told = kind(**content)
    for name, hint in typing.get_type_hints(kind).items():
        value, of = getattr(told, name), typing.get_origin(hint) or hint
        if not isinstance(value, of) or (of is int and (value is True or not 0 <= value < 2**63)):
            raise ValueError(f"{name} is {str(value)[:20]}")
    return told


def write_description(described: Description) -> None:
    """Writes tokens.json, all at once: the directory is prepared from now on."""
    content = {"format": FORMAT, **described._asdict()}
    del content["directory"]
    content["splits"] = {
        split: [shard._asdict() for shard in shards] for split, shards in described.splits.items()
    }
    write_json(described.directory / JSON, content)


class Windows:
    """The windows of a split, of `length` inputs each, or at most `most` that are evenly spread
    over it: read at random access from memory-mapped files."""

    def __init__(self, described: Description, split: str, length: int, most: int | None = None):
        self.length = length
        self._vocabulary = described.vocabulary
        self._all = described.windows(split, length)
        self.size = min(self._all, most or self._all)
        self._paths, counts = [], []
        for shard in described.splits[split]:
            path = described.directory / shard.file
            if read_shard(path, described.fingerprint, described.vocabulary) != shard:
                raise TokensError(f"{path} is not the shard that tokens.json tells of: {AGAIN}")
            self._paths.append(path)
            counts.append(windows_in(shard.tokens, length))
        self._ends = np.cumsum(counts)
        size = sum(shard.tokens for shard in described.splits[split]) * width(described.vocabulary)
        if size <= VERIFIED_BYTES:
            for path, shard in zip(self._paths, described.splits[split], strict=True):
                verify(path, shard)
        else:
            _log.info(
                "%s: %.1f GB of %s tokens are used unverified; once and for all: "
                "python -m experiments.prepare text --verify --out %s",
                *(described.directory, size / 1e9, split, described.directory),
            )
        dtype = np.dtype(f"<u{width(described.vocabulary)}")
        self._mapped = functools.lru_cache(_MAPPED)(
            lambda i: np.memmap(self._paths[i], dtype, "r", HEADER_BYTES)
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The windows of these indices, of any shape [...]: int32 arrays [..., length]."""
        indices = np.asarray(indices, np.int64)
        read = np.empty((indices.size, self.length + 1), np.int32)
        at = indices.ravel() * self._all // self.size
        shards = np.searchsorted(self._ends, at, side="right")
        for row, i, shard in zip(read, at.tolist(), shards.tolist(), strict=True):
            tokens = self._mapped(shard)
            start = (i - (int(self._ends[shard - 1]) if shard else 0)) * self.length
            row[:] = tokens[start : start + self.length + 1]
        # A uint32 beyond int32 has become negative by now.
        for bad in np.flatnonzero((read.min(1) < 0) | (read.max(1) >= self._vocabulary)):
            check_vocabulary(self._paths[shards[bad]], read[bad], self._vocabulary)
        read = read.reshape(*indices.shape, self.length + 1)
        return {"inputs": read[..., :-1], "targets": read[..., 1:]}
