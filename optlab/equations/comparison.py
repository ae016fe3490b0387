"""`compare`: whether two optimizers are the same, or the first step and the term in which they part."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp

from optlab.algebra.spellings import spelled
from optlab.equations import numeric, printing, symbols
from optlab.equations.claims import Driven, Shape, kinds
from optlab.equations.driving import STEPS, NotRun, Runs, beside, end_of_one, first_apart, parted
from optlab.equations.driving import TYPICAL as VALUES
from optlab.equations.interpret import Formula, Inexpressible, largest, n, number, over_weights, t
from optlab.equations.prediction import check
from optlab.equations.recurrences import Recurrence, by_formula, instance, recurrence
from optlab.equations.zero import Undecided, is_zero
from optlab.outside.peers import lenient_float64

DIGITS, POINTS, LEAF = 60, 10, 3
TOLERANCE = 1e-8
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
      equal: whether no weight of the leaves of `shapes` was seen to differ.
      method: `proof`: for all gradients and hyperparameters over `steps` steps, where they are equal; `numbers`: as far
        as runs show, where SymPy could not decide or the equations could not be had or predict not all that was run;
        `equations`: those of a vector alone, where the optimizers don't run.
      steps: how many were compared: by equations, or in numbers where there are none.
      first_step: the first in which they differ, or None.
      difference: there, the first one's weight minus the second's, in the gradients `g_1, g_2, ...` and the weights
        `w_0, w_1, ...` before each step; None where they are equal, or equations don't show it.
      order: the powers with which that difference goes to zero with the learning rate and with the decay.
      witness: numbers at which it shows; None where a leaf of one weight does not show it.
      notes: what was assumed.
      shapes: of the leaves that were run beside each other and of which the answer `equal` is; none where equations
        alone show a difference.
      apart: the first step after which leaves of other shapes differed in these runs.
      driven: what was run; None where equations alone show a difference.
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
    shapes: tuple[Shape, ...] = ()
    apart: Mapping[Shape, int] = dataclasses.field(default_factory=dict)
    driven: Driven | None = None

    @property
    def text(self) -> str:
        """The answer in a few lines."""
        a, b = self.names
        if self.equal:
            found = "equal" if self.method == "proof" else f"no difference found in {self.method}, and none excluded"
            lines = [f"{found}: {a} and {b}, over {self.steps} steps"]
            lines += [f"  at {kinds(self.shapes)}"] if self.shapes else []
        else:
            lines = [f"different: {a} and {b} part at step {self.first_step}"]
        for step in sorted(set(self.apart.values())):
            together = [shape for shape, parted_at in self.apart.items() if parted_at == step]
            lines.append(f"  {kinds(together)} part at step {step}")
        if self.apart and self.shapes:
            lines.append(f"  no difference seen at {kinds(self.shapes)}")
        if self.driven is not None:
            lines.append(f"  driven: {self.driven}")
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


@spelled()
def compare(a: Any, b: Any, steps: int = 3, *, seconds: float = 20.0) -> Comparison:
    """Whether `w_t` of `a` is `w_t` of `b` for t = 1 ... steps, for all gradients, weights and hyperparameters.

    Both are unrolled from their starting states with symbols for the gradients; hyperparameters of one name are one
    symbol, and one that only one of both has stands at its default. Equality is proved by normal forms; a difference
    is found in numbers of 40 digits, so that it can't be rounding. Equations are of a vector: that both optimizers
    follow theirs is checked on runs of leaves of several shapes, longer than what was proved, and these are held
    against each other too. So `equal` is said of the shapes that are named, and of nothing else.

    Args:
      a, b: transforms, or functions that make them; see `explain`.
      steps: >= 1, how many to compare by equations; three times as many, and at least 64, are run.
      seconds: > 0, for the proof of each step. Past it, and where the equations can't be had, the answer rests on
        numbers, and says so.

    Raises:
      TypeError: neither a transform nor such a function.
      ValueError: `steps` or `seconds` out of range, or a transform without equations that does not run on gradients
        alone, or whose hyperparameters have no value to run it at.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"compare: steps must be a whole number from 1, got {steps!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"compare: seconds must be > 0, got {seconds!r}")
    try:
        both = recurrence(a, by_formula), recurrence(b, by_formula)
    except Inexpressible as error:
        return _in_numbers(a, b, steps, str(error))
    (first, second), notes = _with_shared_symbols(*_told_apart(both, (a, b)))
    found = _by_equations(first, second, steps, seconds, notes)
    seen = found.witness is not None and _is_seen(found.witness, (a, b), both)
    if seen and found.first_step == 1:
        return found
    return _held_against_runs(found, (a, b), (first, second), seen)


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


# Beside runs --------------------------------------------------------------------------------------------------------


def _is_seen(witness: Witness, transforms: tuple[Any, Any], read: tuple[Recurrence, Recurrence]) -> bool:
    """Whether the transforms themselves, run at its numbers, end where the witness says."""
    ends = []
    for x, one in zip(transforms, read, strict=True):
        at = {name: witness.values.get(symbols.unicode(symbol)) for name, symbol in one.hyperparameters.items()}
        try:
            with lenient_float64():
                _, tx, _ = instance(x, {name: value for name, value in at.items() if value is not None}, all_of=True)
            ends.append(end_of_one(tx, witness.weight, witness.gradients))
        except Exception:  # of whatever kind, there is nothing to see
            return False
    claimed = witness.ours - witness.theirs
    return math.isclose(ends[0], witness.ours, rel_tol=1e-9) and math.isclose(ends[0] - ends[1], claimed, rel_tol=0.1)


def _held_against_runs(
    found: Comparison, transforms: tuple[Any, Any], read: tuple[Recurrence, Recurrence], seen: bool
) -> Comparison:
    """What equations of a vector say, as far as runs of several leaves bear it out.

    Args:
      seen: whether the transforms show the difference that was found.
    """
    try:
        values = _shared_values(read)
        with lenient_float64():
            made = [instance(x, of_x, all_of=True) for x, of_x in zip(transforms, values, strict=True)]
        runs = beside((made[0][1], made[1][1]), values, max(STEPS, 3 * found.steps))
    except Exception as error:  # of whatever kind, they do not run
        return dataclasses.replace(found, method="equations", notes=(*found.notes, f"not run: {error}"))
    claims = [
        check(one.step, one.slots, {one.hyperparameters[k]: v for k, v in ran.driven.values.items()}, {}, ran)
        for one, ran in zip(read, runs, strict=True)
    ]
    driven = runs[0].driven
    apart = _apart(*runs)
    alike = tuple(shape for shape in driven.shapes if shape not in apart)
    borne_out = [shape for shape in driven.shapes if all(shape in claim.holds for claim in claims)]
    if not found.equal and (seen or any(len(shape) == 1 for shape in borne_out)):
        earlier = {shape: step for shape, step in apart.items() if step < (found.first_step or 0)}
        return dataclasses.replace(found, apart=earlier)
    run = {"shapes": alike, "apart": apart, "driven": driven}
    if apart or not found.equal:
        notes = found.notes if found.equal else (*found.notes, "what was read off a vector does not predict them")
        first = min(apart.values(), default=None)
        steps = found.steps if apart else driven.steps
        return Comparison(found.names, not apart, "numbers", steps, first, notes=notes, **run)
    if len({claim.sums for claim in claims}) == 1 and set(alike) == set(borne_out):
        return dataclasses.replace(found, **run)
    proved = f"proved of {kinds(borne_out)} alone" if borne_out else "what was read off a vector does not predict them"
    return dataclasses.replace(found, method="numbers", steps=driven.steps, notes=(*found.notes, proved), **run)


def _shared_values(read: tuple[Recurrence, Recurrence]) -> tuple[dict[str, float], dict[str, float]]:
    """Numbers for the hyperparameters of each, the same for those of one symbol; one's own stay at their defaults."""
    values: dict[sp.Symbol, float] = {}
    for one in (read[1], read[0]):
        for name, symbol in one.hyperparameters.items():
            values[symbol] = VALUES.get(name, one.defaults.get(name, values.get(symbol, 0.5)))
    own = set(read[0].hyperparameters.values()) ^ set(read[1].hyperparameters.values())
    first, second = (
        {
            name: values[symbol]
            for name, symbol in one.hyperparameters.items()
            if symbol not in own or name not in one.defaults
        }
        for one in read
    )
    return first, second


def _apart(ours: Runs, theirs: Runs) -> dict[Shape, int]:
    """The first step after which each shape differs, where one does."""
    apart: dict[Shape, int] = {}
    for mine, other in zip(ours.runs, theirs.runs, strict=True):
        far = parted(mine, other.weights, TOLERANCE)
        for shape, place in ours.pieces:
            if (step := first_apart(far, place)) is not None:
                apart[shape] = min(step, apart.get(shape, step))
    return apart


# Without equations --------------------------------------------------------------------------------------------------


def _in_numbers(a: Any, b: Any, steps: int, reason: str) -> Comparison:
    """Runs beside each other, of transforms of which one has no equations."""
    with lenient_float64():
        made = [instance(x, TYPICAL) for x in (a, b)]
    notes = [f"without equations, since {reason}"]
    notes += [
        f"{key} of {name} at {printing.decimal(value)}" for name, _, values in made for key, value in values.items()
    ]
    try:
        runs = beside((made[0][1], made[1][1]), (made[0][2], made[1][2]), max(STEPS, 3 * steps))
    except NotRun as error:
        name = made[error.which][0]
        raise ValueError(
            f"compare: {name} does not run on gradients alone ({error}), and there are no equations: {reason}"
        ) from error
    apart, driven = _apart(*runs), runs[0].driven
    alike = tuple(shape for shape in driven.shapes if shape not in apart)
    return Comparison(
        names=(made[0][0], made[1][0]),
        equal=not apart,
        method="numbers",
        steps=driven.steps,
        first_step=min(apart.values(), default=None),
        notes=tuple(notes),
        shapes=alike,
        apart=apart,
        driven=driven,
    )
