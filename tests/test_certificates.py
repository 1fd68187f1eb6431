"""Certificates of several pairs together: as sharp as one by one, and they see what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from wsdjax import probes
from wsdjax.probes.certificates import FACTORS

N, K = 300, 5
SPECTRUM = np.concatenate([[10, 9, 8, 7, 6], np.linspace(-1, 3, N - K)])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
MATRIX = (ROTATION * SPECTRUM) @ ROTATION.T


def test_the_factors_are_those_of_99_percent():
    """The worst deviation has rank one: of it ||D g|| is the norm times one Gaussian's size."""
    one, two = (norm.cdf(1 / factor) - norm.cdf(-1 / factor) for factor in FACTORS)
    assert 0.0099 < one + two**2 < 0.01


class Counted:
    """v -> A v in float32, which may go wrong, and which keeps count."""

    def __init__(self, matrix=MATRIX, wrong=lambda count, product: product):
        self.count, self._wrong = 0, wrong
        self._times = jax.jit(lambda v: jnp.dot(jnp.asarray(matrix, jnp.float32), v))

    def __call__(self, vector):
        self.count += 1
        return {"w": self._wrong(self.count, self._times(vector["w"]))}


def pairs(operator, **options):
    found = probes.eigenpairs(operator, {"w": jnp.zeros(N)}, **{"k": K, "tol": 1e-2} | options)
    y = np.asarray(found.eigenvectors["w"], np.float64)
    explicit = np.linalg.norm(y @ MATRIX.T - found.eigenvalues[:, None] * y, axis=1)
    return found, explicit


def steps_of(**options):
    """The products of the iteration itself."""
    told = []
    found, _ = pairs(Counted(), on_progress=told.append, **options)
    return told[-1].products, found


@pytest.mark.parametrize(("tol", "products"), [(1e-2, 1), (1e-4, 2), (0, K)])
def test_few_products_certify_all_pairs(tol, products):
    """One where the tolerance leaves room for its factor, two where less; one a pair where none."""
    steps, found = steps_of(tol=tol, repeated=False, max_products=60)
    if tol:
        assert found.products - steps == products
        assert found.converged.all()
    else:
        assert found.products - steps in (K, K + len(FACTORS))
    np.testing.assert_allclose(found.eigenvalues, SPECTRUM[:K], rtol=max(2e-6, tol**2))


@pytest.mark.parametrize("options", [{}, {"max_basis": 18}, {"tol": 1e-4}, {"smallest": True}])
def test_residuals_are_no_less_than_they_are_and_little_more(options):
    operator = Counted()
    found, explicit = pairs(operator, **options)
    assert found.products == operator.count
    assert found.converged.all()
    assert (found.residuals >= explicit - 1e-5).all()
    allowed = options.get("tol", 1e-2) * np.abs(found.eigenvalues)
    assert (found.residuals <= explicit + allowed / 2 + 1e-5).all()


def _flipped(at):
    """One number of one product, wrong by a bit of its exponent or, where it is small, by one."""
    return lambda count, product: product.at[7].add(8.0) if count == at else product


FAULTS = {
    "an early product is wrong": (Counted, {"wrong": _flipped(2)}),
    "a late product is wrong": (Counted, {"wrong": _flipped(12)}),
    "it is not the same twice": (
        Counted,
        {
            "wrong": lambda count, product: (
                product + 0.3 * jax.random.normal(jax.random.key(count), (N,)) / N**0.5
            )
        },
    ),
    "it is not symmetric": (
        Counted,
        {"matrix": MATRIX + np.triu(np.random.default_rng(1).normal(size=(N, N))) / 8},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_operator_is_found_out(name):
    """Its pairs are not called converged where they are not, nor their residuals small."""
    make, options = FAULTS[name]
    operator = make(**options)
    found, explicit = pairs(operator, repeated=False, max_products=60)
    assert found.products == operator.count
    if "matrix" in options:
        y = np.asarray(found.eigenvectors["w"], np.float64)
        explicit = np.linalg.norm(y @ options["matrix"].T - found.eigenvalues[:, None] * y, axis=1)
    bad = explicit > 2e-2 * np.abs(found.eigenvalues)
    assert bad.any()
    assert not found.converged[bad].any()
    assert (found.residuals[bad] > explicit[bad] / 2).all()


def test_a_certificate_that_is_wrong_itself_is_not_the_end():
    """The pairs are then certified one by one, and are as good as they are."""
    steps, _ = steps_of(repeated=False)
    found, explicit = pairs(Counted(wrong=_flipped(steps + 1)), repeated=False)
    assert found.products == steps + len(FACTORS) + K
    assert found.converged.all()
    np.testing.assert_allclose(found.residuals, explicit, atol=2e-4)


def test_a_rounded_basis_is_certified_pair_by_pair():
    """Whose deviation is known beforehand to be large."""
    steps, found = steps_of(basis="bfloat16", repeated=False)
    assert found.products == steps + K
    assert (found.residuals > 1e-3).any()
