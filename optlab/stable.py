"""Stable weight decay, whose strength follows the second moment of all parameters together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optlab import lifting
from optlab.algebra import require_transform
from optlab.hyperparameters import Scalar, ScalarOrSchedule, at_step, checked, like
from optlab.transform import Transform


class StableDecayState(NamedTuple):
    """State of `divide_and_decay_stably`: steps taken (int32 scalar), and the states of its two parts."""

    count: jax.Array
    numerator: Any
    second_moment: Any


@checked
def divide_and_decay_stably(
    numerator: Transform, second_moment: Transform, eps: Scalar, weight_decay: ScalarOrSchedule, mask: Any = None
) -> Transform:
    """`u -> n / (sqrt(v) + eps) + weight_decay*w / (sqrt(mean(v)) + eps)`: a quotient, and decay relative to its size.

    Here `n = numerator(u)`, `v = second_moment(u)`, and the mean runs over every weight of the tree. One combinator
    and no link of its own, because the decay has to see the second moment, which no link hands on.

    Args:
      numerator, second_moment: transforms, both fed `u`; the latter gives real, non-negative numbers.
      eps: >= 0, in the unit of `u`.
      weight_decay: >= 0, multiplied by the learning rate that follows; a number or a schedule.
      mask: where the decay acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: Xie et al. 2023, Algorithm 3 (AdamS). Differs in: `eps` under the decay too, so that a first step without
    any gradient leaves the weights finite.
    """
    for side, part in (("numerator", numerator), ("second_moment", second_moment)):
        require_transform(f"divide_and_decay_stably: the {side}", part)

    def init(params: Any) -> StableDecayState:
        return StableDecayState(jnp.zeros((), jnp.int32), numerator.init(params), second_moment.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, StableDecayState]:
        if params is None:
            raise ValueError("divide_and_decay_stably needs params: call update(updates, state, params)")
        if not isinstance(state, StableDecayState):
            raise ValueError(f"{tx.name}: state must be what its init returned, got {type(state).__name__}")
        dividend, above = numerator.update(updates, state.numerator, params, **extra_args)
        v, below = second_moment.update(updates, state.second_moment, params, **extra_args)
        typical = jnp.sqrt(_mean(v))
        t = lifting.next_step(tx.name, state.count)
        treedef = jax.tree.structure(v)
        acts = treedef.unflatten(
            [True] * treedef.num_leaves if mask is None else lifting.mask_column(tx.name, mask, params)
        )

        def leaf(n: jax.Array, v: jax.Array, w: Any, act: bool) -> jax.Array:
            u = n / (jnp.sqrt(v) + like(eps, v)).astype(n.dtype)
            strength = like(like(at_step(tx.name, weight_decay, t), typical) / (typical + like(eps, typical)), n)
            return u + strength * jnp.asarray(w).astype(n.dtype) if act else u

        return jax.tree.map(leaf, dividend, v, params, acts), StableDecayState(t, above, below)

    hyperparams = {"eps": eps, "weight_decay": weight_decay, "mask": mask}
    tx = Transform(
        init, update, maker=divide_and_decay_stably, hyperparams=hyperparams, parts=(numerator, second_moment)
    )
    return tx


def _mean(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))
    total = sum((jnp.sum(leaf, dtype=dtype) for leaf in leaves), start=jnp.zeros((), dtype))
    return total / max(sum(leaf.size for leaf in leaves), 1)
