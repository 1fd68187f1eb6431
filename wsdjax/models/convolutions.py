"""3x3 convolutions of stride 1 and padding 1, `x` [B, H, W, C] with a kernel [3, 3, C, D], in the
forms that devices have fast code for. All are equal but for rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def by_patches(x_BxHxWxC, kernel_3x3xCxD):
    """As one matrix product with the patches of x, which has derivatives of every order, in loops
    and under `vmap` over kernels, that are as fast as it is."""
    B, H, W, _ = x_BxHxWxC.shape
    flat = kernel_3x3xCxD.reshape(-1, kernel_3x3xCxD.shape[-1])
    return jnp.matmul(_patches(x_BxHxWxC), flat).reshape(B, H, W, -1)


def by_library(x_BxHxWxC, kernel_3x3xCxD):
    """By XLA, with derivatives as JAX has them."""
    around, dimensions = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x_BxHxWxC, kernel_3x3xCxD, (1, 1), around, dimension_numbers=dimensions
    )


def on_cpu(x_BxHxWxC, kernel_3x3xCxD):
    """By XLA, and so are its derivatives of every order, each as a convolution in the form for
    which a CPU has code: XLA brings JAX's own into it outside of loops alone, and inside of them
    they take tens of times as long.

    Of few channels a product with patches is faster, and XLA has no code for float64. Examples and
    channels may be divided among devices, H and W may not: of them XLA divides kernels' derivatives
    wrongly, JAX's own too.
    """
    given = jax.typeof(x_BxHxWxC), jax.typeof(kernel_3x3xCxD)
    known = given[0].dtype == given[1].dtype != jnp.float64
    if not known or any(map(_varies, given)) or x_BxHxWxC.shape[-1] < 8:
        return by_patches(x_BxHxWxC, kernel_3x3xCxD)
    return convolve_p.bind(x_BxHxWxC, kernel_3x3xCxD)


def _varies(aval):
    """Whether `shard_map` keeps track of it, unless that is told not to: the primitives do not. Of
    JAX's versions one has it as `vma`, another as `mat`."""
    return bool(getattr(aval, "vma", ()) or getattr(getattr(aval, "mat", None), "varying", ()))


def _correlation(x_BxHxWxC, y_BxHxWxD):
    """[3, 3, C, D]: the slope of the kernel where y is that of the result, a convolution of
    channels as examples with the whole of y as a kernel."""
    found = by_library(x_BxHxWxC.transpose(3, 1, 2, 0), y_BxHxWxD.transpose(1, 2, 0, 3))
    return found.transpose(1, 2, 0, 3)


def _correlation_by_patches(x_BxHxWxC, y_BxHxWxD):
    C, D = x_BxHxWxC.shape[-1], y_BxHxWxD.shape[-1]
    return jnp.matmul(_patches(x_BxHxWxC).T, y_BxHxWxD.reshape(-1, D)).reshape(3, 3, C, D)


def _turned(kernel_3x3xCxD):
    """The kernel of the transposed convolution."""
    return kernel_3x3xCxD[::-1, ::-1].swapaxes(2, 3)


def _patches(x_BxHxWxC):
    """[B H W, 9 C]."""
    B, H, W, C = x_BxHxWxC.shape
    padded = jnp.pad(x_BxHxWxC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1).reshape(B * H * W, 9 * C)


def _bilinear(name, compute, batched, transposes):
    """A product of two arrays that is its own derivative, with ``transposes``, by such products,
    and ``batched``, what computes several of them at once."""
    primitive = Primitive(name)

    def shaped(*avals):
        found = jax.eval_shape(compute, *avals)
        return jax.core.ShapedArray(found.shape, found.dtype)

    primitive.def_impl(jax.jit(compute))
    primitive.def_abstract_eval(shaped)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    ad.defbilinear(primitive, *transposes)

    def batch(arguments, axes):
        return jax.vmap(batched, in_axes=tuple(axes))(*arguments), 0

    batching.primitive_batchers[primitive] = batch
    return primitive


convolve_p: Primitive = _bilinear(
    "convolve_3x3",
    by_library,
    by_patches,
    (
        lambda slope, x, kernel: convolve_p.bind(slope, _turned(kernel)),
        lambda slope, x, kernel: correlate_p.bind(x, slope),
    ),
)
correlate_p: Primitive = _bilinear(
    "correlate_3x3",
    _correlation,
    _correlation_by_patches,
    (
        lambda slope, x, y: convolve_p.bind(y, _turned(slope)),
        lambda slope, x, y: convolve_p.bind(x, slope),
    ),
)
