"""A model's loss on many devices: each takes its own examples, and gathers parameters that are
divided among them, of a stack of layers those of one layer at a time (FSDP: Rajbhandari et al.,
"ZeRO", stage 3; Zhao et al., "PyTorch FSDP").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

GATHERED = "gathered"
"""The name, for `jax.checkpoint`, of weights that the backward pass gathers again."""


@dataclass(frozen=True)
class Spread:
    """The devices that share a model's examples and parameters."""

    mesh: Mesh
    examples: tuple[str, ...]
    """The axes of the mesh that divide the examples of a batch."""
    spec: Callable[[str, tuple[int, ...]], PartitionSpec]
    """``spec(path, shape)``: how a parameter of one replicate is divided."""

    @property
    def device(self) -> jax.Device:
        """Stands for all: they are of one kind, and may be described and not there."""
        return self.mesh.devices.flat[0]

    @property
    def parts(self) -> int:
        """How many devices share a batch."""
        return math.prod(self.mesh.shape[axis] for axis in self.examples)

    def specs(self, params: Any) -> Any:
        def of(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return self.spec(name, leaf.shape)

        return jax.tree.map_with_path(of, params)

    def mean(self, of_examples: Callable, specs: Any) -> Callable:
        """``(params, batch) -> means`` over all examples, of a function of these that is given
        the parameters as they are divided, by `specs`. What cannot be divided evenly, such as a
        last batch, every device computes whole."""

        def local(params, batch):
            return jax.lax.pmean(of_examples(params, batch), self.examples)

        def means(params, batch):
            even = len(jax.tree.leaves(batch)[0]) % self.parts == 0
            given = specs, PartitionSpec(self.examples if even else None)
            return jax.shard_map(
                local, mesh=self.mesh, in_specs=given, out_specs=PartitionSpec(), check_vma=False
            )(params, batch)

        return means


def gathered(params: Any, specs: Any, kernels_in: Any = None) -> Any:
    """Whole parameters of those of one device, in float32; `kernels_in` is the dtype in which
    kernels travel, whose gradients are summed in float32 even so."""

    def of(path, leaf, spec):
        divided = [(i, axis) for i, axis in enumerate(spec) if axis is not None]
        if not divided:
            return leaf
        ((dimension, axis),) = divided
        is_kernel = path[-1].key == "kernel"
        dtype = kernels_in if kernels_in is not None and is_kernel else leaf.dtype
        return checkpoint_name(_gather(leaf, axis, dimension, dtype), GATHERED)

    return jax.tree.map_with_path(of, params, specs)


def of_one_layer(specs: Any, layer: nnx.State, kernels_in: Any) -> nnx.State:
    """`gathered` of one layer of a stack, whose specs have an axis more."""
    one = jax.tree.map(
        lambda spec: PartitionSpec(*spec[1:]),
        specs,
        is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )
    whole = jax.tree.map(lambda leaf: leaf, layer)  # a copy: the next line writes to it
    nnx.replace_by_pure_dict(whole, gathered(nnx.to_pure_dict(layer), one, kernels_in))
    return whole


def _gather(leaf: jax.Array, axis: str, dimension: int, dtype: Any) -> jax.Array:
    whole = partial(jax.lax.all_gather, axis_name=axis, axis=dimension, tiled=True)
    if dtype == leaf.dtype:
        return whole(leaf)
    # Rounded on the way there alone: a sum over hundreds of devices would stop to grow in
    # bfloat16.
    return _rounded(leaf, axis, dimension, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _rounded(leaf, axis, dimension, dtype):
    return jax.lax.all_gather(leaf.astype(dtype), axis, axis=dimension, tiled=True)


def _rounded_forward(leaf, axis, dimension, dtype):
    return _rounded(leaf, axis, dimension, dtype), jnp.zeros((), leaf.dtype)


def _rounded_backward(axis, dimension, _, like, slope):
    summed = jax.lax.psum_scatter(
        slope.astype(like.dtype), axis, scatter_dimension=dimension, tiled=True
    )
    return (summed,)


_rounded.defvjp(_rounded_forward, _rounded_backward)
