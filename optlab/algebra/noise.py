"""Random bits that are a function of where they are drawn, so that a run repeats whatever its programs and devices."""

from typing import Any

import jax
import jax.numpy as jnp


def mixed(*words: Any) -> jax.Array:
    """One uint32 from integers below 2**32, traced or not; another order or another word gives an unrelated one."""
    h = jnp.uint32(0x9E3779B9)
    for word in words:
        h = _avalanche(h ^ jnp.asarray(word).astype(jnp.uint32)) + jnp.uint32(0x9E3779B9)
    return h


def bits_at(position: jax.Array, *words: Any) -> jax.Array:
    """32 random bits for each `position` (uint32), of the stream that `words` name.

    Differs from `jax.random.bits` in: 1. the bits of a number depend on its position alone, so that a part of a leaf
    draws what the whole would, on whatever devices; 2. six operations that fuse into what uses them, where Threefry's
    hundred made an int8 AdamW three times as slow on a CPU. Good enough to round with, no more.

    Source: the mixing function is "lowbias32" of Wellons' hash-prospector, 2018.
    """
    return _avalanche(position ^ mixed(*words))


def _avalanche(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def positions(shape: tuple[int, ...]) -> jax.Array:
    """The place of every number in an array of `shape`, counted in C order, uint32."""
    total, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        total += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return total


def unit(bits: jax.Array) -> jax.Array:
    """Bits as float32 numbers, uniform in [0, 1)."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
