"""The standard augmentation of small images: pad by 4, crop at random, flip at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def crop_and_flip(key: jax.Array, images_BxHxWxC: jax.Array, padding: int = 4) -> jax.Array:
    """Each image shifted by up to `padding` pixels (zeros come in) and mirrored half the time."""

    def one(key, image):
        at_key, flip_key = jax.random.split(key)
        y, x = jax.random.randint(at_key, (2,), 0, 2 * padding + 1, jnp.int32)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        moved = jax.lax.dynamic_slice(padded, (y, x, jnp.int32(0)), image.shape)
        return jnp.where(jax.random.bernoulli(flip_key, jnp.float32(0.5)), moved[:, ::-1], moved)

    return jax.vmap(one)(jax.random.split(key, len(images_BxHxWxC)), images_BxHxWxC)
