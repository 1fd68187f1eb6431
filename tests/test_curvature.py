"""Products, sharpness and eigenpairs against dense matrices, closed forms and ARPACK."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from losses import dense, mlp, mlp_loss, quadratic

from wsdjax import probes
from wsdjax.probes.basis import DeviceBasis, choose, expand, project
from wsdjax.probes.krylov import Krylov
from wsdjax.probes.vectors import take


def test_products_are_those_of_the_dense_hessian(x64):
    """With a ragged last batch, each example weighing the same; symmetric; by differences too."""
    params, batches = mlp()
    matrix, unravel = dense(mlp_loss, params, batches)
    random = np.random.default_rng(1)
    u, v = (unravel(jnp.asarray(random.normal(size=len(matrix)))) for _ in range(2))
    flat_u, flat_v = (np.asarray(ravel_pytree(tree)[0]) for tree in (u, v))
    hu, hv = (probes.hvp(mlp_loss, params, tree, batches) for tree in (u, v))
    np.testing.assert_allclose(ravel_pytree(hv)[0], matrix @ flat_v, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        flat_u @ ravel_pytree(hv)[0], flat_v @ ravel_pytree(hu)[0], rtol=1e-12
    )
    differences = probes.hvp(mlp_loss, params, v, batches, finite_difference=True)
    np.testing.assert_allclose(ravel_pytree(differences)[0], matrix @ flat_v, rtol=1e-6, atol=1e-8)
    size, along = probes.curvature_along(mlp_loss, params, v, batches)
    unit = flat_v / np.linalg.norm(flat_v)
    np.testing.assert_allclose(
        [size, along], [np.linalg.norm(matrix @ unit), unit @ matrix @ unit], rtol=1e-10
    )


def test_memory_does_not_change_products(x64, monkeypatch):
    """Linearized once, or made again for every product, as is one on its own."""
    params, batches = mlp()
    kept = probes.Hessian(mlp_loss, params, batches)(params)
    alone = probes.hvp(mlp_loss, params, params, batches)
    monkeypatch.setattr("wsdjax.probes.hessian.LINEARIZED_BYTES", 0)
    again = probes.Hessian(mlp_loss, params, batches)(params)
    for other in (alone, again):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), kept, other)


@pytest.mark.parametrize("keep", [True, False])
def test_a_loss_is_traced_at_its_first_weights_alone(keep):
    """Products and gradients at others run what was compiled; a loss costs seconds to trace."""
    params, batches = mlp(np.float32)
    traces = 0

    def loss_fn(params, batch):
        nonlocal traces
        traces += 1
        return mlp_loss(params, batch)

    seen = []
    for scale in (1.0, 2.0):
        at = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        hessian = probes.Hessian(loss_fn, at, batches, keep=keep)
        jax.block_until_ready((hessian(at), hessian.gradient))
        seen.append(traces)
    assert seen[0] == seen[1] > 0


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_eigenpairs_are_those_of_the_dense_hessian(x64, k, smallest):
    """To 1e-9 in float64, each within its own residual, eigenvectors included."""
    params, batches = mlp()
    matrix, _ = dense(mlp_loss, params, batches)
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(values) if smallest else np.argsort(-values)
    found = probes.sharpness(mlp_loss, params, batches, k=k, tol=1e-9, smallest=smallest)
    assert found.converged.all()
    np.testing.assert_allclose(found.eigenvalues, values[order[:k]], rtol=1e-9)
    for i in range(k):
        ours = np.asarray(ravel_pytree(take(found.eigenvectors, i))[0])
        assert abs(ours @ vectors[:, order[i]]) > 1 - 1e-9
        explicit = np.linalg.norm(matrix @ ours - found.eigenvalues[i] * ours)
        np.testing.assert_allclose(found.residuals[i], explicit, atol=1e-12)


DEGENERATE = {
    "one large": ([5, 3, 1] + [0.1] * 20, 1),
    "a pair at the top": ([5, 5, 1, *np.linspace(0, 0.5, 37)], 2),
    "three at the top": ([5, 5, 5, 2, 1, *np.linspace(0, 0.5, 37)], 4),
    "a cluster": ([5, 4.999, 4.998, 1, *np.linspace(0, 0.5, 37)], 3),
    "an even spread": (np.linspace(-1, 1, 60), 3),
    "zero": ([0] * 12, 2),
    "a multiple of one": ([2] * 12, 3),
    "negative": ([-3, -2, -1.5, -1] + [-0.5] * 8, 2),
    "more than there are": ([3, 2, 1, 0.5, 0.25, -1, -2, -4], 8),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_spectra_that_are_hard(name):
    """Repeated and clustered eigenvalues, breakdown, m > n; 'largest' is algebraic."""
    spectrum, k = DEGENERATE[name]
    loss_fn, params, batches, _ = quadratic(np.array(spectrum, float))
    found = probes.sharpness(loss_fn, params, batches, k=k)
    expected = np.sort(spectrum)[::-1][:k]
    scale = max(np.abs(spectrum))
    np.testing.assert_allclose(found.eigenvalues, expected, atol=2e-5 * scale)
    assert found.converged.all()
    gram = [[float(probes_dot(found, i, j)) for i in range(k)] for j in range(k)]
    np.testing.assert_allclose(gram, np.eye(k), atol=1e-4)


def probes_dot(found, i, j):
    return project(found.eigenvectors, take(found.eigenvectors, i))[j]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-10, 10, width=16), min_size=24, max_size=24), st.integers(1, 3))
def test_any_spectrum(spectrum, k):
    """Each value returned lies within its residual of an eigenvalue; the first is the largest."""
    loss_fn, params, batches, matrix = quadratic(np.array(spectrum))
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    found = probes.sharpness(loss_fn, params, batches, k=k)
    slack = 1e-5 * max(1e-6, np.abs(exact).max())
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert np.abs(exact - value).min() <= residual + slack
    assert abs(found.eigenvalues[0] - exact[-1]) <= 100 * slack


def test_there_are_no_ghosts_at_sixty_products():
    """The basis stays orthonormal and no Ritz value is there twice; H Q' = Q' T + r e'."""
    spectrum = np.concatenate([[50, 20, 10, 5], np.linspace(-1, 1, 196)])
    loss_fn, params, batches, matrix = quadratic(spectrum)
    hessian = probes.Hessian(loss_fn, params, batches)
    krylov = Krylov(hessian, params, DeviceBasis(params, 61), jax.random.key(0))
    for _ in range(60):
        assert krylov.step()
    rows = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(krylov.basis.rows), np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(61), atol=2e-6)
    found = krylov.ritz()
    np.testing.assert_allclose(found.values[:4], [50, 20, 10, 5], rtol=1e-5)
    assert (np.diff(found.values[:10]) < -1e-3).all()
    lanczos = rows @ np.asarray(matrix, np.float64) @ rows.T
    off = np.abs(np.triu(lanczos[:60, :60], 2)).max()
    assert off < 1e-4  # with one start the projection is tridiagonal
    product = np.asarray(matrix, np.float64) @ rows[:60].T
    rest = product - rows[:60].T @ (rows[:60] @ product)
    assert np.abs(rest[:, :-1]).max() < 1e-4
    assert np.linalg.norm(rest[:, -1]) > 0.05


def test_a_small_basis_is_restarted_to_the_same_end():
    spectrum = np.concatenate([[8, 7, 6], np.linspace(-1, 5, 197)])
    loss_fn, params, batches, _ = quadratic(spectrum)
    bounded = probes.sharpness(loss_fn, params, batches, k=3, max_basis=16, max_products=400)
    assert bounded.basis_size == 16
    assert bounded.converged.all()
    assert bounded.products < 60
    np.testing.assert_allclose(bounded.eigenvalues, [8, 7, 6], rtol=1e-5)


def test_neighbours_save_products_and_keep_signs():
    """Started from the eigenvectors of a nearby Hessian."""
    spectrum = np.concatenate([[8, 7, 6], np.linspace(-1, 5, 197)])
    loss_fn, params, batches, _ = quadratic(spectrum)
    cold = probes.sharpness(loss_fn, params, batches, k=3)
    turned = jax.tree.map(lambda rows: -rows, cold.eigenvectors)
    warm = probes.sharpness(loss_fn, params, batches, k=3, start=turned)
    assert warm.products < cold.products
    assert all(float(project(turned, take(warm.eigenvectors, i))[i]) > 0.9 for i in range(3))


def diagonal(spectrum, **options):
    """The largest eigenvalues of a diagonal operator."""
    spectrum = jnp.asarray(spectrum, jnp.float32)
    params = {"w": jnp.zeros(len(spectrum))}
    return probes.eigenpairs(lambda v: {"w": spectrum * v["w"]}, params, **options)


REPEATED = {
    "a pair below others": ([10, 9, 8, 7, 7, 6.5, 6, *np.linspace(-1, 5, 1_000)], 5),
    "five alike": ([5] * 5 + [4, 3, 2, *np.linspace(-1, 1, 1_000)], 5),
    "four alike": ([10] * 4 + [2.5, 2.2, *np.linspace(-1, 1, 1_000)], 4),
    "near the bulk": ([5, 5, 4.5, *np.linspace(-1, 4.4, 1_000)], 2),
    "all alike": ([2.0] * 500, 3),
    "zero": ([0.0] * 500, 2),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", REPEATED)
def test_eigenvalues_that_are_there_more_than_once_are_all_found(name, seed):
    spectrum, k = REPEATED[name]
    found = diagonal(spectrum, k=k, seed=seed)
    assert found.converged.all()
    expected = np.sort(spectrum)[::-1][:k]
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=2e-3, atol=1e-6)
    assert found.products < 150


@pytest.mark.parametrize("noise", [0, 1e-4, 1e-2])
@pytest.mark.parametrize("risen", [8.5, 12])
def test_a_direction_that_has_just_risen_is_found(risen, noise):
    """Beyond the one that is started from, which is an eigenvector or nearly so, at every seed."""
    spectrum = [8, risen, *np.linspace(-1, 4, 1_000)]
    for seed in range(4):
        random = np.random.default_rng(seed).normal(size=len(spectrum))
        start = np.eye(len(spectrum))[:1] + noise * random / np.linalg.norm(random)
        given = {"w": jnp.asarray(start, jnp.float32)}
        found = diagonal(spectrum, start=given, tol=1e-3, seed=seed)
        np.testing.assert_allclose(found.eigenvalues, [risen], rtol=1e-3)


def test_repeated_eigenvalues_need_not_be_looked_for():
    """Which saves products where there are none."""
    spectrum = [9, 7, 5, 3, *np.linspace(-1, 1, 300)]
    searched, trusting = (diagonal(spectrum, k=3, repeated=r) for r in (True, False))
    np.testing.assert_allclose(trusting.eigenvalues, searched.eigenvalues, rtol=1e-4)
    assert trusting.products < searched.products


def test_a_direction_to_lean_to_saves_products_and_hides_nothing():
    """Towards the first eigenvector; and towards another, or nowhere, the first is still found."""
    spectrum = np.concatenate([[8, 7, 6], np.linspace(-1, 5, 197)])
    loss_fn, params, batches, matrix = quadratic(spectrum)
    _, unravel = ravel_pytree(params)
    vectors = np.linalg.eigh(np.asarray(matrix, np.float64))[1].astype(np.float32)
    hessian = probes.Hessian(loss_fn, params, batches)
    plain = probes.eigenpairs(hessian, params, tol=1e-3)
    found = [
        probes.eigenpairs(hessian, params, tol=1e-3, towards=unravel(100 * towards))
        for towards in (vectors[:, -1], vectors[:, 100], np.zeros(200, np.float32))
    ]
    for each in found:
        np.testing.assert_allclose(each.eigenvalues, [8], rtol=1e-5)
    assert found[0].products < plain.products


def test_k_grows_until_a_threshold():
    """All eigenvalues above 2 / rate, and the first below."""
    spectrum = np.concatenate([[8, 7, 6, 4], np.linspace(-1, 2, 96)])
    loss_fn, params, batches, _ = quadratic(spectrum)
    found = probes.sharpness(loss_fn, params, batches, track_above=5.0)
    np.testing.assert_allclose(found.eigenvalues, [8, 7, 6, 4], rtol=1e-4)


def test_arpack_agrees_on_a_cnn(cnn):
    """The five largest of the CNN's Hessian, by SciPy's eigsh on our products."""
    model, params, batches = cnn
    flat, unravel = ravel_pytree(params)
    hessian = probes.Hessian(model.loss, params, batches)
    operator = scipy.sparse.linalg.LinearOperator(
        (flat.size, flat.size),
        lambda v: np.asarray(ravel_pytree(hessian(unravel(jnp.asarray(v, jnp.float32))))[0]),
        dtype=np.float32,
    )
    theirs = scipy.sparse.linalg.eigsh(operator, 5, which="LA", return_eigenvectors=False, tol=1e-6)
    told = []
    ours = probes.sharpness(model.loss, params, batches, k=5, on_progress=told.append)
    np.testing.assert_allclose(ours.eigenvalues, np.sort(theirs)[::-1], rtol=1e-4)
    assert ours.converged.all()
    assert [each.products for each in told] == [*range(1, len(told) + 1)]
    assert told[-1].residual < told[4].residual


def test_parameters_of_16_bits_are_computed_in_32(cnn):
    """An eigenvalue of the rounded parameters, not of rounded arithmetic."""
    model, params, batches = cnn
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    raised = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    ends = probes.interpolate(model.loss, low, params, [0.0], batches)
    assert ends[0] == probes.loss(model.loss, low, batches)
    a, b = (probes.sharpness(model.loss, each, batches).eigenvalues for each in (low, raised))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("basis", ["bfloat16", "host"])
def test_where_the_basis_is_kept_does_not_change_the_eigenvalues(basis):
    """The certifying product repairs what bfloat16 rounds: the residual is of the rounding's
    order, the error of the residual's square; restarted too. The host's is as exact as ours."""
    spectrum = np.concatenate([[8, 7, 6], np.linspace(-1, 3, 397)])
    loss_fn, params, batches, matrix = quadratic(spectrum)
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1][:3]
    for most in (80, 24):
        found = probes.sharpness(loss_fn, params, batches, k=3, basis=basis, max_basis=most)
        assert (found.basis, found.basis_size) == (basis, most)
        assert found.converged.all()
        np.testing.assert_allclose(found.eigenvalues, exact, rtol=2e-5)
        rounding = found.residuals.max() / exact[0]
        if basis == "bfloat16":
            assert 1e-4 < rounding < 8e-3  # bfloat16 keeps 8 bits
        else:
            assert rounding < 1e-4


def test_products_with_rounded_rows_are_exact():
    """The rows are rounded, what they are multiplied with is not."""
    random = np.random.default_rng(0)
    rows = jnp.asarray(random.normal(size=(5, 300)), jnp.bfloat16)
    vector = jnp.asarray(random.normal(size=300), jnp.float32)
    exact = np.asarray(rows, np.float64) @ np.asarray(vector, np.float64)
    np.testing.assert_allclose(project(rows, vector), exact, rtol=2e-6, atol=2e-6)
    mixed = expand(rows, project(rows, vector))
    np.testing.assert_allclose(mixed, exact @ np.asarray(rows, np.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("memory", "kept"),
    [
        (400_000, ("full", 80)),
        (120_000, ("full", 30)),
        (60_000, ("bfloat16", 30)),
        (200_000 // 2 - 5_000, ("bfloat16", 47)),
        (10_000, ("host", 80)),
    ],
)
def test_the_basis_is_chosen_by_its_size(memory, kept):
    """A vector is of 4,000 bytes; of 24 there must be room."""
    params = {"a": jnp.zeros(600), "b": jnp.zeros((20, 20))}
    assert choose(params, 80, 24, memory) == kept


def test_an_iteration_that_is_cut_short_returns_k_all_the_same():
    """As good as they are, and not called converged."""
    loss_fn, params, batches, _ = quadratic(np.linspace(-1, 1, 200))
    found = probes.sharpness(loss_fn, params, batches, k=5, max_products=12)
    assert found.eigenvalues.shape == (5,)
    assert found.products == 12
    assert not found.converged.any()


def test_an_operator_may_be_any_function():
    loss_fn, params, batches, _ = quadratic(np.linspace(0, 1, 40))
    hessian = probes.Hessian(loss_fn, params, batches)

    def shifted(vector):
        return jax.tree.map(lambda h, v: h + 0.5 * v, hessian(vector), vector)

    found = probes.eigenpairs(shifted, params)
    np.testing.assert_allclose(found.eigenvalues, [1.5], rtol=1e-5)


def test_what_was_chosen_is_reported():
    loss_fn, params, batches, _ = quadratic(np.linspace(0, 1, 200))
    found = probes.sharpness(loss_fn, params, batches, memory=200 * 4 * 30)
    assert (found.basis, found.basis_size) == ("full", 30)
    found = probes.sharpness(loss_fn, params, batches, memory=0)
    assert (found.basis, found.basis_size) == ("host", 80)
    assert probes.sharpness(loss_fn, params, batches).basis == "full"


def test_bfloat16_is_computed_in_only_if_insisted_on_and_then_said():
    """The shift that no residual shows."""
    params, batches = mlp(np.float32, batch_sizes=(13,))
    exact = probes.sharpness(mlp_loss, params, batches)
    found = probes.sharpness(mlp_loss, params, batches, dtype="bfloat16", tol=1e-2)
    assert (exact.computed_in, found.computed_in) == ("float32", "bfloat16")
    shift = abs(found.eigenvalues[0] / exact.eigenvalues[0] - 1)
    assert 1e-5 < shift < 5e-2


def test_eight_devices_are_as_one():
    """Parameters sharded over eight simulated devices: the basis is too, and the values agree."""
    script = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from wsdjax import probes
from wsdjax.probes.basis import DeviceBasis
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
random = np.random.default_rng(0)
a = random.normal(size=(64, 64)); matrix = jnp.asarray(a @ a.T / 64, jnp.float32)
def loss_fn(p, b): return p["w"] @ (b[0] @ p["w"]) / 2
p = {"w": jnp.ones(64)}
one = probes.sharpness(loss_fn, p, [matrix[None]], k=3)
q = jax.device_put(p, NamedSharding(mesh, PartitionSpec("d")))
basis = DeviceBasis(q, 5).rows
assert len(basis["w"].sharding.device_set) == 8, basis["w"].sharding
assert basis["w"].addressable_shards[0].data.shape == (5, 8)
everywhere = jax.device_put(matrix[None], NamedSharding(mesh, PartitionSpec()))
eight = probes.sharpness(loss_fn, q, [everywhere], k=3)
np.testing.assert_allclose(eight.eigenvalues, one.eigenvalues, rtol=1e-5)
exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1][:3]
np.testing.assert_allclose(one.eigenvalues, exact, rtol=1e-5)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
