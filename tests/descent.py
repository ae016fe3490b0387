"""One flat array of weights and its way down, for tests that choose every gradient themselves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def descend(
    tx: optax.GradientTransformation, start: Any, gradient: Callable[[jax.Array, jax.Array], Any], steps: int
) -> jax.Array:
    """The weights after each step, steps first; `gradient(w, t)` is what step `t`, 1-based, is fed."""

    @jax.jit
    def trajectory(start: jax.Array) -> jax.Array:
        def step(carry: tuple[jax.Array, Any], t: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
            w, state = carry
            updates, state = tx.update(gradient(w, t), state, w)
            return (w + updates, state), w + updates

        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(1, steps + 1, dtype=jnp.int32))[1]

    return trajectory(jnp.asarray(start))


def along(tx: optax.GradientTransformation, start: Any, grads: Any) -> jax.Array:
    """The weights after each step of a given stream of gradients, steps first."""
    grads = jnp.asarray(grads)
    return descend(tx, start, lambda w, t: grads[t - 1], len(grads))
