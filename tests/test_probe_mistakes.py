"""What probes refuse, and how they say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsdjax import probes
from wsdjax.probes import ProbeError


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
