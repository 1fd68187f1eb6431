"""The whole spectrum, other operators and gradient noise against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from losses import dense, mlp, mlp_loss

from wsdjax import probes
from wsdjax.probes import ProbeError
from wsdjax.probes.vectors import take


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
    same = probes.sharpness(mlp_loss, params, batches, k=2, tol=1e-9, block=chosen)
    np.testing.assert_allclose(same.eigenvalues, values[::-1][:2], rtol=1e-8)
    assert probes.mass_by_leaf(take(same.eigenvectors, 0))["in"]["kernel"] == pytest.approx(1)
    differences = probes.sharpness(
        mlp_loss, params, batches, tol=1e-3, block=chosen, finite_difference=True
    )
    np.testing.assert_allclose(differences.eigenvalues, values[-1:], rtol=1e-5)
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


def test_a_kernel_of_any_width_keeps_the_integral():
    """The grid has a step for the narrowest kernel; one that its grid would miss is refused."""
    spectrum = jnp.array([100.0, 1, 1, 0, -1])

    def loss_fn(params, batch):
        return 0.5 * jnp.sum(spectrum * params["w"] ** 2) * jnp.mean(batch)

    def density(**options):
        params, batches = {"w": jnp.ones(5)}, [np.ones((2, 1), np.float32)]
        return probes.spectral_density(loss_fn, params, batches, probes=2, **options)

    for options in ({}, {"width": 0.01}, {"width": 30.0}, {"points": 2}, {"width": 1, "points": 3}):
        found = density(**options)
        assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-6)
        assert (found.density >= 0).all()
    assert len(density().grid) == 1000
    with pytest.raises(ProbeError, match=r"width = 1e-07: too small .* give at least 0.001"):
        density(width=1e-7)
    found = density()
    again = found.smoothed(0.01, np.linspace(-2, 2, 1000))
    assert np.trapezoid(again.density, again.grid) == pytest.approx(0.8, abs=0.15)
    for width in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ProbeError, match="must be above 0 and finite"):
            found.smoothed(width)
    with pytest.raises(ProbeError, match=r"width = 0.001 is below the grid's step, 0\.113"):
        found.smoothed(0.001)
    with pytest.raises(ProbeError, match="the grid must be a list of finite numbers"):
        found.smoothed(1.0, [0.0, np.nan])
