"""The environment of the tests, and the fixtures that several of them take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# One compilation of each program for all tests and the processes that they start.
_CACHE = tempfile.TemporaryDirectory(prefix="wsdjax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Nearly every program here takes longer to compile than to run. With this set to "false" before the
# command, programs are tested as users have them, in about twice the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax  # noqa: E402
import pytest  # noqa: E402
from helpers import TINY, finish, start  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def compiled_fully():
    """For what the compiler's optimisations might change, such as where bfloat16 is rounded."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
