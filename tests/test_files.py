"""Files that are whole whenever the process is killed, and readers that name what is damaged."""

import errno
import os
import subprocess
import sys

import pytest

from wsdjax import files
from wsdjax.files import DamagedFile


def test_json_comes_back_and_a_changed_value_does_not(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"a": (1, 2), "b": {"c": 0.1}})
    assert files.read_json(path, "delete it") == {"a": [1, 2], "b": {"c": 0.1}}
    path.write_text(path.read_text().replace("0.1", "0.7"))
    with pytest.raises(DamagedFile, match=r"record.json: has changed since .*; delete it$"):
        files.read_json(path, "delete it")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds nothing"),
        (b"\n \n", "holds nothing"),
        (b"\0" * 40, "holds NUL bytes"),
        (b"null", "holds null in place of an object"),
        (b"[1]", "holds a list in place of an object"),
        (b"true", "holds a bool in place of an object"),
        (b'{"a":\n 1', r"line 2: no JSON"),
        (b'{"a":\n\n "\xff"}', "line 3: not UTF-8"),
        (b"[" * 100_000, "that can be held"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "that can be held"),
    ],
)
def test_what_is_no_object_is_named(tmp_path, content, said):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=said) as found:
        files.read_json(path, "delete it")
    assert str(found.value).startswith(str(path))
    assert str(found.value).endswith("; delete it")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as found:
        files.write_atomically(path, "new")
    assert found.value.filename == str(path)
    assert files.explained(found.value) == (
        f"{path}: No space left on device: make room, and give the same command again"
    )
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as first:
        with files.replacing(path) as second:
            second.write(b"second")
        first.write(b"first")
    assert path.read_text() == "first"


def test_nothing_is_written_through_a_link(tmp_path):
    """A link that lies where a temporary might be, or where the file is to be."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("file", "file.tmp", ".file.tmp"):
        (tmp_path / name).symlink_to(victim)
    files.write_atomically(tmp_path / "file", "new")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_what_killed_writers_left_is_swept_up(tmp_path):
    """What a living one writes stays, and so does what is no temporary of ours."""
    path = tmp_path / "report.html"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with files.replacing(path):
        mine = next(tmp_path.glob(".*.tmp")).name
    of_the_dead = mine.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    elsewhere = f".file.0badcafe-{dead.pid}-0badcafe.tmp"
    for name in (of_the_dead, "metrics.jsonl", ".notes.tmp", elsewhere):
        (tmp_path / name).write_text("")
    with files.replacing(path) as file:
        files.sweep([tmp_path])
        file.write(b"whole")
    there = {each.name for each in tmp_path.iterdir()}
    assert there == {"report.html", "metrics.jsonl", ".notes.tmp", elsewhere}
    assert path.read_text() == "whole"
