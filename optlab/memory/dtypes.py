"""Updates in the dtype in which gradients came, for what wants one dtype of both."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.combinators import require_transform
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, require_params


@spelled()
def keep_dtype(tx: optax.GradientTransformation) -> Transform:
    """`u -> tx(u)`, rounded to the dtype in which `u` came; the state of `tx` stays as it is.

        tx = optax.apply_if_finite(keep_dtype(adamw(1e-3, weight_decay=0.1)), 5)

    Updates of optlab leave in float32, or wider, so that only applying them rounds. Where gradients are in bfloat16 or
    float16, `optax.apply_if_finite`, `conditionally_transform` and `conditionally_mask` raise TypeError at that, since
    they choose between updates and gradients; `optax.ema` and `apply_every`, behind ours in `optax.chain`, change the
    types of their states. There this stands around ours. It rounds every step to nearest before the step is added, to
    two or three digits, as optax's optimizers do.

    Args:
      tx: a transform of optlab or optax; in a chain, the whole run of links up to there.

    Raises:
      TypeError: `tx` is no transform.
    """
    require_transform("keep_dtype: tx", tx)
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        require_params(kept, params)
        narrow = jax.tree.map(lambda u: jnp.asarray(u).dtype, updates)
        updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(_rounded, updates, narrow), state

    kept = Transform(inner.init, update, maker=keep_dtype, parts=(tx,))
    return kept


def _rounded(u: jax.Array, dtype: Any) -> jax.Array:
    if jnp.iscomplexobj(u) == jnp.issubdtype(dtype, jnp.complexfloating):
        return u.astype(dtype)
    return u  # a size of complex numbers is real
