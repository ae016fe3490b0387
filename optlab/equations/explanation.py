"""`explain`: the equations of an optimizer, derived from what it computes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import sympy as sp

from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform
from optlab.equations import printing, symbols
from optlab.equations.claims import Claim, Shape, kinds
from optlab.equations.driving import TYPICAL, Runs, drive
from optlab.equations.hats import corrections, with_hats
from optlab.equations.interpret import Formula, Inexpressible
from optlab.equations.prediction import Schedules, by_step, check
from optlab.equations.recurrences import Letters, Recurrence, instance, recurrence, with_symbols
from optlab.equations.regime import Regime, regime_of
from optlab.outside.peers import lenient_float64


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What one step of an optimizer does to one weight.

    Attributes:
      recurrence: the step as it was read; see `optlab.equations.recurrences.Recurrence`.
      equations: SymPy equations in the order in which they are computed: each slot, its bias-corrected value under a
        hat where the step uses one, and the new weight. `w` is the weight before the step, `g` its gradient.
      regime: the same in words.
      claim: where the equations hold, and what was run to check it; `str(claim)` says it in a line.
      elsewhere: the shapes for which they don't hold, each with the explanation that does, or with the reason, in a
        sentence, why there is none.
    """

    recurrence: Recurrence
    equations: tuple[Formula, ...]
    regime: Regime
    claim: Claim
    elsewhere: Mapping[Shape, "Explanation | str"] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """Equations, starting values, regime and claim as plain text."""
        only = f", of {kinds(self.claim.holds)} alone" if self.elsewhere else ""
        lines = [f"{self._title()}{only}", "", *self._body()]
        for known, shapes in self._others():
            lines += ["", f"  {kinds(shapes)} go another way{'' if isinstance(known, Explanation) else f', {known}'}"]
            lines += ["", *known._body()] if isinstance(known, Explanation) else []
        return "\n".join(lines)

    def _body(self) -> list[str]:
        lines = [f"  {printing.text(equation.lhs)} = {printing.text(equation.rhs)}" for equation in self.equations]
        if starts := self._starts():
            lines += ["", f"  from {starts}"]
        return [*lines, "", str(self.regime), *(f"  {word + ':':<12}{what}" for word, what in self.claim.rows.items())]

    def _others(self) -> list[tuple["Explanation | str", list[Shape]]]:
        """What is known of other shapes, each once, with them."""
        found: list[tuple[Explanation | str, list[Shape]]] = []
        for shape, known in self.elsewhere.items():
            same = next((shapes for other, shapes in found if other is known or other == known), None)
            if same is None:
                found.append((known, [shape]))
            else:
                same.append(shape)
        return found

    @property
    def latex(self) -> str:
        """The equations as an `aligned` environment, without dollar signs."""
        rows = [f"{printing.latex(equation.lhs)} &= {printing.latex(equation.rhs)}" for equation in self.equations]
        if self.elsewhere:
            rows.append(rf"& \text{{of {kinds(self.claim.holds)} alone}}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex}$"

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<explanation of {self.recurrence.name}>"

    def _title(self) -> str:
        found = self.recurrence
        shown = []
        for name, symbol in found.hyperparameters.items():
            default = f" = {printing.decimal(found.defaults[name])}" if name in found.defaults else ""
            shown.append(f"{symbols.unicode(symbol)}{default}")
        shown += [f"{name} = {value} (held)" for name, value in found.held.items()]
        return f"{found.name}({', '.join(shown)})" if shown else found.name

    def _starts(self) -> str:
        starts: dict[str, list[str]] = {}
        for slot in self.recurrence.slots:
            first = "w₀" if slot.first == symbols.w else printing.text(slot.first)
            starts.setdefault(first, []).append(symbols.unicode(slot.before).replace("ₜ₋₁", "₀"))
        return ", ".join(f"{' = '.join(names)} = {first}" for first, names in starts.items())


@spelled()
def explain(x: Any) -> Explanation:
    """`s_t = ...;  w_t = ...`, the equations of one step, read off the computation that JAX traces.

    Args:
      x: an optax or optlab transform, whose hyperparameters stand in the equations as numbers; or a function that
        makes one, such as `optax.adamw` or `lambda lr, wd: ...`, whose arguments become symbols if they have no
        default or a number for one; what `functools.partial` binds stays a number. A schedule reads as a function of
        the step: an optlab transform's own, or one bound to a factory by `functools.partial`, by its letter; one of
        optax's, which hides it, by its formula.

    Raises:
      TypeError: neither a transform nor such a function.
      Inexpressible: a `ValueError`; the step can't be written for one weight, and the message names the primitive or
        the part of the state that stands in the way; or what was read predicts no leaf that was run.

    Equations are read off a vector and then have to predict the transform itself, run on a tree of a vector, matrices
    and a leaf of more axes; `claim` says of which leaves they do, and `elsewhere` what is known of the others, such as
    the matrices of Adafactor. A sum over the weights reads `Σ(...)`, their number `N`; the claim says whether of each
    leaf or of all. The step is traced in float64, casts between floating-point types are seen through, and so is
    `store`; what is asked whether it is finite is, and counts are taken not to have reached their maximum.
    """
    read = _read(x, axes=1)
    runs = _driven(x, read)
    explanation = _checked(read, runs)
    if not explanation.claim.holds:
        shape, step = next(iter(explanation.claim.differs.items()))
        raise Inexpressible(
            f"what was read off a vector does not predict it, from step {step} of a leaf of shape {shape} on",
            read.found.name,
        )
    return dataclasses.replace(explanation, elsewhere=_elsewhere(x, runs, explanation.claim))


class _Read(NamedTuple):
    """What was read: the recurrence, the one in which rate and decay have their symbols, and the schedules."""

    found: Recurrence
    told: Recurrence
    schedules: Schedules


def _read(x: Any, axes: int) -> _Read:
    letters = Letters()
    found = recurrence(x, letters, axes)
    told = with_symbols(x, ("learning_rate", "weight_decay"), axes) if isinstance(x, Transform) else found
    return _Read(found, told, {letter: by_step(schedule) for letter, schedule in letters.schedules.items()})


def _driven(x: Any, read: _Read) -> Runs:
    """Runs of the transform, at typical hyperparameters, or at its defaults where it refuses those."""
    names = read.found.hyperparameters
    defaults = read.found.defaults
    for first, second in ((TYPICAL, defaults), (defaults, TYPICAL)):
        values = {name: first.get(name, second.get(name, 0.5)) for name in names}
        try:
            with lenient_float64():
                _, tx, _ = instance(x, values, all_of=True)
            return drive(tx, values)
        except Exception as error:
            reason = error
    raise Inexpressible(f"it does not run, so that what was read can't be checked: {reason}", read.found.name)


def _checked(read: _Read, runs: Runs) -> Explanation:
    """The equations and regime, with the claim that the runs leave of them."""
    found, told = read.found, read.told
    equations = _equations(found)
    step = tuple((equation.lhs, equation.rhs) for equation in equations)
    values = {symbol: runs.driven.values[name] for name, symbol in found.hyperparameters.items()}
    claim = check(step, found.slots, values, read.schedules, runs)
    if told is not found:
        values = {symbol: told.defaults[name] for name, symbol in told.hyperparameters.items()}
        told = told if check(told.step, told.slots, values, read.schedules, runs).holds == claim.holds else found
    return Explanation(found, equations, regime_of(told), claim)


def _elsewhere(x: Any, runs: Runs, claim: Claim) -> dict[Shape, "Explanation | str"]:
    """What is known of the leaves that the equations don't hold for."""
    found: dict[Shape, Explanation | str] = dict(runs.refused)
    for axes in sorted({len(shape) for shape in claim.differs}):
        shapes = [shape for shape in claim.differs if len(shape) == axes]
        try:
            other = _checked(_read(x, axes), runs)
        except Inexpressible as error:
            found |= dict.fromkeys(shapes, f"not read: {error.reason}")
            continue
        for shape in shapes:
            predicted = shape in other.claim.holds
            found[shape] = other if predicted else "not read: equations of one weight don't predict it"
    return found


def _equations(found: Recurrence) -> tuple[Formula, ...]:
    hats = corrections(found)
    equations = []
    for slot in found.slots:
        equations.append(sp.Eq(slot.after, with_hats(slot.new, hats), evaluate=False))
        if slot.after in hats:
            hat, divisor = hats[slot.after]
            equations.append(sp.Eq(hat, slot.after / divisor, evaluate=False))
    return (*equations, sp.Eq(symbols.next_weight, with_hats(found.weight, hats), evaluate=False))
