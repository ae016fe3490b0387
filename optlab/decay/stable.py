"""Stable weight decay, whose strength follows the second moment of all parameters together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.algebra import rules
from optlab.algebra.combinators import require_transform
from optlab.algebra.hyperparameters import Scalar, checked, like
from optlab.algebra.transform import Transform, rebuild, require_params
from optlab.atoms.products import Product
from optlab.atoms.second_moments import square_root


class StableDecayState(NamedTuple):
    """State of `divide_and_decay_stably`: the states of its three parts."""

    numerator: Any
    second_moment: Any
    following: Any


@checked
def divide_and_decay_stably(
    numerator: optax.GradientTransformation,
    second_moment: optax.GradientTransformation,
    following: optax.GradientTransformation,
    eps: Scalar,
    eps_root: Scalar = 0.0,
) -> Transform:
    """`u -> following(n / (sqrt(v + eps_root) + eps))`, decay divided by `sqrt(mean(v) + eps_root) + eps`.

    Here `n = numerator(u)`, `v = second_moment(u)`, and the mean runs over every weight of the tree. What is divided
    is each `weight_decay` in `following`, which is a part and no link of its own, because the decay has to see the
    second moment, which no link hands on.

    Args:
      numerator, second_moment: transforms, both fed `u`; the latter gives real, non-negative numbers.
      following: what comes behind the quotient up to the decay, such as `add_decayed_weights(wd)`.
      eps: >= 0, in the unit of `u`.
      eps_root: >= 0, in the unit of `v`.

    Raises:
      ValueError: at update, without params.

    Source: Xie et al. 2023, Algorithm 3 (AdamS). Differs in: `eps` under the decay too, so that a first step without
    any gradient leaves the weights finite.
    """
    parts = (numerator, second_moment, following)
    for side, part in zip(StableDecayState._fields, parts, strict=True):
        require_transform(f"divide_and_decay_stably: the {side}", part)

    def init(params: Any) -> StableDecayState:
        behind = jax.tree.map(rules.widened, params)
        return StableDecayState(numerator.init(params), second_moment.init(params), following.init(behind))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, StableDecayState]:
        require_params(tx, params)
        if not isinstance(state, StableDecayState):
            raise ValueError(f"{tx.name}: state must be what its init returned, got {type(state).__name__}")
        dividend, above = _with_extra(numerator).update(updates, state.numerator, params, **extra_args)
        v, below = _with_extra(second_moment).update(updates, state.second_moment, params, **extra_args)
        quotient = jax.tree.map(lambda n, v: n / size(v).astype(n.dtype), dividend, v)
        decaying = _with_extra(_divided(following, size(_mean(v))))
        updates, behind = decaying.update(quotient, state.following, params, **extra_args)
        return updates, StableDecayState(above, below, behind)

    def size(v: jax.Array) -> jax.Array:
        return square_root(v + like(eps_root, v)) + like(eps, v)

    hyperparams = {"eps": eps, "eps_root": eps_root}
    tx = Transform(init, update, maker=divide_and_decay_stably, hyperparams=hyperparams, parts=parts)
    return tx


_with_extra = optax.with_extra_args_support


def _divided(tx: optax.GradientTransformation, typical: jax.Array) -> optax.GradientTransformation:
    """`tx` with every `weight_decay` in it divided by `typical`."""
    if not isinstance(tx, Transform):
        return tx
    hyperparams = dict(tx.hyperparams)
    if "weight_decay" in hyperparams:  # no `product`: what is not finite passes through, unchecked
        hyperparams["weight_decay"] = Product((hyperparams["weight_decay"], 1 / typical))
    return rebuild(tx.maker, [_divided(part, typical) for part in tx.parts], hyperparams)


def _mean(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))
    total = sum((jnp.sum(leaf, dtype=dtype) for leaf in leaves), start=jnp.zeros((), dtype))
    return total / max(sum(leaf.size for leaf in leaves), 1)
