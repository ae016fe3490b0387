"""Trees that have to match: which leaf belongs to which, what differs first, and how it is said."""

import contextlib
from typing import Any

import jax
import numpy as np
import optax


def is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def path_of(tree: Any, number: int) -> str:
    """The path of a leaf by its number."""
    path, _ = jax.tree_util.tree_flatten_with_path(tree)[0][number]
    return jax.tree_util.keystr(path) or "the root"


def said(x: Any) -> str:
    """A leaf as an error says it."""
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)


def mask_column(owner: str, mask: Any, params: Any) -> list[bool]:
    """A mask as one boolean per leaf of `params`."""
    if not jax.tree.leaves(params):
        return []
    mask = mask(params) if callable(mask) else mask
    try:
        column = jax.tree.leaves(jax.tree.broadcast(mask, params))
    except ValueError as error:
        raise ValueError(f"{owner}: the mask is no prefix of the parameters' tree: {error}") from None
    for number, bit in enumerate(column):
        if not isinstance(bit, bool | np.bool_):
            raise TypeError(f"{owner}: the mask at {path_of(params, number)} must be True or False, got {said(bit)}")
    return [bool(bit) for bit in column]


def matching_leaves(owner: str, updates: Any, other_name: str, other: Any) -> list[Any]:
    """The leaves of `other`, which must be a tree like `updates` (masked nodes count as leaves)."""
    treedef = jax.tree.structure(updates)
    leaves, other_treedef = jax.tree.flatten(other, is_leaf=is_masked)
    if treedef == other_treedef:
        return leaves
    with contextlib.suppress(ValueError, TypeError):
        leaves = treedef.flatten_up_to(other)
        if jax.tree_util.all_leaves(leaves, is_leaf=is_masked):
            return leaves
    raise ValueError(f"{owner}: updates and {other_name} differ {_first_difference(updates, other)}")


def _first_difference(updates: Any, other: Any) -> str:
    ours = dict(_paths(updates))
    theirs = dict(_paths(other))
    for path in (*ours, *theirs):
        if (path in ours) != (path in theirs):
            return f"first at {path or 'the root'}: {ours.get(path, 'nothing')} against {theirs.get(path, 'nothing')}"
    return f"in their containers: {jax.tree.structure(updates)} against {jax.tree.structure(other)}"


def _paths(tree: Any) -> list[tuple[str, str]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
    return [(jax.tree_util.keystr(path), said(leaf)) for path, leaf in flat]
