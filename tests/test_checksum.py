"""Whatever is flipped, one bit or two, changes a checksum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsdjax.checksum import checksums


def flipped(words, bits):
    raw = np.frombuffer(words.tobytes(), np.uint8).copy()
    for bit in bits:
        raw[bit // 8] ^= 1 << bit % 8
    return jnp.asarray(np.frombuffer(raw.tobytes(), words.dtype).reshape(words.shape))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.uint8])
def test_every_single_bit_is_seen(dtype):
    words = np.random.default_rng(0).integers(0, 100, (3, 5)).astype(dtype)
    before = checksums(jnp.asarray(words))
    for bit in range(words.nbytes * 8):
        assert checksums(flipped(words, [bit])) != before


def test_every_pair_of_sign_bits_and_many_others_are_seen():
    """Two flipped signs cancelled in a sum of words times odd numbers."""
    random = np.random.default_rng(0)
    words = random.normal(size=(2, 4)).astype(np.float32)
    before = checksums(jnp.asarray(words))
    assert checksums(jnp.asarray(-words)) != before
    signs = [(32 * i + 31, 32 * j + 31) for i in range(8) for j in range(i)]
    others = [tuple(random.choice(256, 2, replace=False)) for _ in range(200)]
    for bits in signs + others:
        assert checksums(flipped(words, bits)) != before


def test_words_that_change_places_are_seen():
    words = np.arange(12, dtype=np.int32).reshape(3, 4)
    before = checksums(jnp.asarray(words))
    assert checksums(jnp.asarray(words[::-1])) != before
    assert checksums(jnp.asarray(words[:, [1, 0, 2, 3]])) != before
    assert checksums(jnp.asarray(words.reshape(4, 3))) == before


def test_paths_name_the_leaves():
    found = checksums({"a": jnp.zeros(3), "b": {"c": jnp.int32(0)}})
    assert set(found) == {"['a']", "['b']['c']"}
    assert all(0 <= value < 2**32 for value in found.values())


def test_float64_is_all_of_its_bits():
    with jax.enable_x64(True):
        words = np.random.default_rng(0).normal(size=3)
        before = checksums(jnp.asarray(words))
        for bit in range(192):
            assert checksums(flipped(words, [bit])) != before
