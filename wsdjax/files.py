"""Files that are whole whenever the process is killed, and readers that name what is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wsdjax.validation import UserError

_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


class DamagedFile(UserError):
    """A file that is not as it was written; the message tells where, and what to do."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file has the old content or the new, whenever the process is killed.

    Raises:
      OSError: if it cannot be written, naming `path`.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end; left by an exception it is
    gone.

    Two writers at once each have a temporary of their own, made anew: nothing that lies there
    already, such as a link to elsewhere, is written through.

    Raises:
      OSError: if it cannot be written, naming `path`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        # Of what the user knows: Python names the temporary or, where a write fails, no file.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove_temporaries(directory: Path) -> None:
    """Deletes what writers that were killed have left; for whoever alone may write there."""
    for path in directory.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
    """The value in a JSON file, which must be of `kind`: dict, list, str or int.

    Raises:
      DamagedFile: for anything else, naming the file and the line, with `remedy`, a clause that
        tells what to do.
      OSError: if it cannot be read.
    """
    text = _decoded(path, path.read_bytes(), 1, remedy).removeprefix("\ufeff")  # an editor's mark
    return _value(path, text, None, kind, remedy)


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The objects of a file that has one in each line, without a last line that a kill cut
    short; [] if there is no file.

    Raises:
      DamagedFile: for a line that is no object, naming the file and the line, with `remedy`.
      OSError: if it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [
        _value(path, _decoded(path, line, n, remedy), n, dict, remedy)
        for n, line in enumerate(lines[:-1], 1)  # a whole line ends with a newline
    ]


def _decoded(path: Path, content: bytes, line: int, remedy: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise DamagedFile(f"{path}, line {line}: not UTF-8; {remedy}") from None


def _value(path: Path, text: str, line: int | None, kind: type, remedy: str) -> Any:
    at = f"{path}, line {line}" if line else str(path)
    if not text.strip("\0 \t\r\n"):
        what = "NUL bytes" if "\0" in text else "nothing"
        raise DamagedFile(f"{at}: holds {what}, as a crash can leave it; {remedy}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{path}, line {line or error.lineno}"
        raise DamagedFile(
            f"{at}: no JSON ({error.msg} at column {error.colno}); {remedy}"
        ) from None
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        raise DamagedFile(f"{at}: no JSON that can be held; {remedy}") from None
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "null" if value is None else _KINDS.get(type(value), type(value).__name__)
        raise DamagedFile(f"{at}: holds {found} in place of {_KINDS[kind]}; {remedy}")
    return value
