"""What the slots of a leaf are kept as: themselves, or what a codec makes of them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.algebra import placing
from optlab.algebra.hyperparameters import is_traced
from optlab.algebra.rules import LeafError, Rule, Slots
from optlab.memory import blocks
from optlab.memory.codecs import Codec

Named = tuple[tuple[str, Codec], ...]


class Kept(NamedTuple):
    """How one slot is kept: `applies` is False where its codec, if it has one, leaves it as it is.

    `slot` is the type of what is kept, `cut` how it lies in blocks; a part of a leaf is cut otherwise than the leaf.
    """

    codec: Codec | None
    applies: bool
    slot: Any
    cut: blocks.Cut

    @property
    def in_blocks(self) -> bool:
        """Whether its numbers share something with their neighbours."""
        return self.applies and self.codec is not None and self.codec.block is not None

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


def paths(rule: Rule, w: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The names in which each slot of a rule stands, and its type for weights like `w`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(rule.init, w))
    return [(tuple(str(getattr(key, "key", key)) for key in path), slot) for path, slot in flat]


def fits(name: str, path: tuple[str, ...]) -> bool:
    """Whether a slot at `path` is meant by a name such as `ema` or `denominator.ema`; "" means every slot."""
    return not name or f".{name}." in f".{'.'.join(path)}."


# The slots of a leaf ------------------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """A rule on leaves of one shape, and how each of its slots is kept; `treedef` is that of the rule's own slots."""

    rule: Rule
    treedef: Any
    slots: Sequence[Kept]

    def init(self, w: Any) -> Slots:
        """The slots that the rule begins with, encoded to nearest."""
        _require_whole_blocks(self.slots, w)
        half = jnp.uint32(1 << 31)  # the nearer neighbour
        slots = placing.where_it_lies(w, self.rule.init(w))
        kept = [
            _maybe_abstract(lambda x, slot=slot: slot.encode(x, lambda: jnp.full(x.shape, half)), x)
            for slot, x in zip(self.slots, jax.tree.leaves(slots), strict=True)
        ]
        return self.treedef.unflatten(kept)

    def cut(self) -> blocks.Cut | None:
        """The cut of this leaf, if there is one, and a slice of the leaf can be updated without the others."""
        cuts = {slot.cut for slot in self.slots if slot.in_blocks}
        alike = len({slot.slot.shape for slot in self.slots}) == 1
        return cuts.pop() if len(cuts) == 1 and alike and self.rule.elementwise else None


def leaf_like(rule: Rule, named: Named, min_size: int, like: Any) -> Leaf:
    """How `rule` keeps its slots for leaves like `like`."""
    treedef = jax.tree.structure(jax.eval_shape(rule.init, like))
    return Leaf(rule, treedef, [_kept(named, min_size, like, path, slot) for path, slot in paths(rule, like)])


def _kept(named: Named, min_size: int, like: Any, path: tuple[str, ...], slot: Any) -> Kept:
    codec = next((codec for name, codec in named if fits(name, path)), None)
    weights = slot.shape == like.shape and jnp.issubdtype(slot.dtype, jnp.floating)
    applies = codec is not None and weights and math.prod(slot.shape) >= max(1, min_size)
    block = 1 if codec is None or codec.block is None else codec.block
    return Kept(codec, applies, slot, blocks.cut(slot.shape, block))


def _in_first_place(codec: Codec, x: Any) -> Any:
    """What is not encoded, in a tree as the codec makes it, so that the trees of all leaves are alike."""
    numbers, bits = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.uint32)
    arrays, treedef = jax.tree.flatten(jax.eval_shape(codec.encode, numbers, bits))
    return treedef.unflatten([x, *[optax.MaskedNode()] * (len(arrays) - 1)])


def _maybe_abstract(encode: Callable[[Any], Any], x: Any) -> Any:
    return jax.eval_shape(encode, x) if isinstance(x, jax.ShapeDtypeStruct) else encode(x)


def _is_local(sharding: Any) -> bool:
    """Whether a leaf is one shard already, as inside `shard_map`."""
    mesh = getattr(sharding, "mesh", None)
    return mesh is not None and jax.sharding.AxisType.Manual in mesh.axis_types


def _require_whole_blocks(slots: Sequence[Kept], w: Any) -> None:
    """Refuses blocks that would lie across two shards, as far as the sharding of the weights is known."""
    cut = [slot for slot in slots if slot.in_blocks]
    sharding = jax.typeof(w).sharding if is_traced(w) else getattr(w, "sharding", None)
    if not cut or sharding is None or _is_local(sharding):
        return
    shard = sharding.shard_shape(w.shape)
    for slot in cut:
        if blocks.straddles(slot.cut, shard):
            raise LeafError(
                f"blocks of {slot.cut.block} numbers along the last axes of {list(w.shape)} would lie across its "
                f"shards of {list(shard)}; {_remedy(slot, shard)}"
            )


def _remedy(slot: Kept, shard: tuple[int, ...]) -> str:
    """What to do about blocks that lie across shards."""
    shape, largest = slot.cut.shape, slot.cut.block
    block = next(b for b in range(largest, 0, -1) if not blocks.straddles(blocks.cut(shape, b), shard))
    if block < 32:  # a scale for so few would take more than it saves
        return "keep it in codecs.bfloat16, whose numbers share nothing, or shard another axis"
    codec, as_in = slot.codec, f"block={block}"
    if dataclasses.is_dataclass(codec) and not isinstance(codec, type):
        as_in = repr(dataclasses.replace(codec, block=block))
    return f"give the codec a block that divides the rows of a shard, as in {as_in}"
