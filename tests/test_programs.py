"""Compiled programs that are kept from one start to the next."""

import os
import shutil
from types import SimpleNamespace

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


def put(directory, name, content=b"a program", sealed=True):
    path = directory / f"{name}-cache"
    path.write_bytes(content)
    if sealed:
        programs.seal(directory, 0.0)
    return path


def test_an_entry_counts_by_its_checksum_alone(tmp_path):
    good, cut, changed = (put(tmp_path, name) for name in ("good", "cut", "changed"))
    cut.write_bytes(b"a prog")
    changed.write_bytes(b"a prograN")
    emptied = put(tmp_path, "emptied", b"")
    unsealed = put(tmp_path, "unsealed", sealed=False)
    emptied.with_name("emptied-cache.crc32").write_text("")
    assert programs.sort_out(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == [good, tmp_path / "good-cache.crc32"]
    assert not unsealed.exists()


def test_what_is_being_written_is_not_sealed(tmp_path):
    path = put(tmp_path, "new", sealed=False)
    programs.seal(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    os.utime(path, (1e9, 1e9))
    programs.seal(tmp_path)
    assert programs.sort_out(tmp_path) == 1


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        os.utime(put(tmp_path, name), (1e9 - age, 1e9 - age))
    assert programs.sort_out(tmp_path, most=20) == 2
    assert not (tmp_path / "older-cache").exists()


@pytest.mark.parametrize("told", ["a file in its place", "no home"])
def test_a_command_runs_without_a_place_for_programs(tmp_path, monkeypatch, capsys, told):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    home = tmp_path / "home"
    home.write_text("")
    monkeypatch.setattr(programs, "_home", (lambda: home) if "file" in told else no_home)
    monkeypatch.setattr(programs, "jax", Unset())
    with programs.kept(SimpleNamespace(cache=True)):
        pass
    assert "compiled programs are not kept: " in capsys.readouterr().err


class Unset:
    """JAX whose cache nobody has set up."""

    config = SimpleNamespace(jax_enable_compilation_cache=True, jax_compilation_cache_dir=None)
