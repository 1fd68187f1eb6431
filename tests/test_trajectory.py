"""Principal components, convexity, alignment and distances of a trajectory."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from losses import quadratic

from wsdjax import probes
from wsdjax.probes.vectors import ProbeError, take


class OneAtATime:
    """Iterates that are made when they are asked for, as if read from disk."""

    def __init__(self, rows, like):
        self._rows, self._unravel = rows, ravel_pytree(like)[1]

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        if i >= len(self._rows):
            raise IndexError(i)
        return self._unravel(jnp.asarray(self._rows[i], jnp.float32))


def test_principal_components_are_those_of_the_svd():
    """Of iterates that differ in their fifth digit: directions, shares and mean."""
    random = np.random.default_rng(0)
    path = np.cumsum(random.normal(size=(12, 40)), axis=0) * [[1e-3]] + 100 * random.normal(size=40)
    rows = path.astype(np.float32).astype(np.float64)
    like = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(25)}
    found = probes.principal_components(OneAtATime(rows, like), k=3)
    centred = rows - rows.mean(0)
    _, singular, vectors = np.linalg.svd(centred)
    shares = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(found.explained_variance_ratio, shares[:3], rtol=1e-9)
    for i in range(3):
        ours = np.asarray(ravel_pytree(take(found.directions, i))[0])
        assert abs(ours @ vectors[i]) > 1 - 1e-5
        assert ours @ centred[-1] >= 0
    np.testing.assert_allclose(ravel_pytree(found.mean)[0], rows.mean(0), rtol=1e-5)


class Counting(OneAtATime):
    """Which also tells how often they were, and how many there are at a time."""

    def __init__(self, rows, like):
        super().__init__(rows, like)
        self.loads, self.most, self._there = 0, 0, []

    def __getitem__(self, i):
        found = super().__getitem__(i)
        self.loads += 1
        leaf = next(iter(found.values()))
        self._there = [each for each in self._there if each() is not None] + [weakref.ref(leaf)]
        self.most = max(self.most, len(self._there))
        return found


@pytest.mark.parametrize("count", [2, 3, 4, 5, 17, 64])
def test_blocks_of_iterates_are_as_all_at_once(count):
    """Loaded sqrt(T) / 2 times each and a bit, with 2 sqrt(T) in memory, to rounding."""
    random = np.random.default_rng(count)
    rows = 1 + np.cumsum(random.normal(size=(count, 9_000)), axis=0).astype(np.float32)
    like = {"a": jnp.zeros((30, 200)), "b": jnp.zeros(3_000)}
    lazy = Counting(rows, like)
    held = [OneAtATime(rows, like)[i] for i in range(count)]
    k = min(3, count - 1)
    ours, at_once = (probes.principal_components(each, k=k) for each in (lazy, held))
    shares = ours.explained_variance_ratio, at_once.explained_variance_ratio
    np.testing.assert_allclose(*shares, rtol=1e-12, atol=1e-15)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(at_once), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    vectors = np.linalg.svd(centred, full_matrices=False)[2]
    for i in range(k):
        mine = np.asarray(ravel_pytree(take(ours.directions, i))[0], np.float64)
        assert mine @ vectors[i] * np.sign(centred[-1] @ vectors[i]) > 1 - 1e-6
    assert lazy.loads <= count**1.5 / 2 + 2.5 * count + 4
    assert lazy.most <= 2 * np.sqrt(count) + 6


def test_arrays_of_a_file_give_what_those_of_a_device_give_and_are_checked():
    random = np.random.default_rng(0)
    read = [{"a": row[:6].reshape(2, 3), "b": row[6:]} for row in random.normal(size=(5, 10))]
    read = [jax.tree.map(np.float32, each) for each in read]
    expected = probes.principal_components([jax.tree.map(jnp.asarray, each) for each in read])
    coarse = [*read[:4], jax.tree.map(np.float64, read[4])]
    for iterates in (read, coarse):
        found = probes.principal_components(iterates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    for wrong in ({"a": read[2]["a"]}, {**read[2], "b": read[2]["b"][:3]}):
        with pytest.raises(ProbeError, match=r"iterates\[2\]"):
            probes.principal_components([*read[:2], wrong, *read[3:]])


def test_directions_of_small_moves_keep_their_digits():
    """Of moves in the last digits of float32, and of iterates in bfloat16."""
    random = np.random.default_rng(0)
    rows = (1 + 1e-5 * np.cumsum(random.normal(size=(8, 40)), axis=0)).astype(np.float32)
    like = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(25)}
    for dtype in (jnp.float32, jnp.bfloat16):
        moved = rows if dtype == jnp.float32 else 1 + 1e3 * (rows - 1)
        low = np.asarray(jnp.asarray(moved, dtype), np.float64)
        unravel = ravel_pytree(jax.tree.map(lambda leaf, d=dtype: leaf.astype(d), like))[1]
        iterates = [unravel(jnp.asarray(row, dtype)) for row in low]
        found = probes.principal_components(iterates, k=2)
        _, _, vectors = np.linalg.svd(low - low.mean(0))
        for i in range(2):
            ours = np.asarray(ravel_pytree(take(found.directions, i))[0], np.float64)
            assert abs(ours @ vectors[i]) > 1 - 1e-6
        distances = probes.distances(iterates)
        np.testing.assert_allclose(distances.norms, np.linalg.norm(low, axis=1), rtol=1e-6)


def test_each_phase_has_a_direction():
    """v_s and v_d of a path that goes along one axis, then mostly along another."""
    random = np.random.default_rng(0)
    stable, decay = np.zeros((8, 40)), np.zeros((6, 40))
    stable[:, 0] = np.arange(8)
    decay[:, 0], decay[:, 1] = 7 + 0.75 * np.arange(6), np.arange(6)
    paths = [p + 0.01 * random.normal(size=p.shape) for p in (stable, decay)]
    like = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(25)}
    found = probes.phase_directions(*(OneAtATime(path, like) for path in paths))
    v_s, v_d = (np.asarray(ravel_pytree(v)[0]) for v in (found.stable, found.decay))
    np.testing.assert_allclose(v_s[:2], [1, 0], atol=0.02)
    np.testing.assert_allclose(v_d[:2], [0.6, 0.8], atol=0.02)
    assert found.cosine == pytest.approx(0.6, abs=0.02)
    assert min(found.explained) > 0.99


def test_a_quadratic_is_weakly_quasi_convex_with_two_and_descent_is_aligned():
    """tau = x'Ax / (x'Ax / 2) = 2; under gradient descent the cosine is 1; under ascent -1."""
    loss_fn, params, batches, _ = quadratic(np.linspace(1, 4, 24))
    origin = jax.tree.map(jnp.zeros_like, params)
    iterates = [params]
    for rate in (0.1, 0.1, -0.1):
        slope = probes.gradient(loss_fn, iterates[-1], batches)
        iterates.append(jax.tree.map(lambda x, g, r=rate: x - r * g, iterates[-1], slope))
    taus = probes.weak_quasi_convexity(loss_fn, iterates, origin, batches)
    np.testing.assert_allclose(taus, 2, rtol=1e-5)
    cosines = probes.update_alignment(loss_fn, iterates, batches)
    np.testing.assert_allclose(cosines, [1, 1, -1], rtol=1e-5)
    distances = probes.distances(iterates)
    flat = np.array([ravel_pytree(tree)[0] for tree in iterates], np.float64)
    np.testing.assert_allclose(distances.norms, np.linalg.norm(flat, axis=1), rtol=1e-6)
    steps = np.linalg.norm(np.diff(flat, axis=0), axis=1)
    np.testing.assert_allclose(distances.steps, steps, rtol=1e-5)
    np.testing.assert_allclose(distances.travelled, [0, *np.cumsum(steps)], rtol=1e-5)
    np.testing.assert_allclose(
        distances.moved, np.linalg.norm(flat - flat[0], axis=1), rtol=1e-5, atol=1e-6
    )
