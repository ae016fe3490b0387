"""The penalty whose gradient L2 decay is."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from optlab.algebra import rules, trees
from optlab.algebra.hyperparameters import NON_NEGATIVE, Scalar, canonical, check, like
from optlab.algebra.spellings import spelled
from optlab.atoms.second_moments import squared


@spelled()
def l2_penalty(params: Any, weight_decay: Scalar, mask: Any = None, origin: Any = None) -> jax.Array:
    """`weight_decay/2 * sum(|w - origin|**2)`, whose gradient is what `add_l2_to_grad` adds.

    Args:
      params: a tree of arrays.
      weight_decay: >= 0.
      mask: where it acts; see `atom`.
      origin: a tree like `params`; None for zero.

    Returns:
      One number, in float32, or wider for wider weights.

    Raises:
      TypeError: `weight_decay` is no number.
      ValueError: it is out of range, a leaf is no array of floating-point or complex numbers, or `origin` is no tree
        like `params`.
    """
    weight_decay = number_without_schedule("l2_penalty", weight_decay)
    ws = jax.tree.leaves(params)
    origins = ws if origin is None else jax.tree.leaves(origin)
    same_tree = origin is None or jax.tree.structure(origin) == jax.tree.structure(params)
    if not same_tree or [*map(jnp.shape, origins)] != [*map(jnp.shape, ws)]:
        raise ValueError(
            "l2_penalty: origin must be a tree of arrays shaped like params, got "
            f"{jax.tree.map(jnp.shape, origin)} for {jax.tree.map(jnp.shape, params)}"
        )
    acts = [True] * len(ws) if mask is None else trees.mask_column("l2_penalty", mask, params)
    total = jnp.zeros((), jnp.float32)
    for (path, w), w0, act in zip(jax.tree_util.tree_leaves_with_path(params), origins, acts, strict=True):
        if not act:
            continue
        try:
            away = rules.widened(w)
        except rules.LeafError as error:
            raise ValueError(f"l2_penalty: params at {keystr(path) or 'the root'}: {error}") from None
        if origin is not None:
            away = away - rules.widened(w0).astype(away.dtype)
        squares = jnp.sum(squared(away))
        total = total.astype(max(total.dtype, squares.dtype, key=lambda dtype: dtype.itemsize))
        total = total + squares.astype(total.dtype)
    return like(weight_decay, total) / 2 * total


def number_without_schedule(owner: str, weight_decay: Any) -> Scalar:
    """A decay as a loss takes it: checked, and no schedule."""
    weight_decay = canonical(weight_decay)
    if callable(weight_decay):
        raise TypeError(
            f"{owner}: weight_decay must be a number, because a loss does not know the step; the site 'gradient' is "
            "the same and takes schedules"
        )
    check(owner, "weight_decay", weight_decay, NON_NEGATIVE)
    return weight_decay
