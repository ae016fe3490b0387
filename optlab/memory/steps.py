"""A step of a leaf whose slots are encoded: of the whole leaf, in pieces, or as one kernel, with the same numbers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optlab.algebra import noise, rules
from optlab.algebra.rules import Slots
from optlab.memory import blocks, kernel
from optlab.memory.slots import Leaf


def update(leaf: Leaf, u: Any, slots: Slots, w: Any, t: Any, seed: Any) -> tuple[Any, Slots]:
    """One step, in the way that suits the device that it will run on."""
    stored = leaf.treedef.flatten_up_to(slots)
    plain, by_kernel = (functools.partial(way, leaf, t, seed) for way in (whole, in_kernel))
    branches: dict[str, Callable[..., Any]] = {}
    pieces = pieces_of(leaf)
    if pieces is not None and jax.eval_shape(plain, u, stored, w)[0].dtype == u.dtype:
        # a CPU writes every intermediate out, and can reuse those of a piece; others fuse the whole
        branches["cpu"] = functools.partial(in_pieces, leaf, pieces, t, seed)
    if kernel.runs_here() and fits_kernel(leaf) and kernel.can_be_made(by_kernel, u, stored, w):
        branches["cuda"] = by_kernel
    step = functools.partial(jax.lax.platform_dependent, **branches, default=plain) if branches else plain
    u, stored = step(u, stored, w)
    return u, leaf.treedef.unflatten(stored)


def of_part(
    leaf: Leaf, cut: blocks.Cut | None, positions: jax.Array, t: Any, seed: Any, u: Any, stored: Any, w: Any
) -> tuple[Any, list[Any]]:
    """The step of numbers that stand at `positions` in the leaf: decoded, updated, encoded.

    `cut` is how a part lies in blocks, None for the whole leaf.
    """
    slots = leaf.slots if cut is None else [slot._replace(cut=cut) for slot in leaf.slots]
    decoded = leaf.treedef.unflatten([slot.decode(x) for slot, x in zip(slots, stored, strict=True)])
    u, new = rules.applied(leaf.rule, u, decoded, w, t)
    return u, [
        slot.encode(x, functools.partial(noise.bits_at, positions, seed, t, number))
        for number, (slot, x) in enumerate(zip(slots, jax.tree.leaves(new), strict=True))
    ]


# The whole leaf -----------------------------------------------------------------------------------------------------


def whole(leaf: Leaf, t: Any, seed: Any, u: Any, stored: Sequence[Any], w: Any) -> tuple[Any, list[Any]]:
    """The step as it is defined; `in_pieces` and `in_kernel` are other orders of the same work."""
    return of_part(leaf, None, noise.positions(u.shape), t, seed, u, stored, w)


# Pieces -------------------------------------------------------------------------------------------------------------


def pieces_of(leaf: Leaf) -> blocks.Pieces | None:
    """What `in_pieces` works on, where that is more than one piece."""
    cut = leaf.cut()
    pieces = None if cut is None else blocks.pieces(cut)
    return pieces if pieces is not None and pieces.count > 1 else None


def in_pieces(
    leaf: Leaf, pieces: blocks.Pieces, t: Any, seed: Any, u: Any, stored: Sequence[Any], w: Any
) -> tuple[Any, list[Any]]:
    """The step in place, one piece of the leaf after the other."""
    weights, updated = jax.tree.map(pieces.view, w), jax.tree.map(pieces.view, (u, list(stored)))

    def move(piece: blocks.Piece, updated: Any) -> Any:
        def step(w: Any, taken: Any) -> Any:
            u, stored = taken
            return of_part(leaf, piece.cut, pieces.positions(piece), t, seed, u, stored, w)

        w, taken = jax.tree.map(lambda x: pieces.take(x, piece), (weights, updated))
        # Always taken, but XLA fuses nothing across it; else it reads slots once more after they were written, and
        # copies the whole leaf to do so.
        new = jax.lax.cond(t > 0, step, lambda w, taken: taken, w, taken)
        return jax.tree.map(lambda x, part: pieces.put(x, part, piece), updated, new)

    done = jax.lax.fori_loop(0, pieces.count, lambda number, updated: move(pieces.piece(number), updated), updated)
    if (rest := pieces.rest()) is not None:
        done = move(rest, done)
    return jax.tree.map(lambda x, like: x.reshape(like.shape), done, (u, list(stored)))


# The kernel ---------------------------------------------------------------------------------------------------------


def fits_kernel(leaf: Leaf) -> bool:
    """Whether `in_kernel` can take these leaves: whole blocks, and every array one of numbers or of blocks."""
    cut = leaf.cut()
    return cut is not None and cut.row % cut.block == 0 and kernel.fits(cut.block)


def in_kernel(
    leaf: Leaf, t: Any, seed: Any, u: Any, stored: Sequence[Any], w: Any, *, interpret: bool = False
) -> tuple[Any, list[Any]]:
    """The step as one GPU kernel, which keeps a few blocks in registers from decoding to encoding."""
    cut = leaf.cut()
    assert cut is not None
    count = u.size // cut.width

    def step(number: Any, read: Any, stored: Any) -> tuple[Any, Any]:
        u, w = read
        positions = noise.positions(u.shape) + number.astype(jnp.uint32) * jnp.uint32(cut.width)
        return of_part(leaf, blocks.Cut(u.shape, 1, cut.block), positions, t, seed, u, stored, w)

    rows = functools.partial(jax.tree.map, lambda x: x.reshape(count, -1))
    done = kernel.over_blocks(step, rows((u, w)), rows(list(stored)), interpret=interpret)
    return jax.tree.map(lambda x, like: x.reshape(like.shape), done, (u, list(stored)))
