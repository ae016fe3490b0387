"""The recurrence of one weight, read off the traced computation of a transform."""

import contextlib
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
import sympy as sp
from jax.extend import core

from optlab import hyperparameters
from optlab.equations import symbols
from optlab.equations.interpret import SIZE, Formula, Inexpressible, Reading, t
from optlab.transform import Transform, describe, rebuild


class Untraceable(Inexpressible):
    """Python code behind the transform raised while it was traced."""


Made = optax.GradientTransformation
Maker = Callable[..., Made]


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

    def subs(self, replacements: Mapping[Formula, Any]) -> "Recurrence":
        """The recurrence with symbols of the hyperparameters replaced."""
        slots = tuple(
            dataclasses.replace(slot, first=slot.first.xreplace(replacements), new=slot.new.xreplace(replacements))
            for slot in self.slots
        )
        return dataclasses.replace(self, weight=self.weight.xreplace(replacements), slots=slots)


def recurrence(x: Any) -> Recurrence:
    """Traces a transform, or a function that makes one of its hyperparameters.

    Raises:
      TypeError: neither of both.
      Inexpressible: one weight's recurrence can't say what it does.
    """
    if _is_transform(x):
        return _read(describe(x), lambda numbers: _with_schedule_letters(x), {}, {}, {})
    x = _by_keyword(x)
    numbers, fixed = _arguments(x)
    name = _name(x)

    def attempt(held: Mapping[str, Any]) -> Recurrence:
        free = {key: default for key, default in numbers.items() if key not in held}

        def make(values: Mapping[str, Any]) -> Made:
            return _require_transform(x(**fixed, **held, **values))

        letters = {key: symbols.hyperparameter(key) for key in free}
        defaults = {key: float(value) for key, value in free.items() if value is not None}
        return _read(name, make, letters, defaults, held)

    with contextlib.suppress(Untraceable):
        return attempt({})
    with_default = {key: value for key, value in numbers.items() if value is not None}
    return attempt({key: value for key, value in with_default.items() if not _may_be_traced(x, key, numbers, fixed)})


def instance(x: Any, typical: Mapping[str, float]) -> tuple[str, Made, dict[str, float]]:
    """A transform to run, with its name: `x` itself, or what it makes of its defaults and of typical numbers.

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
        if default is None:
            chosen[key] = typical[key]
    return name, _require_transform(x(**chosen)), chosen


def _name(x: Any) -> str:
    x = x.func if isinstance(x, functools.partial) else x
    return getattr(x, "__name__", type(x).__name__)


def _is_transform(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None)) and not inspect.isclass(x)


def _by_keyword(x: Any) -> Any:
    """A partial with its positional arguments by name, so that they count as defaults."""
    if not isinstance(x, functools.partial):
        return x
    return functools.partial(x.func, **inspect.signature(x.func).bind_partial(*x.args, **x.keywords).arguments)


def _require_transform(made: Any) -> Made:
    if not _is_transform(made):
        raise TypeError(f"it must return a transform, with init and update, and returned {type(made).__name__}")
    return made


def _arguments(x: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A factory's arguments: those that become symbols, with their defaults, and schedules, which become letters."""
    wanted = "explain takes a transform, or a function that makes one of its hyperparameters"
    if not callable(x):
        raise TypeError(f"{wanted}, got {x!r} ({type(x).__name__})")
    try:
        parameters = inspect.signature(x).parameters
    except (TypeError, ValueError):
        raise TypeError(f"{wanted}; {x!r} has no signature to read them from") from None
    if inspect.isclass(x):
        raise TypeError(f"{wanted}, got the class {x.__name__}; what is no JAX computation, identify can drive")
    numbers: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{wanted} by keyword; {name} can't be named")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if default is parameter.empty or (default is None and name == "learning_rate"):
            numbers[name] = None
        elif isinstance(default, int | float | np.number) and not isinstance(default, bool):
            numbers[name] = default
        elif hyperparameters.is_schedule(name, default):
            fixed[name] = _letter_at(name)
    return numbers, fixed


def _may_be_traced(x: Maker, key: str, numbers: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    def make(values: Mapping[str, Any]) -> Made:
        defaults = {name: value for name, value in numbers.items() if value is not None}
        return x(**fixed, **{**defaults, **values})

    free = [key, *(name for name, value in numbers.items() if value is None)]
    try:
        _traced(make, free)
    except Inexpressible:
        return False
    return True


# Schedules ----------------------------------------------------------------------------------------------------------

_schedule = core.Primitive("schedule")
_schedule.def_abstract_eval(lambda count, *, letter: jax.core.ShapedArray((), jnp.dtype("float64")))


def _letter_at(name: str) -> Callable[[Any], jax.Array]:
    """A schedule of which nothing is known but its letter."""
    letter = symbols.unicode(symbols.hyperparameter(name))
    return lambda count: _schedule.bind(jnp.asarray(count), letter=letter)


def _with_schedule_letters(tx: Made) -> Made:
    """`tx` with letters for the schedules that it holds, where it says what it is made of."""
    if not isinstance(tx, Transform):
        return tx
    parts = [_with_schedule_letters(part) for part in tx.parts]
    hyperparams = {
        name: _letter_at(name) if value is not None and hyperparameters.is_schedule(name, value) else value
        for name, value in tx.hyperparams.items()
    }
    return rebuild(tx.maker, parts, hyperparams)


# Tracing ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Float64 and every promotion, so that no rounding of a hyperparameter and no cast of a peer stands in the way."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _traced(
    make: Callable[[Mapping[str, Any]], Made], names: Sequence[str]
) -> tuple[core.ClosedJaxpr, core.ClosedJaxpr, list[tuple[Any, Any]]]:
    """The computations of `init` and of a step, and the leaves of the state with their paths."""
    scalar = jax.ShapeDtypeStruct((), np.dtype("float64"))
    leaf = jax.ShapeDtypeStruct((SIZE,), np.dtype("float64"))
    numbers = dict.fromkeys(names, scalar)

    def init(values: Any, weight: Any) -> Any:
        return make(values).init(weight)

    def step(values: Any, state: Any, gradient: Any, weight: Any) -> Any:
        updates, state = make(values).update(gradient, state, weight)
        return optax.apply_updates(weight, updates), state

    try:
        with exact():
            start, state = jax.make_jaxpr(init, return_shape=True)(numbers, leaf)
            body, (moved, after) = jax.make_jaxpr(step, return_shape=True)(numbers, state, leaf, leaf)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
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
) -> Recurrence:
    try:
        start, body, leaves = _traced(make, list(letters))
        values = [letters[key] for key in sorted(letters)]
        reading = Reading()
        firsts = Reading().read(start, [*values, symbols.w], [None] * len(leaves))
        slots = _blank_slots(leaves, firsts)
        names = [None if slot is None else slot.after for slot in slots]
        olds = [t - 1 + first if slot is None else slot.before for slot, first in zip(slots, firsts, strict=True)]
        weight, *news = reading.read(body, [*values, *olds, symbols.g, symbols.w], [None, *names])
    except Inexpressible as error:
        raise type(error)(f"{name} can't be written as the recurrence of one weight: {error}") from error.__cause__
    filled = []
    for slot, first, new, (path, _) in zip(slots, firsts, news, leaves, strict=True):
        if slot is None:
            if sp.expand(new - t - first) != 0:
                where = jax.tree_util.keystr(path)
                raise Inexpressible(f"{name}: its state holds an integer that does not count the steps, at {where}")
        else:
            filled.append(dataclasses.replace(slot, new=reading.definitions[new] if new == slot.after else new))
    return _tidy(Recurrence(name, weight, tuple(filled), dict(letters), dict(defaults), dict(held)))


def _blank_slots(leaves: Sequence[tuple[Any, Any]], firsts: Sequence[Any]) -> list[Slot | None]:
    """The slots, still without their new values; None for the counts of steps."""
    paths = [[_part(key) for key in path] for path, _ in leaves]
    counts = [np.issubdtype(leaf.dtype, np.integer) and leaf.shape == () for _, leaf in leaves]
    letters = iter(symbols.slot_letters([path for path, count in zip(paths, counts, strict=True) if not count]))
    slots: list[Slot | None] = []
    for (path, leaf), count, first in zip(leaves, counts, firsts, strict=True):
        where = jax.tree_util.keystr(path)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise Inexpressible(f"its state holds a random key, at {where}")
        if count and not first.is_Integer:
            raise Inexpressible(f"its state holds an integer that does not count the steps, at {where}")
        if count:
            slots.append(None)
        else:
            before, after = symbols.slot(next(letters), is_truth=leaf.dtype == np.bool_)
            slots.append(Slot(where, before, after, first, sp.nan))
    return slots


def _part(key: Any) -> str:
    for attribute in ("name", "key"):
        if isinstance(value := getattr(key, attribute, None), str):
            return value.lower()
    return ""


def _tidy(found: Recurrence) -> Recurrence:
    """Without the slots that never change, and in an order in which the others can be computed."""
    fixed = {}
    for slot in found.slots:
        if slot.new == slot.before:
            value = slot.first.xreplace({symbols.w: symbols.first_weight})
            fixed |= {slot.before: value, slot.after: value}
    waiting = [slot for slot in found.subs(fixed).slots if slot.before not in fixed]
    ordered: list[Slot] = []
    while waiting:
        names = {slot.after for slot in waiting}
        ready = [slot for slot in waiting if not slot.new.free_symbols & (names - {slot.after})]
        assert ready, "the slots of a step can't depend on each other in a circle"
        ordered += sorted(ready, key=lambda slot: slot.after.name)
        waiting = [slot for slot in waiting if slot not in ready]
    return dataclasses.replace(found.subs(fixed), slots=tuple(ordered))
