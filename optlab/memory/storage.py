"""Optimizer state in fewer bytes: decoded before the rule, encoded after it, within the same pass over a leaf."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.combinators import require_rule
from optlab.algebra.hyperparameters import check_seed
from optlab.algebra.lifting import Rule, Slots
from optlab.algebra.transform import Transform, as_read, lifted
from optlab.memory import steps
from optlab.memory.codecs import Codec
from optlab.memory.slots import Named, fits, leaf_like, paths


def store(
    tx: optax.GradientTransformation,
    codec: Codec | Mapping[str, Codec] | Named,
    *,
    min_size: int = 4096,
    seed: int = 0,
) -> Transform:
    """`u, slots -> tx(u, decode(slots))`, the new slots encoded again: `tx` with a smaller state.

        tx = store(adamw(1e-3, weight_decay=0.1), codecs.int8)  # 2.03 bytes of state per parameter instead of 8
        tx = store(adamw(1e-3, weight_decay=0.1), {"numerator": codecs.bfloat16, "denominator": codecs.int8})

    First and second moments may have one codec: `codecs.int8` sees which numbers are never negative. The arrays of a
    codec stand in the state where the slot stood, as `.slots['numerator']['ema']['code']['dense']['kernel']`.

    Args:
      tx: made of rules, an optimizer or a part of one. Around the whole is best: a leaf is then decoded, updated and
        encoded in one pass, on CPUs piece by piece.
      codec: one for every slot, or a mapping from names to codecs, of which the first that fits is taken. A name is
        that of a slot or of what it stands in, such as `"ema"` or `"denominator.ema"`; other slots stay as they are.
      min_size: leaves of fewer numbers stay as they are, and so do complex slots and those not shaped like the weights.
      seed: from 0 to 2**32 - 1. Stochastic rounding draws from it, the step, the leaf and the place in the leaf alone,
        so that a run repeats, and goes on from a checkpoint, bit for bit. Give parts that optax combines a seed each,
        or they draw the same; so do the shards of a leaf inside `shard_map`, where each counts its own places.

    Blocks are runs of `codec.block` numbers along as few last axes as whole blocks fill, or along the last axis where
    none do, with a shorter one at its end. So `int8` takes 1 + 4/256 bytes for a number, and 1 + 4/c in a leaf whose
    last axis has c < 256 numbers and whose size is no multiple of 256: above 1.05 if c < 80.

    Raises:
      TypeError: `tx` is not made of rules; something is no codec.
      ValueError: a name is that of no slot; a part is stored already; at `init`, a block would lie across two shards,
        as far as the sharding is known there, which it is not inside `jit` unless the mesh's axes are explicit.

    `explain` and `compare` see through it, as through all rounding, and read the recurrence of `tx`.
    """
    rule = require_rule("store: the transform", tx)
    if as_read(tx) is not tx:
        raise ValueError(f"store: a part of it is stored already, give each slot its codec by name instead, got {tx!r}")
    named = _named(codec)
    check_seed("store", seed)
    if not isinstance(min_size, int) or isinstance(min_size, bool) or min_size < 0:
        raise ValueError(f"store: min_size must be a whole number >= 0, got {min_size!r}")
    _require_slots(rule, named)

    def init(w: Any) -> Slots:
        return leaf_like(rule, named, min_size, w).init(w)

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return steps.update(leaf_like(rule, named, min_size, u), u, slots, w, t, seed)

    mixes = any(codec.block is not None for _, codec in named)
    around = Rule(update, init, elementwise=rule.elementwise and not mixes, needs_params=rule.needs_params)
    hyperparams = {"codec": _hashable(codec), "min_size": min_size, "seed": seed}
    return lifted(store, around, hyperparams=hyperparams, parts=(tx,), reads_as=tx)


# What was asked for -------------------------------------------------------------------------------------------------


def _hashable(codec: Any) -> Any:
    return tuple(codec.items()) if isinstance(codec, Mapping) else codec


def _named(codec: Any) -> Named:
    """Codecs by name; the name "" is that of every slot."""
    if isinstance(codec, Codec) and not isinstance(codec, type):
        _require_codec("the codec", codec)
        return (("", codec),)
    items = _hashable(codec)
    if not isinstance(items, tuple) or not all(isinstance(item, tuple) and len(item) == 2 for item in items):
        raise TypeError(f"store: codec must be a codec, or a mapping from names of slots to codecs, got {codec!r}")
    for name, one in items:
        _require_codec(f"the codec of {name!r}", one)
    return items


def _require_codec(what: str, codec: Any) -> None:
    if not isinstance(codec, Codec) or isinstance(codec, type):
        raise TypeError(f"store: {what} must have block, encode, decode and error_bound, got {codec!r}")
    try:
        hash(codec)
    except TypeError:
        raise TypeError(f"store: {what} must hash by value, as a frozen dataclass does, got {codec!r}") from None


def _require_slots(rule: Rule, named: Named) -> None:
    there = [path for path, _ in paths(rule, jax.ShapeDtypeStruct((2, 3), jnp.float32))]
    for name, _ in named:
        if name and not any(fits(name, path) for path in there):
            slots = ", ".join(map(".".join, there)) or "none"
            raise ValueError(f"store: no slot is called {name!r}; the slots are {slots}")
