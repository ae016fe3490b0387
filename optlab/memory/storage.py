"""Optimizer state in fewer bytes: decoded before the rule, encoded after it, within the same pass over a leaf."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra import trees
from optlab.algebra.combinators import chain, require_rule, require_transform
from optlab.algebra.hyperparameters import check_seed, check_whole
from optlab.algebra.rules import Rule, Slots
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, as_read, describe, lifted
from optlab.memory import codecs, steps
from optlab.memory.codecs import Codec
from optlab.memory.slots import Named, fits, leaf_like, paths


@spelled()
def store(
    tx: optax.GradientTransformation,
    codec: Codec | str | Mapping[str, Codec | str] | tuple[tuple[str, Codec | str], ...],
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
        `"int8"` stands for `codecs.int8`, and so do `"bfloat16"` and `"float8"` for theirs.
      min_size: leaves of fewer numbers stay as they are, and so do complex slots and those not shaped like the weights.
      seed: from 0 to 2**32 - 1. Stochastic rounding draws from it, the step, the leaf and the place in the leaf alone,
        so that a run repeats, and goes on from a checkpoint, bit for bit. Give parts that optax combines a seed each,
        or they draw the same; so do the shards of a leaf inside `shard_map`, where each counts its own places.

    Blocks are runs of `codec.block` numbers along as few last axes as whole blocks fill, or along the last axis where
    none do, with a shorter one at its end. So `int8` takes 1 + 4/256 bytes for a number, and 1 + 4/c in a leaf whose
    last axis has c < 256 numbers and whose size is no multiple of 256: above 1.05 if c < 80.

    A state that is sharded after `init`, like its weights or otherwise, takes the same steps; where shards cut blocks,
    numbers are sent around at each. `optax.tree.map_params` maps the codes with the weights, and hands the tree of what
    blocks share, such as scales, to `transform_non_params`.

    Raises:
      TypeError: `tx` is not made of rules, as where optax's clipping stands in it; something is no codec.
      ValueError: a name is that of no slot; a part is stored already; at `init`, a block would lie across two shards,
        as far as the sharding is known there, which it is not inside `jit` unless the mesh's axes are explicit.

    `explain` and `compare` see through it, as through all rounding, and read the recurrence of `tx`.
    """
    rule = _rule_of(tx)
    if as_read(tx) is not tx:
        raise ValueError(f"store: a part of it is stored already, give each slot its codec by name instead, got {tx!r}")
    named, codec = _named(codec)
    check_seed("store", seed)
    min_size = check_whole("store", "min_size", min_size, 0)
    _require_slots(rule, named)

    def init(w: Any) -> Slots:
        return leaf_like(rule, named, min_size, w).init(w)

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return steps.update(leaf_like(rule, named, min_size, u), u, slots, w, t, seed)

    mixes = any(codec.block is not None for _, codec in named)
    around = Rule(update, init, elementwise=rule.elementwise and not mixes, needs_params=rule.needs_params)
    hyperparams = {"codec": codec, "min_size": min_size, "seed": seed}
    return lifted(store, around, hyperparams=hyperparams, parts=(tx,), reads_as=tx)


# What was asked for -------------------------------------------------------------------------------------------------


def _rule_of(tx: Any) -> Rule:
    """The rule of a transform; where there is none, the error says which link has none, and where to put it."""
    if isinstance(tx, optax.MultiSteps):
        raise TypeError(
            "store: the transform is a MultiSteps: put store inside of it, MultiSteps(store(tx, codec), ...)"
        )
    require_transform("store: the transform", tx)
    if isinstance(tx, Transform) and tx.maker is chain:
        for number, link in enumerate(tx.parts, start=1):
            if not isinstance(link, Transform) or link.rule is None:
                said = describe(link)
                outside = f"{said}, store(...)" if number == 1 else f"store(...), {said}"
                if 1 < number < len(tx.parts):
                    outside += ", store(...)"
                raise TypeError(
                    f"store: {said} (link {number} of {len(tx.parts)} in chain) is not made of rules: put it outside, "
                    f"chain({outside})"
                )
    if not isinstance(tx, Transform):
        raise TypeError(
            f"store: the transform must be made of rules, as optlab's own links are, got {describe(tx)}; if it holds "
            "links of optlab, put store inside of it, around them"
        )
    return require_rule("store: the transform", tx)


def _named(codec: Any) -> tuple[Named, Any]:
    """Codecs by name, the name "" being that of every slot; and `codec` as it is told apart from others."""
    if not isinstance(codec, Mapping | tuple):
        codec = _codec("the codec", codec)
        return (("", codec),), codec
    items = tuple(codec.items()) if isinstance(codec, Mapping) else codec
    if not items or not all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in items):
        raise TypeError(f"store: codec must be a codec, or a mapping from names of slots to codecs, got {codec!r}")
    named = tuple((name, _codec(f"the codec of {name!r}", one)) for name, one in items)
    return named, named


def _codec(what: str, codec: Any) -> Codec:
    """The codec that is meant, by its name or itself."""
    if isinstance(codec, str) and codec in codecs.BY_NAME:
        return codecs.BY_NAME[codec]
    names = ", ".join(f'"{name}"' for name in codecs.BY_NAME)
    if isinstance(codec, type) and hasattr(codec, "encode"):
        raise TypeError(f"store: {what} is the class {codec.__name__}: call it, {codec.__name__}()")
    if isinstance(codec, type) or not isinstance(codec, Codec):
        raise TypeError(
            f"store: {what} must have block, encode, decode and error_bound, as those of optlab.codecs do, or be one "
            f"of {names}, got {codec!r}"
        )
    if codec.block is not None:
        check_whole("store", f"the block of {what}", codec.block, 1)
    try:
        hash(codec)
    except TypeError:
        raise TypeError(f"store: {what} must hash by value, as a frozen dataclass does, got {codec!r}") from None
    _require_arrays(what, codec)
    return codec


def _require_arrays(what: str, codec: Codec) -> None:
    """Refuses a codec that makes something else of an array than `Codec` says."""
    shape, stored, decoded = _made_by(codec)
    if not stored or any(len(array.shape) != len(shape) or array.shape[:-1] != shape[:-1] for array in stored):
        kinds = ", ".join(map(trees.said, stored)) or "nothing"
        raise TypeError(f"store: {what} must encode {list(shape)} as arrays of {shape[0]} rows, got {kinds}: {codec!r}")
    if getattr(decoded, "shape", None) != shape or not jnp.issubdtype(decoded.dtype, jnp.floating):
        raise TypeError(
            f"store: {what} must decode to floating-point numbers shaped as they were, {list(shape)}, got "
            f"{trees.said(decoded)}: {codec!r}"
        )


@functools.lru_cache(maxsize=256)
def _made_by(codec: Codec) -> tuple[tuple[int, ...], list[Any], Any]:
    """A shape, the types of the arrays that a codec makes of it, and what it makes of these again."""
    shape = (2, codec.block or 3)
    x, bits = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, jnp.uint32))
    stored = jax.eval_shape(codec.encode, x, bits)
    arrays = jax.tree.leaves(stored)
    return shape, arrays, jax.eval_shape(codec.decode, stored) if arrays else None


def _require_slots(rule: Rule, named: Named) -> None:
    there = [path for path, _ in paths(rule, jax.ShapeDtypeStruct((2, 3), jnp.float32))]
    for name, _ in named:
        if name and not any(fits(name, path) for path in there):
            slots = ", ".join(map(".".join, there)) or "none"
            raise ValueError(f"store: no slot is called {name!r}; the slots are {slots}")
