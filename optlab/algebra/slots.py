"""The slots of the leaves of a tree, which need not all have the same."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from optlab.algebra import trees
from optlab.algebra.rules import LeafError, Slots


class Layout(NamedTuple):
    """The slots that any leaf has, as a tree structure; a leaf without one of them has a `MaskedNode` there."""

    structure: Any

    def flat(self, slots: Slots) -> list[Any]:
        """The slots of one leaf."""
        every = self.structure.unflatten(range(self.structure.num_leaves))
        return jax.tree.leaves(_completed(slots, every), is_leaf=trees.is_masked)

    def trees(self, treedef: Any, rows: Sequence[Sequence[Any]]) -> Slots:
        """Rows of slots, one per leaf, as one tree per slot."""
        columns = zip(*rows, strict=True) if rows else [()] * self.structure.num_leaves
        return self.structure.unflatten([treedef.unflatten(column) for column in columns])


def united(one: Any, other: Any) -> Any:
    """The slots of two leaves together."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    shared = {name: united(below, other[name]) for name, below in one.items() if name in other}
    return one | other | shared


def _completed(slots: Any, every: Any) -> Any:
    """The slots of one leaf with all names in `every`."""
    if not isinstance(slots, dict) or not isinstance(every, dict):
        return slots
    missing = jax.tree.map(lambda _: optax.MaskedNode(), {name: every[name] for name in every.keys() - slots.keys()})
    return {name: _completed(below, every.get(name)) for name, below in slots.items()} | missing


def own_slots(wanted: Any, slots: Slots) -> Slots:
    """The slots that a leaf has, which must be as its weights need them."""
    own = _without_masked(slots, wanted)
    flat, treedef = jax.tree_util.tree_flatten_with_path(own)
    if treedef != jax.tree.structure(wanted):
        raise LeafError(f"the slots are {treedef} where these weights need {jax.tree.structure(wanted)}")
    for (path, slot), needed in zip(flat, jax.tree.leaves(wanted), strict=True):
        if slot.shape != needed.shape or slot.dtype != needed.dtype:
            raise LeafError(
                f"slot {jax.tree_util.keystr(path)} is {trees.said(slot)} where these weights need "
                f"{trees.said(needed)}; is the state of other parameters? call init(params) anew"
            )
    return own


def _without_masked(slots: Any, wanted: Any) -> Any:
    """`slots` without those that only other leaves have."""
    if not isinstance(slots, dict) or not isinstance(wanted, dict):
        return slots
    return {
        name: _without_masked(below, wanted.get(name))
        for name, below in slots.items()
        if name in wanted or not all(map(trees.is_masked, jax.tree.leaves(below, is_leaf=trees.is_masked)))
    }
