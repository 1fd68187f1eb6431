"""What the tests share: the tiny tree, trained once, and the entry point as a subprocess."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# One compilation of each program for all tests and the processes that they start.
_CACHE = tempfile.TemporaryDirectory(prefix="wsdjax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

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


NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""For processes that are killed: JAX does not write an entry of its cache all at once."""


def finish(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


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
    from wsdjax.branches.metrics import read_rows

    rows = read_rows(store.directory(name) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def compiled_quickly():
    """For programs that take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The workdir of the tiny tree, trained by the command without a stop."""
    workdir = tmp_path_factory.mktemp("finished") / "tiny"
    code, out, err = finish(start("experiments.run", f"--config={TINY}", f"--workdir={workdir}"))
    assert code == 0, err
    (workdir.parent / "out").write_text(out)
    return workdir


@pytest.fixture
def full_precision():
    """For what float32 keeps and a GPU's products, whose operands are rounded to TF32's 11 bits,
    do not."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def cnn():
    """A small CNN as a model, its parameters and two batches, the last one ragged."""
    import jax.numpy as jnp
    import numpy as np

    from wsdjax import models
    from wsdjax.config import CNN

    model = models.build(CNN(widths=(4, 8)))
    random = np.random.default_rng(0)
    batches = [
        {
            "inputs": jnp.asarray(random.normal(size=(n, 32, 32, 3)), jnp.float32),
            "targets": jnp.asarray(random.integers(0, 10, n)),
        }
        for n in (16, 9)
    ]
    return model, model.init(jax.random.key(0)), batches
