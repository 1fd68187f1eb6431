"""Compiled programs that are kept from one start to the next."""

import os
import shutil
import zlib

import pytest
from helpers import TINY, finish, same, start

from experiments.cli import programs
from wsdjax.branches import BranchStore

UNSET = {
    "JAX_COMPILATION_CACHE_DIR": "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
}


def entries(directory):
    return sorted(directory.glob("wsdjax/programs/*/*-cache"))


def train(workdir, cache, *flags):
    arguments = ("experiments.run", f"--config={TINY}", f"--workdir={workdir}", *flags)
    code, _, err = finish(start(*arguments, **UNSET, XDG_CACHE_HOME=str(cache)))
    assert code == 0, err
    return err


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    """It says where; what is damaged meanwhile is compiled again; the ends are equal to the bit."""
    cache = tmp_path / "cache"
    err = train(tmp_path / "first", cache)
    kept = entries(cache)
    assert f"0 compiled programs of former starts are in {kept[0].parent} (--nocache" in err
    largest = max(kept, key=lambda path: path.stat().st_size)
    os.truncate(largest, 300)
    err = train(tmp_path / "second", cache)
    assert f"{len(kept) - 1} compiled programs" in err
    assert "Warning" not in err
    assert largest.stat().st_size > 300
    for name in ("trunk", "decay"):
        ends = [BranchStore(tmp_path / each).restore(name) for each in ("first", "second")]
        assert same(*ends)


def test_nocache_keeps_nothing(tmp_path, finished):
    again = shutil.copytree(finished, tmp_path / "again")
    assert "compiled programs" not in train(again, tmp_path / "cache", "--nocache")
    assert not (tmp_path / "cache" / "wsdjax" / "programs").exists()


def put(directory, name, content):
    path = directory / f"{name}-cache"
    path.write_bytes(content)
    return path


@pytest.fixture(params=["zlib", "zstandard"])
def compress(request):
    module = pytest.importorskip(request.param)
    return zlib.compress if module is zlib else module.ZstdCompressor().compress


def test_what_is_not_as_written_is_deleted(tmp_path, compress):
    whole = compress(b"a program" * 100)
    good, cut = put(tmp_path, "good", whole), put(tmp_path, "cut", whole[:-3])
    empty, foreign = put(tmp_path, "empty", b""), put(tmp_path, "foreign", b"no program")
    assert programs.sort_out(tmp_path) == 1
    assert not any(path.exists() for path in (cut, empty, foreign))
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    good.write_bytes(changed)
    assert programs.sort_out(tmp_path) == 0
    assert not good.exists()


def test_the_oldest_go_first(tmp_path):
    whole = zlib.compress(b"a program")
    for age, name in enumerate(("new", "old", "older")):
        os.utime(put(tmp_path, name, whole), (1e9 - age, 1e9 - age))
    assert programs.sort_out(tmp_path, most=2 * len(whole)) == 2
    assert not (tmp_path / "older-cache").exists()


def test_a_spoilt_index_is_made_again(tmp_path):
    put(tmp_path, "a", zlib.compress(b"a program"))
    (tmp_path / "checksums.json").write_text("{")
    assert programs.sort_out(tmp_path) == 1
    assert programs.sort_out(tmp_path) == 1
