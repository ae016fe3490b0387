"""What is known of optax's transforms: the function that made one, and what its closure holds.

optax's transforms are two functions without a name. Each update is compiled as a part of the public function that
makes it, so that the code itself says whose it is, however that function is called elsewhere.
"""

import functools
import inspect
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from optlab.outside.jax_internals import is_traced

Update = Callable[..., Any]


class Link(NamedTuple):
    """One of optax's transforms.

    Attributes:
      name: of the public function whose closure the update is. `scale_by_learning_rate` is seen where it is given a
        schedule; of a number it makes a `scale`, of None an `identity`, as `sgd` and `adamw` make a `chain`.
      sign: 1 if what leaves points where what came does, -1 if it points back (gradients leave as a step down), 0 if
        nothing leaves; None where that can't be told, or differs from leaf to leaf. A schedule counts as positive.
      parts: the updates of the transforms that it applies, in order; `what_is` knows those of optax.
    """

    name: str
    sign: int | None = None
    parts: tuple[Update, ...] = ()


def what_is(tx: optax.GradientTransformation | Update) -> Link | None:
    """What a transform of optax, or its update alone, is; None for whatever optax has not made."""
    update = _update(tx)
    name = _maker(update)
    if name is None:
        return None
    held = _held(update)
    if name == "scale_by_schedule" and _maker(held.get("step_size_fn")) == "scale_by_learning_rate":
        return Link("scale_by_learning_rate", _sign_of(_held(held["step_size_fn"]).get("m")))
    if name in _FACTORS:
        return Link(name, _sign_of(held.get(_FACTORS[name])))
    if name in _COMBINED:
        parts = tuple(map(_update, _COMBINED[name](held)))
        return Link(name, _sign_through(name, parts), parts)
    return Link(name, 0 if name == "set_to_zero" else 1 if name in _KEEPING_SIGNS else None)


def stands_for_params(params: Any) -> bool:
    """Whether `params` are what `optax.tree.map_params` gives to `init` in their place, to see where they go."""
    return isinstance(params, _stand_in())


@functools.cache
def _stand_in() -> type:
    """The type of it, which optax keeps to itself, and shows to whatever `init` it is given."""
    seen: list[Any] = []
    optax.tree_utils.tree_map_params(seen.append, lambda leaf: leaf, None)  # pyright: ignore[reportArgumentType]
    return type(seen[0])


def title(tx: optax.GradientTransformation) -> str:
    """How a transform that is not optlab's reads inside an expression: by the function whose closure its update is."""
    return getattr(tx.update, "__qualname__", "transform").split(".")[0]


def path_of(function: Any) -> str | None:
    """Module and name of a function, such as one of optax's schedules; None for what has no name.

    The module is the first of those above it where the name is public: `optax.linear_schedule`.
    """
    if not hasattr(function, "__qualname__"):
        return None
    module, own = str(getattr(function, "__module__", None)), outermost(function)
    above = itertools.accumulate(module.split("."), "{}.{}".format)
    home = next((package for package in above if own is not None and _found(package, own) is own), module)
    return f"{home}.{function.__qualname__}"


def is_found_by_name(function: Any) -> bool:
    """Whether a function is what its module has under its name, as pickle wants it."""
    return hasattr(function, "__qualname__") and outermost(function) is function


def outermost(function: Any) -> Any:
    """What a module has by the name of `function`, or by that of the function inside of which it was made."""
    return _found(getattr(function, "__module__", None), function)


def _found(module: Any, function: Any) -> Any:
    value = sys.modules.get(module)
    for name in function.__qualname__.partition(".<locals>")[0].split("."):
        value = getattr(value, name, None)
    return value


# What is in a closure: names of optax's variables -------------------------------------------------------------------

_FACTORS = {  # transforms that multiply by a number, and what it is called
    "normalize_by_update_norm": "scale_factor",
    "scale": "step_size",
    "scale_by_optimistic_gradient": "alpha",
    "scale_by_trust_ratio": "trust_coefficient",
}

_COMBINED: dict[str, Callable[[dict[str, Any]], Any]] = {  # transforms that apply others, and where those are held
    "apply_if_finite": lambda held: _those(held.get("inner")),
    "chain": lambda held: held.get("update_fns", ()),
    "conditionally_mask": lambda held: _those(held.get("inner")),
    "conditionally_transform": lambda held: _those(held.get("inner")),
    "flatten": lambda held: _those(held.get("inner")),
    "masked": lambda held: _those(held.get("inner")),
    "named_chain": lambda held: [tx for _, tx in held.get("transforms", ())],
    "partition": lambda held: held.get("transforms", {}).values(),
}

_FOR_SOME = {"conditionally_mask", "conditionally_transform", "masked"}  # the other updates leave as they came

_KEEPING_SIGNS = {
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_every",
    "centralize",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "ema",
    "identity",
    "keep_params_nonnegative",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_factored_rms",
    "scale_by_lion",
    "scale_by_novograd",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_stddev",
    "scale_by_yogi",
    "trace",
    "zero_nans",
}


def _those(inner: Any) -> tuple[Any, ...]:
    return () if inner is None else (inner,)


def _sign_through(name: str, parts: tuple[Update, ...]) -> int | None:
    links = [what_is(part) for part in parts]
    signs = [link.sign for link in links if link is not None and link.sign is not None]
    if not parts or len(signs) < len(parts):
        return None
    if name not in _FOR_SOME and name != "partition":
        return math.prod(signs)
    leaving = {*signs, 1} - {0} if name in _FOR_SOME else {*signs} - {0} or {0}
    return leaving.pop() if len(leaving) == 1 else None


def _sign_of(number: Any) -> int | None:
    if number is None or is_traced(number):
        return None
    if isinstance(number, jax.Array) and (number.is_deleted() or not number.is_fully_addressable):
        return None
    values = np.asarray(number)
    if values.dtype == object or np.iscomplexobj(values):
        return None
    signs = np.unique(np.sign(values.astype(np.float64)))
    return int(signs[0]) if signs.size == 1 and not np.isnan(signs[0]) else None


# Whose closure a function is ----------------------------------------------------------------------------------------


def _update(tx: Any) -> Update:
    """The update of a transform, without what lets it take further arguments."""
    update = tx.update if isinstance(tx, optax.GradientTransformation) else tx
    if _maker(update) == "with_extra_args_support" and isinstance(
        inner := _held(update).get("tx"), optax.GradientTransformation
    ):
        return _update(inner)
    return update


def _maker(function: Any) -> str | None:
    """The public function of optax in whose code the code of `function` stands."""
    return _makers().get(id(getattr(function, "__code__", None)))


def _held(function: Any) -> dict[str, Any]:
    """The variables that a closure holds, by their names."""
    held = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return held


@functools.cache
def _makers() -> dict[int, str]:
    """Names of optax's public functions, by the identity of the codes of the functions inside of them."""
    makers: dict[int, str] = {}
    for module in optax, optax.transforms, optax.contrib:
        for name, function in vars(module).items():
            function = inspect.unwrap(function) if inspect.isfunction(function) else None
            if function is not None and not name.startswith("_") and function.__module__.startswith("optax."):
                makers.update({id(code): function.__name__ for code in _codes_within(function.__code__)})
    return makers


def _codes_within(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_within(constant)
