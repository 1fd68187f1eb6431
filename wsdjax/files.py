"""Files that are whole whenever the process is killed, and readers that name what is damaged."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from wsdjax.errors import UserError


class DamagedFile(UserError):
    """A file that is not as it was written; the message tells where, and what to do."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file has the old content or the new, whenever the process is killed; an `OSError` that
    it cannot be written names `path`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_if_changed(path: Path, content: str) -> None:
    """As `write_atomically`, unless the file is this already."""
    if path.is_symlink() or not path.is_file() or path.read_bytes() != content.encode():
        write_atomically(path, content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end; left by an exception it is
    gone.

    Two writers at once each have a temporary of their own, made anew: nothing that lies there
    already, such as a link to elsewhere, is written through. An `OSError` names `path`.
    """
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with naming(path, temporary), open(temporary, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """The system's errors name `path`, where Python names no file, as when a write fails, or
    `temporary`."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sweep(directories: Iterable[Path]) -> None:
    """Deletes the temporaries of writers that were killed; those of living ones, and of other
    machines, stay."""
    for directory in directories:
        for path in directory.glob(".*.tmp"):
            written_by = re.search(rf"\.{_host()}-(\d+)-[0-9a-f]{{8}}\.tmp$", path.name)
            if written_by and not _is_alive(int(written_by[1])):
                with contextlib.suppress(OSError):
                    path.unlink()


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # or it is alive, and another's
        return not isinstance(error, ProcessLookupError)
    return True


def write_json(path: Path, content: dict[str, Any], default: Callable | None = None) -> None:
    """Writes JSON as `write_atomically`, with a checksum of what it says; `default` as for
    `json.dumps`."""
    content = json.loads(json.dumps(content, default=default))  # tuples and keys as they are read
    write_atomically(path, json.dumps({**content, _SEAL: _seal(content)}, indent=1) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      DamagedFile: for anything else, and for content that has changed since `write_json` wrote it;
        with `remedy`, a clause that tells what to do.
      OSError: if it cannot be read.
    """
    value = object_of(path, path.read_bytes().removeprefix(codecs.BOM_UTF8), remedy)
    if (seal := value.pop(_SEAL, None)) not in (None, _seal(value)):
        raise DamagedFile(f"{path}: has changed since it was written ({_SEAL} {seal!r}); {remedy}")
    return value


_SEAL = "content_sha256"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file, without a last one that a kill cut short; [] if there is no file."""
    try:
        return path.read_bytes().split(b"\n")[:-1]  # a whole line ends with a newline
    except FileNotFoundError:
        return []


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The objects of a file that has one in each line, as `read_lines` and `object_of`."""
    return [object_of(path, line, remedy, n) for n, line in enumerate(read_lines(path), 1)]


def object_of(path: Path, content: bytes, remedy: str, line: int = 0) -> dict[str, Any]:
    """The JSON object that is the content of a file, or of one of its lines, from 1; for anything
    else a `DamagedFile` names the file and the line, with `remedy`."""

    def damaged(what: str, line: int = line) -> DamagedFile:
        at = f"{path}, line {line}" if line else str(path)
        return DamagedFile(f"{at}: {what}; {remedy}")

    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        before = content.count(b"\n", 0, error.start)
        raise damaged("not UTF-8", (line or 1) + before) from None
    if not text.strip("\0 \t\r\n"):
        what = "NUL bytes" if "\0" in text else "nothing"
        raise damaged(f"holds {what}, as a crash can leave it")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        said = f"no JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        raise damaged(said, line or error.lineno) from None
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        raise damaged("no JSON that can be held") from None
    if not isinstance(value, dict):
        found = "null" if value is None else f"a {type(value).__name__}"
        raise damaged(f"holds {found} in place of an object")
    return value


_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within the quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EACCES: "give yourself the permission",
    errno.EROFS: "choose a place that can be written",
}


def explained(error: OSError) -> str:
    """The system's error, the file, and what to do, in a line."""
    said = error.strerror or " ".join(str(error).split())
    of = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{of}{said}" + (f": {remedy}, and give the same command again" if remedy else "")
