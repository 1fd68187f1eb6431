"""Causal attention: plain and by blocks, which have derivatives of every order, and fused, which
has one.

All take queries [B, L, H, K], keys and values [B, L, G, K], where H is a multiple of G and
consecutive queries share a key, and return [B, L, H, K] in the dtype of the values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


BLOCK = 256
"""Queries whose scores exist at a time in `by_blocks`."""


def plain(q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array) -> jax.Array:
    """softmax(q k' / sqrt(K)) v over the positions up to a token's own; scores and softmax are
    float32, of float64 operands float64, which JAX's own has not."""
    return _of_queries(0, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)


def by_blocks(
    q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, block: int | None = None
) -> jax.Array:
    """As `plain`, with derivatives of every order, and the scores of `block` queries (`BLOCK`) in
    memory at a time, which are computed again in the backward pass."""
    B, L, H, K = q_BxLxHxK.shape
    count = -(-L // (block or BLOCK))
    if count == 1:
        return plain(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
    size = -(-L // count)
    # What is beyond the end sees every key, and is cut off.
    padded = jnp.pad(q_BxLxHxK, ((0, 0), (0, count * size - L), (0, 0), (0, 0)))
    blocks = padded.reshape(B, count, size, H, K).swapaxes(0, 1)

    @partial(jax.checkpoint, prevent_cse=False)  # the loop keeps the two computations apart
    def attended(first, queries):
        return _of_queries(first, queries, k_BxLxGxK, v_BxLxGxK)

    found = jax.lax.map(lambda each: attended(*each), (size * jnp.arange(count), blocks))
    return found.swapaxes(0, 1).reshape(B, count * size, H, K)[:, :L]


def _of_queries(first, q_BxNxHxK, k_BxLxGxK, v_BxLxGxK) -> jax.Array:
    """[B, N, H, K]: attention of the N queries from position `first` on."""
    B, N, H, K = q_BxNxHxK.shape
    L, G = k_BxLxGxK.shape[1:3]
    q = q_BxNxHxK.reshape(B, N, G, -1, K)
    at_least_float32 = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum(
        "blgrk,bmgk->bgrlm", q, k_BxLxGxK, preferred_element_type=at_least_float32
    ) / math.sqrt(K)
    seen = first + jnp.arange(N)[:, None] >= jnp.arange(L)[None]
    scores = jnp.where(seen[None, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(v_BxLxGxK.dtype)
    return jnp.einsum("bgrlm,bmgk->blgrk", weights, v_BxLxGxK).reshape(B, N, H, K)


def fused(
    device: jax.Device | None, q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array
) -> jax.Array:
    """The device's own kernel, without the scores in memory; `plain` where there is none. None
    stands for the default device.

    On an NVIDIA GPU from Ampere on it is cuDNN's, which takes bfloat16; on a TPU it is the flash
    attention of JAX. Neither divides itself among devices: `wsdjax.models.spread` does.
    """
    device = device or jax.devices()[0]
    L, K = q_BxLxHxK.shape[1], q_BxLxHxK.shape[3]
    match device.platform:
        case "gpu" | "cuda" if (
            _has_cudnn(device) and q_BxLxHxK.dtype == jnp.bfloat16 and K % 8 == 0 and K <= 128
        ):
            # Of an odd length JAX refuses the gradient.
            cudnn = partial(of_jax, implementation="cudnn")
            return of_even_length(cudnn, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
        case "tpu" if L % 128 == 0 and K <= 128:
            given = q_BxLxHxK, k_BxLxGxK, v_BxLxGxK
            if device.device_kind in ("TPU v2", "TPU v3"):
                # Their compiler of kernels knows no product of bfloat16.
                raised = [each.astype(jnp.float32) for each in given]
                return flash(*raised).astype(v_BxLxGxK.dtype)
            return flash(*given)
    return plain(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)


def _has_cudnn(device: jax.Device) -> bool:
    """Whether the device is NVIDIA's and has the kernel: its compute capability is 8.0 or more.
    Of AMD's the name of the architecture stands there."""
    capability = str(getattr(device, "compute_capability", ""))
    return capability.replace(".", "", 1).isdecimal() and float(capability) >= 8


def of_even_length(attend: Attention, q_BxLxHxK, k_BxLxGxK, v_BxLxGxK) -> jax.Array:
    """`attend`, which is causal, on an odd length padded by a position that none before it sees."""
    L = q_BxLxHxK.shape[1]
    if L % 2 == 0:
        return attend(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
    one_more = ((0, 0), (0, 1), (0, 0), (0, 0))
    padded = [jnp.pad(each, one_more) for each in (q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)]
    return attend(*padded)[:, :L]


def of_jax(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, implementation: Literal["cudnn", "xla"]) -> jax.Array:
    """`jax.nn.dot_product_attention`, by cuDNN on GPUs or by XLA anywhere."""
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, is_causal=True, implementation=implementation
    )


def flash(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK) -> jax.Array:
    """FlashAttention in Pallas for TPUs; L is a multiple of 128."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    L, H, K = q_BxLxHxK.shape[1:]
    block = math.gcd(L, 512)  # the default of 128 leaves the matrix unit idle
    sizes = dict.fromkeys((f.name for f in dataclasses.fields(tpu.BlockSizes)), block)
    blocks = tpu.BlockSizes(**sizes | {"block_b": 1})
    k, v = (jnp.repeat(each, H // each.shape[2], axis=2) for each in (k_BxLxGxK, v_BxLxGxK))
    q, k, v = (each.swapaxes(1, 2) for each in (q_BxLxHxK, k, v))
    attended = tpu.flash_attention(
        q, k, v, causal=True, sm_scale=1 / math.sqrt(K), block_sizes=blocks
    )
    return attended.swapaxes(1, 2)
