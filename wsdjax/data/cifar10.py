"""CIFAR-10 from TFDS's ArrayRecord files; reading them needs no TensorFlow."""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from wsdjax.data.device import DeviceSplit
from wsdjax.data.split import Dataset
from wsdjax.wording import shortened

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)
PREPARE = "python -m experiments.prepare cifar10"


def load(directory: str) -> Dataset:
    """The prepared data set, kept as uint8 in device memory; a batch's inputs are normalised."""
    builder = find(directory)
    command = _command(directory)
    if not builder.is_prepared():
        raise FileNotFoundError(f"CIFAR-10 is not prepared in {builder.data_dir}. Run: {command}")
    try:
        return Dataset(_read(builder, "train"), _read(builder, "test"))
    except Exception as error:  # of TFDS, array_record or the image decoder, each with its own
        said = shortened(repr(error), 200)
        raise OSError(
            f"{builder.data_dir} is damaged ({said}). Delete it and run: {command}"
        ) from error


def find(directory: str) -> Any:
    """TFDS's builder of what is, or may be, prepared in `directory` (empty: TFDS's default).

    Nothing is fetched or written. Its ``is_prepared()`` tells whether the data are there.
    """
    import tensorflow_datasets as tfds  # only this data set needs it

    command = _command(directory)
    try:
        builder = tfds.builder("cifar10", data_dir=os.path.expanduser(directory) or None)
    except Exception as error:  # whatever reading a spoilt description raises
        place = directory or "TFDS's default directory"
        raise OSError(
            f"CIFAR-10 in {place} is damaged ({shortened(repr(error), 200)}). "
            f"Delete the folder cifar10 there and run: {command}"
        ) from error
    if not builder.is_prepared():
        if builder.data_path.exists():  # which TFDS would take for prepared, and leave as it is
            raise OSError(f"{builder.data_dir} is incomplete. Delete it and run: {command}")
    elif (found := builder.info.file_format.value) != "array_record":
        raise OSError(
            f"{builder.data_dir} holds {found} files, not array_record: prepare CIFAR-10 in "
            f"another directory ({PREPARE} --directory=DIR) and name it in the config"
        )
    return builder


def _command(directory: str) -> str:
    return f"{PREPARE} --directory={directory}" if directory else PREPARE


def _read(builder: Any, name: str) -> DeviceSplit:
    source = builder.as_data_source(split=name)
    records = source.__getitems__(range(len(source)))
    images = jnp.asarray(np.stack([record["image"] for record in records]))
    labels = jnp.asarray([record["label"] for record in records], jnp.int32)

    def examples(arrays, indices):
        images, labels = arrays
        mean_1x1x1xC, std_1x1x1xC = MEAN[None, None, None], STD[None, None, None]
        inputs = (images[indices].astype(jnp.float32) / 255 - mean_1x1x1xC) / std_1x1x1xC
        return {"inputs": inputs, "targets": labels[indices]}

    return DeviceSplit(len(labels), (images, labels), examples)
