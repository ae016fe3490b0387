"""How much of each step of a run was decay, layer by layer: the step against the one that the core alone would take."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import keystr, tree_leaves_with_path

from optlab.algebra.rules import widened

NAMES = ("decay_share", "decay_rate")
WHOLE = "all"


def layers(params: Any) -> list[str]:
    """`all` for the whole tree, then the name of every leaf of `params`, such as `hidden.kernel`."""
    leaves = tree_leaves_with_path(params, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return [WHOLE, *(keystr(path, simple=True, separator=".") or "weights" for path, _ in leaves)]


def of_step(updates: Any, plain: Any, away: Any) -> dict[str, jax.Array]:
    """What decay did to one step, over `layers`.

    `d = updates - plain` is the part of the step that was decay, through the averages too. Then, with 0/0 = 0:

    | | | |
    |---|---|---|
    | `decay_share` | `|d| / (|d| + |plain|)` | in [0, 1]; below 1e-7 it is the rounding of the updates |
    | `decay_rate` | `-<d, away> / |away|**2` | the share of the weights that decay took; `lr*wd` for AdamW |

    Args:
      updates: those of the run.
      plain: those of the same core and rate without decay, at the same weights and of the same gradients so far.
      away: the weights before the step, minus what decay pulls them towards.
    """
    decay = jax.tree.map(jnp.subtract, updates, plain)
    by_decay, by_gradient = (jnp.sqrt(_inner(part, part)) for part in (decay, plain))
    return {
        "decay_share": _ratio(by_decay, by_decay + by_gradient),
        "decay_rate": _ratio(-_inner(decay, away), _inner(away, away)),
    }


def over_window(steps: Mapping[str, jax.Array], taken: jax.Array) -> dict[str, jax.Array]:
    """The means of what `of_step` gave, of shape (steps, layers), over the steps that were `taken`, of shape (steps,).

    A step that overflows, shortly before its run is seen to diverge, does not count. NaN where no step does.
    """
    return {name: values.mean(axis=0, where=taken[:, None] & jnp.isfinite(values)) for name, values in steps.items()}


def _inner(left: Any, right: Any) -> jax.Array:
    """The real part of the inner product, over `layers`."""
    pairs = zip(map(widened, jax.tree.leaves(left)), map(widened, jax.tree.leaves(right)), strict=True)
    leaves = jnp.stack([jnp.sum((jnp.conj(x) * y).real).astype(jnp.float32) for x, y in pairs])
    return jnp.concatenate([leaves.sum(keepdims=True), leaves])


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    nothing = below == 0
    return jnp.where(nothing, 0.0, above / jnp.where(nothing, 1.0, below))
