"""What a hyperparameter may be: one table of standard names and ranges, checked where a transform is built."""

import contextlib
import functools
import inspect
import math
import numbers
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from optlab.algebra import spellings
from optlab.algebra.operands import Number
from optlab.outside.jax_internals import function_of, is_traced

P = ParamSpec("P")
R = TypeVar("R")

Scalar = float | jax.Array
ScalarOrSchedule = Scalar | Callable[[Any], Any]


class Range(NamedTuple):
    """The values that a hyperparameter of a standard name may take."""

    text: str
    holds: Callable[[float], bool]
    schedule: bool = False
    small: bool = False  # so small that it may be 0 in a narrow dtype


_UNIT = Range("in [0, 1)", lambda x: 0 <= x < 1)
NON_NEGATIVE = Range("finite and >= 0", lambda x: 0 <= x < math.inf)
_EPS = NON_NEGATIVE._replace(small=True)
RATE = Range("finite and >= 0, or a schedule", NON_NEGATIVE.holds, schedule=True)

RANGES = {
    "decay": _UNIT,
    "b1": _UNIT,
    "b2": _UNIT,
    "eps": _EPS,
    "eps_root": _EPS,
    "initial": NON_NEGATIVE,
    "weight_decay": RATE,
    "learning_rate": RATE,
}


def canonical(value: Any) -> Any:
    """Host numbers become Python floats, so that equal transforms hold equal values."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if (isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)) or _is_foreign_number(value):
        try:
            return float(value)
        except OverflowError:  # of a whole number
            return math.inf if value == abs(value) else -math.inf
    return value


def _is_foreign_number(value: Any) -> bool:
    """Whether it is a scalar such as bfloat16, which NumPy has from elsewhere and doesn't register as a number."""
    return isinstance(value, np.generic) and any(
        jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)
    )


def check(owner: str, name: str, value: Any, allowed: Range | None = None) -> None:
    """Refuses a `value` that `name`, by default a standard hyperparameter, may not take; a traced real scalar passes.

    Raises:
      TypeError: not a number (nor a schedule, where one is allowed).
      ValueError: an array that is not a real scalar, or a concrete value out of range.
    """
    if isinstance(value, Number):  # checked when it was a float
        return
    allowed = allowed or RANGES[name]
    wanted = f"{owner}: {name} must be {allowed.text}"
    if callable(value):
        if not allowed.schedule:
            raise TypeError(f"{wanted}, got the function {getattr(value, '__name__', value)!r}")
        if not _takes_a_step(value):
            factory = getattr(value, "__name__", repr(value))
            raise TypeError(
                f"{wanted}, got the function {factory}, which takes more than the step: call it, {factory}(...)"
            )
        begins = _first_number(value)
        if begins is not None and not allowed.holds(begins):
            raise ValueError(f"{wanted}, got a schedule that begins at {begins:g}")
        return
    if isinstance(value, jax.Array) and not _is_real_number(value):
        raise ValueError(f"{wanted}, as one real number, got an array {value.dtype}{list(value.shape)}")
    narrow, rounded = _narrow(value), ""
    if narrow is not None:
        remedy = "give it in float32: optax.inject_hyperparams takes hyperparam_dtype=jnp.float32"
        rounded = f" in {narrow}; {remedy}"
    vanishes = narrow is not None and allowed.small and float(np.asarray(1e-8, narrow)) == 0
    if is_traced(value):
        if narrow is not None and allowed is _UNIT:
            raise ValueError(f"{wanted}, got a traced one, of which those near 1 are 1{rounded}")
        if vanishes:
            raise ValueError(f"{wanted}, got a traced one, of which 1e-8 is 0{rounded}")
        return
    value = float(value) if isinstance(value, jax.Array) else canonical(value)
    if not isinstance(value, float):
        raise TypeError(f"{wanted}, got {_short(value)} ({type(value).__name__})")
    if not allowed.holds(value):
        raise ValueError(f"{wanted}, got {value!r}{rounded}")
    if vanishes and value == 0:
        raise ValueError(f"{wanted}, got {value!r}, which is what 1e-8 is{rounded}")
    single = _single(value)
    if allowed is _UNIT or single == value or jax.config.read("jax_enable_x64"):  # a decay is rounded where weights are
        return
    if single == 0 or not allowed.holds(single):
        raise ValueError(f"{wanted}, got {value!r}, which is {single:g} in float32")


def _narrow(value: Any) -> np.dtype | None:
    """The dtype of a floating-point scalar that has fewer digits, and a smaller range, than float32."""
    dtype = value.dtype if isinstance(value, jax.Array | np.ndarray | np.generic) else None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize >= 4:
        return None
    return dtype


def _short(value: Any) -> str:
    """A value as an error says it; of a tree of weights it would be pages."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:60]}..."


def _single(value: float) -> float:
    """The number in float32, where processors take what is below its smallest normal for 0."""
    if abs(value) < float(jnp.finfo(jnp.float32).tiny):
        return 0.0
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _takes_a_step(schedule: Callable[..., Any]) -> bool:
    try:
        inspect.signature(schedule).bind(0)
    except TypeError:
        return False
    except ValueError:  # it has none
        pass
    return True


def _first_number(schedule: Callable[[Any], Any]) -> float | None:
    """What a schedule gives before the first step, if that can be seen without the program that it is for."""
    if isinstance(schedule, CheckedSchedule):
        return None
    try:
        return _first_numbers[schedule]
    except (KeyError, TypeError):
        pass
    begins = None
    with contextlib.suppress(Exception), warnings.catch_warnings():  # whatever it needs a trace, or a step, for
        warnings.simplefilter("ignore")
        traced = jax.make_jaxpr(schedule)(np.int32(0))
        if not any(map(is_traced, traced.consts)):
            with jax.ensure_compile_time_eval():
                (value,) = jax.jit(function_of(traced.jaxpr, traced.consts))(np.int32(0))
            begins = float(value) if _is_real_number(value) else None
    with contextlib.suppress(TypeError):  # it does not hash, or can't be referred to weakly
        _first_numbers[schedule] = begins
    return begins


_first_numbers: weakref.WeakKeyDictionary[Any, float | None] = weakref.WeakKeyDictionary()


class CheckedSchedule:
    """A schedule of which what it is made of was checked already."""


def check_choice(owner: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a `value` that is none of the `choices`."""
    if value not in choices:
        raise ValueError(f"{owner}: {name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_whole(owner: str, name: str, value: Any, least: int) -> int:
    """`value` as a Python integer, refused if it is no integer of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{owner}: {name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def check_seed(owner: str, value: Any) -> None:
    """Refuses what is no seed: a Python integer, or an integer array, which may be traced."""
    if isinstance(value, jax.Array):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(f"{owner}: seed must be one integer, got an array {value.dtype}{list(value.shape)}")
    elif not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ValueError(f"{owner}: seed must be an integer from 0 to 2**32 - 1, got {value!r}")


def _is_real_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.generic | np.ndarray | jax.Array)
        and jnp.shape(value) == ()
        and jnp.issubdtype(jnp.result_type(value), jnp.number)
        and not jnp.iscomplexobj(value)
    )


def bind(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """The canonical, checked arguments of a call of `function`, defaults filled in."""
    owner, signature = function.__name__, inspect.signature(function)
    known = spellings.keywords(signature)
    if known is not None and not known.issuperset(kwargs):
        name = min(kwargs.keys() - known)
        raise TypeError(f"{owner}: no argument {name!r}; {spellings.advice(owner, name, list(signature.parameters))}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        by_name = [name for name, taken in signature.parameters.items() if taken.kind is taken.KEYWORD_ONLY]
        hint = f"; by name only: {', '.join(by_name)}" if by_name and "too many" in str(error) else ""
        raise TypeError(f"{owner}: {error}{hint}") from None
    bound.apply_defaults()
    for name in bound.arguments.keys() & RANGES.keys():
        check(owner, name, bound.arguments[name])
        bound.arguments[name] = canonical(bound.arguments[name])
    if "seed" in bound.arguments:
        check_seed(owner, bound.arguments["seed"])
    return bound


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the arguments of standard names, in the name of `function`, before its body sees them."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = bind(function, *args, **kwargs)
        return function(*bound.args, **bound.kwargs)

    return call


def like(value: Any, u: jax.Array) -> Any:
    """The hyperparameter `value` in the dtype of `u`; Python numbers stay as they are, weakly typed."""
    return value if isinstance(value, float | int | Number) else jnp.asarray(value).astype(u.dtype)


class Schedule(NamedTuple):
    """A schedule as a hyperparameter of `owner`."""

    owner: str
    function: Callable[[Any], Any]

    def at(self, t: jax.Array) -> Any:
        """Its number at the 1-based step `t`; schedules count steps from 0, as optax's do."""
        return at_step(self.owner, self.function, t)


def is_schedule(name: str, value: Any) -> bool:
    """Whether `value` is the schedule of a standard hyperparameter that may have one."""
    return name in RANGES and RANGES[name].schedule and callable(value)


def number_at(owner: str, value: Any, count: Any) -> Any:
    """The number that `value`, a number or an optax schedule, stands for after `count` steps.

    Raises:
      ValueError: the schedule gave something else than one real number.
    """
    if callable(value):
        value = value(count)
        if not _is_real_number(value):
            got = f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)
            raise ValueError(f"{owner}: its schedule must give one real number at each step, got {got}")
    return value


def at_step(owner: str, value: Any, t: jax.Array) -> Any:
    """`number_at` the 1-based step `t`, before which `t - 1` steps were taken."""
    return number_at(owner, value, t - 1)
