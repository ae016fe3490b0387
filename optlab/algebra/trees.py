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
    mask = mask(params) if _is_function(mask) else mask
    try:
        column = jax.tree.leaves(jax.tree.broadcast(mask, params))
    except ValueError:
        raise ValueError(
            f"{owner}: the mask and the params differ first at {_misfit(mask, params)}; "
            "optlab.masks makes masks for any params"
        ) from None
    for number, bit in enumerate(column):
        if not isinstance(bit, bool | np.bool_):
            raise TypeError(f"{owner}: the mask at {path_of(params, number)} must be True or False, got {said(bit)}")
    return [bool(bit) for bit in column]


def _is_function(mask: Any) -> bool:
    """Whether a mask is to be called; a module may be called too, and is a tree where it holds anything."""
    if not callable(mask) or isinstance(mask, jax.tree_util.Partial):
        return callable(mask)
    leaves = jax.tree.leaves(mask)
    return not leaves or leaves[0] is mask


def _misfit(mask: Any, params: Any, path: str = "") -> str | None:
    """Where a mask first is no tree like `params`, and what both have there; None where it is one."""
    ours, theirs = children(mask), children(params)
    here = path or "the root"
    if ours is None:  # one bit for all below
        return None
    if theirs is None or type(mask) is not type(params):
        return f"{here}: {_kind(mask)} against {_kind(params)}"
    for key in (*theirs, *ours):
        if (key in ours) != (key in theirs):
            in_mask, in_params = (_kind(tree[key]) if key in tree else "nothing" for tree in (ours, theirs))
            return f"{path}{key}: {in_mask} against {in_params}"
    if len({jax.tree.structure(tree, is_leaf=lambda x, tree=tree: x is not tree) for tree in (mask, params)}) > 1:
        return f"{here}: {_kind(mask)} against another, which differs in what is no leaf"
    return next((found for key in theirs if (found := _misfit(ours[key], theirs[key], path + key))), None)


def children(tree: Any) -> dict[str, Any] | None:
    """What stands right below, by the end of its path; None for a leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    return None if flat and not flat[0][0] else {jax.tree_util.keystr(path): child for path, child in flat}


def _kind(tree: Any) -> str:
    if tree is None:
        return "None"
    return said(tree) if children(tree) is None else f"a {type(tree).__name__}"


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
