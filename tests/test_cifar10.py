"""CIFAR-10: a small archive in its format goes through TFDS's builder and comes back unchanged."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, call, finish, start

from wsdjax import config, data
from wsdjax.data import cifar10

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {f"data_batch_{i}.bin": 4 for i in range(1, 6)} | {"test_batch.bin": 8}


@pytest.fixture(scope="module")
def written() -> dict[str, np.ndarray]:
    """For each file of the archive, its records: a label, then an image channel by channel."""
    random = np.random.default_rng(0)
    records = {n: random.integers(0, 256, (k, 3073), np.uint8) for n, k in FILES.items()}
    for content in records.values():
        content[:, 0] %= 10
    return records


@pytest.fixture(scope="module")
def archive(written, tmp_path_factory) -> Path:
    files = {name: content.tobytes() for name, content in written.items()}
    files["batches.meta.txt"] = "\n".join([*CLASSES, "", ""]).encode()
    return pack(files, tmp_path_factory.mktemp("archive") / "cifar-10-binary.tar.gz")


def pack(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def prepare(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """In a process of its own: TensorFlow and JAX need not share one."""
    return finish(start("experiments.prepare", "cifar10", f"--directory={directory}", *arguments))


@pytest.fixture(scope="module")
def prepared(archive, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("prepared")
    code, out, err = prepare(directory, f"--archive={archive}")
    assert code == 0, err
    assert f"in {directory}" in out
    assert "train 20, test 8 examples" in out
    return directory


# The interpreter's own finder, which no longer finds TensorFlow: as if it were not installed.
WITHOUT_TENSORFLOW = """
import importlib.machinery, sys
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
from experiments.prepare.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def python(code: str, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_every_pixel_and_label_comes_back(prepared, written):
    dataset = data.load(config.Cifar10(directory=str(prepared)))
    train = np.concatenate([content for name, content in written.items() if "data" in name])
    for split, records in ((dataset.train, train), (dataset.test, written["test_batch.bin"])):
        images, labels = split.arrays
        assert (images.dtype, labels.dtype) == (jnp.uint8, jnp.int32)
        (batch,) = data.in_order(split)
        assert batch["inputs"].dtype == jnp.float32
        assert batch["targets"].dtype == jnp.int32
        pixels = (np.asarray(batch["inputs"]) * cifar10.STD + cifar10.MEAN) * 255
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
        found = np.rint(pixels).astype(np.uint8)
        # TFDS shuffles: records are known by their content.
        assert sorted(
            (int(y), x.tobytes()) for x, y in zip(found, batch["targets"], strict=True)
        ) == sorted(
            (int(r[0]), r[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()) for r in records
        )


def test_reading_imports_no_tensorflow(prepared):
    code, out, err = python(
        "import sys; from wsdjax import config, data\n"
        "data.load(config.Cifar10(directory=sys.argv[1]))\n"
        "print('tensorflow' in sys.modules)",
        prepared,
    )
    assert (code, out.strip()) == (0, "False"), err


def test_what_is_prepared_is_left_alone_and_needs_no_tensorflow(prepared):
    code, out, err = python(WITHOUT_TENSORFLOW, "cifar10", f"--directory={prepared}")
    assert code == 0, err
    assert "already prepared" in out


def test_data_that_are_not_prepared_name_the_command_and_fetch_nothing(tmp_path):
    command = f"python -m experiments.prepare cifar10 --directory={tmp_path}"
    with pytest.raises(FileNotFoundError, match=command):
        data.load(config.Cifar10(directory=str(tmp_path)))
    assert not any(tmp_path.iterdir())


DAMAGES = {
    "a missing shard": ("cifar10-test.*", lambda path: path.unlink()),
    "a shard cut short": ("cifar10-train.*", lambda path: os.truncate(path, 1000)),
    "no description": ("dataset_info.json", lambda path: path.unlink()),
    "a description cut short": ("dataset_info.json", lambda path: os.truncate(path, 100)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_are_named(damage, prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    pattern, spoil = DAMAGES[damage]
    (path,) = copy.glob(f"cifar10/*/{pattern}")
    spoil(path)
    with pytest.raises(OSError, match=r"copy.* is (damaged|incomplete).*Delete .* run: python"):
        data.load(config.Cifar10(directory=str(copy)))


def test_a_missing_tensorflow_is_answered_by_the_command_that_installs_it(tmp_path):
    code, out, err = python(WITHOUT_TENSORFLOW, "cifar10", f"--directory={tmp_path}")
    assert (code, out) == (2, "")
    assert 'pip install -c constraints.txt -e ".[cifar10]"' in err
    assert len(err.strip().splitlines()) == 1, err


def test_an_unknown_name_is_answered_by_those_there_are():
    code, out, err = call("experiments.prepare", "cifar11")
    assert (code, out) == (2, "")
    assert "name the data set first: cifar10 or text" in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("fault", ["no archive", "half a record"])
def test_what_is_not_the_archive_is_refused(fault, written, tmp_path):
    archive = tmp_path / "archive.tar.gz"
    if fault == "no archive":
        archive.write_text("<html>not found</html>")
    else:
        files = {name: content.tobytes() for name, content in written.items()}
        pack(files | {"data_batch_3.bin": bytes(4000)}, archive)
    code, _, err = prepare(tmp_path / "data", f"--archive={archive}")
    assert code == 2
    assert f"{archive} is " in err
    assert len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.glob("data/cifar10/*"))
