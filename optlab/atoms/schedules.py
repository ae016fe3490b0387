"""Schedules as values: a factory and its arguments."""

import contextlib
import enum
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import jax
import numpy as np

from optlab.algebra import spellings
from optlab.algebra.transform import frozen, literal, written
from optlab.atoms.products import Product
from optlab.outside import optax_internals

P = ParamSpec("P")

# What JAX says of a function that looks at a number that is traced: outside of `jit` it may.
_ASKS_FOR_NUMBERS = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def schedule(factory: Callable[P, Callable[[Any], Any]], /, *args: P.args, **kwargs: P.kwargs) -> "BuiltSchedule":
    """`count -> factory(*args, **kwargs)(count)`, as a value: it compares, hashes, prints and pickles as this call.

        adamw(schedule(optax.cosine_decay_schedule, 1e-3, 10_000), weight_decay=0.1)

    What a factory returns does none of that: a function inside of a function equals itself alone, and pickle does not
    find it. So two optimizers of `optax.cosine_decay_schedule(1e-3, 10_000)` are two optimizers, and neither pickles.

    Args:
      factory: one of optax's, or any function of a module that gives a schedule, `count -> number`.
      args, kwargs: what it is called with: numbers, which may be traced, and whatever else compares by value; other
        schedules, and lists, tuples and dicts of all that, of which copies are kept, lists as tuples. A function goes
        by its name in its module. With a traced number it equals those that hold this very number, and has no pickle.

    Raises:
      TypeError: the factory or an argument can't be a value, the factory takes other arguments, or gives no function.
      ValueError: the factory does not take their values, or the schedule does not run.
    """
    if not callable(factory) or not optax_internals.is_found_by_name(factory):
        raise TypeError(f"schedule: the factory must be a function of a module, got {_said(factory)}")
    name = literal(factory)
    try:
        signature = inspect.signature(factory)
    except ValueError:
        raise TypeError(f"schedule: {name} does not say which arguments it takes") from None
    spellings.require_known(f"schedule: {name}", kwargs.keys(), signature)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"schedule: {name}: {error}") from None
    bound.apply_defaults()
    bound.arguments.update({key: _value(key, value) for key, value in bound.arguments.items()})
    made = BuiltSchedule(factory, bound)
    made.require_runs()
    return made


class BuiltSchedule:
    """What `schedule` makes: a function of the number of steps taken, from 0."""

    def __init__(self, factory: Callable[..., Callable[[Any], Any]], bound: inspect.BoundArguments) -> None:
        self._factory, self._bound = factory, bound

    def __call__(self, count: Any) -> Any:
        return self._built(count)

    @functools.cached_property
    def _built(self) -> Callable[[Any], Any]:
        return self._factory(*self._bound.args, **self._bound.kwargs)

    @functools.cached_property
    def _key(self) -> Any:
        return self._factory, tuple((name, frozen(value)) for name, value in self._bound.arguments.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BuiltSchedule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        arguments = written(self._bound.signature, self._bound.arguments)
        return f"schedule({', '.join([literal(self._factory), *arguments])})"

    def __reduce__(self) -> Any:
        return _rebuild, (self._factory, self._bound.args, self._bound.kwargs)

    def require_runs(self) -> None:
        """Refuses arguments that the factory, or the first step of what it gives, does not take."""
        name = literal(self._factory)
        try:
            with jax.numpy_dtype_promotion("standard"):  # optax's promote counts
                built = self._built
                if callable(built):
                    with contextlib.suppress(*_ASKS_FOR_NUMBERS):
                        jax.eval_shape(built, jax.ShapeDtypeStruct((), np.int32))
        except Exception as error:
            said = str(error).partition("\n")[0]
            raise ValueError(f"{self!r} does not run: {type(error).__name__}: {said}") from error
        if not callable(built):
            raise TypeError(f"schedule: {name} gives {_said(built)}, which is no schedule: the factory must make one")


def _rebuild(factory: Callable[..., Any], args: Any, kwargs: Any) -> BuiltSchedule:
    return schedule(factory, *args, **kwargs)


# Values -------------------------------------------------------------------------------------------------------------


def _value(place: str, value: Any) -> Any:
    """`value` as something that nobody changes, and that compares by content."""
    if type(value) in (list, tuple):
        return tuple(_value(f"{place}[{number}]", item) for number, item in enumerate(value))
    if isinstance(value, Mapping):
        return {key: _value(f"{place}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, Product):
        return Product(tuple(_value(f"a factor of {place}", factor) for factor in value.factors))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.copy()
    if value is None or isinstance(value, jax.Array) or _compares_by_value(value):
        return value
    raise TypeError(f"schedule: {place} must be a value, got {_said(value)}")


def _compares_by_value(value: Any) -> bool:
    if optax_internals.path_of(value) is not None:
        return optax_internals.is_found_by_name(value)
    if isinstance(value, enum.Enum):
        return True
    return type(value).__eq__ is not object.__eq__ and type(value).__hash__ not in (None, object.__hash__)


def _said(value: Any) -> str:
    path = optax_internals.path_of(value)
    if path is None:
        return f"{value!r} ({type(value).__name__})"
    maker = optax_internals.outermost(value)
    if maker is None or maker is value:
        return f"{path}, which no module has by that name: define it in one, with def"
    return f"what {literal(maker)} made: write schedule(factory, ...) in the place of factory(...)"
