"""Rounding to fewer bits by chance, and the application of updates to weights in bfloat16."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optlab.algebra import noise, placing, trees
from optlab.algebra.hyperparameters import check_choice
from optlab.algebra.rules import LeafError, wide
from optlab.algebra.spellings import spelled
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


@spelled()
def apply_updates(params: Any, updates: Any, *, rounding: str = "nearest", key: jax.Array | None = None) -> Any:
    """`w <- w + u`, added in the wider of both dtypes, in the dtype of `w`.

    Args:
      params, updates: trees of one structure; where `params` is None, so is the result.
      rounding: how bfloat16 weights are rounded. "nearest" loses every step below 2**-9 of the weight; "stochastic"
        gives one of the two neighbours, `w + u` on average. Wider weights are rounded to nearest either way.
      key: for "stochastic", a `jax.random.key`, another one at each step: `jax.random.fold_in(key, step)`.

    Raises:
      ValueError: an unknown rounding; "stochastic" without a key or for float16 weights, "nearest" with one; a leaf of
        updates that is shaped otherwise than its weights; weights that are integers.
      TypeError: `key` is no key.

    `optax.apply_updates` rounds to nearest, after an addition in the promoted dtype.
    """
    check_choice("apply_updates", "rounding", rounding, ROUNDINGS)
    if rounding == "stochastic" and key is None:
        raise ValueError(
            "apply_updates: stochastic rounding needs a key, another one at each step: key=fold_in(key, step)"
        )
    if rounding == "nearest" and key is not None:
        raise ValueError('apply_updates: a key is for rounding="stochastic"; rounding to nearest draws nothing')
    words = _words(key) if key is not None else ()
    move = functools.partial(_moved, rounding, words)
    return _over_leaves("apply_updates", move, params, updates)


def _words(key: Any) -> jax.Array:
    try:
        return jax.random.bits(key, (2,))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"apply_updates: key must be one jax.random.key, another one at each step, got {trees.said(key)}"
        ) from error


def _over_leaves(owner: str, step: Callable[..., Any], params: Any, *others: Any) -> Any:
    """The tree of `step(number, w, *others)`, and of None where `params` are; errors say where."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda w: w is None)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in others]
    except (ValueError, TypeError):
        for tree in others:
            trees.matching_leaves(owner, tree, "params", params)
        raise
    done: list[Any] = []
    try:
        for number, ((_, w), *leaf) in enumerate(zip(flat, *columns, strict=True)):
            done.append(None if w is None else step(number, *map(_array, (w, *leaf))))
    except LeafError as error:
        path = jax.tree_util.keystr(flat[len(done)][0]) or "the root"
        raise ValueError(f"{owner}: at {path}: {error}") from None
    return treedef.unflatten(done)


def _array(x: Any) -> jax.Array:
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise LeafError(f"expected an array, got {x!r}") from None


def _require_alike(w: jax.Array, u: jax.Array) -> None:
    if u.shape != w.shape:
        raise LeafError(f"updates have shape {u.shape}, params {w.shape}")
    if jnp.iscomplexobj(u) and not jnp.iscomplexobj(w):
        raise LeafError(f"updates are complex ({u.dtype}), params are real ({w.dtype})")


def _moved(rounding: str, words: Any, number: int, w: jax.Array, u: jax.Array) -> jax.Array:
    _require_alike(w, u)
    total = _sum(w, u)
    if rounding == "nearest" or jnp.finfo(w.dtype).bits >= 32:
        return total.astype(w.dtype)
    if w.dtype != jnp.bfloat16:
        raise LeafError(f"stochastic rounding is there for bfloat16 weights, got {w.dtype}")
    return to_bfloat16(total, noise.bits_at(noise.positions(w.shape), words[0], words[1], number))


def _sum(w: jax.Array, u: jax.Array) -> jax.Array:
    """In the wider dtype of both, lying as `w` does."""
    dtype = np.promote_types(wide(w.dtype), wide(u.dtype))
    return w.astype(dtype) + placing.placed_like(u.astype(dtype), w)


class KahanState(NamedTuple):
    """State of `kahan`: what rounding took from each weight so far, bfloat16; zero for wider weights."""

    error: Any


@spelled()
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
        pairs = _over_leaves("kahan", _compensated, params, updates, state.error)
        treedef = jax.tree.structure(params)
        u, error = ([pair[side] for pair in treedef.flatten_up_to(pairs)] for side in (0, 1))
        return treedef.unflatten(u), KahanState(treedef.unflatten(error))

    return Transform(init, update, maker=kahan)


def _compensated(number: int, w: jax.Array, u: jax.Array, error: jax.Array) -> tuple[jax.Array, jax.Array]:
    del number
    _require_alike(w, u)
    if error.shape != w.shape:
        raise LeafError(f"the state's error has shape {error.shape}, params {w.shape}; call init(params) anew")
    if wide(w.dtype) == w.dtype:
        return u.astype(np.promote_types(wide(u.dtype), w.dtype)), error
    s = placing.placed_like(_sum(error, u), w)
    at_w = w.astype(s.dtype)
    moved = (at_w + s).astype(w.dtype).astype(s.dtype) - at_w
    return placing.placed_like(moved, u), placing.placed_like((s - moved).astype(error.dtype), error)
