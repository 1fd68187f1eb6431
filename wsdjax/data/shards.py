"""One shard of tokens on disk: a header of 64 bytes, then little-endian uint16 or uint32 tokens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsdjax.errors import UserError
from wsdjax.files import naming, replacing

FORMAT = 2
MOST_TOKENS = 2**31
"""A vocabulary's size at most: windows are int32."""
_MAGIC = b"wsdtoken"
_HEADER = struct.Struct("<8sHHIQQ24s8s")
"""Magic, format, bytes a token, greatest token, tokens, bytes of text, and the beginnings of two
SHA-256: the tokenizer's and the tokens'."""
HEADER_BYTES = _HEADER.size
AGAIN = "delete it and tokens.json, and give the command that prepared them again"


class TokensError(UserError):
    """Token shards that cannot be read as they are; the message names the file."""


class Shard(NamedTuple):
    file: str
    tokens: int
    greatest: int
    text_bytes: int
    """Bytes of the UTF-8 text that the tokens stand for, a separator counting as one: those of
    bits a byte."""
    digest: str
    """The beginning of the tokens' SHA-256, in hexadecimal."""


def width(vocabulary: int) -> int:
    """Bytes a token: 2 where the vocabulary allows, else 4."""
    return 2 if vocabulary <= 2**16 else 4


class ShardWriter(contextlib.AbstractContextManager):
    """Writes one shard. The file has its name once it is whole: by `close`, or as a context that
    is not left by an exception."""

    digest = ""
    """As in `Shard`, once it is closed."""

    def __init__(self, path: Path, fingerprint: str, vocabulary: int):
        self.path = path
        self._fingerprint, self._vocabulary = fingerprint, vocabulary
        self._dtype = np.dtype(f"<u{width(vocabulary)}")
        self._tokens = self._greatest = self._text_bytes = 0
        self._digest = hashlib.sha256()
        self._last = contextlib.ExitStack()
        self._file = self._last.enter_context(replacing(path))
        self._file.write(bytes(_HEADER.size))

    def write_document(self, tokens: np.ndarray, separator: int, text_bytes: int) -> None:
        """Appends a document's tokens, integers of any dtype, and the separator.

        Raises:
          TokensError: for a token outside the vocabulary, or a separator among the tokens.
        """
        ended = np.append(tokens, separator)
        check_vocabulary(self.path, ended, self._vocabulary)
        if np.any(ended[:-1] == separator):
            raise TokensError(
                f"{self.path}: the tokenizer makes its separator, token {separator}, of a "
                "document's own text, which would be cut there: take another with --separator"
            )
        content = ended.astype(self._dtype).tobytes()
        with naming(self.path):
            self._file.write(content)
        self._digest.update(content)
        self._tokens += len(ended)
        self._greatest = max(self._greatest, int(ended.max()))
        self._text_bytes += text_bytes + 1

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.close()
        else:
            self._last.__exit__(*error)

    def close(self) -> None:
        counts = (self._greatest, self._tokens, self._text_bytes)
        hashes = (bytes.fromhex(self._fingerprint), self._digest.digest())  # as much as fits
        self.digest = hashes[1][:8].hex()
        with self._last:
            self._file.seek(0)
            self._file.write(_HEADER.pack(_MAGIC, FORMAT, self._dtype.itemsize, *counts, *hashes))


def read_shard(path: Path, fingerprint: str, vocabulary: int) -> Shard:
    """Reads a shard's header."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise TokensError(f"{path} is missing: {AGAIN}") from None
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise TokensError(f"{path} is no shard of tokens, or is cut short: {AGAIN}")
    _, version, itemsize, greatest, tokens, text_bytes, written_by, digest = _HEADER.unpack(header)
    if version != FORMAT:
        raise TokensError(f"{path} has format {version}, and this wsdjax reads {FORMAT}: {AGAIN}")
    if not fingerprint.startswith(written_by.hex()) or itemsize != width(vocabulary):
        raise TokensError(
            f"{path} was written with another tokenizer ({written_by.hex()[:12]}...) than the "
            f"directory's ({fingerprint[:12]}...): {AGAIN}"
        )
    if size != (expected := _HEADER.size + tokens * itemsize):
        raise TokensError(f"{path} has {size:,} bytes instead of {expected:,}: {AGAIN}")
    if greatest >= vocabulary:
        raise TokensError(_outside(path, greatest, vocabulary))
    return Shard(path.name, tokens, greatest, text_bytes, digest.hex())


def check_vocabulary(path: Path, tokens: np.ndarray, vocabulary: int) -> None:
    for token in (int(tokens.min()), int(tokens.max())):
        if not 0 <= token < vocabulary:
            raise TokensError(_outside(path, token, vocabulary))


def _outside(path: Path, token: int, vocabulary: int) -> str:
    return (
        f"{path}: token {token} is outside the vocabulary, 0 to {vocabulary - 1}: the file is "
        "damaged, or its tokenizer is not what tokens.json says; prepare the text again"
    )


def verify(path: Path, shard: Shard) -> None:
    """Reads a shard's every token."""
    with path.open("rb") as file:
        file.seek(_HEADER.size)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(shard.digest):
        raise TokensError(
            f"{path} is damaged: its tokens have SHA-256 {found[:12]}..., and were written with "
            f"{shard.digest[:12]}...: {AGAIN}"
        )
