"""Tools of several test files: the tiny tree, entry points, branches, text and comparisons."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from wsdjax import trainer, tree
from wsdjax.branches import BranchStore, metrics
from wsdjax.data import tokens

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "configs" / "tiny.py"


def load_config(path: Path = TINY):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def start(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
    """An entry point, such as ``start("experiments.run", "--config=...")``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(module: str, *arguments: str) -> tuple[int, str, str]:
    """An entry point in this process: its exit code, and what it wrote to both outputs."""
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""For processes that are killed: JAX does not write an entry of its cache all at once."""


def finish(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def kill(what, branch, step, *arguments) -> int:
    """Runs an entry point until it dies by `killed.py`, and gives its exit code."""
    script = [sys.executable, str(ROOT / "tests" / "killed.py"), what, branch, str(step)]
    process = subprocess.run(
        [*script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    return process.returncode


class Stop(Exception):
    """Raised by `Silent` after the update that it was told."""


class Silent(trainer.Progress):
    """Progress that is not shown, and can stop the run after an update."""

    def __init__(self, until=None):
        self.until = until

    def update(self, step, loss, rate):
        assert np.isfinite(loss)
        if step == self.until:
            raise Stop


def grow(workdir, config, names=None):
    """Registers the tree of a config and trains it, or the branches named, in this process."""
    store = BranchStore(workdir, keep=config.keep)
    with store.lock():
        branches = tree.resolve(config)
        store.register(branches)
        watch = trainer.Watch(config.eval_every, config.checkpoint_every, progress=Silent())
        trainer.Trainer(store, watch).train(names or list(branches))
    return store


def with_tree(branches, **changes):
    return dataclasses.replace(load_config(), tree=branches, **changes)


def run_script(script: str, *arguments: str, cwd: Path = ROOT) -> str:
    """Runs Python of its own process, which must end well; returns its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stderr


def same(a, b) -> bool:
    """Whether two pytrees are equal to the bit."""
    leaves_a, tree_a = jax.tree.flatten(jax.device_get(a))
    leaves_b, tree_b = jax.tree.flatten(jax.device_get(b))
    return tree_a == tree_b and all(
        x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()
        for x, y in zip(leaves_a, leaves_b, strict=True)
    )


def rows_of(store, name: str) -> list[dict]:
    """A branch's rows without their timings."""
    rows = metrics.read(store.directory(name) / "metrics.jsonl").rows
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def files(directory):
    """The content of every file under a directory."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def flip_a_byte(checkpoint):
    """Damages the largest array of a checkpoint without a trace in its form."""
    numbers = [path for path in checkpoint.glob("state/*/c/**/*") if path.is_file()]
    largest = max(numbers, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def texts(count, seed=0, words=30):
    """Documents in several alphabets, with line ends and what looks like a separator."""
    random = np.random.default_rng(seed)
    known = ["loss", "rate", "Grüße", "温度", "\n", "<|endoftext|>", "😀", "\t", "steps"]
    return [f"{i} " + " ".join(random.choice(known, words)) for i in range(count)]


VOCABULARY, SEPARATOR = 97, 96
FINGERPRINT = "ab" * 32


def token_lists(sizes, seed=0, vocabulary=SEPARATOR):
    """Documents of these sizes, as random tokens."""
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, size) for size in sizes]


def write_shards(directory: Path, splits, vocabulary=VOCABULARY) -> tokens.Description:
    """Shards of these lists of documents: ``{"train": [[document, ...], ...], "test": ...}``."""
    directory.mkdir(exist_ok=True)
    shards: dict[str, list[tokens.Shard]] = {}
    for split, lists in splits.items():
        for number, documents in enumerate(lists):
            path = directory / tokens.shard_name(split, number)
            writer = tokens.ShardWriter(path, FINGERPRINT, vocabulary)
            for document in documents:
                writer.write_document(np.asarray(document), SEPARATOR, len(document))
            writer.close()
            shard = tokens.read_shard(path, FINGERPRINT, vocabulary)
            shards.setdefault(split, []).append(shard)
    described = tokens.Description(directory, "test", FINGERPRINT, vocabulary, SEPARATOR, shards)
    tokens.write_description(described)
    return described


def documents_of(out: Path, split: str) -> list[list[int]]:
    """The documents of a split, by the shards' own bytes."""
    found: list[list[int]] = []
    for path in sorted(out.glob(f"{split}-*.tokens")):
        document: list[int] = []
        for token in np.frombuffer(path.read_bytes()[64:], "<u2").tolist():
            if token == tokens.describe(out).separator:
                found.append(document)
                document = []
            else:
                document.append(token)
        assert not document
    return found
