"""Crops of ten photographs that come with scikit-image and matplotlib: real images, no download.

The class of a 32x32 crop is the photograph it was cut from. Every photograph is turned to
luminance (one of them has no colour, and must not be known by that) and tiled into 64x64
blocks; every fourth block, along the diagonals, is for testing. A crop lies within one
block, so no pixel is shared by the two splits; blocks with a crop that shows nothing are left
out. A crop is standardised, and pixel noise keeps the loss away from zero. It is a pure
function of its index (block, position, flip, noise), to the last bits, which go by the batch it
is made in: the set is as large as one likes. It stands in for CIFAR-10 where there is no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import skimage.color
import skimage.data
import skimage.io
import skimage.util
from scipy.ndimage import uniform_filter

from wsdjax.data.device import TEST_SEED, DeviceSplit
from wsdjax.data.split import Dataset

if TYPE_CHECKING:
    from wsdjax.config import Photos

CROP, BLOCK = 32, 64
CLASSES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "retina",
    "hubble_deep_field",
    "stereo_motorcycle",
    "grace_hopper",
    "gravel",
)


def load(config: Photos) -> Dataset:
    luminances = [_luminance(name) for name in CLASSES]

    def split(seed, size, for_test):
        def examples(blocks, indices):
            key = jax.random.key(seed)
            crops = jax.vmap(lambda index: _crop(blocks, key, index, config.noise))(indices)
            inputs = jnp.broadcast_to(crops[..., None], (*crops.shape, 3))
            return {"inputs": inputs, "targets": indices % len(CLASSES)}

        return DeviceSplit(size, _blocks(luminances, for_test), examples)

    return Dataset(split(0, config.size, False), split(TEST_SEED, config.eval_size, True))


def _crop(arrays, key, index, noise):
    blocks, first, count = arrays
    target = index % len(CLASSES)
    block_key, at_key, flip_key, noise_key = jax.random.split(jax.random.fold_in(key, index), 4)
    # The types are named, for JAX's own go by whether the process has 64 bits enabled.
    block = first[target] + jax.random.randint(block_key, (), 0, count[target], jnp.int32)
    y, x = jax.random.randint(at_key, (2,), 0, BLOCK - CROP + 1, jnp.int32)
    crop = jax.lax.dynamic_slice(blocks, (block, y, x), (1, CROP, CROP))[0]
    crop = jnp.where(jax.random.bernoulli(flip_key, jnp.float32(0.5)), crop[:, ::-1], crop)
    crop = (crop - crop.mean()) / crop.std()
    return crop + noise * jax.random.normal(noise_key, crop.shape, jnp.float32)


def _luminance(name: str) -> np.ndarray:
    if name == "grace_hopper":
        path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        photo = skimage.io.imread(path)
    elif name == "stereo_motorcycle":
        photo = skimage.data.stereo_motorcycle()[0]
    else:
        photo = getattr(skimage.data, name)()
    grey = skimage.color.rgb2gray(photo) if photo.ndim == 3 else photo / 255
    return grey.astype(np.float32)


def _blocks(luminances: list[np.ndarray], for_test: bool):
    """(blocks [N, 64, 64], first [10], count [10]): a photograph's blocks stand together."""
    chosen = []
    for grey in luminances:
        rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
        whole = grey[: rows * BLOCK, : columns * BLOCK]
        diagonal = np.add.outer(np.arange(rows), np.arange(columns)) % 4 == 3
        blocks = skimage.util.view_as_blocks(whole, (BLOCK, BLOCK))[diagonal == for_test]
        # Retina's corners are plain black: a crop of them would show nothing of its class.
        chosen.append(blocks[_least_contrast(blocks) > 1 / 255])
    count = np.array([len(c) for c in chosen], np.int32)
    first = np.cumsum(count, dtype=np.int32) - count
    return jax.tree.map(jnp.asarray, (np.concatenate(chosen), first, count))


def _least_contrast(blocks_Nx64x64: np.ndarray) -> np.ndarray:
    """[N]: the least standard deviation of any crop of each block."""
    whole = np.s_[:, CROP // 2 : BLOCK - CROP // 2 + 1, CROP // 2 : BLOCK - CROP // 2 + 1]
    values = blocks_Nx64x64.astype(np.float64)
    mean, square = (uniform_filter(v, (1, CROP, CROP))[whole] for v in (values, values**2))
    return np.sqrt((square - mean**2).clip(0)).min((1, 2))
