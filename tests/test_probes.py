"""Probes against dense matrices, closed forms and identities."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from wsdjax import models, probes
from wsdjax.config import CNN
from wsdjax.probes import ProbeError
from wsdjax.probes.basis import DeviceBasis, choose, expand, project
from wsdjax.probes.krylov import Krylov
from wsdjax.probes.vectors import take


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def mlp_loss(params, batch):
    """A two-layer network on three classes: a Hessian of both signs."""
    hidden = jnp.tanh(batch["inputs"] @ params["in"]["kernel"] + params["in"]["bias"][None])
    logits = hidden @ params["out"]
    labels = jax.nn.one_hot(batch["targets"], 3)
    return -(jax.nn.log_softmax(logits) * labels).sum(-1).mean()


def mlp(dtype=np.float64, seed=0, batch_sizes=(7, 4, 2)):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    params = {"in": {"kernel": draw(4, 5), "bias": draw(5)}, "out": draw(5, 3)}
    batches = [
        {"inputs": draw(n, 4), "targets": jnp.asarray(random.integers(0, 3, n))}
        for n in batch_sizes
    ]
    return params, batches


def dense(loss_fn, params, batches):
    """The Hessian of the mean over all examples together, as one matrix."""
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda x: loss_fn(unravel(x), whole))(flat)), unravel


def quadratic(spectrum, seed=0):
    """1/2 x'Ax with a given spectrum, over two leaves."""
    n = len(spectrum)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    matrix = jnp.asarray(basis @ np.diag(spectrum) @ basis.T, jnp.float32)
    params = {"a": jnp.ones((2, n // 4)), "b": jnp.ones(n - 2 * (n // 4))}
    return quadratic_loss, params, [{"matrix": matrix[None]}], matrix


def quadratic_loss(params, batch):
    x = jnp.concatenate([params["a"].ravel(), params["b"]])
    return x @ jnp.matmul(batch["matrix"][0], x, precision="highest") / 2


# Curvature.


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
    """Linearized once, or made again for every product."""
    params, batches = mlp()
    kept = probes.hvp(mlp_loss, params, params, batches)
    monkeypatch.setattr("wsdjax.probes.objective.LINEARIZED_BYTES", 0)
    again = probes.hvp(mlp_loss, params, params, batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), kept, again)


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


@pytest.fixture(scope="module")
def cnn():
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


# The whole spectrum.


def test_the_density_is_that_of_the_dense_spectrum(x64):
    """At full depth the quadrature's moments are v'H^j v / n; mass 1; widths without products."""
    params, batches = mlp()
    matrix, _ = dense(mlp_loss, params, batches)
    n = len(matrix)
    found = probes.spectral_density(mlp_loss, params, batches, probes=40, depth=n)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-9)
    values = np.linalg.eigvalsh(matrix)
    first, second = (np.nansum(found.nodes**j * found.weights, axis=1) for j in (1, 2))
    for samples, exact in ((first, values.mean()), (second, (values**2).mean())):
        error = samples.std(ddof=1) / np.sqrt(len(samples))
        assert abs(samples.mean() - exact) < 4 * error + 1e-9
    assert np.nanmax(found.nodes) == pytest.approx(values[-1], rel=1e-6)
    wide = found.smoothed(0.5)
    assert wide.products == found.products
    assert wide.density.max() < found.density.max()
    again = found.smoothed(0.5, np.linspace(-9, 9, 2_000))
    assert np.trapezoid(again.density, again.grid) == pytest.approx(1, abs=1e-3)


def test_moments_are_within_their_errors(x64):
    params, batches = mlp()
    matrix, unravel = dense(mlp_loss, params, batches)
    found = probes.moments(mlp_loss, params, batches, probes=200)
    trace, frobenius = found.trace, found.frobenius_norm
    assert abs(trace.value - np.trace(matrix)) < 4 * trace.standard_error
    assert abs(frobenius.value - np.linalg.norm(matrix)) < 4 * frobenius.standard_error
    # Hutchinson's variance: twice the squares off the diagonal.
    off = matrix - np.diag(np.diag(matrix))
    spread = np.sqrt(2 * (off**2).sum() / 200)
    assert trace.standard_error == pytest.approx(spread, rel=0.25)
    fewer = [probes.moments(mlp_loss, params, batches, probes=50, seed=s) for s in range(12)]
    for pick in (lambda m: m.trace, lambda m: m.frobenius_norm):
        values = [pick(each).value for each in fewer]
        told = np.mean([pick(each).standard_error for each in fewer])
        assert np.std(values, ddof=1) == pytest.approx(told, rel=0.6)
    blocks = unravel(jnp.asarray(np.diag(matrix)))
    for path in (("in", "kernel"), ("in", "bias")):
        estimate = found.trace_by_leaf[path[0]][path[1]]
        assert abs(estimate.value - blocks[path[0]][path[1]].sum()) < 4 * estimate.standard_error


def test_a_block_is_that_of_the_dense_hessian(x64):
    """Eigenvalues, trace, Frobenius norm and density of one diagonal block."""
    params, batches = mlp()
    matrix, unravel = dense(mlp_loss, params, batches)
    at = np.asarray(unravel(jnp.arange(len(matrix)))["in"]["kernel"]).ravel().astype(int)
    exact = matrix[np.ix_(at, at)]

    def chosen(name):
        return name == "in/kernel"

    hessian = probes.Hessian(mlp_loss, params, batches)
    top = probes.eigenpairs(probes.Block(hessian, params, chosen), params, k=2, tol=1e-9)
    values = np.linalg.eigvalsh(exact)
    np.testing.assert_allclose(top.eigenvalues, values[::-1][:2], rtol=1e-8)
    found = probes.moments(mlp_loss, params, batches, probes=200, block=chosen)
    for estimate, value in (
        (found.trace, np.trace(exact)),
        (found.frobenius_norm, np.linalg.norm(exact)),
    ):
        assert abs(estimate.value - value) < 4 * estimate.standard_error
    density = probes.spectral_density(mlp_loss, params, batches, depth=99, block=chosen)
    assert density.nodes.shape[1] == len(exact)
    np.testing.assert_allclose(np.nanmax(density.nodes), values[-1], rtol=1e-8)
    np.testing.assert_allclose(np.nanmin(density.nodes), values[0], rtol=1e-8)
    with pytest.raises(ProbeError, match="no leaf; they are in/bias, in/kernel, out"):
        probes.moments(mlp_loss, params, batches, block=lambda name: False)


def test_mass_by_leaf_adds_up():
    mass = probes.mass_by_leaf({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)})
    assert mass["a"] == pytest.approx(9 / 25)
    assert mass["b"] == pytest.approx(16 / 25)


# Other operators, and noise.


def apply_mlp(params, batch):
    hidden = jnp.tanh(batch["inputs"] @ params["in"]["kernel"] + params["in"]["bias"][None])
    return hidden @ params["out"]


def output_loss(logits, batch):
    labels = jax.nn.one_hot(batch["targets"], 3)
    return -(jax.nn.log_softmax(logits) * labels).sum(-1).mean()


def jacobian_of(function, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jacobian(lambda x: function(unravel(x)))(flat))


def test_gauss_newton_is_j_h_j(x64):
    """The dense matrix J' H_L J / N, and no negative eigenvalue."""
    params, batches = mlp()
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    jacobian = jacobian_of(lambda p: apply_mlp(p, whole), params).reshape(39, -1)
    logits = apply_mlp(params, whole)
    curved = np.asarray(jax.hessian(lambda y: output_loss(y, whole))(logits)).reshape(39, 39)
    exact = np.linalg.eigvalsh(jacobian.T @ curved @ jacobian)
    operator = probes.GaussNewton(apply_mlp, output_loss, params, batches)
    top = probes.eigenpairs(operator, params, k=3, tol=1e-9)
    np.testing.assert_allclose(top.eigenvalues, exact[::-1][:3], rtol=1e-8)
    low = probes.eigenpairs(operator, params, smallest=True)
    assert low.eigenvalues[0] > -1e-9


def test_preconditioned_is_the_dense_product(x64):
    params, batches = mlp()
    matrix, unravel = dense(mlp_loss, params, batches)
    moment = np.random.default_rng(3).uniform(0.01, 2, len(matrix))
    scale = probes.adam_preconditioner(unravel(jnp.asarray(moment)), 7, 0.9)
    diagonal = np.sqrt(moment / (1 - 0.9**7)) + 1e-8
    exact = np.linalg.eigvalsh(matrix / np.sqrt(np.outer(diagonal, diagonal)))
    hessian = probes.Hessian(mlp_loss, params, batches)
    top = probes.eigenpairs(probes.Preconditioned(hessian, scale), params, k=2, tol=1e-9)
    np.testing.assert_allclose(top.eigenvalues, exact[::-1][:2], rtol=1e-8)


def test_what_gradients_have_in_common_does_not_drown_their_noise():
    """Gradients that differ in their fifth digit: centred before they are squared."""
    random = np.random.default_rng(0)
    common, apart = random.normal(size=20), 1e-3 * random.normal(size=(64, 20))
    batches = [jnp.asarray(10 * common + apart, jnp.float32)]
    params = {"w": jnp.zeros(20)}

    def loss_fn(params, batch):
        return (batch @ params["w"]).mean()

    exact = np.asarray(batches[0], np.float64)
    sigma = np.cov(exact.T, bias=True)
    found = probes.gradient_noise(loss_fn, params, batches)
    assert found.trace == pytest.approx(np.trace(sigma), rel=1e-2)
    ratio = probes.signal_to_noise(loss_fn, params, {"w": jnp.ones(20)}, batches)
    unit = np.ones(20) / np.sqrt(20)
    assert ratio == pytest.approx((unit @ exact.mean(0)) ** 2 / (unit @ sigma @ unit), rel=2e-2)


def test_gradient_noise_is_the_covariance_of_the_examples(x64):
    """Trace, top eigenvalue, noise scale and signal-to-noise, from all gradients as one matrix."""
    params, batches = mlp()
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)

    def each(p):
        one = jax.tree.map(lambda leaf: leaf[:, None], whole)
        return jax.vmap(lambda example: mlp_loss(p, example))(one)

    gradients = jacobian_of(each, params)
    mean = gradients.mean(0)
    sigma = (gradients - mean).T @ (gradients - mean) / 13
    found = probes.gradient_noise(mlp_loss, params, batches, tol=1e-9)
    assert found.examples == 13
    assert found.trace == pytest.approx(np.trace(sigma), rel=1e-9)
    assert found.top_eigenvalue == pytest.approx(np.linalg.eigvalsh(sigma)[-1], rel=1e-8)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(mean), rel=1e-9)
    assert found.noise_scale == pytest.approx(np.trace(sigma) / (mean @ mean), rel=1e-9)
    ratio = probes.signal_to_noise(mlp_loss, params, params, batches)
    unit = np.asarray(ravel_pytree(params)[0])
    unit = unit / np.linalg.norm(unit)
    assert ratio == pytest.approx((unit @ mean) ** 2 / (unit @ sigma @ unit), rel=1e-8)


# Paths and planes.


def test_along_a_line_and_over_a_plane_a_quadratic_is_itself():
    """Beyond [0, 1] too; at the end points exactly their own loss; whatever the chunk."""
    loss_fn, start, batches, matrix = quadratic(np.linspace(1, 4, 24))
    end = jax.tree.map(lambda leaf: -2 * leaf + 0.5, start)
    alphas = np.linspace(-0.5, 1.5, 9)
    losses = probes.interpolate(loss_fn, start, end, alphas, batches, chunk=4)
    x, y = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (start, end))
    points = (1 - alphas)[:, None] * x + alphas[:, None] * y
    expected = np.einsum("ai,ij,aj->a", points, np.asarray(matrix, np.float64), points) / 2
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[alphas == 0] == probes.loss(loss_fn, start, batches)
    assert losses[alphas == 1] == probes.loss(loss_fn, end, batches)
    one = probes.interpolate(loss_fn, start, end, alphas, batches, chunk=1)
    np.testing.assert_allclose(one, losses, rtol=1e-6)

    axis_1 = end
    axis_2 = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), end)
    first, second = np.array([-1.0, 0.0, 2.0]), np.array([0.0, 0.5])
    plane = probes.loss_plane(loss_fn, start, axis_1, axis_2, first, second, batches)
    d1, d2 = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (axis_1, axis_2))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            point = x + a * d1 + b * d2
            exact = point @ np.asarray(matrix, np.float64) @ point / 2
            assert plane[i, j] == pytest.approx(exact, rel=1e-5)
    assert plane[1, 0] == probes.loss(loss_fn, start, batches)
    coordinates = probes.plane_coordinates(
        [jax.tree.map(lambda o, p, q: o + 2 * p - 0.5 * q, start, axis_1, axis_2), start],
        *(start, axis_1, axis_2),
    )
    np.testing.assert_allclose(coordinates, [[2, -0.5], [0, 0]], atol=1e-4)


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    """Cell by cell: what the file has is taken from there, a line cut short is computed again,
    and a file of other points, parameters, batches, or of something else is refused."""
    loss_fn, start, batches, _ = quadratic(np.linspace(1, 4, 24))
    other = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), start)
    file, coords = tmp_path / "plane.jsonl", np.linspace(-1, 1, 5)

    def plane(origin=start, coords=coords, batches=batches):
        return probes.loss_plane(
            loss_fn, origin, start, other, coords, coords, batches, chunk=3, file=file
        )

    whole = plane()
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + 25
    marked = json.dumps({"point": 0, "loss": 123.0})
    assert json.loads(lines[2])["point"] == 0
    file.write_text("\n".join([*lines[:2], marked, *lines[3:12], lines[12][:9]]))
    again = plane()
    assert again[0, 0] == 123
    np.testing.assert_allclose(again.ravel()[1:], whole.ravel()[1:], rtol=1e-6)
    assert len(file.read_text().splitlines()) == 1 + 25
    doubled = [{"matrix": 2 * batches[0]["matrix"]}]
    for changed in ({"origin": other}, {"coords": 2 * coords}, {"batches": doubled}):
        with pytest.raises(ProbeError, match=r"plane.jsonl has the losses of other points"):
            plane(**changed)
    for text in ("nothing\n", lines[0][:20], "\n".join([lines[0], '{"point": 99, "loss": 1}', ""])):
        file.write_text(text)
        with pytest.raises(ProbeError, match=r"plane.jsonl is no file of losses"):
            plane()
    file.unlink()
    masked = [{"matrix": batches[0]["matrix"], "mask": np.array([True])}]
    np.testing.assert_allclose(plane(batches=masked), whole, rtol=1e-6)


def test_axes_are_made_orthonormal_or_scaled_to_filters(cnn):
    _, params, _ = cnn
    other = jax.tree.map(jnp.sin, params)
    first, second = probes.orthonormal(params, other)
    flat = [np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (first, second)]
    np.testing.assert_allclose(np.array(flat) @ np.array(flat).T, np.eye(2), atol=1e-6)
    with pytest.raises(ValueError, match="parallel"):
        probes.orthonormal(params, jax.tree.map(lambda leaf: 2 * leaf, params))
    scaled = probes.filter_normalised(other, params)
    kernel, reference = scaled["conv1"]["kernel"], params["conv1"]["kernel"]
    np.testing.assert_allclose(
        jnp.linalg.norm(kernel.reshape(-1, 4), axis=0),
        jnp.linalg.norm(reference.reshape(-1, 4), axis=0),
        rtol=1e-5,
    )
    assert not scaled["conv1"]["bias"].any()


# Trajectories.


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


# Mistakes.


@jax.custom_vjp
def twice(x):
    return 2 * x


twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@jax.custom_vjp
def blocked(x):
    """x^2, whose gradient calls a function that has no forward mode, as fused kernels do."""
    return x**2


blocked.defvjp(lambda x: (x**2, x), lambda x, g: (twice(x) * g,))


def test_a_loss_that_blocks_forward_mode_says_so_and_differences_do():
    params, batches = {"w": jnp.arange(3.0)}, [jnp.ones((2, 3))]

    def loss_fn(params, batch):
        return blocked(params["w"]).sum() * batch.mean()

    with pytest.raises(ProbeError, match="finite_difference=True"):
        probes.sharpness(loss_fn, params, batches)
    found = probes.sharpness(loss_fn, params, batches, k=3, finite_difference=True, tol=1e-2)
    np.testing.assert_allclose(found.eigenvalues, 2, rtol=1e-3)


def simple(params, batch):
    return (params["w"] ** 2).sum() * batch.mean()


W, ONES = {"w": jnp.ones(3)}, [jnp.ones((2, 3))]
MISTAKES = {
    "NaN in the loss": (lambda: probes.sharpness(simple, W, [ONES[0] * np.nan]), "not finite"),
    "a direction of zero norm": (
        lambda: probes.curvature_along(simple, W, {"w": jnp.zeros(3)}, ONES),
        "the direction has the norm 0.0",
    ),
    "another structure": (
        lambda: probes.hvp(simple, W, {"v": jnp.ones(3)}, ONES),
        r"the vector is no tree like the parameters: it lacks \['w'\] and has \['v'\]",
    ),
    "a pair for batches": (
        lambda: probes.sharpness(simple, W, (ONES[0], jnp.arange(2))),
        r"batches\[1\] is unlike batches\[0\]; a single batch",
    ),
    "something beside the loss": (
        lambda: probes.sharpness(lambda p, b: (simple(p, b), None), W, ONES),
        "returns a tuple",
    ),
    "NaN in the parameters": (
        lambda: probes.hvp(simple, {"w": W["w"] * np.nan}, W, ONES),
        "the gradient is not finite",
    ),
    "arrays of several lengths": (
        lambda: probes.loss(simple, W, [{"x": jnp.ones(3), "y": jnp.ones(2)}]),
        r"batches\[0\] has arrays of several leading axes",
    ),
    "a complex direction": (
        lambda: probes.hvp(simple, W, {"w": 1j * jnp.ones(3)}, ONES),
        r"the vector\['w'\] is complex",
    ),
    "no chunk": (
        lambda: probes.interpolate(simple, W, W, [0.5], ONES, chunk=0),
        "chunk = 0: must be at least 1",
    ),
    "alphas of two axes": (
        lambda: probes.interpolate(simple, W, W, [[0.5]], ONES),
        "alphas has 2 axes",
    ),
    "iterates unlike each other": (
        lambda: probes.distances([W, {"v": jnp.ones(3)}]),
        r"iterates\[1\] is no tree like the parameters",
    ),
    "a blocked loss's noise": (
        lambda: probes.gradient_noise(lambda p, b: blocked(p["w"]).sum() * b.mean(), W, ONES),
        "the loss has a custom_vjp",
    ),
    "no iterates": (lambda: probes.distances([]), "there is no iterate"),
    "a preconditioner with a zero": (
        lambda: probes.Preconditioned(lambda v: v, {"w": jnp.zeros(3)}),
        "must be positive",
    ),
    "one probe": (lambda: probes.moments(simple, W, ONES, probes=1), "needs two or more"),
    "a threshold below the smallest": (
        lambda: probes.sharpness(simple, W, ONES, smallest=True, track_above=1.0),
        "track_above goes with the largest",
    ),
    "no eigenvalue": (lambda: probes.sharpness(simple, W, ONES, k=0), "k = 0: must be at least 1"),
    "a negative tolerance": (
        lambda: probes.sharpness(simple, W, ONES, tol=-1),
        "tol = -1: must be",
    ),
    "too few products": (
        lambda: probes.sharpness(simple, W, ONES, k=3, max_products=5),
        "max_products = 5: must be at least 6 for k = 3",
    ),
    "an axis of zero norm": (
        lambda: probes.loss_plane(simple, W, W, {"w": jnp.zeros(3)}, [0], [0], ONES),
        "axis_2 has the norm 0.0",
    ),
    "another shape": (
        lambda: probes.hvp(simple, W, {"w": jnp.ones(4)}, ONES),
        r"the vector\['w'\] has shape \(4,\), the parameter \(3,\)",
    ),
    "integer leaves": (
        lambda: probes.sharpness(simple, {"w": jnp.arange(3)}, ONES),
        r"params\['w'\] is of type int32",
    ),
    "no batch": (lambda: probes.sharpness(simple, W, []), "batches is empty"),
    "a batch for batches": (
        lambda: probes.sharpness(simple, W, {"inputs": ONES[0]}),
        "must be a sequence of batches, not a dict",
    ),
    "a loss for each example": (
        lambda: probes.sharpness(lambda p, b: p["w"] * b.mean(), W, ONES),
        r"must return a scalar, and returns shape \(3,\)",
    ),
    "end points that do not match": (
        lambda: probes.interpolate(simple, W, {"w": jnp.ones(2)}, [0.5], ONES),
        r"end\['w'\] has shape",
    ),
    "iterates that stand still": (
        lambda: probes.principal_components([W, W, W]),
        "do not move",
    ),
    "one iterate": (lambda: probes.principal_components([W]), "two iterates or more"),
    "a basis that is none": (
        lambda: probes.sharpness(simple, W, ONES, basis="disk"),
        "basis = 'disk': must be one of full, bfloat16, host",
    ),
    "no parameters": (lambda: probes.sharpness(simple, {}, ONES), "params has no arrays"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_clear_error(name):
    make, said = MISTAKES[name]
    with pytest.raises(ProbeError, match=said):
        make()


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
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
