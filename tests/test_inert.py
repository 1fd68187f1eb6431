"""A config is inert: to read one, to resolve it and to ask what it costs opens no data and writes
nothing; what must be known of data is one value, which resolving takes."""

import dataclasses
import os
import subprocess
import sys

import pytest
from helpers import NO_CACHE, ROOT, load_config, write_shards

from wsdjax import tree
from wsdjax.config import Bigram, Cifar10, Photos, Stdlib, Text, Transformer, describe_all
from wsdjax.config.json import key
from wsdjax.data import tokens
from wsdjax.errors import ConfigError

CONFIGS = [
    str(ROOT / "experiments" / "configs" / f"lm_{n}.py") for n in ("quickstart", "pythia160m")
]
TOUCHED = """
import runpy, sys
from experiments.estimate import estimate
from wsdjax import tree
from wsdjax.config import validate

def costs():
    for path in sys.argv[1:]:
        experiment = runpy.run_path(path)["get_config"]()
        validate(experiment)
        yield from estimate(tree.resolve(experiment))

first, touched = [*costs()], []  # whatever is imported has been by now
def note(event, arguments):
    if event == "open" or event.startswith(("os.", "shutil.", "tempfile.", "subprocess.")):
        touched.append((event, str(arguments[0])))
sys.addaudithook(note)
assert [*costs()] == first
print(*{f"{event} {path}" for event, path in touched}, sep="\\n")
"""


def here(tmp_path):
    """The environment of a process in an empty directory, its caches there too."""
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(tmp_path))
    return {**os.environ, **NO_CACHE, **places, "PYTHONPATH": str(ROOT)}


def test_what_a_config_costs_is_known_without_a_look_at_any_file(tmp_path):
    """By Python's own audit of what is opened, listed, made or run: the config files alone."""
    command = [sys.executable, "-c", TOUCHED, *CONFIGS]
    done = subprocess.run(command, cwd=tmp_path, env=here(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == sorted(f"open {path}" for path in CONFIGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS)
def test_a_dry_run_leaves_nothing_and_tells_what_is_not_there(config, tmp_path):
    command = [sys.executable, "-m", "experiments.run", f"--config={config}", "--dry_run"]
    done = subprocess.run(command, cwd=tmp_path, env=here(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("not there yet: data/text/tokens.json is not there" in done.stdout) == (
        "pythia" in config
    )
    assert list(tmp_path.iterdir()) == []


def text_of(directory):
    """320 tokens and a separator in each split."""
    return Text(
        str(write_shards(directory, {key_0: [[[1] * 320]] for key_0 in tokens.SPLITS}).directory), 8
    )


def test_a_length_in_epochs_needs_a_description(tmp_path):
    """Of a text; what the config itself tells, as of photographs, is known without one."""
    text = text_of(tmp_path / "text")
    config = dataclasses.replace(
        load_config(), model=Transformer(97, 16, 1, 2, hidden=8), data=text, length="2 epochs"
    )
    config.tree["trunk"].steps = "50%"
    with pytest.raises(ConfigError, match=r"length = '2 epochs': an epoch .* or not described"):
        tree.resolve(config)
    described = describe_all(config.data_sets())
    assert tree.resolve(config, described)["trunk"].end == 40 // 8
    few = dataclasses.replace(config, model=Transformer(96, 16, 1, 2, hidden=8))
    with pytest.raises(ConfigError, match=r"model.vocabulary = 96: the data of .*, have 97"):
        tree.resolve(few, described)
    few.length = few.tree["trunk"].steps = 8
    few.tree["decay"].steps = "50%"
    assert tree.resolve(few)["trunk"].end == 8  # whose classes are not compared


def test_what_is_not_prepared_is_left_out_and_what_is_inert_is_known(tmp_path):
    text, gone = text_of(tmp_path / "text"), Text(str(tmp_path / "gone"))
    sets = [text, gone, Photos(size=7), Cifar10(), Bigram(size=9), None]
    described = describe_all(sets)
    assert set(described) == {key(each) for each in sets if each not in (gone, None)}
    assert (described[key(text)].classes, described[key(text)].examples) == (97, 40)
    assert described[key(text)].facts["sha256"] == tokens.describe(text.directory).sha256
    assert [described[key(each)].examples for each in sets[2:5]] == [7, 50_000, 9]
    with pytest.raises(tokens.NotPrepared, match=r"experiments.prepare text"):
        gone.describe()


def test_a_config_of_text_is_equal_to_its_like_alone():
    """Its key, and not its repr, is what it is known by."""
    assert key(Stdlib(length=5)) == key(Stdlib("bytes", 5)) != key(Stdlib(length=6))
    assert key(Photos(noise=1.0)) != key(Photos(noise=1.0, augment=True))
