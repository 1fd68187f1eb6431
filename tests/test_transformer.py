"""The transformer against one written out by hand, and against itself computed in other ways."""

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import jaxprs_in_params

from wsdjax import families, models
from wsdjax.config import Transformer
from wsdjax.errors import ConfigError
from wsdjax.models import attention
from wsdjax.models.transformer import rotate
from wsdjax.training import optim, state
from wsdjax.training.optim import Hyper
from wsdjax.training.step import make_step

NEOX = Transformer(29, 32, 2, 2, hidden=48, loss_chunk=5)
LLAMA = families.llama(
    vocabulary=29, width=32, layers=2, heads=2, kv_heads=1, hidden=40, tied=True, loss_chunk=5
)
BATCH = {
    name: jax.random.randint(jax.random.key(i), (3, 7), 0, 29)
    for i, name in enumerate(("inputs", "targets"))
}


def by_hand(config, params, tokens):
    """Logits, by a loop over layers and heads."""

    def linear(p, x):
        return x @ p["kernel"] + (p["bias"][None, None] if "bias" in p else 0)

    def norm(p, x):
        if config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps)
        return x * p["scale"][None, None] + (p["bias"][None, None] if "bias" in p else 0)

    def attend(p, x):
        length, size = x.shape[1], config.width // config.heads
        q, k, v = (linear(p[name], x) for name in ("query", "key", "value"))
        shared = config.heads // (config.kv_heads or config.heads)
        later = jnp.triu(jnp.full((length, length), -jnp.inf), 1)[None]
        heads = []
        for h in range(config.heads):
            own, their = (jnp.s_[..., i * size : (i + 1) * size] for i in (h, h // shared))
            q_h, k_h = (turned(each) for each in (q[own], k[their]))
            scores = q_h @ k_h.swapaxes(1, 2) / math.sqrt(size) + later
            heads.append(jax.nn.softmax(scores) @ v[their])
        return linear(p["out"], jnp.concatenate(heads, -1))

    def turned(x):
        half = int(x.shape[-1] * config.rotary_fraction) // 2
        angles = np.outer(np.arange(x.shape[1]), config.rotary_theta ** (-np.arange(half) / half))
        pairs = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(1j * angles)[None]
        return jnp.concatenate([pairs.real, pairs.imag, x[..., 2 * half :]], -1)

    def mlp(p, x):
        if config.gated:
            gate = linear(p["gate"], x)
            return linear(p["down"], gate / (1 + jnp.exp(-gate)) * linear(p["up"], x))
        up = linear(p["up"], x)
        return linear(p["down"], up * (1 + jax.scipy.special.erf(up / math.sqrt(2))) / 2)

    x = params["embed"]["embedding"][tokens]
    for i in range(config.layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        after = x + attend(layer["attention"], norm(layer["attention_norm"], x))
        read = x if config.parallel_residual else after
        x = after + mlp(layer["mlp"], norm(layer["mlp_norm"], read))
    x = norm(params["final_norm"], x)
    return x @ params["embed"]["embedding"].T if config.tied else linear(params["head"], x)


def whole_loss(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def derivatives(loss, params):
    """Value, gradient and a Hessian-vector product, jitted."""
    vector = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)

    @jax.jit
    def all_of(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.jvp(jax.grad(loss), (params,), (vector,))[1]

    return all_of(params)


def random_params(model, dtype):
    """All of them random, biases and gains too, so large that every one of them matters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(shapes))))
    return jax.tree.map(lambda s: 0.4 * jax.random.normal(next(keys), s.shape, dtype), shapes)


@pytest.fixture(scope="module", params=[NEOX, LLAMA], ids=["neox", "llama"])
def reference(request):
    """(config, params, value, gradient, HVP) in float64, by hand."""
    with jax.enable_x64(True):
        params = random_params(models.build(request.param), jnp.float64)
        value, *others = derivatives(
            lambda p: whole_loss(by_hand(request.param, p, BATCH["inputs"]), BATCH["targets"]),
            params,
        )
    return request.param, params, value, *others


@pytest.mark.parametrize(
    ("loops", "remat", "chunk"),
    [
        ("unrolled", "none", 10_000),
        ("scanned", "none", 1),
        ("scanned", "dots", 6),
        ("scanned", "layers", 10_000),
    ],
)
def test_every_way_to_compute_it_is_the_plain_one(reference, loops, remat, chunk, monkeypatch):
    """Value, gradient and Hessian-vector product; 7 positions are no multiple of a chunk's 2."""
    config, params, *expected = reference
    if loops == "scanned":
        monkeypatch.setattr(jax, "default_backend", lambda: "another")
    with jax.enable_x64(True):
        model = models.build(dataclasses.replace(config, remat=remat, loss_chunk=chunk))
        found = derivatives(lambda p: model.loss(p, BATCH), params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
            found,
            tuple(expected),
        )


def test_logits_and_accuracy_are_those_by_hand(reference):
    config, params, value, *_ = reference
    with jax.enable_x64(True):
        model, expected = models.build(config), by_hand(config, params, BATCH["inputs"])
        logits, metrics = (
            jax.jit(model.apply)(params, BATCH["inputs"]),
            model.metrics(params, BATCH),
        )
        np.testing.assert_allclose(logits, expected, atol=1e-11)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
        right = (expected.argmax(-1) == BATCH["targets"]).mean()
        assert metrics["accuracy"] == pytest.approx(float(right))


def equations(jaxpr):
    """Of a program and of its loops' bodies."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def sizes_in(jaxpr):
    """The sizes of all arrays that a program makes."""
    return [v.aval.size for equation in equations(jaxpr) for v in equation.outvars]


def test_the_logits_never_exist_whole():
    """Neither in the loss and its gradient nor in a Hessian-vector product."""
    vocabulary, tokens = 1_009, BATCH["inputs"].size
    model = models.build(dataclasses.replace(NEOX, vocabulary=vocabulary))
    params = jax.eval_shape(model.init, jax.random.key(0))

    def programs(loss):
        yield jax.make_jaxpr(jax.value_and_grad(loss))(params)
        yield jax.make_jaxpr(lambda p: jax.jvp(jax.grad(loss), (p,), (p,)))(params)

    def whole(p):
        return whole_loss(model.apply(p, BATCH["inputs"]), BATCH["targets"])

    for chunked, other in zip(
        programs(lambda p: model.loss(p, BATCH)), programs(whole), strict=True
    ):
        # A chunk of 5 tokens is one position of each of the three examples.
        sizes = {n // vocabulary for n in sizes_in(chunked.jaxpr) if n % vocabulary == 0}
        assert sizes <= {0, 1, 3, NEOX.width}
        assert tokens * vocabulary in sizes_in(other.jaxpr)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("70M", 70_426_624),
        ("160M", 162_322_944),
        ("410M", 405_334_016),
        ("1B", 1_011_781_632),
        ("1.4B", 1_414_647_808),
        ("2.8B", 2_775_208_960),
        ("6.9B", 6_857_302_016),
        ("12B", 11_846_072_320),
    ],
)
def test_pythias_sizes_are_its_papers(size, count):
    assert parameters(families.pythia(size)) == count


def test_sizes_of_the_llamas():
    assert parameters(families.plainlm()) == 162_183_936
    counts = {size: parameters(families.wen_llama(size)) for size in families.WEN}
    assert counts == {
        "0.1B": 190_532_352,
        "0.3B": 354_731_008,
        "0.6B": 1_060_578_816,
        "1.2B": 1_279_854_592,
    }
    heads = {size: families.wen_llama(size).heads for size in families.WEN}
    assert heads == {"0.1B": 12, "0.3B": 16, "0.6B": 32, "1.2B": 16}
    with pytest.raises(ConfigError, match=r"size = '0.2B': must be one of 0.1B, 0.3B"):
        families.wen_llama("0.2B")


def parameters(config):
    shapes = jax.eval_shape(models.build(config).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("config", [NEOX, LLAMA], ids=["neox", "llama"])
def test_the_initialisation(config):
    """N(0, 0.02), output projections 0.02 / sqrt(2 layers); every layer its own."""
    wide = dataclasses.replace(config, width=64, hidden=96, vocabulary=512)
    params = jax.jit(models.build(wide).init)(jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] in ("bias", "scale"):
            np.testing.assert_array_equal(leaf, float(names[-1] == "scale"))
            continue
        output = names[-2] in ("out", "down")
        std = 0.02 / math.sqrt(2 * wide.layers) if output else 0.02
        np.testing.assert_allclose(leaf.std(), std, rtol=0.05)
        assert abs(leaf.mean()) < 5 * std / math.sqrt(leaf.size)
        if names[0] == "layers":
            assert leaf.shape[0] == wide.layers
            assert abs(np.corrcoef(leaf[0].ravel(), leaf[1].ravel())[0, 1]) < 0.1


def test_matrices_alone_are_decayed():
    """Stacked biases and gains are 2-D, and known by their names."""
    params = jax.eval_shape(models.build(NEOX).init, jax.random.key(0))
    for path, decayed in jax.tree.leaves_with_path(optim.decayed(params)):
        assert decayed == (path[-1].key in ("kernel", "embedding"))


def test_no_logit_depends_on_a_later_token(reference):
    config, params, *_ = reference
    params = jax.tree.map(jnp.float32, params)
    apply = jax.jit(models.build(config, training=True).apply)
    logits = apply(params, BATCH["inputs"])
    for t in range(1, 7):
        changed = apply(params, BATCH["inputs"].at[:, t].add(1) % 29)
        np.testing.assert_array_equal(changed[:, :t], logits[:, :t])
        assert (changed[:, t:] != logits[:, t:]).any(axis=(0, 2)).all()


@pytest.mark.usefixtures("full_precision")
def test_rotated_products_depend_on_the_distance_alone():
    """And a rotation changes no length; what is beyond the fraction stays."""
    q, k = jax.random.normal(jax.random.key(0), (2, 8))
    q_at, k_at = (
        rotate(jnp.broadcast_to(each, (1, 20, 1, 8)), 6, 50.0)[0, :, 0] for each in (q, k)
    )
    products = q_at @ k_at.T
    for distance in range(-19, 20):
        diagonal = jnp.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    np.testing.assert_allclose(products[0, 0], q @ k, atol=1e-6)
    np.testing.assert_allclose((q_at**2).sum(1), (q**2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(q_at[:, 6:], np.broadcast_to(q[6:], (20, 2)))


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize(
    ("other", "length"),
    [
        (partial(attention.of_jax, implementation="xla"), 9),
        (attention.flash, 128),
        (partial(attention.fused, None), 9),
        (partial(attention.of_even_length, attention.plain), 9),
    ],
    ids=["xla", "pallas", "here", "padded"],
)
def test_fused_attention_is_the_plain_one(other, length):
    """Value and gradients, with grouped queries; the TPU's kernel by Pallas's interpreter."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (
        jax.random.normal(key, (2, length, heads, 8))
        for key, heads in zip(keys[:3], (4, 2, 2), strict=True)
    )
    weights = jax.random.normal(keys[3], q.shape)

    def of(attend):
        loss = jax.value_and_grad(lambda *qkv: (attend(*qkv) * weights).sum(), (0, 1, 2))
        return jax.jit(loss)(q, k, v)

    with pltpu.force_tpu_interpret_mode():
        found, gradients = of(other)
    expected, expected_gradients = of(attention.plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


@pytest.mark.usefixtures("full_precision")
def test_replicates_are_as_alone():
    model = models.build(NEOX)
    together = jax.jit(jax.vmap(lambda i: model.init(jax.random.key(i))))(jnp.arange(2))
    losses = jax.jit(jax.vmap(model.loss, in_axes=(0, None)))(together, BATCH)
    init, loss = jax.jit(model.init), jax.jit(model.loss)
    for i in range(2):
        alone = init(jax.random.key(i))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, alone)
        np.testing.assert_allclose(losses[i], loss(alone, BATCH), rtol=1e-6)


def test_bfloat16_is_what_training_computes_in(compiled_fully):
    """Close to float32 but not equal; parameters, gradients, logits and loss are float32."""
    config = dataclasses.replace(LLAMA, compute="bfloat16", remat="dots")
    exact, model = models.build(config), models.build(config, training=True)
    params = jax.tree.map(lambda leaf: leaf / 2, random_params(model, jnp.float32))

    def found(model):
        loss, gradient = jax.value_and_grad(model.loss)(params, BATCH)
        return model.apply(params, BATCH["inputs"]), loss, gradient

    (logits, loss, gradient), (expected, expected_loss, expected_gradient) = (
        jax.jit(partial(found, each))() for each in (model, exact)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, loss, gradient))} == {
        np.dtype(np.float32)
    }
    assert 1e-5 < float(jnp.abs(logits - expected).max() / expected.std()) < 0.1
    np.testing.assert_allclose(loss, expected_loss, rtol=5e-3)
    apart = optax.tree.norm(optax.tree.sub(gradient, expected_gradient))
    assert apart < 0.05 * optax.tree.norm(expected_gradient)


@pytest.mark.parametrize("config", [NEOX, LLAMA], ids=["neox", "llama"])
def test_gradients_in_bfloat16_are_sums_over_all_tokens(config, compiled_fully):
    """Of 16,384 tokens, half of them one and the same: a sum in bfloat16 stops at 256 ones."""
    config = dataclasses.replace(config, width=16, hidden=16, layers=1, compute="bfloat16")
    tokens = jax.random.randint(jax.random.key(0), (128, 129), 0, 58).clip(0, 28)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    params = jax.tree.map(lambda p: p / 2, random_params(models.build(config), jnp.float32))
    found, expected = (
        jax.jit(jax.grad(models.build(config, training=training).loss))(params, batch)
        for training in (True, False)
    )

    def relative(a, b):
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    off = jax.tree.map(relative, found, expected)
    assert max(jax.tree.leaves(off)) < 0.03, off


def as_cudnn_is_called(q, k, v, is_causal, implementation):
    """Stands in for JAX's attention by cuDNN, which cannot be traced where no GPU is: refuses what
    cuDNN refuses, and calls its kernels forward and backward."""
    assert (is_causal, implementation) == (True, "cudnn")
    assert {each.dtype for each in (q, k, v)} == {jnp.dtype("bfloat16")}
    (B, L, H, K), groups = q.shape, k.shape[2]
    assert k.shape == v.shape == (B, L, groups, K)
    assert (L % 2, H % groups, K % 8) == (0, 0, 0)
    assert K <= 128

    def kernel(name, *like):
        shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in like]
        return jax.ffi.ffi_call(f"__cudnn$fmhaSoftmax{name}", shapes, vmap_method="sequential")

    @jax.custom_vjp
    def attend(q, k, v):
        return kernel("", q)(q, k, v)[0]

    def forward(q, k, v):
        return attend(q, k, v), (q, k, v)

    def backward(kept, cotangent):
        return tuple(kernel("Backward", *kept)(*kept, cotangent))

    attend.defvjp(forward, backward)
    return attend(q, k, v)


@pytest.mark.parametrize(
    ("platform", "backend", "kernel"),
    [("cuda", "gpu", "__cudnn$fmhaSoftmaxBackward"), ("tpu", "tpu", "tpu_custom_call")],
)
@pytest.mark.parametrize(("remat", "length"), [("none", 128), ("dots", 128), ("dots", 127)])
def test_a_step_lowers_to_the_devices_kernel(platform, backend, kernel, remat, length, monkeypatch):
    """Two replicates, layers under `scan`, micro-batches and a loss in chunks; not run here."""
    if platform == "tpu" and length % 128:
        kernel = "dot_general"  # the TPU's takes multiples of 128 alone
    device = SimpleNamespace(platform=backend, device_kind="TPU v5 lite")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(attention, "_has_cudnn", lambda _: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn_is_called)
    config = dataclasses.replace(NEOX, width=128, compute="bfloat16", remat=remat)
    model = models.build(config, training=True)
    begun = jax.eval_shape(lambda: state.create(model, [0, 1]))
    tokens = jax.ShapeDtypeStruct((2, 4, length), jnp.int32)
    hyper = Hyper(*(jax.ShapeDtypeStruct((2,), jnp.float32),) * 6)
    batch = {"inputs": tokens, "targets": tokens}
    traced = make_step(model, accumulate=2).trace(begun, batch, hyper)
    assert kernel in traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_softmax_of_plain_attention_is_float32():
    config = dataclasses.replace(NEOX, compute="bfloat16", attention="plain")
    model = models.build(config, training=True)
    params = jax.eval_shape(model.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(model.loss)(params, BATCH).jaxpr
    found = [e.outvars[0].aval for e in equations(jaxpr) if e.primitive.name == "exp"]
    assert {aval.dtype for aval in found} == {jnp.dtype("float32")}
    assert any(aval.ndim == 5 for aval in found)  # the scores, [B, G, R, L, L]


@pytest.mark.parametrize(("remat", "kept"), [("none", True), ("dots", False), ("layers", False)])
def test_what_is_computed_again_leaves_no_scores_behind(remat, kept):
    """Residuals of size B H L^2 are what rematerialisation is for."""
    model = models.build(dataclasses.replace(NEOX, remat=remat), training=True)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((3, 64), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens}
    leaves = jax.eval_shape(lambda p, b: jax.vjp(lambda q: model.loss(q, b), p)[1], params, batch)
    assert any(leaf.shape[-2:] == (64, 64) for leaf in jax.tree.leaves(leaves)) == kept


@pytest.mark.parametrize(("length", "kv_heads"), [(4, 1), (8, 4), (13, 2)])
def test_attention_by_blocks_is_the_plain_one(length, kv_heads):
    """Its value, gradient and second derivative, in float32 and in float64; of any length, with
    groups of queries; and in the dtypes of the plain one."""
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = ((2, length, 4, 8), (2, length, kv_heads, 8), (2, length, kv_heads, 8))

    def derivatives(attend, given, along):
        def loss(given):
            return jnp.mean(jnp.sin(attend(*given)))

        value, slope = jax.value_and_grad(loss)(given)
        return value, slope, jax.jvp(jax.grad(loss), (given,), (along,))[1]

    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-13)):
        with jax.enable_x64(dtype == np.float64):
            drawn = [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes * 2, strict=True)]
            blocks = partial(attention.by_blocks, block=4)
            found, expected = (
                jax.jit(partial(derivatives, attend))(drawn[:3], drawn[3:])
                for attend in (blocks, attention.plain)
            )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    halves = [each.astype(jnp.bfloat16) for each in drawn[:3]]
    assert attention.by_blocks(*halves, block=4).dtype == jnp.bfloat16
