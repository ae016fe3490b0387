"""`compare`: whether two optimizers are the same, or the first step and the term in which they part."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
import sympy as sp

from optlab.equations import numeric, printing, symbols
from optlab.equations.interpret import Formula, Inexpressible, largest, n, number, over_weights, t
from optlab.equations.recurrences import Recurrence, by_formula, instance, recurrence
from optlab.equations.zero import Undecided, is_zero
from optlab.outside.peers import lenient_float64

DIGITS, POINTS, LEAF = 60, 10, 3
LONGEST_NAME = 40
TYPICAL = {
    "learning_rate": 0.1,
    "weight_decay": 0.1,
    "eps": 1e-8,
    "b1": 0.9,
    "b2": 0.999,
    "decay": 0.9,
    "momentum": 0.9,
}
_START, _GRADIENTS = 1.0, (1.0, -0.5, 2.0)
_MEASURED = f"equal to {DIGITS - 20} digits at {POINTS} points"
_OF_ONE_WEIGHT = re.compile(r"[gw]_\d+")


@dataclasses.dataclass(frozen=True)
class Witness:
    """Numbers at which two optimizers part.

    Attributes:
      values: of the hyperparameters, by their symbols as text.
      weight, gradients: where both start, and what both are given.
      ours, theirs: the weights of the first and of the second after the first step in which they differ.
    """

    values: Mapping[str, float]
    weight: float
    gradients: tuple[float, ...]
    ours: float
    theirs: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is known of two optimizers after their first steps.

    Attributes:
      equal: whether every weight of these steps is the same.
      method: `proof`, or `numbers` where SymPy could not decide or the equations could not be had.
      steps: how many were compared.
      first_step: the first in which they differ, or None.
      difference: there, the first one's weight minus the second's, in the gradients `g_1, g_2, ...` and the weights
        `w_0, w_1, ...` before each step; None where they are equal or there are no equations.
      order: the powers with which that difference goes to zero with the learning rate and with the decay.
      witness: numbers at which it shows; None where a leaf of one weight does not show it.
      notes: what was assumed.
    """

    names: tuple[str, str]
    equal: bool
    method: str
    steps: int
    first_step: int | None = None
    difference: Formula | None = None
    order: Mapping[str, float] = dataclasses.field(default_factory=dict)
    witness: Witness | None = None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The answer in a few lines."""
        a, b = self.names
        if self.equal:
            found = "equal" if self.method == "proof" else "no difference found in numbers, and none excluded"
            lines = [f"{found}: {a} and {b}, over {self.steps} steps"]
        else:
            lines = [f"different: {a} and {b} part at step {self.first_step}"]
        if self.difference is not None:
            lines.append(f"  difference: {_shown(self.difference)}")
        if self.order:
            lines.append("  " + ", ".join(f"order {power:g} in {name}" for name, power in self.order.items()))
        if self.witness is not None:
            at = ", ".join(f"{name} = {printing.decimal(value)}" for name, value in self.witness.values.items())
            gradients = ", ".join(map(printing.decimal, self.witness.gradients))
            lines.append(f"  for example {self.witness.ours:.10g} and {self.witness.theirs:.10g}")
            lines.append(f"  at {at}{', ' if at else ''}from weight {self.witness.weight:g}, gradients {gradients}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def __str__(self) -> str:
        return self.text


def compare(a: Any, b: Any, steps: int = 3, *, seconds: float = 20.0) -> Comparison:
    """Whether `w_t` of `a` is `w_t` of `b` for t = 1 ... steps, for all gradients, weights and hyperparameters.

    Both are unrolled from their starting states with symbols for the gradients; hyperparameters of one name are one
    symbol, and one that only one of both has stands at its default. Equality is proved by normal forms; a difference
    is found in numbers of 40 digits, so that it can't be rounding.

    Args:
      a, b: transforms, or functions that make them; see `explain`.
      steps: >= 1, how many to compare.
      seconds: > 0, for the proof of each step. Past it, and where the equations can't be had, the answer rests on
        numbers, and says so.

    Raises:
      TypeError: neither a transform nor such a function.
      ValueError: `steps` or `seconds` out of range, or a transform without equations that does not run on gradients
        alone, or whose hyperparameters have no value to run it at.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"compare: steps must be a whole number from 1, got {steps!r}")
    if not seconds > 0:
        raise ValueError(f"compare: seconds must be > 0, got {seconds!r}")
    try:
        both = recurrence(a, by_formula), recurrence(b, by_formula)
    except Inexpressible as error:
        return _in_float64(a, b, steps, str(error))
    (first, second), notes = _with_shared_symbols(*_told_apart(both, (a, b)))
    return _by_equations(first, second, steps, seconds, notes)


def _told_apart(found: tuple[Recurrence, Recurrence], of: tuple[Any, Any]) -> list[Recurrence]:
    """Both under names that differ: their own, with their packages, or by their order."""
    functions = [getattr(x, "func", x) for x in of]
    packages = [getattr(function, "__module__", "").partition(".")[0] for function in functions]
    own = [one.name if len(one.name) <= LONGEST_NAME else "" for one in found]
    for names in (own, [f"{package}.{name}" for package, name in zip(packages, own, strict=True)]):
        if all(own) and len(set(names)) == 2:
            break
    else:
        names = ["the first", "the second"]
    return [dataclasses.replace(one, name=name) for one, name in zip(found, names, strict=True)]


def _with_shared_symbols(a: Recurrence, b: Recurrence) -> tuple[tuple[Recurrence, Recurrence], list[str]]:
    """Both, with the hyperparameters that only one of them has at their defaults."""
    notes, found = [], []
    for one, other in ((a, b), (b, a)):
        shared = set(other.hyperparameters.values())
        own = {name for name, symbol in one.hyperparameters.items() if symbol not in shared}
        alone = {name: value for name, value in one.defaults.items() if name in own}
        found.append(one.subs({one.hyperparameters[name]: number(value) for name, value in alone.items()}))
        notes += [f"{name} of {one.name} at its default, {value:g}" for name, value in {**alone, **one.held}.items()]
        notes += [
            f"{name} only in {one.name}; give both one name to compare them" for name in sorted(own - alone.keys())
        ]
    return (found[0], found[1]), notes


def unroll(found: Recurrence, steps: int) -> Iterator[Formula]:
    """The weight after each step, in the gradients `g_1 ...` and the weights `w_0 ...` before the steps."""
    start = {symbols.w: weight_before(1), symbols.first_weight: weight_before(1)}
    known: dict[Formula, Formula] = {slot.before: slot.first.xreplace(start) for slot in found.slots}
    for step in range(1, steps + 1):
        now = {t: sp.Integer(step), symbols.g: gradient(step), symbols.w: weight_before(step)}
        known |= now | {symbols.first_weight: weight_before(1)}
        for slot in found.slots:
            known[slot.after] = slot.new.xreplace(known)
        yield found.weight.xreplace(known)
        known |= {slot.before: known[slot.after] for slot in found.slots}


def gradient(step: int) -> sp.Symbol:
    return sp.Symbol(f"g_{step}", real=True)


def weight_before(step: int) -> sp.Symbol:
    return sp.Symbol(f"w_{step - 1}", real=True)


def _by_equations(a: Recurrence, b: Recurrence, steps: int, seconds: float, notes: Sequence[str]) -> Comparison:
    names, undecided = (a.name, b.name), []
    for step, (ours, theirs) in enumerate(zip(unroll(a, steps), unroll(b, steps), strict=True), start=1):
        difference = ours - theirs
        if difference == 0:
            continue
        if point := _where_not_zero(difference):
            return Comparison(
                names=names,
                equal=False,
                method="numbers" if undecided else "proof",
                steps=steps,
                first_step=step,
                difference=_shortest(difference),
                order=_orders(difference, point),
                witness=_witness(a, b, step),
                notes=(*notes, *undecided),
            )
        try:
            if not is_zero(difference, seconds):
                undecided.append(f"step {step}: SymPy finds no proof; {_MEASURED}")
        except Undecided as reason:
            undecided.append(f"step {step}: no proof ({reason}); {_MEASURED}")
    return Comparison(names, True, "numbers" if undecided else "proof", steps, notes=(*notes, *undecided))


# In numbers ---------------------------------------------------------------------------------------------------------


Point = dict[Formula, Formula]


def _points(names: Sequence[sp.Symbol]) -> Iterator[Point]:
    """Values for all symbols: decays in (0, 1), guards small, weights and gradients signed and of every size."""
    rng = np.random.default_rng(0)
    for scale in np.linspace(-6, 6, POINTS):
        point: Point = {}
        for name in names:
            if symbols.is_decay(name):
                point[name] = sp.Float(rng.uniform(0.1, 0.9), DIGITS)
            elif name.is_positive:
                point[name] = sp.Float(10 ** rng.uniform(-3, 0), DIGITS)
            else:
                point[name] = sp.Float(10 ** (scale + rng.uniform(-1, 1)) * rng.choice([-1, 1]), DIGITS)
        yield point


def _value(expression: Formula, point: Point) -> Formula:
    """The value to `DIGITS` digits."""
    return sp.re(expression.subs(point).evalf(DIGITS))


def _where_not_zero(difference: Formula) -> Point | None:
    plain = _in_a_leaf(difference)
    for point in _points(sorted(plain.free_symbols, key=str)):
        terms = plain.args if plain.is_Add else (plain,)
        size = sum(abs(_value(term, point)) for term in terms)
        if abs(_value(plain, point)) > size * sp.Float(10, DIGITS) ** (20 - DIGITS):
            return point
    return None


def _in_a_leaf(expression: Formula) -> Formula:
    """`expression` for the first weight of a leaf of `LEAF`; sums over the leaf are over weights of other gradients."""
    values: dict[Formula, Formula] = {}
    while totals := expression.atoms(over_weights, largest):
        innermost = {total: sp.Dummy() for total in totals if not total.args[0].atoms(over_weights, largest)}
        for total, letter in innermost.items():
            terms = [_of_weight(total.args[0], index) for index in range(LEAF)]
            values[letter] = sp.Add(*terms) if isinstance(total, over_weights) else sp.Max(*terms)
        expression = expression.xreplace(innermost)
    for letter in reversed(values):  # a later sum may hold earlier ones
        expression = expression.xreplace({letter: values[letter]})
    return expression.subs(n, LEAF)


def _of_weight(term: Formula, index: int) -> Formula:
    """A term of a sum over the leaf for one of its weights."""
    own = [symbol for symbol in term.free_symbols if _OF_ONE_WEIGHT.fullmatch(symbol.name)]
    return term.xreplace({symbol: sp.Symbol(symbol.name + "'" * index, real=True) for symbol in own})


def _orders(difference: Formula, point: Point) -> dict[str, float]:
    """With which power the difference goes to zero with the rate and with the decay."""
    plain, orders = _in_a_leaf(difference), {}
    for name in ("learning_rate", "weight_decay"):
        symbol = symbols.hyperparameter(name)
        if symbol not in plain.free_symbols:
            continue
        small = [abs(_value(plain, point | {symbol: sp.Float(10, DIGITS) ** -power})) for power in (8, 10)]
        if not all(small):
            continue
        power = float(sp.log(small[0] / small[1], 10)) / 2
        if abs(power - round(power)) < 1e-3:
            orders[symbols.unicode(symbol)] = round(power)
    return orders


def _shortest(difference: Formula) -> Formula:
    """The difference in the shortest of the forms that are cheap to get; decimals are letters while it is sought."""
    decimals = {q: sp.Dummy(positive=q > 0, real=True) for q in difference.atoms(sp.Rational) if not q.is_Integer}
    lettered = difference.xreplace(decimals)
    forms = [lettered, sp.factor_terms(lettered)]
    if sp.count_ops(lettered) < 150 and not lettered.has(sp.Piecewise):  # whose conditions simplify may not bear
        forms += [sp.factor(lettered), sp.simplify(lettered)]
    return min(forms, key=sp.count_ops).xreplace({letter: q for q, letter in decimals.items()})


def _shown(difference: Formula) -> str:
    shown = printing.text(difference)
    return shown if len(shown) <= 400 else f"{shown[:380]} ... ({sp.count_ops(difference)} operations in all)"


def _witness(a: Recurrence, b: Recurrence, step: int) -> Witness | None:
    """Numbers that show the difference; rate and decay are large, since small ones hide it."""
    typical = {symbols.hyperparameter(name): value for name, value in TYPICAL.items()}
    values: dict[sp.Symbol, float] = {}
    for found in (b, a):
        for name, symbol in found.hyperparameters.items():
            values[symbol] = found.defaults.get(name, typical.get(symbol, 0.5))
    for name in ("learning_rate", "weight_decay"):
        symbol = symbols.hyperparameter(name)
        values |= {symbol: TYPICAL[name]} if symbol in values else {}
    shown = {symbols.unicode(symbol): value for symbol, value in values.items()}
    for scale in (1.0, 100.0, 0.01, 1e4, 1e-4):
        gradients = tuple((scale * np.resize(_GRADIENTS, step)).tolist())
        ours, theirs = (numeric.run(found, values, gradients, _START)[-1].weight for found in (a, b))
        if not math.isclose(ours, theirs, rel_tol=1e-12):
            return Witness(shown, _START, gradients, ours, theirs)
    return None


# Without equations --------------------------------------------------------------------------------------------------


def _in_float64(a: Any, b: Any, steps: int, reason: str) -> Comparison:
    """The trajectories of a leaf of a hundred weights, run as they are."""
    rng = np.random.default_rng(0)
    weights, gradients = (rng.normal(size=(k, 100)) * 10 ** rng.uniform(-3, 3, (k, 100)) for k in (1, steps))
    weights = weights[0]
    names, trajectories, notes = [], [], [f"in float64 on {len(weights)} random weights, since {reason}"]
    for x in (a, b):
        with lenient_float64():
            name, tx, values = instance(x, TYPICAL)
            try:
                trajectories.append(_trajectory(tx, weights, gradients))
            except Exception as error:
                first_line = str(error).strip().split("\n")[0]
                raise ValueError(
                    f"compare: {name} does not run on gradients alone ({type(error).__name__}: {first_line}), "
                    f"and there are no equations: {reason}"
                ) from error
        names.append(name)
        notes += [f"{key} of {name} at {printing.decimal(value)}" for key, value in values.items()]
    apart = [not np.allclose(x, y, rtol=1e-12, atol=1e-14) for x, y in zip(*trajectories, strict=True)]
    first = apart.index(True) + 1 if any(apart) else None
    return Comparison((names[0], names[1]), first is None, "numbers", steps, first, notes=tuple(notes))


def _trajectory(tx: optax.GradientTransformation, weights: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    """The weights after each step."""
    w, trajectory = jax.numpy.asarray(weights), []
    state = tx.init(w)
    for g in gradients:
        updates, state = tx.update(jax.numpy.asarray(g), state, w)
        w = optax.apply_updates(w, updates)
        trajectory.append(np.asarray(w))
    return trajectory
