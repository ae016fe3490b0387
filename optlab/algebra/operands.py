"""Python numbers as operands, so that one compiled program serves all of them."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Recipe = Callable[[Sequence[float]], float]


class NotArithmetic(TypeError):
    """A rule did with a hyperparameter what only the Python float itself can do."""


class Table:
    """The operands of one program: how each comes from the Python floats, in the order in which a trace needs them.

    Args:
      operands: more of them than are needed.
      recipes: of those that are taken, which the trace adds.
    """

    def __init__(self, operands: Sequence[Any], recipes: list[Recipe]) -> None:
        self._operands = operands
        self._recipes = recipes

    def numbers(self, count: int) -> list["Number"]:
        """The hyperparameters as a rule is given them."""
        return [Number(self, operator.itemgetter(place)) for place in range(count)]

    def operand(self, recipe: Recipe) -> Any:
        self._recipes.append(recipe)
        if len(self._recipes) > len(self._operands):
            raise NotArithmetic(f"more than {len(self._operands)} operands")
        return self._operands[len(self._recipes) - 1]


def spare_operands() -> tuple[np.ndarray, ...]:
    """Operands to trace with, before it is known how many there will be."""
    return (np.zeros((), jax.dtypes.canonicalize_dtype(float)),) * 128


def values(recipes: Sequence[Recipe], floats: Sequence[float]) -> tuple[np.ndarray, ...]:
    """The operands for these floats: computed on the host in float64, and rounded once."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    return tuple(np.asarray(recipe(floats), dtype) for recipe in recipes)


def derived(function: Callable[..., float], *arguments: Any) -> Any:
    """`function(*arguments)` of Python floats, computed on the host whether they are floats or operands."""
    tables = [argument.table for argument in arguments if isinstance(argument, Number)]
    if not tables:
        return function(*arguments)
    recipes = [argument.recipe if isinstance(argument, Number) else None for argument in arguments]

    def recipe(floats: Sequence[float]) -> float:
        return function(
            *(given if made is None else made(floats) for made, given in zip(recipes, arguments, strict=True))
        )

    return Number(tables[0], recipe)


def _arithmetic(function: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: "Number", other: Any) -> Any:
        if isinstance(other, int | float | Number):
            return derived(function, self, other)
        return function(self.like(other), other)

    def backward(self: "Number", other: Any) -> Any:
        if isinstance(other, int | float):
            return derived(function, other, self)
        return function(other, self.like(other))

    return forward, backward


def _refuse(self: "Number", *_: Any, **__: Any) -> Any:
    raise NotArithmetic("a hyperparameter that is an operand can be added, subtracted, multiplied, divided and raised")


class Number:
    """A Python float of which a program must not depend: arithmetic is all that it can do.

    Among Python numbers it is done as Python does it, in float64 on the host, once for each number; with an array, in
    the dtype of the array. Whatever else a rule asks of it is refused, and the rule traced with the float itself.
    """

    __slots__ = ("recipe", "table")
    __array_ufunc__ = None  # NumPy leaves the operators to us
    __hash__ = object.__hash__

    def __init__(self, table: Table, recipe: Recipe) -> None:
        self.table = table
        self.recipe = recipe

    def like(self, array: Any) -> jax.Array:
        """The operand, in the dtype of `array`."""
        if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.inexact):
            raise NotArithmetic(f"a hyperparameter meets {array!r}")
        return self.table.operand(self.recipe).astype(array.dtype)

    __add__, __radd__ = _arithmetic(operator.add)
    __sub__, __rsub__ = _arithmetic(operator.sub)
    __mul__, __rmul__ = _arithmetic(operator.mul)
    __truediv__, __rtruediv__ = _arithmetic(operator.truediv)
    __pow__, __rpow__ = _arithmetic(operator.pow)

    def __neg__(self) -> Any:
        return derived(lambda number: -number, self)

    __bool__ = __float__ = __int__ = __index__ = __abs__ = __round__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
