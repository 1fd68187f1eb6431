"""The documents of a corpus: .txt, .jsonl, .jsonl.zst and .parquet files, or a data set of the
Hugging Face hub.

A .txt file is one document; of the others each line or row is one, its text under a field.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from experiments import hub
from wsdjax.data.tokenizer import INSTALL
from wsdjax.validation import UserError

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".parquet")
_CHUNK = 2**20


class UnreadableText(UserError):
    """A file of a corpus that cannot be read; the message names it, and the line."""


class Source(NamedTuple):
    """One file of a corpus, or one part of a data set of the hub."""

    name: str
    size: int
    """In bytes, as it lies on disk."""
    changed: int
    """When it was last written, in nanoseconds; 0 for a data set."""


def find(inputs: Sequence[str]) -> list[Source]:
    """The files that paths, patterns (`**` goes into folders), folders and
    ``hf:NAME[[:CONFIG]:SPLIT]`` name, each once, in the order of their names.

    Raises:
      UnreadableText: for an input that names nothing, or a file of another kind.
    """
    found: dict[str, Source] = {}
    for given in inputs:
        if given.startswith("hf:"):
            parts = [Source(name, size, 0) for name, size in hub.parts(given)]
            found |= {part.name: part for part in parts}
            continue
        if Path(given).is_dir():
            names = [str(p) for p in Path(given).rglob("*") if p.name.endswith(SUFFIXES)]
        elif Path(given).exists():
            names = [given]
        else:
            names = [name for name in glob.glob(given, recursive=True) if Path(name).is_file()]
        if not names:
            kinds = f", none of {', '.join(SUFFIXES)} in it" if Path(given).is_dir() else ""
            raise UnreadableText(f"--input {given}: no such file{kinds}")
        for name in names:
            if not name.endswith(SUFFIXES):
                raise UnreadableText(f"{name} is none of {', '.join(SUFFIXES)}")
            path = Path(name).absolute()
            status = path.stat()
            found[str(path)] = Source(str(path), status.st_size, status.st_mtime_ns)
    return [found[name] for name in sorted(found)]


def documents(name: str, field: str) -> Iterator[str]:
    """The texts of a source that are not empty, each of which can be written as UTF-8.

    Raises:
      UnreadableText: naming the file, and the line where there is one.
    """
    if name.endswith(".txt"):
        texts = iter([_whole(name)])
    elif name.startswith("hf:"):
        texts = _texts(hub.rows(name), name, "row", field)
    elif name.endswith(".parquet"):
        texts = _texts(_parquet(name, field), name, "row", field)
    else:
        texts = _texts(_json(_lines(name), name), name, "line", field)
    yield from filter(None, texts)


def _lines(name: str) -> Iterator[bytes]:
    with open(name, "rb") as file:
        yield from _decompressed(file, name) if name.endswith(".zst") else file


def _whole(name: str) -> str:
    content = Path(name).read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableText(f"{name}, line {line}: not UTF-8 ({error.reason})") from None


def _texts(rows: Iterable[tuple[int, Any]], name: str, kind: str, field: str) -> Iterator[str]:
    """The field of each row, which comes with its number."""
    for number, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            if isinstance(row, dict) and field in row:
                raise UnreadableText(
                    f"{name}, {kind} {number}: {field!r} is {row[field]!r}, and no text"
                )
            has = f"; it has {', '.join(row)}" if isinstance(row, dict) else ""
            raise UnreadableText(
                f"{name}, {kind} {number}: no text under {field!r}{has}. Name it with --text_field"
            )
        text = row[field]
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can write
            raise UnreadableText(f"{name}, {kind} {number}: no UTF-8 ({error.reason})") from None
        yield text


def _json(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield number, json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise UnreadableText(f"{name}, line {number}: not UTF-8 ({error.reason})") from None
        except ValueError as error:
            raise UnreadableText(f"{name}, line {number}: no JSON ({error})") from None


def _decompressed(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a .zst file of one frame or several."""
    try:
        import zstandard
    except ImportError:
        raise UnreadableText(f"{name} needs the library zstandard: {INSTALL}") from None
    # Archives made for a long window (zstd --long) are read too.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame, line = None, b""
    try:
        while chunk := file.read(_CHUNK):
            while chunk:
                frame = frame or decompressor.decompressobj()
                *lines, line = (line + frame.decompress(chunk)).split(b"\n")
                yield from (each + b"\n" for each in lines)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise UnreadableText(f"{name} is no .zst file, or is damaged ({error})") from None
    if frame:  # which the library would take for the end
        raise UnreadableText(f"{name} is cut short")
    if line:
        yield line


def _parquet(name: str, field: str) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UnreadableText(f"{name} needs the library pyarrow: {INSTALL}") from None
    number = 0
    try:
        with parquet.ParquetFile(name) as file:
            if field not in file.schema_arrow.names:
                raise UnreadableText(
                    f"{name} has no column {field!r}; it has {', '.join(file.schema_arrow.names)}. "
                    "Name it with --text_field"
                )
            for batch in file.iter_batches(columns=[field], batch_size=1_000):
                for value in batch.column(0):
                    number += 1
                    yield number, {field: value.as_py()}
    except UnicodeDecodeError as error:
        raise UnreadableText(f"{name}, row {number}: not UTF-8 ({error.reason})") from None
    except pyarrow.ArrowException as error:
        said = " ".join(str(error).split())
        raise UnreadableText(f"{name} is no parquet file, or is damaged ({said})") from None
