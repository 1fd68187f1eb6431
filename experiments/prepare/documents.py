"""The documents of one file of a corpus, or of a part of a data set of the Hugging Face hub.

A .txt file is one document. Of a .jsonl or .parquet file each line or row is one, its text under a
field, and so of a .json file, which may also be one array of them. All but .parquet may be packed
as .gz or .zst. A byte-order mark is no text.

A packed file of a few kilobytes can hold gigabytes, and a line of JSON can become many times its
size: what is held at once is bounded, and what exceeds it is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from experiments.prepare import PrepareError, hub
from experiments.prepare.unpacking import chunks
from wsdjax.data.tokenizer import INSTALL
from wsdjax.wording import listed, shortened, shown

_KINDS = (".txt", ".jsonl", ".json")
SUFFIXES = (*_KINDS, *(k + packed for k in _KINDS for packed in (".gz", ".zst")), ".parquet")
MOST_OF_A_ROW = 2**28
"""Bytes of one row's text, or of the line that it stands in."""
MOST_OF_A_FILE = 2**30
"""Bytes of a file that is read whole, unpacked."""
_BOM = b"\xef\xbb\xbf"
_PLACES = 20


class _Bad(Exception):
    """Why a row cannot be read, and in which of its lines, from 0."""

    def __init__(self, why: str, line: int = 0):
        super().__init__(why)
        self.line = line


@dataclass
class LeftOut:
    """The rows that could not be read."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    """File, line and reason of the first ones."""

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < _PLACES:
            self.places.append(place)


def suffix_of(name: str) -> str:
    """Which of `SUFFIXES` a file's name has, in letters of any case; "" for none."""
    return next((s for s in SUFFIXES if name.lower().endswith(s)), "")


def documents(name: str, text_field: str, left_out: LeftOut | None = None) -> Iterator[str]:
    """The texts of a source that are not empty, each of which can be written as UTF-8. A row that
    cannot be read goes to `left_out`; without it such a row is a `PrepareError`."""
    unit, rows, read = _rows(name, text_field)
    for number, raw in rows:
        try:
            if text := read(raw):
                yield text
        except _Bad as bad:
            told = f"{name}, {unit} {number + (bad.line if unit == 'line' else 0)}: {bad}"
            if left_out is None:
                raise PrepareError(told) from None
            left_out.add(told)


def _rows(name: str, of: str) -> tuple[str, Iterable[tuple[int, Any]], Callable[[Any], str]]:
    """The name for a row, the rows with their numbers, and the function that reads one's text."""
    if name.startswith("hf:"):
        return "row", hub.rows(name), lambda row: _text(row, of)
    suffix = suffix_of(name)
    if suffix == ".parquet":
        return "row", _parquet(name, of), lambda value: _text({of: _decoded(value.as_py)}, of)
    content = _without_mark(chunks(name))
    if suffix.startswith(".txt"):
        return "line", [(1, _whole(content, name))], lambda whole: _decoded(whole.decode)
    if not suffix.startswith(".jsonl"):
        first = next(content, b"")
        content = chain([first], content)
        if first.lstrip().startswith(b"["):
            try:
                items = _json(_whole(content, name))
            except _Bad as bad:
                raise PrepareError(f"{name}, line {1 + bad.line}: {bad}") from None
            return "item", enumerate(items, 1), lambda item: _text(item, of)
    return "line", _lines(content), lambda line: _text(_json(line), of)


def _without_mark(content: Iterator[bytes]) -> Iterator[bytes]:
    first = next(content, b"")
    yield first.removeprefix(_BOM)
    yield from content


def _whole(content: Iterable[bytes], name: str) -> bytes:
    parts, size = [], 0
    for chunk in content:
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_OF_A_FILE:
            raise PrepareError(
                f"{name} has more than {MOST_OF_A_FILE >> 20:,} MiB to be read at once: split it, "
                "or write a document a line as .jsonl"
            )
    return b"".join(parts)


def _lines(content: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers; None for one that is too long, told
    before the rest of it is read."""
    number, size = 1, 0
    parts: list[bytes] = []
    for chunk in chain(content, [b"\n"]):
        pieces = chunk.split(b"\n")
        for i, piece in enumerate(pieces):
            if size <= MOST_OF_A_ROW < size + len(piece):
                parts = []
                yield number, None
            size += len(piece)
            if size <= MOST_OF_A_ROW:
                parts.append(piece)
            if i < len(pieces) - 1:
                if line := b"".join(parts).strip():
                    yield number, line
                number, size, parts = number + 1, 0, []


def _decoded(read: Callable[[], str]) -> str:
    try:
        return read()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start)
        raise _Bad(f"not UTF-8 ({error.reason})", line) from None


def _json(content: bytes | None) -> Any:
    if content is None:
        raise _Bad(
            f"longer than {MOST_OF_A_ROW >> 20} MiB: make several documents of it, or leave it out "
            "by --bad_rows=skip"
        )
    try:
        return json.loads(_decoded(content.decode))
    except json.JSONDecodeError as error:
        why = f"no JSON ({error.msg} at column {error.colno})"
        raise _Bad(why, error.lineno - 1) from None
    except (RecursionError, ValueError, MemoryError):  # a number of thousands of digits, say
        raise _Bad("no JSON that can be held: nested too deep, or too large") from None


def _text(row: Any, text_field: str) -> str:
    called = repr(shortened(text_field))
    if not isinstance(row, dict):
        raise _Bad(f"no text under {called}, but {shown(row, 60)} in place of an object")
    if text_field not in row:
        has = shortened(listed(row))
        raise _Bad(f"no text under {called}; it has {has}. Name it with --text_field")
    text = row[text_field]
    if not isinstance(text, str):
        raise _Bad(
            f"{called} is {shown(text, 60)}, and no text: mend it, name another --text_field, or "
            "leave it out by --bad_rows=skip"
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can write
        raise _Bad(f"no UTF-8 ({error.reason})") from None
    if size > MOST_OF_A_ROW:
        raise _Bad(f"a text of more than {MOST_OF_A_ROW >> 20} MiB: make several of it")
    return text


def _parquet(name: str, text_field: str) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise PrepareError(f"{name} needs the library pyarrow: {INSTALL}") from None
    number = 0
    try:
        with parquet.ParquetFile(name) as file:
            columns = file.schema_arrow.names
            if columns.count(text_field) != 1:
                raise PrepareError(
                    f"{name} must have one column {shortened(text_field)!r}, and has "
                    f"{shortened(listed(columns), 90)}: name another with --text_field"
                )
            for batch in file.iter_batches(columns=[text_field], batch_size=100):
                # A name with a dot is taken for a path too: more columns may have come.
                for value in batch.column(batch.schema.names.index(text_field)):
                    number += 1
                    yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and isinstance(error.filename, str):
            raise
        said = shortened(str(error), 90)
        raise PrepareError(f"{name} is no parquet file, or is damaged ({said})") from None
