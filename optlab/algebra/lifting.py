"""From one weight to trees of parameters: one pass over the leaves, one compiled program per kind of leaf."""

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.algebra import placing, trees
from optlab.algebra.hyperparameters import Schedule
from optlab.algebra.operands import Recipe, Table, spare_operands, values
from optlab.algebra.rules import LeafError, Rule, Slots, applied, require_array, statistics_dtype, widened
from optlab.algebra.slots import Layout, own_slots, united
from optlab.outside import jax_internals, optax_internals


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
        place = f"params at {trees.path_of(params, len(of_leaves))}"
        raise ValueError(_placed(program.name, place, error)) from None
    layout = _slot_layout(program, leaves)
    return State(jnp.zeros((), jnp.int32), layout.trees(treedef, list(map(layout.flat, of_leaves))))


def update(program: Program, updates: Any, state: State, params: Any) -> tuple[Any, State]:
    """One step of a transform: one call of a compiled program per leaf."""
    us, treedef = jax.tree.flatten(updates)
    ws = [None] * len(us) if params is None else trees.matching_leaves(program.name, updates, "params", params)
    layout = _slot_layout(program, us)
    columns = _slot_columns(program.name, layout, updates, state)
    all_bits = _mask_bits(program, updates if params is None else params)
    kernels = {bits: _kernel(program.skeleton, layout, bits) for bits in set(all_bits)}
    t = next_step(program.name, state.count)
    operands = tuple(value.at(t) if isinstance(value, Schedule) else value for value in program.operands)
    outs: list[jax.Array] = []
    rows: list[list[Any]] = []
    slots_of_leaves = zip(*columns, strict=True) if columns else itertools.repeat(())
    try:
        for leaf, (u, w, slots, bits) in enumerate(zip(us, ws, slots_of_leaves, all_bits, strict=False)):
            require_array(u)
            if w is not None:
                require_array(w)
            number = np.uint32(leaf) if program.seeded else None
            out, slots = kernels[bits](program.numbers, operands, u, slots, w, t, number)
            outs.append(out)
            rows.append(slots)
    except LeafError as error:
        raise ValueError(_placed(program.name, f"at {trees.path_of(updates, len(rows))}", error)) from None
    return treedef.unflatten(outs), State(t, layout.trees(treedef, rows))


def _placed(owner: str, place: str, error: LeafError) -> str:
    return f"{owner}: {place}: {str(error).removeprefix(f'{owner}: ')}"


# One leaf -----------------------------------------------------------------------------------------------------------


class _OfAllNumbers:
    """The program of one kind of leaf, given what stands for the Python floats.

    Args:
      recipes: how the first operands come from the floats.
      traced: what the program does, with spare operands behind those.
      treedef: of what it gives.
    """

    def __init__(self, recipes: Sequence[Recipe], traced: Any, treedef: Any) -> None:
        self._recipes = tuple(recipes)
        self.operands = functools.lru_cache(maxsize=64)(self._operands)
        spare = spare_operands()[len(recipes) :]
        compute = jax_internals.jaxpr_as_fun(traced)

        def program(operands: Sequence[Any], *leaf: Any) -> Any:
            return treedef.unflatten(compute(*operands, *spare, *jax.tree.leaves(leaf)))

        self.compiled = jax.jit(program)

    def _operands(self, numbers: tuple[float, ...]) -> tuple[np.ndarray, ...] | None:
        """None where the arithmetic fails, as a quotient by 0.0 does on the host and does not on a device."""
        try:
            return values(self._recipes, numbers)
        except LeafError:
            raise
        except (ArithmeticError, ValueError):
            return None


class _Kernel:
    """The update of one leaf, compiled: one program for all Python floats among the hyperparameters.

    A rule that does more with them than arithmetic, as `if b1 > 0` does, has a program for each.
    """

    def __init__(self, skeleton: Skeleton, layout: "Layout", bits: tuple[bool, ...]) -> None:
        self._skeleton, self._layout, self._bits = skeleton, layout, bits
        self._programs: dict[Hashable, _OfAllNumbers | None] = {}
        self._of_these = functools.lru_cache(maxsize=64)(
            lambda numbers: jax.jit(_anywhere(functools.partial(self._update, numbers)))
        )

    def __call__(self, numbers: tuple[float, ...], *leaf: Any) -> tuple[jax.Array, list[Any]]:
        """The outgoing update and the new slots of `leaf`; slots go in and out flat, as the layout flattens them."""
        if not numbers or jax_internals.jit_is_off():
            return self._of_these(numbers)(*leaf)
        types = (*map(jax.typeof, jax.tree.leaves(leaf)), *jax_internals.trace_settings())
        if types not in self._programs:
            self._programs[types] = self._of_all(numbers, *leaf)
        program = self._programs[types]
        served = None if program is None else program.operands(numbers)
        return self._of_these(numbers)(*leaf) if program is None or served is None else program.compiled(served, *leaf)

    def _of_all(self, numbers: tuple[float, ...], *leaf: Any) -> "_OfAllNumbers | None":
        """A program for all numbers, if there can be one; traced with more operands than it will need."""
        recipes: list[Recipe] = []

        def update(operands: Sequence[Any], *leaf: Any) -> tuple[jax.Array, list[Any]]:
            table = Table(operands, recipes)
            return self._update(table.numbers(len(numbers)), *leaf)

        try:
            traced, shape = jax.make_jaxpr(_anywhere(update), return_shape=True)(spare_operands(), *leaf)
            return _OfAllNumbers(recipes, traced, jax.tree.structure(shape))
        except Exception:  # whatever the rule needs the float itself for; its own errors are said where it has it
            return None

    def _update(
        self, numbers: Sequence[Any], operands: Any, u: Any, flat_slots: Sequence[Any], w: Any, t: jax.Array, leaf: Any
    ) -> tuple[jax.Array, list[Any]]:
        rule = self._skeleton.rule(numbers, operands, self._bits, leaf)
        slots = self._layout.structure.unflatten(flat_slots)
        dtype = statistics_dtype(u, slots, w)
        if w is not None:
            if u.shape != w.shape:
                raise LeafError(f"updates have shape {u.shape}, params {w.shape}")
            w = w.astype(dtype)
        u = u.astype(dtype)
        out, slots = applied(rule, u, own_slots(jax.eval_shape(rule.init, u), slots), w, t)
        return out, self._layout.flat(slots)


def _anywhere(update: Callable[..., Any]) -> Callable[..., Any]:
    """The update of a leaf, whatever lies how on a mesh: its update as that which came, slots as they were."""

    def like(*leaf: Any) -> Any:
        *_, u, flat_slots, _, _, _ = leaf
        return u, list(flat_slots)

    return placing.wherever_they_lie(update, like)


_kernel = functools.lru_cache(maxsize=4096)(_Kernel)


# Slots --------------------------------------------------------------------------------------------------------------


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

    every = functools.reduce(united, map(slots, sorted(shapes)))
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
