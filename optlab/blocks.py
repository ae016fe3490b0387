"""How a leaf is cut: into blocks that share a scale, and into pieces that are worked on one after the other."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optlab import noise


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

    @property
    def slices(self) -> int | None:
        """How many slices the leaf has that end where blocks do, along its first axis if that is outside the rows."""
        if self.lead:
            return self.lead[0]
        return self.blocks_per_row if self.row % self.width == 0 else None

    def sliced(self, x: jax.Array) -> jax.Array:
        """An array of the leaf, as `kept` leaves it, with the slices on its first axis."""
        assert self.slices is not None
        return x if self.lead else x.reshape(self.slices, -1)

    def of_slices(self, count: int) -> "Cut":
        """The cut of an array of some of the slices."""
        if self.lead:
            return self._replace(shape=(count, *self.shape[1:]))
        return Cut((count, self.width), 1, self.block)

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


class Pieces(NamedTuple):
    """A leaf as `strips * count * depth` slices of its first axis; a piece has `depth` neighbours of every strip.

    A leaf that is sharded along its first axis has whole strips on each device, so that taking a piece moves nothing.
    """

    strips: int
    count: int
    depth: int

    def view(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.strips, self.count * self.depth, *x.shape[1:])

    def take(self, view: jax.Array, number: Any) -> jax.Array:
        piece = jax.lax.dynamic_slice_in_dim(view, number * self.depth, self.depth, axis=1)
        return piece.reshape(-1, *view.shape[2:])

    def put(self, view: jax.Array, piece: jax.Array, number: Any) -> jax.Array:
        piece = piece.reshape(self.strips, self.depth, *view.shape[2:])
        return jax.lax.dynamic_update_slice_in_dim(view, piece, number * self.depth, axis=1)

    def positions(self, rest: tuple[int, ...], number: jax.Array) -> jax.Array:
        """Where the numbers of a piece stand in the leaf, as `noise.positions` counts."""
        shape, below = (self.strips, self.depth, *rest), self.depth * math.prod(rest)
        strip = jax.lax.broadcasted_iota(jnp.uint32, shape, 0) * jnp.uint32(self.count * below % 2**32)
        inside = jnp.broadcast_to(noise.positions(shape[1:])[None], shape)
        return (strip + number.astype(jnp.uint32) * jnp.uint32(below) + inside).reshape(-1, *rest)


def pieces(length: int, inner: int) -> Pieces:
    """The pieces of a leaf whose first axis has `length` slices of `inner` numbers; one piece alone if it is short."""
    strips = math.gcd(length, 64)
    while strips > 1 and length // strips < 8:
        strips //= 2
    steps = length // strips
    fitting = [d for d in range(1, steps + 1) if steps % d == 0 and d * strips * inner <= _PIECE and steps // d >= 8]
    depth = max(fitting, default=1)
    return Pieces(strips, steps // depth, depth)
