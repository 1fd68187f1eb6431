"""Batches are functions of (seed, step) and of nothing else."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from wsdjax import data
from wsdjax.config import Bigram, Photos, Stdlib
from wsdjax.data import photos
from wsdjax.data.augment import crop_and_flip
from wsdjax.data.device import DeviceSplit


@pytest.fixture(scope="module")
def clean():
    return data.load(Photos(noise=0.0, size=1_000, eval_size=60))


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in ("inputs", "targets"))


def test_a_batch_depends_on_seed_and_step_alone(clean):
    """Not on the order of access, on the object, nor on the seeds beside it."""
    stream = data.Stream(clean.train, 16, 3)
    late = stream[200]
    assert equal(data.Stream(clean.train, 16, 3)[200], late)
    first = stream[0]
    assert equal(stream[200], late)
    beside = data.Stream(clean.train, 16, [7, 3])
    assert all(equal({k: v[1] for k, v in beside[t].items()}, stream[t]) for t in (0, 200))
    assert not equal({k: v[0] for k, v in beside[0].items()}, first)
    assert not equal(stream[1], first)


def indices(size=103):
    """A split whose examples are their own indices."""
    return DeviceSplit(size, None, lambda _, i: {"inputs": i, "targets": i})


def test_an_epoch_shows_every_example_at_most_once():
    """It leaves out less than a batch, and the next epoch is another permutation."""
    stream = data.Stream(indices(), 10, 0)
    assert stream.batches_per_epoch == 10
    epochs = [np.concatenate([stream[10 * e + i]["inputs"] for i in range(10)]) for e in (0, 1)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 100
        assert set(epoch.tolist()) <= set(range(103))
    assert not np.array_equal(*epochs)
    other = np.concatenate([data.Stream(indices(), 10, 1)[i]["inputs"] for i in range(10)])
    assert not np.array_equal(epochs[0], other)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match="batch_size = 104: the set has 103 examples"):
        data.Stream(indices(), 104, 0)


def test_no_pixel_is_shared_by_the_two_splits():
    """Every 64x64 block of a photograph is for training or for testing."""
    train, test = (photos.load(Photos()).train.arrays, photos.load(Photos()).test.arrays)
    seen = {block.tobytes() for block in np.asarray(train[0])}
    assert not seen & {block.tobytes() for block in np.asarray(test[0])}
    for blocks, first, count in (train, test):
        assert (np.asarray(count) >= 5).all()
        assert first[-1] + count[-1] == len(blocks)


def test_crops_are_standardised_grey_and_balanced(clean):
    """Without noise: mean 0, deviation 1, three equal channels, as many of each class."""
    for split in (clean.train, clean.test):
        crops = split.examples(split.arrays, jnp.arange(1_000))
        inputs = np.asarray(crops["inputs"], np.float64)
        assert inputs.shape == (1_000, 32, 32, 3)
        np.testing.assert_allclose(inputs.mean((1, 2, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(inputs.std((1, 2, 3)), 1, atol=1e-3)
        assert (inputs == inputs[..., :1]).all()
        assert np.bincount(np.asarray(crops["targets"])).tolist() == [100] * 10


def test_no_crop_of_any_block_is_blank(clean):
    """At every position of every block of the test split, and of one photograph's for training."""
    blocks, first, count = map(np.asarray, clean.train.arrays)
    retina = photos.CLASSES.index("retina")
    for own in (np.asarray(clean.test.arrays[0]), blocks[first[retina] :][: count[retina]]):
        for block in own:
            windows = np.lib.stride_tricks.sliding_window_view(block.astype(np.float64), (32, 32))
            assert windows.std((-1, -2)).min() > 0.99 / 255


def test_crops_lie_in_blocks_of_their_class_mirrored_or_not(clean):
    """Each of some crops is found in a training block of its photograph; half are mirrored."""
    blocks, first, count = map(np.asarray, clean.train.arrays)
    mirrored = {}
    for name, crops in (("chelsea", 16), ("rocket", 4)):
        target = photos.CLASSES.index(name)
        made = clean.train.examples(clean.train.arrays, target + 10 * jnp.arange(crops))
        assert (made["targets"] == target).all()
        own = blocks[first[target] : first[target] + count[target]]
        windows = np.lib.stride_tricks.sliding_window_view(own, (32, 32), axis=(1, 2))
        mean, std = windows.mean((-1, -2)), windows.std((-1, -2))
        images = np.asarray(made["inputs"])[..., 0]
        found = []
        for image in (images, images[:, :, ::-1]):
            # The correlation of two standardised images is 1 if they are the same.
            inner = np.tensordot(windows, image, axes=((-2, -1), (1, 2))) / 1024
            correlation = (inner - mean[..., None] * image.mean((1, 2))) / std[..., None]
            found.append(correlation.max((0, 1, 2)) > 1 - 1e-3)
        assert np.logical_xor(*found).all()
        mirrored[name] = found[1].sum()
    assert 3 <= mirrored["chelsea"] <= 13


def test_noise_is_a_function_of_the_index_too():
    """Deviation as asked, another draw for each crop, the same each time."""
    noisy = data.load(Photos(noise=0.5, size=1_000, eval_size=10)).train
    clean = data.load(Photos(noise=0.0, size=1_000, eval_size=10)).train
    at = jnp.arange(50)
    noise = (
        noisy.examples(noisy.arrays, at)["inputs"] - clean.examples(clean.arrays, at)["inputs"]
    )[..., 0]
    np.testing.assert_allclose(np.std(noise), 0.5, rtol=0.02)
    assert not np.allclose(noise[0], noise[1])
    again = noisy.examples(noisy.arrays, at[::-1])["inputs"][::-1]
    np.testing.assert_array_equal(again, noisy.examples(noisy.arrays, at)["inputs"])


def test_the_splits_have_noise_of_their_own():
    """A crop for testing does not have the noise of the training crop of its index."""
    noisy, clean = (data.load(Photos(noise=n, size=1_000, eval_size=50)) for n in (0.5, 0.0))
    at = jnp.arange(50)
    train, test = (
        np.asarray(
            split.examples(split.arrays, at)["inputs"] - plain.examples(plain.arrays, at)["inputs"]
        )
        for split, plain in ((noisy.train, clean.train), (noisy.test, clean.test))
    )
    assert abs(np.corrcoef(train[..., 0].ravel(), test[..., 0].ravel())[0, 1]) < 0.02


def test_the_evaluation_set_is_all_of_the_test_split_in_order(clean):
    batches = data.in_order(clean.test, 25)
    assert [len(batch["targets"]) for batch in batches] == [25, 25, 10]
    whole = clean.test.examples(clean.test.arrays, jnp.arange(60))
    joined = np.concatenate([batch["inputs"] for batch in batches])
    np.testing.assert_allclose(joined, whole["inputs"], atol=1e-6)


@pytest.mark.parametrize(
    ("count", "parts", "expected"),
    [
        (250, 1, [250]),
        (256, 1, [128, 128]),
        (1_000, 1, [250] * 4),
        (640, 1, [214, 214, 212]),
        (640, 4, [216, 216, 208]),
        (259, 4, [128, 128, 3]),
        (3, 4, [3]),
    ],
)
def test_batches_are_of_one_size_where_they_can_be(count, parts, expected):
    """As large as 250 allows; of several devices a multiple of them, but for what is over."""
    batches = data.in_order(indices(count), parts=parts)
    assert [len(batch["inputs"]) for batch in batches] == expected
    joined = np.concatenate([batch["inputs"] for batch in batches])
    np.testing.assert_array_equal(joined, np.arange(count))


def test_a_sample_is_spread_over_the_split_and_fixed_by_its_seed(x64):
    """One of each of as many parts of it, whatever the process's flags; the values are those
    that PCG64 gives on any machine."""
    split = indices(1_003)
    drawn = [np.asarray(batch["inputs"]) for batch in data.sample(split, 100, seed=3)]
    at = np.concatenate(drawn)
    assert [len(batch) for batch in drawn] == [100]
    bounds = np.arange(101) * 1_003 // 100
    assert ((bounds[:-1] <= at) & (at < bounds[1:])).all()
    assert at.dtype == np.int32
    assert at[:6].tolist() == [0, 11, 28, 34, 46, 57]
    assert [len(b["inputs"]) for b in data.sample(split, 100, 3, batch_size=40)] == [40, 40, 20]
    again, other = (data.sample(split, 100, seed=seed)[0]["inputs"] for seed in (3, 4))
    np.testing.assert_array_equal(again, at)
    assert (np.asarray(other) != at).mean() > 0.5
    (whole,) = data.sample(indices(60), 60, seed=9)
    np.testing.assert_array_equal(whole["inputs"], np.arange(60))
    for examples in (0, 1_004):
        with pytest.raises(ValueError, match=f"examples = {examples}: the split has 1003"):
            data.sample(split, examples)


def test_a_sample_of_text_is_not_its_first_file():
    """Windows of all files: the first in the order of paths are licences and tables."""
    split = data.load(Stdlib(length=64)).train
    (batch,) = data.sample(split, 50)
    size = split.size
    first = np.asarray(split.take(np.arange(size // 50))["inputs"])
    rows = {row.tobytes() for row in first}
    assert sum(row.tobytes() in rows for row in np.asarray(batch["inputs"])) <= 2
    last = split.take(np.arange(size - size // 50 - 1, size))["inputs"]
    last = {row.tobytes() for row in np.asarray(last)}
    assert np.asarray(batch["inputs"])[-1].tobytes() in last


def test_augmentation_is_a_shift_and_a_flip():
    """Each augmented image is one of the 9 x 9 x 2 that padding by 4 allows, half are mirrored."""
    images = jax.random.normal(jax.random.key(0), (40, 8, 8, 3))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    moved = np.asarray(crop_and_flip(jax.random.key(1), images))
    found = set()
    for i, image in enumerate(moved):
        allowed = {
            (y, x, flip): padded[i, y : y + 8, x : x + 8][:, :: -1 if flip else 1]
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
        }
        which = [how for how, a in allowed.items() if np.array_equal(image, a)]
        assert len(which) == 1
        found.add(which[0])
    ys, xs, flips = map(set, zip(*found, strict=True))
    assert min(ys) < 2 < 6 < max(ys)
    assert min(xs) < 2 < 6 < max(xs)
    assert flips == {False, True}


def test_augmented_streams_are_functions_of_seed_and_step(clean):
    a, b = (data.Stream(clean.train, 8, 5, augment=True) for _ in range(2))
    b[3]
    assert equal(a[4], b[4])
    assert not equal(a[4], data.Stream(clean.train, 8, 5)[4])


def test_configs_and_streams_of_text_import_no_jax(tmp_path):
    """A mistake in a config of text is told before JAX is there to be imported."""
    code = (
        "import sys\n"
        "from wsdjax.config import Stdlib\n"
        "described = Stdlib().describe()\n"
        "print(described.classes, described.examples > 0, 'jax' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().split() == ["257", "True", "False"], done.stderr


@pytest.mark.parametrize("config", [Photos(size=300), Bigram(size=300), Stdlib(length=999)])
def test_no_epoch_is_another_nor_of_another_seed(config):
    """For every kind of data: three epochs of three neighbouring seeds are nine orders."""
    split = data.load(config).train
    streams = data.Stream(split, 100, [5, 6, 7])
    firsts = [np.asarray(streams[e * streams.batches_per_epoch]["inputs"]) for e in range(3)]
    rows = {row.tobytes() for first in firsts for row in first}
    assert len(rows) == 9


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("seed", [3, (0, 7)])
def test_the_rows_of_one_process_are_those_of_the_batch(clean, augment, seed):
    stream = data.Stream(clean.train, 8, seed, augment)
    for t in (0, 13):
        whole = stream[t]
        for rows in ((0, 3), (3, 8), (5, 6)):
            mine = stream.rows(t, *rows)
            for name, leaf in whole.items():
                at = (slice(*rows),) if seed == 3 else (slice(None), slice(*rows))
                np.testing.assert_array_equal(mine[name], leaf[at])
