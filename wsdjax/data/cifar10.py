"""CIFAR-10 from TFDS's ArrayRecord files; reading them needs no TensorFlow."""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from wsdjax import config
from wsdjax.data import Dataset, Split

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)
PREPARE = "python -m experiments.prepare cifar10"


def load(config: config.Cifar10) -> Dataset:
    """The prepared data set, kept as uint8 in device memory.

    Raises:
      FileNotFoundError: naming the command that prepares it, if it is not there.
    """
    train, test = (_split(config.directory, name) for name in ("train", "test"))
    return Dataset(train, test, CLASSES)


def data_dir(directory: str) -> str | None:
    """As TFDS takes it: None stands for its own default."""
    return os.path.expanduser(directory) or None


def _split(directory: str, name: str) -> Split:
    import tensorflow_datasets as tfds  # seconds to import, and only this data set needs it

    try:
        source: Any = tfds.data_source("cifar10", split=name, data_dir=data_dir(directory))
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, AssertionError, ValueError) as e:
        place = directory or "TFDS's default directory"
        raise FileNotFoundError(
            f"CIFAR-10 is not prepared in {place} ({type(e).__name__}). Run: {PREPARE}"
            + (f" --directory={directory}" if directory else "")
        ) from e
    records = source[range(len(source))]
    images = jnp.asarray(np.stack([record["image"] for record in records]))
    labels = jnp.asarray([record["label"] for record in records], jnp.int32)

    def examples(arrays, indices):
        images, labels = arrays
        inputs = (images[indices].astype(jnp.float32) / 255 - MEAN) / STD
        return {"inputs": inputs, "targets": labels[indices]}

    return Split(len(labels), (images, labels), examples)
