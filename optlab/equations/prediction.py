"""Equations in numbers, for all weights of all leaves at once, beside the runs that they have to predict."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.numpy import NumPyPrinter

from optlab.equations.arrays import Program
from optlab.equations.claims import Claim, Shape
from optlab.equations.driving import Run, Runs, draw, first_apart, parted, pieces
from optlab.equations.interpret import Formula, largest, n, over_weights, without_ite
from optlab.equations.numeric import SCHEDULE
from optlab.equations.printing import text
from optlab.equations.recurrences import Recurrence, Slot
from optlab.outside.peers import lenient_float64

TOLERANCE = 1e-7
SIZE, STEPS = 5, 24
"""Of the vector that is looked at along a run."""

MOST_SUMS, FEW = 5, 4
"""Up to so many sums, each is tried over each leaf and over all leaves, on few steps first; more go together."""

Step = tuple[tuple[sp.Symbol, Formula], ...]
"""What is computed one after the other in a step: symbols and their expressions, the new weight last."""

Schedules = Mapping[str, Callable[[float], float]]
"""Functions of the step, from 1, by their letters."""

_OVER = {"each leaf": "leaf", "all leaves": "tree"}


def check(
    step: Step, slots: Sequence[Slot], values: Mapping[sp.Symbol, float], schedules: Schedules, runs: Runs
) -> Claim:
    """Which leaves of the runs the equations predict, with sums over each leaf or over all of them."""
    claims = []
    for sums in _scopes(step, slots, runs.driven.together):
        predict = _Prediction(step, slots, values, schedules, runs.driven.shapes, sums)
        begun = _claim(predict, runs, sums, steps=FEW)
        claims.append(begun if begun.differs and claims else _claim(predict, runs, sums))
        if not claims[-1].differs:
            break
    return max(claims, key=lambda claim: len(claim.holds))


def _claim(predict: "_Prediction", runs: Runs, sums: Mapping[Formula, str], steps: int | None = None) -> Claim:
    differs: dict[Shape, int] = {}
    for whole in runs.runs:
        run = whole if steps is None else Run(whole.weights[: steps + 1], whole.gradients[:steps])
        far = parted(run, predict(run), TOLERANCE)
        for shape, place in runs.pieces:
            if (step := first_apart(far, place)) is not None:
                differs[shape] = min(step, differs.get(shape, step))
    holds = tuple(shape for shape in runs.driven.shapes if shape not in differs)
    return Claim(runs.driven, holds, differs, _in_words(sums))


def _scopes(step: Step, slots: Sequence[Slot], together: bool) -> Iterator[dict[Formula, str]]:
    """What each sum, and `N`, may be over: first all alike."""
    expressions = [*(slot.first for slot in slots), *(expression for _, expression in step)]
    totals = sorted({f for e in expressions for f in e.atoms(over_weights, largest)}, key=str)
    totals += [n] if any(e.has(n) for e in expressions) else []
    alike = [dict.fromkeys(totals, "each leaf"), dict.fromkeys(totals, "all leaves")]
    yield alike[0]
    if not totals or not together:
        return
    yield alike[1]
    if len(totals) <= MOST_SUMS:
        choices = itertools.product(_OVER, repeat=len(totals))
        mixed = (dict(zip(totals, choice, strict=True)) for choice in choices)
        yield from (each for each in mixed if each not in alike)


def _in_words(sums: Mapping[Formula, str]) -> str:
    if len(set(sums.values())) < 2:
        return next(iter(sums.values()), "")
    return ", ".join(f"{text(total)} of {over}" for total, over in sums.items())


class _Prediction:
    """Equations at given hyperparameters; called with a run, the weights before its first step and after each."""

    def __init__(
        self,
        step: Step,
        slots: Sequence[Slot],
        values: Mapping[sp.Symbol, float],
        schedules: Schedules,
        shapes: Sequence[Shape],
        sums: Mapping[Formula, str],
    ) -> None:
        self.slots = slots
        places = [place for _, place in pieces(shapes)]
        sizes = [place.stop - place.start for place in places]
        self.constants: dict[str, Any] = {symbol.name: value for symbol, value in values.items()}
        self.constants |= {"N_leaf": np.repeat(sizes, sizes).astype(float), "N_tree": float(sum(sizes))}
        starts = [place.start for place in places]
        functions: dict[str, Any] = {"zoo": np.nan}
        functions |= {f"at_{name}": by_step for name, by_step in schedules.items()}
        for name, ufunc in (("total", np.add), ("largest", np.maximum)):
            functions[f"{name}_tree"] = lambda x, ufunc=ufunc: ufunc.reduce(np.broadcast_to(x, sum(sizes)))
            functions[f"{name}_leaf"] = lambda x, ufunc=ufunc: np.repeat(
                ufunc.reduceat(np.broadcast_to(x, sum(sizes)), starts), sizes
            )
        compiled = functools.partial(_compiled, sums, functions)
        self.first = [(slot.before.name, *compiled(slot.first)) for slot in slots]
        self.step = [(symbol.name, *compiled(expression)) for symbol, expression in step]

    def __call__(self, run: Run, watch: Callable[[Mapping[str, Any]], None] = lambda known: None) -> np.ndarray:
        known = self.constants | {"w": run.weights[0], "w_0": run.weights[0]}
        weights = np.empty_like(run.weights)
        weights[0] = run.weights[0]
        with np.errstate(all="ignore"):
            self._evaluate(self.first, known)
            for number, gradient in enumerate(run.gradients, start=1):
                known |= {"t": float(number), "g": gradient}
                self._evaluate(self.step, known)
                watch(known)
                known["w"] = weights[number] = known[self.step[-1][0]]
                known |= {slot.before.name: known[slot.after.name] for slot in self.slots}
        return weights

    def _evaluate(self, steps: Sequence[tuple[str, list[str], Any]], known: dict[str, Any]) -> None:
        for name, needed, function in steps:
            known[name] = function(*(known[key] for key in needed))


def along(found: Recurrence, values: Mapping[sp.Symbol, float], expression: Formula) -> np.ndarray:
    """The values of an expression of the step along a run of one vector, a row for each step."""
    start, given, _ = draw(SIZE, STEPS)
    watched = sp.Dummy("watched")
    step = (*found.step[:-1], (watched, expression), found.step[-1])
    functions = {f for e in (*found.expressions, expression) for f in e.atoms(AppliedUndef)}
    totals = {f: "each leaf" for f in functions if isinstance(f, over_weights | largest)}
    schedules = {f.func.__name__: lambda step: SCHEDULE for f in functions - totals.keys()}
    predict = _Prediction(step, found.slots, values, schedules, [(SIZE,)], totals | {n: "each leaf"})
    seen: list[Any] = []
    predict(Run(np.broadcast_to(start, (STEPS + 1, SIZE)), given), lambda known: seen.append(known[watched.name]))
    return np.array([np.broadcast_to(x, SIZE) for x in seen])


def _compiled(sums: Mapping[Formula, str], functions: Mapping[str, Any], expression: Formula) -> tuple[list[str], Any]:
    """The names that an expression needs, and the function of them."""

    def replaced(part: Formula) -> Formula:
        if part == n:
            return sp.Symbol(f"N_{_OVER[sums[n]]}", positive=True)
        if not part.args:
            return part
        if isinstance(part, over_weights | largest):
            name = "total" if isinstance(part, over_weights) else "largest"
            return sp.Function(f"{name}_{_OVER[sums[part]]}", real=True)(replaced(part.args[0]))
        if isinstance(part, AppliedUndef):
            return sp.Function(f"at_{part.func.__name__}", real=True)(*map(replaced, part.args))
        return part.func(*map(replaced, part.args))

    plain = replaced(expression) if expression.has(n) or expression.atoms(AppliedUndef) else expression
    plain = without_ite(plain)
    names = sorted(plain.free_symbols, key=str)
    printer = _Broadcasting({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": True})
    return [name.name for name in names], sp.lambdify(names, plain, modules=[functions, "numpy"], printer=printer)


class _Broadcasting(NumPyPrinter):
    """Truths of one number beside truths of all weights, which SymPy's own has in one array."""

    def _print_And(self, expr: Formula) -> str:
        return "(" + " & ".join(f"({self._print(part)})" for part in expr.args) + ")"

    def _print_Or(self, expr: Formula) -> str:
        return "(" + " | ".join(f"({self._print(part)})" for part in expr.args) + ")"


def by_step(schedule: Callable[[Any], Any]) -> Callable[[float], float]:
    """A schedule as a function of the step from 1, without its casts, remembered."""
    with lenient_float64():
        program = Program(jax.make_jaxpr(schedule)(jax.ShapeDtypeStruct((), np.dtype("int32"))))

    @functools.cache
    def at(step: float) -> float:
        with lenient_float64():
            return float(program(np.int32(step - 1))[0])

    return at
