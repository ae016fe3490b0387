"""From one weight to trees of parameters: one pass over the leaves, one compiled program per kind of leaf."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.algebra import placing, trees
from optlab.algebra.hyperparameters import Schedule
from optlab.algebra.operands import Recipe, Table, values
from optlab.outside import optax_internals

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
      descends: whether updates leave as steps, to be added to the weights: a learning rate turns their sign.
      pulls: what it does to the weights beside the update that it passes on. "up" adds some of them, which shrinks
        them if a learning rate follows; "down" takes some away, which does behind it.
      compares_signs: whether it compares the sign of `u` with that of `w`, so that no learning rate may stand before.
      averages: the decay of the average from zero that leaves as it is, not yet corrected; None for all other rules.
      corrects: the decay of the average that it corrects; None for all other rules.
    """

    update: Callable[[Any, Slots, Any, Any], tuple[Any, Slots]]
    init: Callable[[Any], Slots] = no_slots
    elementwise: bool = True
    needs_params: bool = False
    descends: bool = False
    pulls: Literal["up", "down"] | None = None
    compares_signs: bool = False
    averages: Any = None
    corrects: Any = None


class State(NamedTuple):
    """State of a lifted transform.

    Attributes:
      count: steps taken so far, int32 scalar; at its maximum it stays there.
      slots: nested dict of slot names, each name ending in a tree shaped like the parameters.
    """

    count: jax.Array
    slots: Slots


class Skeleton(Protocol):
    """What the compiled program of a leaf depends on: a transform without its numbers, operands and masks.

    Hashes and compares by value, so that equal transforms share programs.
    """

    def rule(self, numbers: Sequence[Any], operands: Sequence[Any], bits: Sequence[bool], leaf: Any = 0) -> Rule:
        """The rule with numbers and operands put back in, where a link whose mask bit is False passes updates through.

        `leaf` is the number of the leaf among those of the tree, from which seeds become the leaf's own.
        """
        ...


class Program(NamedTuple):
    """A transform, taken apart for its lifting.

    `numbers` are the hyperparameters that are Python floats. `operands` are those that the compiled programs are given
    at each step: arrays, and schedules, which are evaluated once per step and stay out of what is cached. `seeded`:
    whether a link draws random numbers.
    """

    name: str
    skeleton: Skeleton
    numbers: tuple[float, ...]
    operands: tuple[jax.Array | Schedule, ...]
    masks: tuple[Any, ...]
    seeded: bool


class LeafError(ValueError):
    """Something is wrong with one leaf; whoever knows its path adds it."""


def init(program: Program, params: Any) -> State:
    """The state of a transform of `params`, one leaf after the other."""
    if optax_internals.stands_for_params(params):
        return State(jnp.zeros((), jnp.int32), _places_of(program, params))
    leaves, treedef = jax.tree.flatten(params)
    all_bits = _mask_bits(program, params)
    operands = tuple(value.function if isinstance(value, Schedule) else value for value in program.operands)
    rules = {bits: program.skeleton.rule(program.numbers, operands, bits) for bits in set(all_bits)}
    of_leaves: list[Slots] = []
    try:
        for w, bits in zip(leaves, all_bits, strict=True):
            of_leaves.append(placing.where_it_lies(w, rules[bits].init(widened(w))))
    except LeafError as error:
        raise ValueError(f"{program.name}: params at {trees.path_of(params, len(of_leaves))}: {error}") from None
    layout = _slot_layout(program, leaves)
    return State(jnp.zeros((), jnp.int32), layout.trees(treedef, list(map(layout.flat, of_leaves))))


def update(program: Program, updates: Any, state: State, params: Any) -> tuple[Any, State]:
    """One step of a transform: one call of a compiled program per leaf."""
    us, treedef = jax.tree.flatten(updates)
    ws = [None] * len(us) if params is None else trees.matching_leaves(program.name, updates, "params", params)
    layout = _slot_layout(program, us)
    columns = _slot_columns(program.name, layout, updates, state)
    all_bits = _mask_bits(program, updates if params is None else params)
    kernels = {bits: _kernel(program.skeleton, len(program.numbers), layout, bits) for bits in set(all_bits)}
    t = next_step(program.name, state.count)
    operands = tuple(value.at(t) if isinstance(value, Schedule) else value for value in program.operands)
    outs: list[jax.Array] = []
    rows: list[list[Any]] = []
    slots_of_leaves = zip(*columns, strict=True) if columns else itertools.repeat(())
    try:
        for leaf, (u, w, slots, bits) in enumerate(zip(us, ws, slots_of_leaves, all_bits, strict=False)):
            _require_array(u)
            if w is not None:
                _require_array(w)
            number = np.uint32(leaf) if program.seeded else None
            out, slots = kernels[bits](program.numbers, operands, u, slots, w, t, number)
            outs.append(out)
            rows.append(slots)
    except LeafError as error:
        raise ValueError(f"{program.name}: at {trees.path_of(updates, len(rows))}: {error}") from None
    return treedef.unflatten(outs), State(t, layout.trees(treedef, rows))


# One leaf -----------------------------------------------------------------------------------------------------------


class _Kernel:
    """The update of one leaf, compiled: one program for all Python floats among the hyperparameters.

    A rule that does more with them than arithmetic, as `if b1 > 0` does, has a program for each.
    """

    def __init__(self, skeleton: Skeleton, count: int, layout: "Layout", bits: tuple[bool, ...]) -> None:
        self._skeleton, self._layout, self._bits = skeleton, layout, bits
        self._recipes: dict[Any, Sequence[Recipe] | None] = {}
        self._values = functools.lru_cache(maxsize=64)(self._values_of)
        self._of_all = jax.jit(_anywhere(lambda values, *leaf: self._update(Table((), values).numbers(count), *leaf)))
        self._of_these = functools.lru_cache(maxsize=64)(
            lambda numbers: jax.jit(_anywhere(functools.partial(self._update, numbers)))
        )

    def __call__(self, numbers: tuple[float, ...], *leaf: Any) -> tuple[jax.Array, list[Any]]:
        """The outgoing update and the new slots of `leaf`; slots go in and out flat, as the layout flattens them."""
        types = tuple(map(jax.typeof, jax.tree.leaves(leaf[1:4])))
        if types not in self._recipes:
            self._recipes[types] = self._recipes_of(numbers, *leaf)
        values = self._values(numbers, types, jax.config.read("jax_enable_x64"))
        return self._of_these(numbers)(*leaf) if values is None else self._of_all(values, *leaf)

    def _recipes_of(self, numbers: tuple[float, ...], *leaf: Any) -> Sequence[Recipe] | None:
        """What a program for all numbers is given in their place; None if there can't be one."""
        table = Table(numbers)
        try:
            jax.eval_shape(_anywhere(functools.partial(self._update, table.numbers(len(numbers)))), *leaf)
        except Exception:  # whatever the rule needs the float itself for; its own errors are said by the second trace
            jax.eval_shape(_anywhere(functools.partial(self._update, numbers)), *leaf)
            return None
        return table.recipes

    def _values_of(self, numbers: tuple[float, ...], types: Any, x64: bool) -> tuple[np.ndarray, ...] | None:
        del x64  # which decides what they are rounded to
        recipes = self._recipes[types]
        return None if recipes is None else values(recipes, numbers)

    def _update(
        self, numbers: Sequence[Any], operands: Any, u: Any, flat_slots: Sequence[Any], w: Any, t: jax.Array, leaf: Any
    ) -> tuple[jax.Array, list[Any]]:
        rule = self._skeleton.rule(numbers, operands, self._bits, leaf)
        slots = self._layout.structure.unflatten(flat_slots)
        dtype = _statistics_dtype(u, slots, w)
        if w is not None:
            if u.shape != w.shape:
                raise LeafError(f"updates have shape {u.shape}, params {w.shape}")
            w = w.astype(dtype)
        u = u.astype(dtype)
        out, slots = applied(rule, u, _own_slots(jax.eval_shape(rule.init, u), slots), w, t)
        return out, self._layout.flat(slots)


def _anywhere(update: Callable[..., Any]) -> Callable[..., Any]:
    """The update of a leaf, whatever lies how on a mesh: its update as that which came, slots as they were."""

    def like(*leaf: Any) -> Any:
        *_, u, flat_slots, _, _, _ = leaf
        return u, list(flat_slots)

    return placing.wherever_they_lie(update, like)


_kernel = functools.lru_cache(maxsize=4096)(_Kernel)


def named(name: str, rule: Rule) -> Rule:
    """`rule` with errors that say whose rule it is, and what to do where it was written otherwise than rules are."""
    for what, function, arguments in ("update", rule.update, "(u, slots, w, t)"), ("init", rule.init, "(w)"):
        try:
            inspect.signature(function).bind(*arguments.split(","))
        except TypeError:
            raise TypeError(
                f"{name}: {what} must be called as {what}{arguments}, got {what}{inspect.signature(function)}"
            ) from None
        except ValueError:  # a built-in without a signature
            continue

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        try:
            return applied(rule, u, slots, w, t)
        except LeafError as error:
            raise LeafError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
        except jax.errors.ConcretizationTypeError as error:
            raise LeafError(
                f"{name}: its update asks for the value of a traced array, as a Python `if` does; write "
                "jnp.where(condition, a, b)"
            ) from error
        except (AttributeError, TypeError) as error:
            if w is not None:
                raise
            raise LeafError(
                f"{name}: its update reads the weights, which are None where update(updates, state) is called "
                "without them; give its Rule needs_params=True, and call update(updates, state, params)"
            ) from error

    def init(w: Any) -> Slots:
        slots = rule.init(w)
        if not isinstance(slots, dict):
            raise LeafError(f"{name}: init must return a dict of slots, got {type(slots).__name__}")
        return slots

    return dataclasses.replace(rule, update=update, init=no_slots if rule.init is no_slots else init)


def applied(rule: Rule, u: Any, slots: Slots, w: Any, t: Any) -> tuple[jax.Array, Slots]:
    """One step of a rule, whose slots keep their types, refused if it returns anything but what it was given."""
    out, new_slots = _returned(rule.update(u, slots, w, t), u.dtype)
    if out.shape != u.shape:
        raise LeafError(f"the rule returned updates of shape {out.shape} for weights of shape {u.shape}")
    if jax.tree.structure(new_slots) != jax.tree.structure(slots):
        raise LeafError(f"the rule returned slots {sorted(new_slots)} where it had {sorted(slots)}")
    return out, jax.tree_util.tree_map_with_path(_as_before, new_slots, slots)


def _returned(result: Any, dtype: Any) -> tuple[jax.Array, Slots]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise LeafError(f"the rule must return (updates, dict of slots), got {type(result).__name__}")
    out = result[0] if hasattr(result[0], "dtype") else jnp.asarray(result[0], dtype)
    return out, result[1]


def _as_before(path: Any, new: Any, old: jax.Array) -> jax.Array:
    if jnp.shape(new) != old.shape:
        raise LeafError(f"the rule returned a slot of shape {jnp.shape(new)} where it had one of shape {old.shape}")
    new = jnp.asarray(new)
    if jnp.issubdtype(new.dtype, jnp.inexact) and not jnp.issubdtype(old.dtype, jnp.inexact):
        raise LeafError(
            f"the rule returned {new.dtype} for the slot {jax.tree_util.keystr(path)}, which began as {old.dtype} and "
            f"would lose what is behind the point; let init begin it as a float, or return {old.dtype}"
        )
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


def widened(w: Any) -> Any:
    """A weight in the dtype of its statistics."""
    if isinstance(w, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(w.shape, wide(w.dtype), sharding=w.sharding)
    _require_array(w)
    w = jnp.asarray(w)
    return w.astype(wide(w.dtype))


# Slots --------------------------------------------------------------------------------------------------------------


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


def _slot_layout(program: Program, leaves: Sequence[Any]) -> Layout:
    types = tuple(None if isinstance(value, Schedule) else (value.shape, value.dtype) for value in program.operands)
    shapes = frozenset(map(jnp.shape, leaves)) or frozenset([()])
    return _cached_slot_layout(program.skeleton, program.numbers, types, len(program.masks), shapes)


@functools.lru_cache(maxsize=4096)
def _cached_slot_layout(
    skeleton: Skeleton,
    numbers: tuple[float, ...],
    types: tuple[tuple[Any, Any] | None, ...],
    masks: int,
    shapes: frozenset[tuple[int, ...]],
) -> Layout:
    operands = [jax.ShapeDtypeStruct(*(type_ or ((), jnp.float32))) for type_ in types]

    def slots(shape: tuple[int, ...]) -> Slots:
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.eval_shape(lambda w, given: skeleton.rule(numbers, given, (True,) * masks).init(w), leaf, operands)

    every = functools.reduce(_united, map(slots, sorted(shapes)))
    return Layout(jax.tree.structure(every, is_leaf=trees.is_masked))


def _places_of(program: Program, params: Any) -> Slots:
    """`params` in the place of every slot that has a number for each weight; a leaf, which is no weight, in others."""
    operands = tuple(value.function if isinstance(value, Schedule) else value for value in program.operands)
    rule = program.skeleton.rule(program.numbers, operands, (True,) * len(program.masks))
    layout = _slot_layout(program, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in _LARGE])
    of_weights = [True] * layout.structure.num_leaves
    for shape in _LARGE:
        slots = layout.flat(jax.eval_shape(rule.init, jax.ShapeDtypeStruct(shape, jnp.float32)))
        alike = [trees.is_masked(slot) or slot.shape == shape for slot in slots]
        of_weights = [before and now for before, now in zip(of_weights, alike, strict=True)]
    return layout.structure.unflatten([params if holds else 0 for holds in of_weights])


_LARGE = (2**30,), (2**20, 2**20)  # so that whatever asks for a size finds it


def _united(one: Any, other: Any) -> Any:
    """The slots of two leaves together."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    shared = {name: _united(below, other[name]) for name, below in one.items() if name in other}
    return one | other | shared


def _completed(slots: Any, every: Any) -> Any:
    """The slots of one leaf with all names in `every`."""
    if not isinstance(slots, dict) or not isinstance(every, dict):
        return slots
    missing = jax.tree.map(lambda _: optax.MaskedNode(), {name: every[name] for name in every.keys() - slots.keys()})
    return {name: _completed(below, every.get(name)) for name, below in slots.items()} | missing


def _own_slots(wanted: Any, slots: Slots) -> Slots:
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


def _slot_columns(owner: str, layout: Layout, updates: Any, state: Any) -> list[list[Any]]:
    if not isinstance(state, State):
        raise ValueError(f"{owner}: state must be what its init returned, got {type(state).__name__}")
    try:
        of_slots = layout.structure.flatten_up_to(state.slots)
    except (ValueError, TypeError):
        raise ValueError(
            f"{owner}: the state is another transform's: its slots are {jax.tree.structure(state.slots)}, "
            f"expected {layout.structure} with a tree like the parameters at every *"
        ) from None
    return [trees.matching_leaves(owner, updates, "the state", tree) for tree in of_slots]


def next_step(owner: str, count: Any) -> jax.Array:
    """The number of the step that is being taken, counted from 1, after `count` steps."""
    if getattr(count, "dtype", None) != jnp.int32 or count.shape != ():
        raise ValueError(
            f"{owner}: the state's count must be an array int32[], got {trees.said(count)}; restore it as it was saved"
        )
    return jnp.asarray(optax.safe_increment(count))


def _mask_bits(program: Program, params: Any) -> list[tuple[bool, ...]]:
    """For every leaf, one bit per mask of the transform: whether the masked link acts there."""
    count = len(jax.tree.leaves(params))
    columns = [trees.mask_column(program.name, mask, params) for mask in program.masks]
    return list(zip(*columns, strict=True)) if columns else [()] * count


def _require_array(x: Any) -> None:
    if not hasattr(x, "dtype") and not isinstance(x, int | float | complex):
        raise LeafError(f"expected an array, got {type(x).__name__}")
