"""Token shards on disk, and windows over them. Nothing here needs JAX.

    DIR/tokens.json             the tokenizer, the vocabulary, and each split's shards
    DIR/train-00000.tokens ...  a header of 64 bytes, then little-endian uint16 or uint32 tokens
    DIR/test-00000.tokens ...

A separator ends each document. A window is length + 1 tokens of one shard, and the next one starts
`length` later: inputs are the first `length`, targets the last, so that a shard's every token but
its first is a target once, save for fewer than `length` at its end. Windows cross the borders of
documents, not of shards.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsdjax.data.split import Batch
from wsdjax.files import write_atomically
from wsdjax.validation import UserError

FORMAT = 2
JSON = "tokens.json"
SPLITS = ("train", "test")
_MAGIC = b"wsdtoken"
_HEADER = struct.Struct("<8sHHIQQ24s8s")
"""Magic, format, bytes a token, greatest token, tokens, bytes of text, and the beginnings of two
SHA-256: the tokenizer's and the tokens'."""
HEADER_BYTES = _HEADER.size
_MAPPED = 256
"""Shards of a split that are mapped at a time: each is an open file, of which a process may have
some 1,000."""


class TokensError(UserError):
    """Token shards that cannot be read as they are; the message names the file."""


class NotPrepared(TokensError, FileNotFoundError):
    """No token shards where they were looked for."""


class Shard(NamedTuple):
    file: str
    tokens: int
    greatest: int
    text_bytes: int
    """Of the text in UTF-8, a separator counting as one byte: what bits a byte are of."""
    digest: str
    """The beginning of the tokens' SHA-256, in hexadecimal."""


class Description(NamedTuple):
    """What `tokens.json` tells."""

    directory: Path
    tokenizer: str
    fingerprint: str
    """The tokenizer's SHA-256, which every shard's header begins to tell too."""
    vocabulary: int
    """Tokens are 0, ..., vocabulary - 1."""
    separator: int
    splits: dict[str, list[Shard]]

    @property
    def width(self) -> int:
        """Bytes a token: 2 where the vocabulary allows, else 4."""
        return width(self.vocabulary)

    def windows(self, split: str, length: int) -> int:
        """How many windows of length + 1 tokens a split has.

        Raises:
          TokensError: for none.
        """
        count = sum(windows_in(shard.tokens, length) for shard in self.splits[split])
        if count == 0:
            longest = max((shard.tokens for shard in self.splits[split]), default=0)
            raise TokensError(
                f"{self.directory / JSON}: the longest shard of {split!r} has {longest:,} tokens, "
                f"and a window {length + 1:,}: choose a smaller length or prepare more text"
            )
        return count

    @property
    def sha256(self) -> str:
        """Of the tokenizer and of all tokens: another text has another."""
        content = json.dumps([self.fingerprint, self.separator, self.splits])
        return hashlib.sha256(content.encode()).hexdigest()

    def bytes_per_token(self, split: str) -> float:
        """Mean bytes of text a token: nats a token / (this times ln 2) are bits a byte."""
        shards = self.splits[split]
        return sum(s.text_bytes for s in shards) / sum(s.tokens for s in shards)


def width(vocabulary: int) -> int:
    return 2 if vocabulary <= 2**16 else 4


def windows_in(tokens: int, length: int) -> int:
    return max(0, tokens - 1) // length


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.tokens"


def describe(directory: str | Path) -> Description:
    """What is prepared in a directory, without a look at the shards.

    Raises:
      NotPrepared: if there is no tokens.json, naming the command that makes it.
      TokensError: for one that cannot be read.
    """
    directory = Path(directory).expanduser()
    path = directory / JSON
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise TokensError(
                f"{path} has format {content['format']}, and this wsdjax reads {FORMAT}: "
                "prepare the text again"
            )
        splits = {s: [Shard(**shard) for shard in content["splits"][s]] for s in SPLITS}
        return Description(
            directory,
            content["tokenizer"],
            content["fingerprint"],
            content["vocabulary"],
            content["separator"],
            splits,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise NotPrepared(
            f"{path} is not there. Prepare it: python -m experiments.prepare text --input FILE ... "
            f"--tokenizer TOKENIZER --out {directory}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise TokensError(
            f"{path} is damaged ({type(error).__name__}: {error}): delete it and give the command "
            "that prepared it again"
        ) from None


def write_description(described: Description) -> None:
    """Writes tokens.json, all at once: the directory is prepared from now on."""
    content = {"format": FORMAT, **described._asdict()}
    del content["directory"]
    content["splits"] = {
        split: [shard._asdict() for shard in shards] for split, shards in described.splits.items()
    }
    write_atomically(described.directory / JSON, json.dumps(content, indent=1) + "\n")


class ShardWriter:
    """Writes one shard. The file has its name once it is whole, by `close`."""

    def __init__(self, path: Path, fingerprint: str, vocabulary: int):
        self.path = path
        self._fingerprint, self._vocabulary = fingerprint, vocabulary
        self._dtype = np.dtype(f"<u{width(vocabulary)}")
        self._tokens = self._greatest = self._text_bytes = 0
        self._digest = hashlib.sha256()
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        self._file.write(bytes(_HEADER.size))

    def write_document(self, tokens: np.ndarray, separator: int, text_bytes: int) -> None:
        """Appends a document's tokens, integers of any dtype, and the separator.

        Raises:
          TokensError: for a token outside the vocabulary.
        """
        ended = np.append(tokens, separator)
        _check_vocabulary(self.path, ended, self._vocabulary)
        content = ended.astype(self._dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._tokens += len(ended)
        self._greatest = max(self._greatest, int(ended.max()))
        self._text_bytes += text_bytes + 1

    def close(self) -> None:
        self._file.seek(0)
        counts = (self._greatest, self._tokens, self._text_bytes)
        hashes = (bytes.fromhex(self._fingerprint), self._digest.digest())  # as much as fits
        self._file.write(_HEADER.pack(_MAGIC, FORMAT, self._dtype.itemsize, *counts, *hashes))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)


def read_shard(path: Path, fingerprint: str, vocabulary: int) -> Shard:
    """What a shard's header tells.

    Raises:
      TokensError: for a shard that is missing, no shard, cut short, or another tokenizer's.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise TokensError(f"{path} is missing: {_AGAIN}") from None
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise TokensError(f"{path} is no shard of tokens, or is cut short: {_AGAIN}")
    _, version, itemsize, greatest, tokens, text_bytes, written_by, digest = _HEADER.unpack(header)
    if version != FORMAT:
        raise TokensError(f"{path} has format {version}, and this wsdjax reads {FORMAT}: {_AGAIN}")
    if not fingerprint.startswith(written_by.hex()) or itemsize != width(vocabulary):
        raise TokensError(
            f"{path} was written with another tokenizer ({written_by.hex()[:12]}...) than the "
            f"directory's ({fingerprint[:12]}...): {_AGAIN}"
        )
    if size != (expected := _HEADER.size + tokens * itemsize):
        raise TokensError(f"{path} has {size:,} bytes instead of {expected:,}: {_AGAIN}")
    if greatest >= vocabulary:
        raise TokensError(_outside(path, greatest, vocabulary))
    return Shard(path.name, tokens, greatest, text_bytes, digest.hex())


_AGAIN = "delete it and tokens.json, and give the command that prepared them again"


def _check_vocabulary(path: Path, tokens: np.ndarray, vocabulary: int) -> None:
    for token in (int(tokens.min()), int(tokens.max())):
        if not 0 <= token < vocabulary:
            raise TokensError(_outside(path, token, vocabulary))


def _outside(path: Path, token: int, vocabulary: int) -> str:
    return (
        f"{path}: token {token} is outside the vocabulary, 0 to {vocabulary - 1}: the file is "
        "damaged, or its tokenizer is not what tokens.json says; prepare the text again"
    )


class Windows:
    """The windows of a split, or some that are evenly spread over it: read at random access
    from memory-mapped files.

    Args:
      described: the directory's.
      split: "train" or "test".
      length: of the inputs of a window.
      most: how many windows at most; None for all.

    Raises:
      TokensError: for shards that do not fit tokens.json, or no whole window.
    """

    def __init__(self, described: Description, split: str, length: int, most: int | None = None):
        self.length = length
        self._vocabulary = described.vocabulary
        self._all = described.windows(split, length)
        self._count = min(self._all, most or self._all)
        self._paths, counts = [], []
        for shard in described.splits[split]:
            path = described.directory / shard.file
            if read_shard(path, described.fingerprint, described.vocabulary) != shard:
                raise TokensError(f"{path} is not the shard that tokens.json tells of: {_AGAIN}")
            self._paths.append(path)
            counts.append(windows_in(shard.tokens, length))
        self._ends = np.cumsum(counts)
        dtype = np.dtype(f"<u{described.width}")
        self._mapped = functools.lru_cache(_MAPPED)(
            lambda i: np.memmap(self._paths[i], dtype, "r", _HEADER.size)
        )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The windows of these indices, of any shape [...]: int32 arrays [..., length].

        Raises:
          TokensError: for a token outside the vocabulary.
        """
        indices = np.asarray(indices, np.int64)
        read = np.empty((indices.size, self.length + 1), np.int32)
        at = indices.ravel() * self._all // self._count
        shards = np.searchsorted(self._ends, at, side="right")
        for row, i, shard in zip(read, at.tolist(), shards.tolist(), strict=True):
            tokens = self._mapped(shard)
            start = (i - (int(self._ends[shard - 1]) if shard else 0)) * self.length
            row[:] = tokens[start : start + self.length + 1]
        # A uint32 beyond int32 has become negative by now.
        for bad in np.flatnonzero((read.min(1) < 0) | (read.max(1) >= self._vocabulary)):
            _check_vocabulary(self._paths[shards[bad]], read[bad], self._vocabulary)
        read = read.reshape(*indices.shape, self.length + 1)
        return {"inputs": read[..., :-1], "targets": read[..., 1:]}
