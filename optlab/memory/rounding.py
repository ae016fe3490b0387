"""Rounding to fewer bits by chance, and the application of updates to weights in bfloat16."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optlab.algebra import noise, placing
from optlab.algebra.hyperparameters import check_choice
from optlab.algebra.lifting import wide
from optlab.algebra.transform import Transform

ROUNDINGS = ("nearest", "stochastic")


def to_bfloat16(x: jax.Array, bits: jax.Array) -> jax.Array:
    """`x` as one of the two bfloat16 numbers around it, the nearer the likelier, so that the mean is `x`.

    Args:
      x: real; NaN and infinity stay.
      bits: random, uint32, shaped like `x`.
    """
    x = x.astype(jnp.float32)
    word = jax.lax.bitcast_convert_type(x, jnp.uint32)
    rounded = (word + (bits >> 16)) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(rounded, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def float_steps(x: jax.Array, dtype: Any) -> jax.Array:
    """How far the numbers of a smaller float `dtype` are apart around `x`, finite float32."""
    info = jnp.finfo(dtype)
    exponent = (jax.lax.bitcast_convert_type(x, jnp.uint32) >> 23).astype(jnp.int32) & 0xFF
    exponent = jnp.maximum(exponent, info.minexp + 127) - info.nmant
    return jax.lax.bitcast_convert_type(exponent << 23, jnp.float32)


def apply_updates(params: Any, updates: Any, *, rounding: str = "nearest", key: jax.Array | None = None) -> Any:
    """`w <- w + u`, added in the wider of both dtypes, in the dtype of `w`.

    Args:
      params, updates: trees of one structure; where `params` is None, so is the result.
      rounding: how bfloat16 weights are rounded. "nearest" loses every step below 2**-9 of the weight; "stochastic"
        gives one of the two neighbours, `w + u` on average. Wider weights are rounded to nearest either way.
      key: for "stochastic", a `jax.random.key`, another one at each step: `jax.random.fold_in(key, step)`.

    Raises:
      ValueError: an unknown rounding; "stochastic" without a key or for float16 weights, "nearest" with one.

    `optax.apply_updates` rounds to nearest, after an addition in the promoted dtype.
    """
    check_choice("apply_updates", "rounding", rounding, ROUNDINGS)
    if rounding == "stochastic" and key is None:
        raise ValueError(
            "apply_updates: stochastic rounding needs a key, another one at each step: key=fold_in(key, step)"
        )
    if rounding == "nearest" and key is not None:
        raise ValueError('apply_updates: a key is for rounding="stochastic"; rounding to nearest draws nothing')
    words = jax.random.bits(key, (2,)) if key is not None else ()
    leaves, treedef = jax.tree.flatten(params, is_leaf=lambda w: w is None)
    moved = [
        None if w is None else _moved(rounding, words, number, jnp.asarray(w), u)
        for number, (w, u) in enumerate(zip(leaves, treedef.flatten_up_to(updates), strict=True))
    ]
    return treedef.unflatten(moved)


def _moved(rounding: str, words: Any, number: int, w: jax.Array, u: Any) -> jax.Array:
    total = _sum(w, u)
    if rounding == "nearest" or jnp.finfo(w.dtype).bits >= 32:
        return total.astype(w.dtype)
    if w.dtype != jnp.bfloat16:
        raise ValueError(f"apply_updates: stochastic rounding is there for bfloat16 weights, got {w.dtype}")
    return to_bfloat16(total, noise.bits_at(noise.positions(w.shape), words[0], words[1], number))


def _sum(w: jax.Array, u: Any) -> jax.Array:
    """In the wider dtype of both, lying as `w` does."""
    dtype = np.promote_types(wide(w.dtype), wide(u.dtype)) if hasattr(u, "dtype") else wide(w.dtype)
    return w.astype(dtype) + placing.placed_like(jnp.asarray(u).astype(dtype), w)


class KahanState(NamedTuple):
    """State of `kahan`: what rounding took from each weight so far, bfloat16; zero for wider weights."""

    error: Any


def kahan() -> Transform:
    """`s = u + e;  u -> round(w + s) - w;  e <- s - u`: steps that rounding loses are kept until they count.

    The last link of a chain, for weights in bfloat16 or float16; wider weights pass. `error` takes two bytes for every
    weight, for wider ones too, since inside a chain `init` is given all weights as float32. It is bfloat16 itself, in
    which steps below 2**-18 of the weight add up to nothing.

    Raises:
      ValueError: at update, without params.

    Source: Kahan 1965; for weights in bfloat16 Zamirai et al. 2020, "Revisiting BFloat16 Training", Algorithm 2.
    """

    def init(params: Any) -> KahanState:
        return KahanState(
            jax.tree.map(lambda w: placing.where_it_lies(w, jnp.zeros_like(w, dtype=jnp.bfloat16)), params)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, KahanState]:
        if params is None:
            raise ValueError("kahan needs params: call update(updates, state, params)")
        if not isinstance(state, KahanState):
            raise ValueError(f"kahan: state must be what its init returned, got {type(state).__name__}")
        leaves, treedef = jax.tree.flatten(params)
        us, errors = treedef.flatten_up_to(updates), treedef.flatten_up_to(state.error)
        pairs = [_compensated(*leaf) for leaf in zip(leaves, us, errors, strict=True)]
        return treedef.unflatten([u for u, _ in pairs]), KahanState(treedef.unflatten([e for _, e in pairs]))

    return Transform(init, update, maker=kahan)


def _compensated(w: Any, u: Any, error: jax.Array) -> tuple[jax.Array, jax.Array]:
    w, u = jnp.asarray(w), jnp.asarray(u)
    if wide(w.dtype) == w.dtype:
        return u.astype(np.promote_types(wide(u.dtype), w.dtype)), error
    s = placing.placed_like(_sum(error, u), w)
    at_w = w.astype(s.dtype)
    moved = (at_w + s).astype(w.dtype).astype(s.dtype) - at_w
    return placing.placed_like(moved, u), placing.placed_like((s - moved).astype(error.dtype), error)
