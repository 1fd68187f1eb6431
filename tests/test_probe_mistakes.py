"""What probes refuse, and how they say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsdjax import probes
from wsdjax.errors import UserError
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
        "a parameter is not finite",
    ),
    "NaN in the parameters, of a Hessian": (
        lambda: probes.Hessian(simple, {"w": W["w"] * np.nan}, ONES),
        "the gradient is not finite",
    ),
    "arrays of several lengths": (
        lambda: probes.loss(simple, W, [{"x": jnp.ones(3), "y": jnp.ones(2)}]),
        r"batches\[0\] has arrays of several leading axes",
    ),
    "a complex direction": (
        lambda: probes.hvp(simple, W, {"w": 1j * jnp.ones(3)}, ONES),
        r"the vector\['w'\] is an array of complex64 \(3,\), the parameter",
    ),
    "no chunk": (
        lambda: probes.interpolate(simple, W, W, [0.5], ONES, chunk=0),
        "chunk = 0: must be at least 1",
    ),
    "alphas of two axes": (
        lambda: probes.interpolate(simple, W, W, [[0.5]], ONES),
        "alphas must be a list of finite real numbers",
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
        r"the vector\['w'\] is an array of float32 \(4,\), the parameter .* \(3,\)",
    ),
    "integer leaves": (
        lambda: probes.sharpness(simple, {"w": jnp.arange(3)}, ONES),
        r"params\['w'\] is an array of int32 \(3,\): a direction needs floating-point",
    ),
    "no batch": (lambda: probes.sharpness(simple, W, []), "batches is empty"),
    "a batch for batches": (
        lambda: probes.sharpness(simple, W, {"inputs": ONES[0]}),
        "must be a sequence of batches, not a dict",
    ),
    "a loss for each example": (
        lambda: probes.sharpness(lambda p, b: p["w"] * b.mean(), W, ONES),
        r"must return a real scalar, and returns an array of float32 \(3,\)",
    ),
    "end points that do not match": (
        lambda: probes.interpolate(simple, W, {"w": jnp.ones(2)}, [0.5], ONES),
        r"end\['w'\] is an array of float32 \(2,\), the parameter an array of float32 \(3,\)",
    ),
    "iterates that stand still": (
        lambda: probes.principal_components([W, W, W]),
        "do not move",
    ),
    "one iterate": (
        lambda: probes.principal_components([W]),
        "take 2 iterates or more; there are 1",
    ),
    "a basis that is none": (
        lambda: probes.sharpness(simple, W, ONES, basis="disk"),
        "basis = 'disk': must be one of full, bfloat16, host",
    ),
    "a Python scalar as a batch's last leaf": (
        lambda: probes.sharpness(simple, W, [(ONES[0], 3)]),
        r"batches\[0\]\[1\] is a Python int: each leaf must be an array with a",
    ),
    "a number that is no array": (
        lambda: probes.loss(simple, W, [np.float32(2)]),
        r"batches\[0\] is an array of float32 \(\): each leaf must",
    ),
    "a list of numbers": (
        lambda: probes.loss(simple, W, [[1.0, 2.0]]),
        r"batches\[0\]\[0\] is a Python float: each leaf must",
    ),
    "a text in a batch": (
        lambda: probes.gradient(simple, W, [{"x": ONES[0], "y": "text"}]),
        r"batches\[0\]\['y'\] is a str: each leaf must be an array",
    ),
    "a text for batches": (
        lambda: probes.loss(simple, W, "text"),
        r"batches\[0\] is a str: each leaf must be an array",
    ),
    "objects in a batch": (
        lambda: probes.loss(simple, W, [np.array([1, None, "x"], object)]),
        r"batches\[0\] is an array of object",
    ),
    "texts in a batch": (
        lambda: probes.loss(simple, W, [np.array(["a", "b"])]),
        r"batches\[0\] is an array of <U1",
    ),
    "a function in a batch": (
        lambda: probes.hvp(simple, W, W, [(ONES[0], len)]),
        r"batches\[0\]\[1\] is a function",
    ),
    "nothing in a batch": (lambda: probes.loss(simple, W, [None]), r"batches\[0\] has no array"),
    "no example": (
        lambda: probes.loss(simple, W, [ONES[0], ONES[0][:0]]),
        r"batches\[1\] has no example",
    ),
    "a function as a leaf": (
        lambda: probes.sharpness(simple, {**W, "activation": jnp.tanh}, ONES),
        r"params\['activation'\] is a function: .*eqx.partition",
    ),
    "a text as a leaf": (
        lambda: probes.loss(simple, {**W, "name": "float32"}, ONES),
        r"params\['name'\] is a str: a direction needs",
    ),
    "objects as a leaf": (
        lambda: probes.loss(simple, {"w": np.array([1.0, None], object)}, ONES),
        r"params\['w'\] is an array of object \(2,\): a direction needs",
    ),
    "a Python int as a leaf": (
        lambda: probes.loss(simple, {**W, "k": 2**70}, ONES),
        r"params\['k'\] is a Python int: a direction needs",
    ),
    "None for parameters": (lambda: probes.loss(simple, None, ONES), "params has no arrays"),
    "a function in a direction": (
        lambda: probes.hvp(simple, W, {"w": jnp.tanh}, ONES),
        r"the vector\['w'\] is a function, the parameter an array",
    ),
    "a direction of nothing": (
        lambda: probes.curvature_along(simple, W, {}, ONES),
        r"the direction is no tree like the parameters: it lacks \['w'\]",
    ),
    "integer axes": (
        lambda: probes.orthonormal({"w": jnp.arange(3)}, W),
        r"axis_1\['w'\] is an array of int32",
    ),
    "an axis of another tree": (
        lambda: probes.orthonormal(W, {"v": jnp.ones(3)}),
        r"axis_2 is no tree like the parameters",
    ),
    "filters of another tree": (
        lambda: probes.filter_normalised({"v": jnp.ones((3, 3))}, W),
        "the direction is no tree like the parameters",
    ),
    "coordinates in no plane": (
        lambda: probes.plane_coordinates([W], W, W, {"w": 2 * W["w"]}),
        "axis_2 is parallel to axis_1: they span no plane",
    ),
    "coordinates of no iterate": (
        lambda: probes.plane_coordinates([], W, W, {"w": jnp.arange(3.0)}),
        "there is no iterate",
    ),
    "a tree for iterates": (lambda: probes.distances(W), "must be a sequence of trees, not a dict"),
    "a generator for iterates": (
        lambda: probes.principal_components(W for _ in range(3)),
        "must be a sequence of trees, not a generator",
    ),
    "a type that does not exist": (
        lambda: probes.sharpness(simple, W, ONES, dtype="float23"),
        "dtype = 'float23': must be one of bfloat16, float16, float32, float64, or None",
    ),
    "a type without a fraction": (
        lambda: probes.sharpness(simple, W, ONES, dtype="int32"),
        "dtype = 'int32': must be one of",
    ),
    "float64 where JAX has none": (
        lambda: probes.sharpness(simple, W, ONES, dtype="float64"),
        r'JAX has 64 bits disabled and would compute in float32; call jax.config.update\("jax_en',
    ),
    "half an eigenvalue": (
        lambda: probes.sharpness(simple, W, ONES, k=1.5),
        "k = 1.5: must be a whole number",
    ),
    "a threshold that is none": (
        lambda: probes.sharpness(simple, W, ONES, track_above=np.nan),
        "track_above = nan: must be finite",
    ),
    "a tolerance that is none": (
        lambda: probes.sharpness(simple, W, ONES, tol=np.nan),
        "tol = nan: must be",
    ),
    "a negative seed": (
        lambda: probes.moments(simple, W, ONES, seed=-1),
        "seed = -1: must be at least 0",
    ),
    "a seed of more than 32 bits": (
        lambda: probes.sharpness(simple, W, ONES, seed=2**32),
        r"seed = 4294967296: must be below 2\^32",
    ),
    "half a probe": (
        lambda: probes.spectral_density(simple, W, ONES, probes=0.5),
        "probes = 0.5: must be a whole number",
    ),
    "alphas that are no numbers": (
        lambda: probes.interpolate(simple, W, W, ["a"], ONES),
        "alphas must be a list of finite real numbers",
    ),
    "alphas that are not finite": (
        lambda: probes.interpolate(simple, W, W, [0.0, np.nan], ONES),
        "alphas must be a list of finite real numbers",
    ),
    "complex alphas": (
        lambda: probes.interpolate(simple, W, W, [1j], ONES),
        "alphas must be a list of finite real numbers",
    ),
    "no loss": (lambda: probes.loss(lambda p, b: None, W, ONES), "and returns None"),
    "a text for a loss": (lambda: probes.loss("loss", W, ONES), "must be a function, not a str"),
    "a loss in integers": (
        lambda: probes.gradient(lambda p, b: (p["w"] > 0).sum(), W, ONES),
        "loss_fn returns int32, which has no derivative",
    ),
    "a complex loss": (
        lambda: probes.loss(lambda p, b: 1j * p["w"].sum(), W, ONES),
        "must return a real scalar, and returns an array of complex64",
    ),
    "rows of several lengths": (
        lambda: probes.sharpness(
            lambda p, b: (p["w"] ** 2).sum() + p["v"].sum(),
            {**W, "v": jnp.ones(2)},
            ONES,
            start={"w": jnp.ones((2, 3)), "v": jnp.ones((1, 2))},
        ),
        "start: each leaf must have one row for each vector",
    ),
    "Adam before its first update": (
        lambda: probes.adam_preconditioner(W, 0, 0.999),
        "count = 0: Adam divides by nothing",
    ),
    **{
        f"a kernel of width {width}": (
            lambda width=width: probes.spectral_density(simple, W, ONES, width=width),
            f"width = {width}: the kernel's standard deviation must be above 0 and finite",
        )
        for width in (0.0, -1.0, np.nan, np.inf, "wide")
    },
    "no parameters": (lambda: probes.sharpness(simple, {}, ONES), "params has no arrays"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_clear_error(name):
    make, said = MISTAKES[name]
    with pytest.raises(ProbeError, match=said) as caught:
        make()
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, UserError)


def test_names_of_any_length_make_a_short_message():
    many = {f"{'layer' * 50}{i}": jnp.ones(2) for i in range(100)}
    for make in (
        lambda: probes.hvp(simple, W, many, ONES),
        lambda: probes.Block(lambda v: v, many, lambda name: False),
        lambda: probes.loss(simple, {"x" * 1000: len}, ONES),
        lambda: probes.loss(simple, W, [{"x" * 1000: 3}]),
        lambda: probes.sharpness(simple, W, ONES, dtype="x" * 1000),
        lambda: probes.sharpness(simple, W, ONES, k="x" * 1000),
        lambda: probes.sharpness(simple, W, ONES, tol="x" * 1000),
        lambda: probes.interpolate(simple, W, W, ["x" * 1000], ONES),
        lambda: probes.sharpness(simple, W, ONES, basis="x" * 1000),
    ):
        with pytest.raises(ProbeError) as caught:
            make()
        assert len(str(caught.value)) < 300
