"""A file's content as it is before it was packed, a piece at a time."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from experiments.prepare import PrepareError
from wsdjax.data.tokenizer import INSTALL

_CHUNK = 2**20
_PACKED_CHUNK = 2**12
"""Bytes of a .zst file read at a time; 4 can stand for 2^17, so at most 128 MiB come of them."""


def chunks(name: str) -> Iterator[bytes]:
    """The content of a file, that of a .gz or .zst file unpacked."""
    with open(name, "rb") as file:
        if name.lower().endswith(".gz"):
            yield from _gzip(file, name)
        elif name.lower().endswith(".zst"):
            yield from _zstandard(file, name)
        else:
            yield from iter(partial(file.read, _CHUNK), b"")


def _gzip(file: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield from iter(partial(unpacked.read, _CHUNK), b"")
    except (gzip.BadGzipFile, zlib.error) as error:
        raise PrepareError(f"{name} is no .gz file, or is damaged ({error})") from None
    except EOFError:
        raise PrepareError(f"{name} is cut short: fetch or pack it again") from None
    if file.tell() == 0:  # which the library takes for an empty file that was packed
        raise PrepareError(f"{name} is cut short, to nothing: fetch or pack it again")


def _zstandard(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Unpacks one frame or several."""
    try:
        import zstandard
    except ImportError:
        raise PrepareError(f"{name} needs the library zstandard: {INSTALL}") from None
    # Archives made for a long window (zstd --long) are read too.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame = None
    try:
        while chunk := file.read(_PACKED_CHUNK):
            while chunk:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise PrepareError(f"{name} is no .zst file, or is damaged ({error})") from None
    if frame or file.tell() == 0:  # which the library would take for the end
        raise PrepareError(f"{name} is cut short: fetch or pack it again")
