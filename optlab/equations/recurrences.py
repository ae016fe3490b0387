"""The recurrence of one weight, read off the traced computation of a transform."""

import contextlib
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sympy as sp

from optlab.algebra import hyperparameters
from optlab.algebra.transform import Transform, as_read, describe, rebuild
from optlab.equations import symbols
from optlab.equations.claims import Shape
from optlab.equations.interpret import Formula, Inexpressible, Reading, by_size, t, where
from optlab.outside import jax_internals as core
from optlab.outside.peers import lenient_float64

TRACED: Mapping[int, tuple[Shape, Shape]] = {
    1: ((7919,), (7907,)),
    2: ((151, 131), (139, 137)),
    3: ((5, 151, 131), (5, 139, 137)),
    4: ((3, 5, 151, 131), (3, 5, 139, 137)),
}
"""The leaves that are traced for each number of axes: two, so that a constant that depends on their size shows."""


_LETTERS = {str(size): "MN"[axis - len(shape)] for shape in TRACED[1] + TRACED[2] for axis, size in enumerate(shape)}


def _with_letters(text: str) -> str:
    """What was said of a leaf, without the sizes that nobody gave it."""
    return re.sub(r"\b\d+\b", lambda size: _LETTERS.get(size[0], size[0]), text)


class Untraceable(Inexpressible):
    """Python code behind the transform raised while it was traced."""


class NoTransform(TypeError):
    """Neither a transform nor a function that makes one of its hyperparameters."""

    def __init__(self, got: str) -> None:
        super().__init__(f"wanted a transform, or a function that makes one of its hyperparameters; got {got}")


Made = optax.GradientTransformation
Maker = Callable[..., Made]
Schedule = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A number that the optimizer keeps for a weight, or for all of them.

    Attributes:
      path: where it stands in the state.
      before, after: its symbols at the beginning and the end of step t.
      first: what it starts from.
      new: what the step makes of it; `after` symbols of slots further up may stand in it.
    """

    path: str
    before: sp.Symbol
    after: sp.Symbol
    first: Formula
    new: Formula


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """One step of an optimizer for one weight.

    Attributes:
      name: of the transform or its factory.
      weight: the new weight, in the weight `w`, the gradient `g`, the step `t`, the slots' `after` symbols and the
        hyperparameters.
      slots: in an order in which each can be computed from those before it.
      hyperparameters: symbols by the name of the factory's argument.
      defaults: their defaults, where the factory has them.
      held: arguments that stay at their defaults, since Python branches on them.
    """

    name: str
    weight: Formula
    slots: tuple[Slot, ...]
    hyperparameters: Mapping[str, sp.Symbol]
    defaults: Mapping[str, float]
    held: Mapping[str, Any]

    @property
    def expressions(self) -> tuple[Formula, ...]:
        """What the slots become, and the new weight."""
        return (*(slot.new for slot in self.slots), self.weight)

    @property
    def step(self) -> tuple[tuple[sp.Symbol, Formula], ...]:
        """What is computed one after the other: the slots, and the weight after the step."""
        return (*((slot.after, slot.new) for slot in self.slots), (symbols.next_weight, self.weight))

    def subs(self, replacements: Mapping[Formula, Any]) -> "Recurrence":
        """The recurrence with symbols of the hyperparameters replaced."""
        slots = tuple(
            dataclasses.replace(slot, first=slot.first.xreplace(replacements), new=slot.new.xreplace(replacements))
            for slot in self.slots
        )
        return dataclasses.replace(self, weight=self.weight.xreplace(replacements), slots=slots)


def recurrence(x: Any, shown_as: Callable[[str, Schedule], Schedule], axes: int = 1) -> Recurrence:
    """Traces a transform, or a function that makes one of its hyperparameters.

    Args:
      x: the transform or the function; see `optlab.explain`.
      shown_as: what stands for the schedule of a hyperparameter: its letter, from `Letters()`, or `by_formula`.
      axes: of the leaf that it is traced with, a key of `TRACED`.

    Raises:
      TypeError: neither of both.
      Inexpressible: one weight's recurrence can't say what it does.
    """
    if _is_transform(x):
        return _read(describe(x), lambda numbers: _with_schedules(x, shown_as), {}, {}, {}, axes)
    x = _by_keyword(x)
    numbers, schedules = _arguments(x)
    fixed = {key: shown_as(key, schedule) for key, schedule in schedules.items()}
    name = _name(x)

    def attempt(held: Mapping[str, Any]) -> Recurrence:
        free = {key: default for key, default in numbers.items() if key not in held}

        def make(values: Mapping[str, Any]) -> Made:
            return _require_transform(name, x(**fixed, **held, **values))

        defaults = {key: float(value) for key, value in free.items() if value is not None}
        return _read(name, make, symbols.hyperparameters(free), defaults, held, axes)

    with contextlib.suppress(Untraceable):
        return attempt({})
    with_default = {key: value for key, value in numbers.items() if value is not None}
    return attempt(
        {key: value for key, value in with_default.items() if not _may_be_traced(x, key, numbers, fixed, axes)}
    )


def with_symbols(tx: Transform, names: Sequence[str], axes: int = 1) -> Recurrence:
    """The recurrence of a transform with symbols for those of its hyperparameters `names` that are one number."""
    numbers: dict[str, set[float]] = {}

    def noted(name: str, value: Any) -> Any:
        if name in names and isinstance(value, float):
            numbers.setdefault(name, set()).add(value)
        return value

    _with_hyperparams(tx, noted)
    values = {name: value for name, (value, *others) in numbers.items() if value and not others}

    lettered = _with_schedules(tx, Letters())

    def make(given: Mapping[str, Any]) -> Made:
        def placed(name: str, value: Any) -> Any:
            return given[name] if name in given and isinstance(value, float) else value

        return _with_hyperparams(lettered, placed)

    return _read(describe(tx), make, symbols.hyperparameters(values), values, {}, axes)


def instance(x: Any, typical: Mapping[str, float], *, all_of: bool = False) -> tuple[str, Made, dict[str, float]]:
    """A transform to run, with its name: `x` itself, or what it makes of its defaults and of typical numbers.

    Args:
      all_of: whether typical numbers go before defaults.

    Raises:
      ValueError: an argument has neither.
    """
    if _is_transform(x):
        return describe(x), x, {}
    x = _by_keyword(x)
    numbers, _ = _arguments(x)
    name = _name(x)
    chosen = {}
    for key, default in numbers.items():
        if default is None and key not in typical:
            raise ValueError(f"{name}: {key} has no default; bind it with functools.partial to run the transform")
        if default is None or (all_of and key in typical):
            chosen[key] = typical[key]
    return name, _require_transform(name, x(**chosen)), chosen


def _name(x: Any) -> str:
    if isinstance(x, functools.partial):
        bound = [f"{key}={value}" for key, value in x.keywords.items() if isinstance(value, bool | str)]
        return _name(x.func) + (f"[{', '.join(bound)}]" if bound else "")
    return getattr(x, "__name__", type(x).__name__)


def _is_transform(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None)) and not inspect.isclass(x)


def _by_keyword(x: Any) -> Any:
    """A partial with its positional arguments by name."""
    if not isinstance(x, functools.partial):
        return x
    return functools.partial(x.func, **inspect.signature(x.func).bind_partial(*x.args, **x.keywords).arguments)


def _require_transform(name: str, made: Any) -> Made:
    if not _is_transform(made):
        raise NoTransform(f"{name}, which returns {type(made).__name__}")
    return made


def _arguments(x: Any) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """A factory's arguments: those that become symbols, with their defaults, and schedules."""
    if not callable(x):
        raise NoTransform(f"{x!r} ({type(x).__name__})")
    if inspect.isclass(x):
        raise NoTransform(f"the class {x.__name__}; what is no JAX computation, optlab.identify can drive")
    try:
        parameters = inspect.signature(x).parameters
    except (TypeError, ValueError):
        raise NoTransform(f"{_name(x)}, which has no signature to read them from") from None
    bound = x.keywords if isinstance(x, functools.partial) else {}
    numbers: dict[str, Any] = {}
    schedules: dict[str, Schedule] = {}
    for name, parameter in parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise NoTransform(f"{_name(x)}, whose argument {name} can't be given by keyword")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if default is parameter.empty or (default is None and name == "learning_rate"):
            numbers[name] = None
        elif isinstance(default, int | float | np.number) and not isinstance(default, bool) and name not in bound:
            numbers[name] = default
        elif callable(default) and hyperparameters.is_schedule(name, default):
            schedules[name] = default
    return numbers, schedules


def _may_be_traced(x: Maker, key: str, numbers: Mapping[str, Any], fixed: Mapping[str, Any], axes: int) -> bool:
    def make(values: Mapping[str, Any]) -> Made:
        defaults = {name: value for name, value in numbers.items() if value is not None}
        return x(**fixed, **{**defaults, **values})

    free = [key, *(name for name, value in numbers.items() if value is None)]
    try:
        _traced(make, free, TRACED[axes][0])
    except Inexpressible:
        return False
    return True


# Schedules ----------------------------------------------------------------------------------------------------------

_schedule = core.Primitive("schedule")
_schedule.def_abstract_eval(lambda count, *, letter: core.ShapedArray((), jnp.dtype("float64")))


class Letters:
    """Schedules of which nothing is known but their letters; a second one of a hyperparameter has an index."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Schedule]] = {}

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Those that were given a letter, by it."""
        return {
            symbols.numbered(symbols.hyperparameter(name), index).name: schedule
            for name, seen in self.seen.items()
            for index, schedule in enumerate(seen)
        }

    def __call__(self, name: str, schedule: Schedule) -> Schedule:
        seen = self.seen.setdefault(name, [])
        if schedule not in seen:
            seen.append(schedule)
        letter = symbols.numbered(symbols.hyperparameter(name), seen.index(schedule))
        return lambda count: _schedule.bind(jnp.asarray(count), letter=letter.name)


def by_formula(name: str, schedule: Schedule) -> Schedule:
    """The schedule itself, to be traced with the rest."""
    del name
    return schedule


def _with_schedules(tx: Made, shown_as: Callable[[str, Schedule], Schedule]) -> Made:
    """`tx` with others for the schedules that it holds, where it says what it is made of."""

    def shown(name: str, value: Any) -> Any:
        return shown_as(name, value) if value is not None and hyperparameters.is_schedule(name, value) else value

    return _with_hyperparams(tx, shown)


def _with_hyperparams(tx: Made, replaced: Callable[[str, Any], Any]) -> Made:
    """`tx` rebuilt with other values of its hyperparameters; optax's transforms stay as they are."""
    if not isinstance(tx, Transform):
        return tx
    parts = [_with_hyperparams(part, replaced) for part in tx.parts]
    return rebuild(tx.maker, parts, {name: replaced(name, value) for name, value in tx.hyperparams.items()})


# Tracing ------------------------------------------------------------------------------------------------------------


def _traced(
    make: Callable[[Mapping[str, Any]], Made], names: Sequence[str], shape: Shape
) -> tuple[core.ClosedJaxpr, core.ClosedJaxpr, list[tuple[Any, Any]]]:
    """The computations of `init` and of a step, and the leaves of the state with their paths."""
    scalar = jax.ShapeDtypeStruct((), np.dtype("float64"))
    leaf = jax.ShapeDtypeStruct(shape, np.dtype("float64"))
    numbers = dict.fromkeys(names, scalar)

    def init(values: Any, weight: Any) -> Any:
        return as_read(make(values)).init(weight)

    def step(values: Any, state: Any, gradient: Any, weight: Any) -> Any:
        updates, state = as_read(make(values)).update(gradient, state, weight)
        return optax.apply_updates(weight, updates), state

    try:
        with lenient_float64():
            start, state = jax.make_jaxpr(init, return_shape=True)(numbers, leaf)
            body, (moved, after) = jax.make_jaxpr(step, return_shape=True)(numbers, state, leaf, leaf)
    except NoTransform:
        raise
    except jax.errors.ConcretizationTypeError as error:
        remedy = "bind it to a number with functools.partial"
        raise Untraceable(f"Python code branches on a hyperparameter that has no default; {remedy}") from error
    except Exception as error:
        reason = _with_letters(str(error).strip().split("\n")[0])
        raise Untraceable(f"tracing it raises {type(error).__name__}: {reason}") from error
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise Inexpressible("its state changes its structure from one step to the next")
    if moved.shape != leaf.shape:
        raise Inexpressible(f"it makes weights of shape {moved.shape} of a leaf of shape {leaf.shape}")
    return start, body, jax.tree_util.tree_flatten_with_path(state)[0]


def _read(
    name: str,
    make: Callable[[Mapping[str, Any]], Made],
    letters: Mapping[str, sp.Symbol],
    defaults: Mapping[str, float],
    held: Mapping[str, Any],
    axes: int,
) -> Recurrence:
    shapes = TRACED[axes]
    sizes = math.prod(shapes[0]), math.prod(shapes[1])
    try:
        start, body, leaves = _traced(make, list(letters), shapes[0])
        other_start, other_body, _ = _traced(make, list(letters), shapes[1])
        of_size = by_size(start, other_start, sizes) | by_size(body, other_body, sizes)
        reading = functools.partial(Reading, sizes[0], of_size)
        values = [letters[key] for key in sorted(letters)]
        firsts = reading().read(start, [*values, symbols.w], [None] * len(leaves))
        weight, slots = _read_step(reading, body, values, _blank_slots(leaves, firsts))
    except Inexpressible as error:
        raise type(error)(error.reason, name) from error.__cause__
    return _tidy(Recurrence(name, weight, slots, dict(letters), dict(defaults), dict(held)))


def _read_step(
    new_reading: Callable[[], Reading],
    body: core.ClosedJaxpr,
    values: Sequence[Any],
    blanks: Sequence["Slot | _Whole"],
) -> tuple[Formula, tuple[Slot, ...]]:
    """The new weight, and the slots with their new values."""
    reading = new_reading()
    names = [blank.after if isinstance(blank, Slot) else None for blank in blanks]
    olds = [blank.before for blank in blanks]
    weight, *news = reading.read(body, [*values, *olds, symbols.g, symbols.w], [None, *names])
    others = [
        blank.other_reading() if isinstance(blank, _Whole) and sp.expand(new - blank.after) != 0 else blank
        for blank, new in zip(blanks, news, strict=True)
    ]
    if others != list(blanks):
        return _read_step(new_reading, body, values, others)
    pairs = zip(blanks, news, strict=True)
    return weight, tuple(
        dataclasses.replace(blank, new=reading.definitions[new] if new == blank.after else new)
        for blank, new in pairs
        if isinstance(blank, Slot)
    )


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A whole number in the state: a count of the steps, or one that never changes."""

    path: str
    first: Formula
    counts: bool = True

    @property
    def before(self) -> Formula:
        return self.first + t - 1 if self.counts else self.first

    @property
    def after(self) -> Formula:
        return self.first + t if self.counts else self.first

    def other_reading(self) -> "_Whole":
        if not self.counts:
            raise Inexpressible(f"its state holds a whole number that is no count of the steps, at {self.path}")
        return dataclasses.replace(self, counts=False)


def _blank_slots(leaves: Sequence[tuple[Any, Any]], firsts: Sequence[Any]) -> list[Slot | _Whole]:
    """The slots, still without their new values."""
    paths = [[_part(key) for key in path] for path, _ in leaves]
    wholes = [np.issubdtype(leaf.dtype, np.integer) and leaf.shape == () for _, leaf in leaves]
    letters = iter(symbols.slot_letters([path for path, whole in zip(paths, wholes, strict=True) if not whole]))
    slots: list[Slot | _Whole] = []
    for (path, leaf), whole, first in zip(leaves, wholes, firsts, strict=True):
        place = jax.tree_util.keystr(path)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise Inexpressible(f"its state holds a random key, at {place}")
        if whole:
            slots.append(_Whole(place, first))
        else:
            before, after = symbols.slot(next(letters), is_truth=leaf.dtype == np.bool_)
            slots.append(Slot(place, before, after, first, sp.nan))
    return slots


def _part(key: Any) -> str:
    for attribute in ("name", "key"):
        if isinstance(value := getattr(key, attribute, None), str):
            return value.lower()
    return ""


def _tidy(found: Recurrence) -> Recurrence:
    """Without the slots that are known at every step, and in an order in which the others can be computed."""
    while known := _known(found):
        slots = tuple(slot for slot in found.slots if slot.after not in known)
        found = dataclasses.replace(found, slots=slots).subs(known)
    waiting = list(found.slots)
    ordered: list[Slot] = []
    while waiting:
        names = {slot.after for slot in waiting}
        ready = [slot for slot in waiting if not slot.new.free_symbols & (names - {slot.after})]
        assert ready, "the slots of a step can't depend on each other in a circle"
        ordered += sorted(ready, key=lambda slot: slot.after.name)
        waiting = [slot for slot in waiting if slot not in ready]
    return dataclasses.replace(found, slots=tuple(ordered))


def _known(found: Recurrence) -> dict[Formula, Formula]:
    """The values of slots that never change, and of those that change once, after the first step."""
    known: dict[Formula, Formula] = {}
    for slot in found.slots:
        first = slot.first.xreplace({symbols.w: symbols.first_weight})
        if slot.new in (slot.before, first):
            known |= {slot.before: first, slot.after: first}
        elif not slot.new.free_symbols and not slot.first.free_symbols:
            known |= {slot.before: where(sp.Eq(t, 1), slot.new, first), slot.after: slot.new}
    return known
