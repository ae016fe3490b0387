"""How a leaf is cut: into blocks that share a scale, and into pieces that are worked on one after the other."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Cut(NamedTuple):
    """An array whose last `row_axes` axes make up a row, cut into blocks of at most `block` numbers."""

    shape: tuple[int, ...]
    row_axes: int
    block: int

    @property
    def lead(self) -> tuple[int, ...]:
        return self.shape[: len(self.shape) - self.row_axes]

    @property
    def row(self) -> int:
        return math.prod(self.shape[len(self.lead) :])

    @property
    def width(self) -> int:
        return min(self.block, self.row)

    @property
    def blocks_per_row(self) -> int:
        return -(-self.row // self.width)

    def split(self, x: jax.Array) -> jax.Array:
        """The blocks of `x` on a last axis of their own, the last one of a row filled up with zeros."""
        x = x.reshape(*self.lead, self.row)
        if missing := self.blocks_per_row * self.width - self.row:
            x = jnp.pad(x, [(0, 0)] * len(self.lead) + [(0, missing)])
        return x.reshape(*self.lead, self.blocks_per_row, self.width)

    def join(self, x: jax.Array) -> jax.Array:
        """What `split` undoes: shaped like the leaf again."""
        return x.reshape(*self.lead, -1)[..., : self.row].reshape(self.shape)

    def kept(self, x: jax.Array) -> jax.Array:
        """What is stored of an array with a last axis for each block: one number per number in the leaf's own shape, so
        that it shards as the leaf does, anything else in rows."""
        return self.join(x) if x.shape[-1] == self.width else x.reshape(*self.lead, -1)

    def opened(self, stored: jax.Array) -> jax.Array:
        """What `kept` undoes."""
        if stored.shape == self.shape:
            return self.split(stored)
        return stored.reshape(*self.lead, self.blocks_per_row, -1)


def cut(shape: tuple[int, ...], block: int) -> Cut:
    """Rows are as few last axes as whole blocks fill; the last axis alone where none do."""
    for row_axes in range(1, len(shape) + 1):
        if math.prod(shape[-row_axes:]) % block == 0:
            return Cut(shape, row_axes, block)
    return Cut(shape, min(1, len(shape)), block)


def straddles(whole: Cut, shard: tuple[int, ...]) -> bool:
    """Whether a block has numbers in two shards of the shape `shard`."""
    inner = slice(len(whole.lead) + 1, None)
    if not whole.row_axes or whole.shape[inner] != shard[inner]:
        return whole.width > 1 and whole.shape != shard
    row = math.prod(shard[len(whole.lead) :])
    return row != whole.row and row % whole.width != 0


# Pieces -------------------------------------------------------------------------------------------------------------

_PIECE = 1 << 15  # numbers; their temporaries stay in a core's cache
_FEWEST = 8  # pieces, below which a leaf is one


class Piece(NamedTuple):
    """Neighbouring slices of every strip, `count` from `start` or all that follow it, and how they are cut."""

    start: Any
    count: int | None
    cut: Cut


class Pieces(NamedTuple):
    """A leaf as `strips` times `length` slices, and what may follow them; `depth` slices of every strip are a piece.

    A slice is what one index of the first axis leaves, or a block where the row is the whole leaf. A leaf that is
    sharded along its first axis has whole strips on each device, so that taking a piece moves nothing. The first
    `merged` axes of the leaf are one axis of `whole`.
    """

    whole: Cut
    strips: int
    length: int
    depth: int
    merged: int = 1

    @property
    def count(self) -> int:
        return self.length // self.depth

    def piece(self, number: Any) -> Piece:
        return Piece(number * self.depth, self.depth, self._cut(self.strips * self.depth))

    def rest(self) -> Piece | None:
        """What is left behind the last whole piece, if anything is."""
        start = self.count * self.depth
        if not self.whole.lead and self.whole.row % self.whole.width:
            return Piece(start, None, Cut((self.whole.row - start * self.whole.width,), 1, self.whole.block))
        return Piece(start, None, self._cut(self.strips * (self.length - start))) if start < self.length else None

    def _cut(self, slices: int) -> Cut:
        if self.whole.lead:
            return self.whole._replace(shape=(slices, *self.whole.shape[1:]))
        return Cut((slices, self.whole.width), 1, self.whole.block)

    def view(self, x: jax.Array) -> jax.Array:
        """An array of the leaf, as `Cut.kept` leaves it, with the slices of every strip along the second axis."""
        return x.reshape(self.strips, -1, *(x.shape[self.merged :] if self.whole.lead else ()))

    def take(self, view: jax.Array, piece: Piece) -> jax.Array:
        """What a piece has of it, as `Cut.kept` leaves an array of the piece."""
        per = self._per_slice(view)
        count = view.shape[1] - piece.start * per if piece.count is None else piece.count * per
        taken = jax.lax.dynamic_slice_in_dim(view, piece.start * per, count, axis=1)
        return taken.reshape(*piece.cut.lead[:1], *(view.shape[2:] or (-1,)))

    def put(self, view: jax.Array, part: jax.Array, piece: Piece) -> jax.Array:
        part = part.reshape(self.strips, -1, *view.shape[2:])
        return jax.lax.dynamic_update_slice_in_dim(view, part, piece.start * self._per_slice(view), axis=1)

    def _per_slice(self, view: jax.Array) -> int:
        """How many indices of the second axis a slice takes."""
        if self.whole.lead:
            return 1
        return self.whole.width if view.size == self.whole.row else view.size // self.whole.blocks_per_row

    def positions(self, piece: Piece) -> jax.Array:
        """Where the numbers of a piece stand in the leaf, as `noise.positions` counts."""
        inner = _inner(self.whole)
        shape = (self.strips, math.prod(piece.cut.shape) // self.strips)
        strip = jax.lax.broadcasted_iota(jnp.uint32, shape, 0) * jnp.uint32(self.length * inner % 2**32)
        start = jnp.asarray(piece.start).astype(jnp.uint32) * jnp.uint32(inner)
        return (strip + start + jax.lax.broadcasted_iota(jnp.uint32, shape, 1)).reshape(piece.cut.shape)


def _inner(whole: Cut) -> int:
    return math.prod(whole.shape[1:]) if whole.lead else whole.width


def pieces(leaf: Cut) -> Pieces:
    """The pieces of a leaf; one alone if it is short."""
    whole = _long(leaf)
    merged = 1 + len(leaf.lead) - len(whole.lead)
    ragged = not whole.lead and whole.row % whole.width > 0
    # what is left has a whole block at least, so that it is cut as wide as the others
    length = whole.lead[0] if whole.lead else whole.row // whole.width - ragged
    strips = 1 if ragged else math.gcd(length, 64)
    while strips > 1 and length // strips < _FEWEST:
        strips //= 2
    length //= strips
    most = max(1, min(length // _FEWEST, _PIECE // (strips * _inner(whole))))
    even = max(depth for depth in range(1, most + 1) if length % depth == 0)
    return Pieces(whole, strips, max(1, length), even if 4 * even >= most else most, merged)


def _long(leaf: Cut) -> Cut:
    """The same blocks with more along the first axis, where that has few indices or each of them has many numbers."""
    if not leaf.lead or (leaf.lead[0] >= _FEWEST and _inner(leaf) <= _PIECE):
        return leaf
    if leaf.row % leaf.block == 0:
        return Cut((math.prod(leaf.shape),), 1, leaf.block)
    return leaf._replace(shape=(math.prod(leaf.lead), *leaf.shape[len(leaf.lead) :]))
