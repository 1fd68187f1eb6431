"""CIFAR-10 as ArrayRecord files, by TFDS's own builder.

Preparing needs TensorFlow, which the extra `cifar10` installs; training does not.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
import types
import zlib
from pathlib import Path
from typing import Any

from experiments.prepare import PrepareError

INSTALL = 'pip install -c constraints.txt -e ".[cifar10]"'
RECORD_BYTES = 1 + 32 * 32 * 3
"""A label and an image, in CIFAR-10's binary format."""


def prepare_cifar10(directory: str = "", archive: Path | None = None) -> None:
    """Writes CIFAR-10 into `directory` (empty for TFDS's default) by TFDS's own builder."""
    from absl import logging

    from wsdjax.data.cifar10 import find

    logging.set_verbosity(logging.ERROR)  # TFDS warns of whatever is not there yet
    builder = find(directory)
    if builder.is_prepared():
        return _tell("is already prepared", builder)

    # Before the import, which would tell of the processor on standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import importlib_resources  # noqa: F401  (TFDS imports it, but does not require it)
        import tensorflow  # noqa: F401
    except ImportError as error:
        reason = f"preparing CIFAR-10 needs TensorFlow ({error})"
        raise PrepareError(f"{reason}. Install it: {INSTALL}") from error
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    (url, published), *_ = builder.url_infos.items()
    if archive is None:
        _download(builder, url)
    else:
        with tempfile.TemporaryDirectory() as unpacked:
            _unpack(archive, unpacked, published.checksum)
            builder = _from(unpacked, builder.data_dir_root)
            builder.download_and_prepare(file_format="array_record")
    _tell("is prepared", builder)


def _tell(what: str, builder: Any) -> None:
    splits = builder.info.splits.values()
    sizes = ", ".join(f"{split.name} {split.num_examples:,}" for split in splits)
    print(f"CIFAR-10 {what} in {builder.data_dir}: {sizes} examples")


def _download(builder: Any, url: str) -> None:
    import requests
    from tensorflow_datasets.core import download

    try:
        # TFDS repeats a failing download for minutes: ask once first whether anyone answers.
        requests.head(url, timeout=20)
        builder.download_and_prepare(file_format="array_record")
    except (
        requests.RequestException,
        download.DownloadError,
        download.download_manager.NonMatchingChecksumError,
    ) as error:
        raise PrepareError(
            f"could not fetch {url} ({type(error).__name__}). Without a network, bring the file "
            "here and give it as --archive=FILE"
        ) from error


def _unpack(archive: Path, target: str, checksum: str) -> None:
    """Unpacks the archive into `target`, and sees that CIFAR-10's files are there and whole."""
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
            print(f"note: {archive} is not the published archive: its SHA-256 differs")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise PrepareError(f"{archive} is no .tar.gz archive, or is damaged: {error}") from error
    folder = Path(target) / "cifar-10-batches-bin"
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        labels = content[::RECORD_BYTES]
        if not content or len(content) % RECORD_BYTES or max(labels) > 9:
            raise PrepareError(f"{archive} is not CIFAR-10 (binary version): see its {name}")
    if not (folder / "batches.meta.txt").is_file():
        raise PrepareError(f"{archive} is not CIFAR-10 (binary version): no batches.meta.txt")


def _from(unpacked: str, data_dir: Any) -> Any:
    """TFDS's builder of CIFAR-10, with an unpacked archive in place of the download."""
    import tensorflow_datasets as tfds

    class FromArchive(tfds.builder_cls("cifar10"), skip_registration=True):  # type: ignore[misc, call-arg]
        name = "cifar10"

        def _split_generators(self, dl_manager):
            here = types.SimpleNamespace(download_and_extract=lambda url: unpacked)
            return super()._split_generators(here)

    return FromArchive(data_dir=data_dir)
