"""Examples a few at a time: the same numbers in less memory, and how many is found by it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import mlp, mlp_loss

from wsdjax import compiling, models, probes
from wsdjax.config import CNN
from wsdjax.probes import fitting, groups, hessian, objective
from wsdjax.probes.groups import Groups


def close(a, b, tolerance=1e-12):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 13, 99])
def test_a_mean_over_groups_is_that_over_all_examples(x64, size):
    """Whether or not the size divides the 13, 7 and 2 examples of the batches."""
    params, batches = mlp(batch_sizes=(13, 7, 2))
    of = mlp_loss, params
    assert probes.loss(*of, batches, size) == pytest.approx(probes.loss(*of, batches), rel=1e-14)
    close(probes.gradient(*of, batches, size), probes.gradient(*of, batches))
    product = probes.hvp(*of, params, batches)
    close(probes.hvp(*of, params, batches, at_a_time=size), product)
    differences = probes.hvp(*of, params, batches, finite_difference=True, at_a_time=size)
    close(differences, product, 1e-6)
    found, whole = (probes.gradient_noise(*of, batches, at_a_time=n) for n in (size, None))
    close(found.trace, whole.trace)
    close(found.top_eigenvalue, whole.top_eigenvalue, 1e-6)


def test_a_gauss_newton_product_of_groups(x64):
    params, batches = mlp()

    def apply(p, batch):
        return jnp.tanh(batch["inputs"] @ p["in"]["kernel"] + p["in"]["bias"][None]) @ p["out"]

    def output_loss(outputs, batch):
        labels = jax.nn.one_hot(batch["targets"], 3)
        return -(jax.nn.log_softmax(outputs) * labels).sum(-1).mean()

    of = apply, output_loss, params, batches
    close(probes.GaussNewton(*of, at_a_time=3)(params), probes.GaussNewton(*of)(params))


@pytest.mark.parametrize(
    ("size", "devices", "expected"),
    [
        (6, 3, [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]),
        (6, 2, [[0, 1, 2, 7, 8, 9], [3, 4, 5, 10, 11, 12], [6, 13]]),
        (5, 1, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (7, 5, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
        (2, 4, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
    ],
)
def test_every_device_has_its_part_of_every_group(size, devices, expected):
    """By the squares of the groups' means; in groups that leave none over where
    there is such a size that is not far below the one that is asked for."""
    count = sum(map(len, expected))
    batch = np.arange(float(count))[:, None] ** 2
    found = groups.mean(lambda some: some.mean() ** 2, batch, Groups(size, devices))
    shares = [len(group) / count * batch[group].mean() ** 2 for group in expected]
    assert float(found) == pytest.approx(sum(shares))


def wide(examples=64):
    """A loss whose activations are what takes memory."""
    params = {"w": jnp.ones((8, 256)) / 8, "b": jnp.ones(256)}
    batch = np.random.default_rng(0).normal(size=(examples, 16, 8)).astype(np.float32)

    def loss_fn(p, x):
        return jnp.mean(jnp.cos(jnp.tanh(x @ p["w"]) * p["b"][None, None]) ** 2)

    return loss_fn, params, batch


def test_as_many_as_fit_by_the_compilers_word(monkeypatch, caplog):
    """Fewer where less is free, each within half of that; told; and the same product."""
    loss_fn, params, batch = wide()

    def needs(size):
        return fitting._needed(
            hessian.batch_product.lower(loss_fn, params, batch, params, Groups(size))
        )

    def found(free):
        fitting._KNOWN.clear()
        monkeypatch.setattr(fitting, "free", lambda devices: free)
        return probes.Hessian(loss_fn, params, [batch])

    alone, few = needs(1), needs(16)
    with caplog.at_level("INFO", "wsdjax"):
        small, least = found(2 * few), found(2 * alone)
    assert 1 <= least.at_a_time < small.at_a_time < 64
    assert small.workspace == needs(small.at_a_time) <= few
    assert f"{small.at_a_time} of 64 examples at a time" in caplog.text
    close(small(params), probes.hvp(loss_fn, params, params, [batch], at_a_time=64), 1e-6)
    with caplog.at_level("INFO", "wsdjax"):
        assert found(alone // 2).at_a_time == 1
    assert "beside its arguments for 1 at a time" in caplog.text
    fitting._KNOWN.clear()


def test_what_fits_by_its_trace_is_not_compiled_to_be_asked(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(fitting, "_needed", refuse)
    fitting._KNOWN.clear()
    loss_fn, params, batch = wide()
    assert probes.Hessian(loss_fn, params, [batch]).at_a_time is None
    assert probes.fits(loss_fn, params, batch)


def test_a_trace_tells_about_what_the_compiler_takes():
    """What is fused into other operations is not there; copies that it adds are few."""
    loss_fn, params, batch = wide()
    model = models.build(CNN((4, 4)))
    images = {"inputs": jnp.zeros((8, 32, 32, 3)), "targets": jnp.zeros(8, int)}
    for of in (
        (hessian.batch_product, loss_fn, params, batch, params),
        (hessian.batch_product, loss_fn, params, batch, params, Groups(8)),
        (objective.batch_gradient, model.loss, model.init(jax.random.key(0)), images),
    ):
        program, *given = of
        bound = fitting.peak(program.trace(*given).jaxpr.jaxpr)
        needed = fitting._needed(program.lower(*given))
        assert bound / 20 < needed < 1.5 * bound


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("gpu", "9.0", {"xla_gpu_enable_triton_gemm": False}),
        ("gpu", "gfx942", None),
        ("cpu", None, "of convolutions"),
        ("tpu", None, None),
    ],
)
def test_options_of_a_compiler_are_for_its_devices(platform, capability, expected, monkeypatch):
    """By the default device, and for what is outermost: JAX refuses them inside of a trace."""
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    if expected == "of convolutions":  # which not every version of the compiler knows
        expected = compiling.of_convolutions(device)
    monkeypatch.setattr(jax, "devices", lambda backend=None: [device])
    given, jit = [], jax.jit

    def noted(function, compiler_options, **options):
        given.append(compiler_options)
        return jit(function, compiler_options=compiler_options, **options)

    monkeypatch.setattr(jax, "jit", noted)

    @compiling.compiled(static_argnums=0)
    def doubled(times, x):
        return times * x

    @compiling.compiled()
    def outer(x):
        return doubled(2, x) + 1

    assert outer(jnp.ones(())) == 3
    assert given == [expected, None]


def test_a_number_that_is_none_is_refused():
    params, batches = mlp(np.float32)
    for wrong in (0, 1.5, "many"):
        with pytest.raises(probes.ProbeError, match="at_a_time = "):
            probes.hvp(mlp_loss, params, params, batches, at_a_time=wrong)


def test_sums_over_many_groups_are_not_in_sixteen_bits():
    batch = {"inputs": jnp.full(1_024, 3.0, jnp.bfloat16)}
    found = groups.mean(lambda some: some["inputs"].mean(), batch, Groups(1))
    assert found == 3.0
    whole = groups.mean(lambda some: some["inputs"].shape[0] * jnp.int32(2), batch, Groups(512))
    assert whole == 1_024
