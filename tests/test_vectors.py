"""Two trees are matched by the paths of their leaves, whatever their order."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsdjax import probes
from wsdjax.probes import ProbeError

X, Y, Z = (
    {
        "a": jnp.sin(i + jnp.arange(3.0)),
        "b": {"c": jnp.cos(i + jnp.arange(3.0)), "d": i * jnp.ones(3)},
    }
    for i in range(1, 4)
)
BATCHES = [jnp.linspace(0.5, 1.5, 8).reshape(4, 2), jnp.ones((3, 2))]


def loss_fn(params, batch):
    """Of leaves of one shape, of which none may stand for another."""
    a, c, d = params["a"], params["b"]["c"], params["b"]["d"]
    each = (batch.mean(1)[:, None] * a[None]) ** 4 + 10 * c[None] ** 2 + 100 * jnp.sin(d[None])
    return each.sum(1).mean()


def turned(tree):
    """The same names and leaves in another order."""
    inner = tree["b"]
    return OrderedDict(b=OrderedDict(d=inner["d"], c=inner["c"]), a=tree["a"])


def like(tree, vector):
    return turned(vector) if isinstance(tree, OrderedDict) else vector


OF_ANOTHER = {
    "interpolate": lambda y: probes.interpolate(loss_fn, X, y, [0, 0.5, 1], BATCHES),
    "loss_plane": lambda y: probes.loss_plane(loss_fn, X, y, Z, [0, 1], [0, 2], BATCHES),
    "hvp": lambda y: probes.hvp(loss_fn, X, y, BATCHES),
    "curvature_along": lambda y: probes.curvature_along(loss_fn, X, y, BATCHES),
    "signal_to_noise": lambda y: probes.signal_to_noise(loss_fn, X, y, BATCHES),
    "covariance": lambda y: probes.Covariance(loss_fn, X, BATCHES)(y),
    "gauss_newton": lambda y: probes.GaussNewton(
        lambda p, b: p["a"] + 2 * p["b"]["c"], lambda out, b: (out**4).sum(), X, BATCHES
    )(y),
    "orthonormal": lambda y: probes.orthonormal(X, y),
    "filter_normalised": lambda y: probes.filter_normalised(
        *(jax.tree.map(lambda leaf: leaf[:, None] * jnp.ones((1, 2)), each) for each in (y, X))
    ),
    "plane_coordinates": lambda y: probes.plane_coordinates([X, y], Z, X, y),
    "principal_components": lambda y: probes.principal_components([X, y, Z], 2),
    "phase_directions": lambda y: probes.phase_directions([X, Z], [y, turned(X)]),
    "distances": lambda y: probes.distances([X, y, Z]),
    "update_alignment": lambda y: probes.update_alignment(loss_fn, [X, y, Z], BATCHES),
    "weak_quasi_convexity": lambda y: probes.weak_quasi_convexity(loss_fn, [X, Z], y, BATCHES),
    "block": lambda y: probes.Block(lambda v: v, X, lambda name: name == "b/d").restrict(y),
    "towards": lambda y: probes.eigenpairs(
        probes.Hessian(loss_fn, X, BATCHES), X, towards=y
    )._replace(eigenvectors=None),
    "an operator's product": lambda y: (
        probes.eigenpairs(
            lambda v: jax.tree.map(lambda p, x: (p**2 + 1) * x, y, like(y, v)), X, 2
        ).eigenvectors
    ),
    "preconditioner": lambda y: (
        probes.eigenpairs(
            probes.Preconditioned(
                probes.Hessian(loss_fn, X, BATCHES), jax.tree.map(lambda leaf: leaf**2 + 1, y)
            ),
            X,
            2,
        ).eigenvectors
    ),
}


@pytest.mark.parametrize("name", OF_ANOTHER)
def test_another_order_changes_nothing(name):
    make = OF_ANOTHER[name]
    expected, found = make(Y), make(turned(Y))
    expected, found = (jax.tree_util.tree_leaves_with_path(each) for each in (expected, found))
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, a), (_, b) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_eigenvectors_to_start_from_may_be_in_another_order():
    found = probes.sharpness(loss_fn, Y, BATCHES, k=2)
    straight, across = (
        probes.sharpness(loss_fn, X, BATCHES, k=2, start=start)
        for start in (found.eigenvectors, turned(found.eigenvectors))
    )
    for a, b in zip(jax.tree.leaves(straight[:4]), jax.tree.leaves(across[:4]), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ProbeError, match="start is no tree like the parameters"):
        probes.sharpness(loss_fn, X, BATCHES, start={"a": found.eigenvectors["a"]})


def test_names_that_are_missing_are_told_before_any_shape():
    with pytest.raises(ProbeError, match=r"it lacks \['b'\]\['d'\] and has \['b'\]\['e'\]"):
        probes.hvp(loss_fn, X, {"a": Y["a"], "b": {"c": Y["b"]["c"], "e": 1.0}}, BATCHES)
