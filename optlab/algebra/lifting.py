"""From one weight to trees of parameters: one pass over the leaves, one compiled program per kind of leaf."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from optlab.algebra.hyperparameters import Schedule
from optlab.outside.jax_internals import is_traced

Slots = dict[str, Any]


def no_slots(w: jax.Array) -> Slots:
    """`init` of a rule that remembers nothing."""
    del w
    return {}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The recurrence of one weight, as a paper writes it; an array is many weights at once.

    Attributes:
      update: `update(u, slots, w, t) -> (u, slots)`. From the incoming update `u`, the slots, the weight `w` and the
        1-based step `t` (int32 scalar), the outgoing update and the new slots. `u` and `w` come in the dtype of the
        statistics: float32, or wider for wider weights; `w` is None when the caller gave no params.
      init: `init(w) -> slots`, a dict of arrays under names that say what they are. `w` comes in the dtype in which
        `u` will; a slot that starts as `w` must be a copy of it, or the two can't be donated together.
      elementwise: whether every weight goes its own way; False for a rule that mixes the values of a leaf.
      needs_params: whether `update` reads `w`.
    """

    update: Callable[[Any, Slots, Any, Any], tuple[Any, Slots]]
    init: Callable[[Any], Slots] = no_slots
    elementwise: bool = True
    needs_params: bool = False


class State(NamedTuple):
    """State of a lifted transform.

    Attributes:
      count: steps taken so far, int32 scalar; at its maximum it stays there.
      slots: nested dict of slot names, each name ending in a tree shaped like the parameters.
    """

    count: jax.Array
    slots: Slots


class Skeleton(Protocol):
    """What the compiled program of a leaf depends on: a transform without its operands and masks.

    Hashes and compares by value, so that equal transforms share programs.
    """

    def rule(self, operands: Sequence[Any], bits: Sequence[bool], leaf: Any = 0) -> Rule:
        """The rule with the operands put back in, where a link whose mask bit is False passes updates through.

        `leaf` is the number of the leaf among those of the tree, from which seeds become the leaf's own.
        """
        ...


class Program(NamedTuple):
    """A transform, taken apart for its lifting.

    `operands` are the hyperparameters that the compiled programs are given at each step: arrays, and schedules, which
    are evaluated once per step and stay out of what is cached. `seeded`: whether a link draws random numbers.
    """

    name: str
    skeleton: Skeleton
    operands: tuple[jax.Array | Schedule, ...]
    masks: tuple[Any, ...]
    seeded: bool


class LeafError(ValueError):
    """Something is wrong with one leaf; whoever knows its path adds it."""


def init(program: Program, params: Any) -> State:
    """The state of a transform of `params`, one leaf after the other."""
    leaves, treedef = jax.tree.flatten(params)
    all_bits = _mask_bits(program, params)
    numbers = tuple(value.function if isinstance(value, Schedule) else value for value in program.operands)
    rules = {bits: program.skeleton.rule(numbers, bits) for bits in set(all_bits)}
    rows: list[list[Any]] = []
    try:
        for w, bits in zip(leaves, all_bits, strict=True):
            slots = placed_like(w, rules[bits].init(widened(w)))
            rows.append(jax.tree.leaves(slots, is_leaf=_is_masked))
    except LeafError as error:
        raise ValueError(f"{program.name}: params at {_path(params, len(rows))}: {error}") from None
    return State(jnp.zeros((), jnp.int32), _slot_trees(_slot_layout(program, leaves), treedef, rows))


def update(program: Program, updates: Any, state: State, params: Any) -> tuple[Any, State]:
    """One step of a transform: one call of a compiled program per leaf."""
    us, treedef = jax.tree.flatten(updates)
    ws = [None] * len(us) if params is None else _matching_leaves(program.name, updates, "params", params)
    layout = _slot_layout(program, us)
    columns = _slot_columns(program.name, layout, updates, state)
    all_bits = _mask_bits(program, updates if params is None else params)
    kernels = {bits: _kernel(program.skeleton, layout, bits) for bits in set(all_bits)}
    t = next_step(program.name, state.count)
    numbers = tuple(value.at(t) if isinstance(value, Schedule) else value for value in program.operands)
    outs: list[jax.Array] = []
    rows: list[list[Any]] = []
    slots_of_leaves = zip(*columns, strict=True) if columns else itertools.repeat(())
    try:
        for leaf, (u, w, slots, bits) in enumerate(zip(us, ws, slots_of_leaves, all_bits, strict=False)):
            _require_array(u)
            if w is not None:
                _require_array(w)
            out, slots = kernels[bits](numbers, u, slots, w, t, np.uint32(leaf) if program.seeded else None)
            outs.append(out)
            rows.append(slots)
    except LeafError as error:
        raise ValueError(f"{program.name}: at {_path(updates, len(rows))}: {error}") from None
    return treedef.unflatten(outs), State(t, _slot_trees(layout, treedef, rows))


# One leaf -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _kernel(skeleton: Skeleton, layout: Any, bits: tuple[bool, ...]) -> Callable[..., tuple[jax.Array, list[Any]]]:
    """The update of one leaf, compiled; slots go in and out flat, as `layout` flattens them."""

    @jax.jit
    def update_leaf(
        numbers: Any, u: Any, flat_slots: Sequence[Any], w: Any, t: jax.Array, leaf: Any
    ) -> tuple[jax.Array, list[Any]]:
        rule = skeleton.rule(numbers, bits, leaf)
        slots = layout.unflatten(flat_slots)
        dtype = _statistics_dtype(u, slots, w)
        if w is not None:
            if u.shape != w.shape:
                raise LeafError(f"updates have shape {u.shape}, params {w.shape}")
            w = w.astype(dtype)
        u = u.astype(dtype)
        _check_slots(jax.eval_shape(rule.init, u), slots)
        out, new_slots = applied(rule, u, slots, w, t)
        return out, jax.tree.leaves(new_slots, is_leaf=_is_masked)

    return update_leaf


def applied(rule: Rule, u: Any, slots: Slots, w: Any, t: Any) -> tuple[jax.Array, Slots]:
    """One step of a rule, whose slots keep their types, refused if it returns anything but what it was given."""
    out, new_slots = _returned(rule.update(u, slots, w, t), u.dtype)
    if out.shape != u.shape:
        raise LeafError(f"the rule returned updates of shape {out.shape} for weights of shape {u.shape}")
    if jax.tree.structure(new_slots) != jax.tree.structure(slots):
        raise LeafError(f"the rule returned slots {sorted(new_slots)} where it had {sorted(slots)}")
    return out, jax.tree.map(_as_before, new_slots, slots)


def _returned(result: Any, dtype: Any) -> tuple[jax.Array, Slots]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise LeafError(f"the rule must return (updates, dict of slots), got {type(result).__name__}")
    out = result[0] if hasattr(result[0], "dtype") else jnp.asarray(result[0], dtype)
    return out, result[1]


def _as_before(new: jax.Array, old: jax.Array) -> jax.Array:
    if new.shape != old.shape:
        raise LeafError(f"the rule returned a slot of shape {new.shape} where it had one of shape {old.shape}")
    return new.astype(old.dtype)


def wide(dtype: Any) -> np.dtype:
    """The dtype of the statistics of a weight of `dtype`: at least single precision.

    Raises:
      LeafError: neither floating-point nor complex.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise LeafError(
            f"dtype {dtype} is neither floating-point nor complex; "
            "leave it out with optax.masked, optax.partition or your framework's filter"
        )
    return np.dtype(dtype) if dtype.itemsize >= 4 else np.dtype(jnp.float32)


def _statistics_dtype(u: jax.Array, slots: Slots, w: jax.Array | None) -> np.dtype:
    incoming = wide(u.dtype)
    if w is not None:
        dtype = wide(w.dtype)
        if jnp.issubdtype(incoming, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise LeafError(f"updates are complex ({u.dtype}), params are real ({w.dtype})")
        return dtype
    kept = [slot.dtype for slot in jax.tree.leaves(slots) if jnp.issubdtype(slot.dtype, jnp.inexact)]
    if not kept:
        return incoming
    double = max(jnp.finfo(dtype).bits for dtype in kept) > 32
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in (incoming, *kept)):
        return np.dtype(jnp.complex128 if double else jnp.complex64)
    return np.dtype(jnp.float64 if double else jnp.float32)


def _check_slots(expected: Any, slots: Slots) -> None:
    flat, treedef = jax.tree_util.tree_flatten_with_path(slots)
    if treedef != jax.tree.structure(expected):
        raise LeafError(f"the slots are {treedef} where these weights need {jax.tree.structure(expected)}")
    for (path, slot), wanted in zip(flat, jax.tree.leaves(expected), strict=True):
        if slot.shape != wanted.shape or slot.dtype != wanted.dtype:
            raise LeafError(
                f"slot {jax.tree_util.keystr(path)} is {_aval(slot)} where these weights need {_aval(wanted)}; "
                "is the state of other parameters? call init(params) anew"
            )


def widened(w: Any) -> Any:
    """A weight in the dtype of its statistics."""
    if isinstance(w, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(w.shape, wide(w.dtype), sharding=w.sharding)
    _require_array(w)
    w = jnp.asarray(w)
    return w.astype(wide(w.dtype))


def placed_like(w: Any, slots: Slots) -> Slots:
    """The slots, those shaped like the weight on the devices where it lies, in a trace too.

    There a constant lies nowhere, and a compiler that is left alone puts it on one device. What is computed of the
    weight lies where that does, whatever the mesh and its axes: a zero made of it is subtracted, which no bit changes.
    """
    if not is_traced(w) or not _lies_on_a_mesh(w):
        return slots
    zero = (w == w) & (w != w)  # whatever the weight is, NaN too
    return jax.tree.map(
        lambda x: x - zero.astype(x.dtype) if x.shape == w.shape and jnp.issubdtype(x.dtype, jnp.number) else x, slots
    )


def _lies_on_a_mesh(w: Any) -> bool:
    """Whether there is a mesh, of axes that JAX looks after; inside `shard_map` a leaf is one shard already."""
    mesh = jax.typeof(w).sharding.mesh
    return not mesh.empty and AxisType.Manual not in mesh.axis_types


# Trees --------------------------------------------------------------------------------------------------------------


def _slot_layout(program: Program, leaves: Sequence[Any]) -> Any:
    """Tree structure of the slots of one leaf; the same for all of them, so that any leaf will do."""
    shape = jnp.shape(leaves[0]) if leaves else ()
    types = tuple(None if isinstance(value, Schedule) else (value.shape, value.dtype) for value in program.operands)
    return _cached_slot_layout(program.skeleton, types, len(program.masks), shape)


@functools.lru_cache(maxsize=4096)
def _cached_slot_layout(
    skeleton: Skeleton, types: tuple[tuple[Any, Any] | None, ...], masks: int, shape: tuple[int, ...]
) -> Any:
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    numbers = [jax.ShapeDtypeStruct(*(type_ or ((), jnp.float32))) for type_ in types]
    bits = (True,) * masks
    slots = jax.eval_shape(lambda w, values: skeleton.rule(values, bits).init(w), leaf, numbers)
    return jax.tree.structure(slots, is_leaf=_is_masked)


def _slot_trees(layout: Any, treedef: Any, rows: list[list[Any]]) -> Slots:
    """Rows of slots, one per leaf, as one tree per slot."""
    columns = zip(*rows, strict=True) if rows else [()] * layout.num_leaves
    return layout.unflatten([treedef.unflatten(column) for column in columns])


def _slot_columns(owner: str, layout: Any, updates: Any, state: Any) -> list[list[Any]]:
    if not isinstance(state, State):
        raise ValueError(f"{owner}: state must be what its init returned, got {type(state).__name__}")
    try:
        trees = layout.flatten_up_to(state.slots)
    except (ValueError, TypeError):
        raise ValueError(
            f"{owner}: the state is another transform's: its slots are {jax.tree.structure(state.slots)}, "
            f"expected {layout} with a tree like the parameters at every *"
        ) from None
    return [_matching_leaves(owner, updates, "the state", tree) for tree in trees]


def next_step(owner: str, count: Any) -> jax.Array:
    """The number of the step that is being taken, counted from 1, after `count` steps."""
    if getattr(count, "dtype", None) != jnp.int32 or count.shape != ():
        raise ValueError(
            f"{owner}: the state's count must be an array int32[], got {_aval(count)}; restore it as it was saved"
        )
    return jnp.asarray(optax.safe_increment(count))


def _mask_bits(program: Program, params: Any) -> list[tuple[bool, ...]]:
    """For every leaf, one bit per mask of the transform: whether the masked link acts there."""
    count = len(jax.tree.leaves(params))
    columns = [mask_column(program.name, mask, params) for mask in program.masks]
    return list(zip(*columns, strict=True)) if columns else [()] * count


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
            raise TypeError(f"{owner}: the mask at {_path(params, number)} must be True or False, got {_aval(bit)}")
    return [bool(bit) for bit in column]


def _matching_leaves(owner: str, updates: Any, other_name: str, other: Any) -> list[Any]:
    """The leaves of `other`, which must be a tree like `updates` (masked nodes count as leaves)."""
    treedef = jax.tree.structure(updates)
    leaves, other_treedef = jax.tree.flatten(other, is_leaf=_is_masked)
    if treedef == other_treedef:
        return leaves
    with contextlib.suppress(ValueError, TypeError):
        leaves = treedef.flatten_up_to(other)
        if jax.tree_util.all_leaves(leaves, is_leaf=_is_masked):
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
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_masked)
    return [(jax.tree_util.keystr(path), _aval(leaf)) for path, leaf in flat]


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _require_array(x: Any) -> None:
    if not hasattr(x, "dtype") and not isinstance(x, int | float | complex):
        raise LeafError(f"expected an array, got {type(x).__name__}")


def _path(tree: Any, number: int) -> str:
    path, _ = jax.tree_util.tree_flatten_with_path(tree)[0][number]
    return jax.tree_util.keystr(path) or "the root"


def _aval(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)
