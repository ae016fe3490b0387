"""A recurrence in numbers: its steps at given hyperparameters and gradients."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sympy as sp
from sympy.core.function import AppliedUndef

from optlab.equations import symbols
from optlab.equations.interpret import Formula, largest, n, over_weights, t, without_ite
from optlab.equations.recurrences import Recurrence

SCHEDULE = 0.01


class Step(NamedTuple):
    """The weight after a step, how far it moved, and the slots by their `after` symbols."""

    weight: float
    moved: float
    slots: Mapping[sp.Symbol, float]


def run(
    found: Recurrence,
    values: Mapping[sp.Symbol, float],
    gradients: Iterable[float],
    weight: float,
    *,
    held: bool = False,
) -> list[Step]:
    """The steps of a leaf of one weight, in float64; NaN where the equations have no real value.

    Args:
      values: of the hyperparameters; a schedule is `SCHEDULE` at every step.
      held: whether every step begins at the same weight.
    """
    names = [*values, t, symbols.g, symbols.w, symbols.first_weight]
    names += [symbol for slot in found.slots for symbol in (slot.before, slot.after)]
    functions = [_compiled(expression, tuple(names)) for expression in found.expressions]
    known: dict[sp.Symbol, float] = dict.fromkeys(names, 0.0) | dict(values)
    known |= {symbols.w: weight, symbols.first_weight: weight}
    for slot in found.slots:
        known[slot.before] = _real(_compiled(slot.first, tuple(names)), known, names)
    steps = []
    for number, gradient in enumerate(map(float, gradients), start=1):
        known |= {t: number, symbols.g: gradient}
        for slot, function in zip(found.slots, functions, strict=False):
            known[slot.after] = _real(function, known, names)
        moved = _real(functions[-1], known, names)
        slots = {slot.after: known[slot.after] for slot in found.slots}
        steps.append(Step(moved, moved - known[symbols.w], slots))
        known |= {slot.before: known[slot.after] for slot in found.slots}
        known[symbols.w] = weight if held else moved
    return steps


def value_of(expression: Formula, known: Mapping[sp.Symbol, float]) -> float:
    """The value for a leaf of one weight."""
    return _real(_compiled(expression, tuple(known)), known, tuple(known))


@functools.lru_cache(maxsize=256)
def _compiled(expression: Formula, names: tuple[sp.Symbol, ...]) -> Any:
    """`expression` for a leaf of one weight, where a sum is the weight's own term, at schedules of `SCHEDULE`."""
    functions = {f.func for f in expression.atoms(AppliedUndef)}
    schedules = functions - {over_weights, largest}
    renamed = expression.replace(lambda part: part.func in schedules, lambda part: sp.Function("scheduled")(*part.args))
    own: dict[str, Any] = {"zoo": math.nan, "scheduled": lambda step: SCHEDULE}
    own |= dict.fromkeys((over_weights.__name__, largest.__name__), lambda term: term)
    function = sp.lambdify([n, *names], without_ite(renamed if schedules else expression), modules=[own, "math"])
    return functools.partial(function, 1)


def _real(function: Any, known: Mapping[sp.Symbol, float], names: Sequence[sp.Symbol]) -> float:
    try:
        return function(*(known[name] for name in names))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
