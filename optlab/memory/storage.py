"""Optimizer state in fewer bytes: decoded before the rule, encoded after it, within the same pass over a leaf."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.algebra import lifting, noise
from optlab.algebra.combinators import require_rule
from optlab.algebra.hyperparameters import check_seed, is_traced
from optlab.algebra.lifting import LeafError, Rule, Slots
from optlab.algebra.transform import Transform, as_read, lifted
from optlab.memory import blocks, kernel
from optlab.memory.codecs import Codec

Named = tuple[tuple[str, Codec], ...]


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
        return _Store(rule, named, min_size, w).init(w)

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return _Store(rule, named, min_size, u).update(u, slots, w, t, seed)

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
    paths, _ = _paths(rule, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    for name, _ in named:
        if name and not any(_fits(name, path) for path in paths):
            there = ", ".join(".".join(path) for path in paths) or "none"
            raise ValueError(f"store: no slot is called {name!r}; the slots are {there}")


def _paths(rule: Rule, w: Any) -> tuple[list[tuple[str, ...]], list[Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(rule.init, w))
    return [tuple(str(getattr(key, "key", key)) for key in path) for path, _ in flat], [slot for _, slot in flat]


def _fits(name: str, path: tuple[str, ...]) -> bool:
    return not name or f".{name}." in f".{'.'.join(path)}."


# One leaf -----------------------------------------------------------------------------------------------------------


class _Kept(NamedTuple):
    """How one slot of a leaf is kept: `applies` is False where its codec, if it has one, leaves it as it is."""

    codec: Codec | None
    applies: bool
    slot: Any
    cut: blocks.Cut

    def encode(self, x: Any, bits: Callable[[], jax.Array]) -> Any:
        if self.codec is None:
            return x
        if not self.applies:
            return _in_first_place(self.codec, x)
        if self.codec.block is None:
            return self.codec.encode(x, bits())
        return jax.tree.map(self.cut.kept, self.codec.encode(self.cut.split(x), self.cut.split(bits())))

    def decode(self, stored: Any) -> Any:
        if self.codec is None or not self.applies:
            (x,) = jax.tree.leaves(stored)
            return x
        if self.codec.block is None:
            return self.codec.decode(stored).astype(self.slot.dtype)
        opened = jax.tree.map(self.cut.opened, stored)
        return self.cut.join(self.codec.decode(opened)).astype(self.slot.dtype)


def _kept(named: Named, min_size: int, like: Any, path: tuple[str, ...], slot: Any) -> _Kept:
    codec = next((codec for name, codec in named if _fits(name, path)), None)
    weights = slot.shape == like.shape and jnp.issubdtype(slot.dtype, jnp.floating)
    applies = codec is not None and weights and math.prod(slot.shape) >= max(1, min_size)
    block = 1 if codec is None or codec.block is None else codec.block
    return _Kept(codec, applies, slot, blocks.cut(slot.shape, block))


def _in_first_place(codec: Codec, x: Any) -> Any:
    """What is not encoded, in a tree as the codec makes it, so that the trees of all leaves are alike."""
    numbers, bits = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.uint32)
    arrays, treedef = jax.tree.flatten(jax.eval_shape(codec.encode, numbers, bits))
    return treedef.unflatten([x, *[optax.MaskedNode()] * (len(arrays) - 1)])


class _Store:
    """A rule with its slots encoded, for leaves of one shape."""

    def __init__(self, rule: Rule, named: Named, min_size: int, like: Any) -> None:
        self.rule = rule
        self.treedef = jax.tree.structure(jax.eval_shape(rule.init, like))
        self.slots = [_kept(named, min_size, like, path, slot) for path, slot in zip(*_paths(rule, like), strict=True)]

    def init(self, w: Any) -> Slots:
        _require_whole_blocks(self.slots, w)
        half = jnp.uint32(1 << 31)  # the nearer neighbour
        kept = [
            _maybe_abstract(lambda x, slot=slot: slot.encode(x, lambda: jnp.full(x.shape, half)), x)
            for slot, x in zip(self.slots, jax.tree.leaves(self.rule.init(w)), strict=True)
        ]
        return self.treedef.unflatten(kept)

    def update(self, u: Any, slots: Slots, w: Any, t: Any, seed: Any) -> tuple[Any, Slots]:
        stored = self.treedef.flatten_up_to(slots)

        def whole(u: Any, stored: Any, w: Any) -> tuple[Any, list[Any]]:
            return self._step(self.slots, u, stored, w, t, seed, noise.positions(u.shape))

        cut = self._cut()
        pieces = None if cut is None else blocks.pieces(cut)
        branches = {}
        if pieces is not None and pieces.count > 1 and jax.eval_shape(whole, u, stored, w)[0].dtype == u.dtype:
            # a CPU writes every intermediate out, and can reuse those of a piece; others fuse the whole
            branches["cpu"] = functools.partial(self._in_pieces, pieces, t, seed)
        in_blocks = functools.partial(self.in_blocks, t, seed)
        if kernel.runs_here() and self.fits_blocks() and kernel.can_be_made(in_blocks, u, stored, w):
            branches["cuda"] = in_blocks
        step = functools.partial(jax.lax.platform_dependent, **branches, default=whole) if branches else whole
        u, stored = step(u, stored, w)
        return u, self.treedef.unflatten(stored)

    def _cut(self) -> blocks.Cut | None:
        """The cut of this leaf, if there is one, and a slice of the leaf can be updated without the others."""
        cuts = {slot.cut for slot in self.slots if slot.applies and slot.codec is not None and slot.codec.block}
        alike = len({slot.slot.shape for slot in self.slots}) == 1
        return cuts.pop() if len(cuts) == 1 and alike and self.rule.elementwise else None

    def fits_blocks(self) -> bool:
        """Whether `in_blocks` can take these leaves: whole blocks, and every array one of numbers or of blocks."""
        cut = self._cut()
        return cut is not None and cut.row % cut.block == 0 and kernel.fits(cut.block)

    def in_blocks(
        self, t: Any, seed: Any, u: Any, stored: Any, w: Any, *, interpret: bool = False
    ) -> tuple[Any, list[Any]]:
        """The same step as one GPU kernel, which keeps a few blocks in registers from decoding to encoding."""
        cut = self._cut()
        assert cut is not None
        count = u.size // cut.width

        def step(number: Any, read: Any, stored: Any) -> tuple[Any, Any]:
            u, w = read
            of_blocks = blocks.Cut(u.shape, 1, cut.block)
            slots = [slot._replace(cut=of_blocks) for slot in self.slots]
            positions = noise.positions(u.shape) + number.astype(jnp.uint32) * jnp.uint32(cut.width)
            return self._step(slots, u, stored, w, t, seed, positions)

        rows = functools.partial(jax.tree.map, lambda x: x.reshape(count, -1))
        done = kernel.over_blocks(step, rows((u, w)), rows(list(stored)), interpret=interpret)
        return jax.tree.map(lambda x, like: x.reshape(like.shape), done, (u, list(stored)))

    def _step(
        self, slots: Sequence[_Kept], u: Any, stored: Sequence[Any], w: Any, t: Any, seed: Any, positions: jax.Array
    ) -> tuple[Any, list[Any]]:
        decoded = self.treedef.unflatten([slot.decode(x) for slot, x in zip(slots, stored, strict=True)])
        u, new = lifting.applied(self.rule, u, decoded, w, t)
        return u, [
            slot.encode(x, functools.partial(noise.bits_at, positions, seed, t, number))
            for number, (slot, x) in enumerate(zip(slots, jax.tree.leaves(new), strict=True))
        ]

    def _in_pieces(
        self, pieces: blocks.Pieces, t: Any, seed: Any, u: Any, stored: Sequence[Any], w: Any
    ) -> tuple[Any, list[Any]]:
        """The same step, in place, one piece of the leaf after the other."""
        weights, updated = jax.tree.map(pieces.view, w), jax.tree.map(pieces.view, (u, list(stored)))

        def move(piece: blocks.Piece, updated: Any) -> Any:
            slots = [slot._replace(cut=piece.cut) for slot in self.slots]

            def step(w: Any, taken: Any) -> Any:
                u, stored = taken
                return self._step(slots, u, stored, w, t, seed, pieces.positions(piece))

            w, taken = jax.tree.map(lambda x: pieces.take(x, piece), (weights, updated))
            # Always taken, but XLA fuses nothing across it; else it reads slots once more after they were written, and
            # copies the whole leaf to do so.
            new = jax.lax.cond(t > 0, step, lambda w, taken: taken, w, taken)
            return jax.tree.map(lambda x, part: pieces.put(x, part, piece), updated, new)

        done = jax.lax.fori_loop(0, pieces.count, lambda number, updated: move(pieces.piece(number), updated), updated)
        if (rest := pieces.rest()) is not None:
            done = move(rest, done)
        return jax.tree.map(lambda x, like: x.reshape(like.shape), done, (u, list(stored)))


def _maybe_abstract(encode: Callable[[Any], Any], x: Any) -> Any:
    return jax.eval_shape(encode, x) if isinstance(x, jax.ShapeDtypeStruct) else encode(x)


def _is_local(sharding: Any) -> bool:
    """Whether a leaf is one shard already, as inside `shard_map`."""
    mesh = getattr(sharding, "mesh", None)
    return mesh is not None and jax.sharding.AxisType.Manual in mesh.axis_types


def _require_whole_blocks(slots: Sequence[_Kept], w: Any) -> None:
    """Refuses blocks that would lie across two shards, as far as the sharding of the weights is known."""
    cut = [slot for slot in slots if slot.applies and slot.codec is not None and slot.codec.block]
    sharding = jax.typeof(w).sharding if is_traced(w) else getattr(w, "sharding", None)
    if not cut or sharding is None or _is_local(sharding):
        return
    shard = sharding.shard_shape(w.shape)
    for slot in cut:
        if slot.codec is not None and blocks.straddles(slot.cut, shard):
            raise LeafError(
                f"blocks of {slot.codec.block} numbers along the last axes of {list(w.shape)} would lie across its "
                f"shards of {list(shard)}; give the codec a block that divides the rows of a shard, as in "
                "codecs.Int8(block=64)"
            )
