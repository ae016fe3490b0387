"""`explain`: the equations of an optimizer, derived from what it computes."""

import dataclasses
from typing import Any

import sympy as sp

from optlab.algebra.transform import Transform
from optlab.equations import printing, symbols
from optlab.equations.hats import corrections, with_hats
from optlab.equations.interpret import Formula
from optlab.equations.recurrences import Letters, Recurrence, recurrence, with_symbols
from optlab.equations.regime import Regime, regime_of


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What one step of an optimizer does to one weight.

    Attributes:
      recurrence: the step as it was read; see `optlab.equations.recurrence.Recurrence`.
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

    @property
    def text(self) -> str:
        """Equations, starting values and regime as plain text."""
        lines = [self._title(), ""]
        lines += [f"  {printing.text(equation.lhs)} = {printing.text(equation.rhs)}" for equation in self.equations]
        if starts := self._starts():
            lines += ["", f"  from {starts}"]
        return "\n".join([*lines, "", str(self.regime)])

    @property
    def latex(self) -> str:
        """The equations as an `aligned` environment, without dollar signs."""
        rows = [f"{printing.latex(equation.lhs)} &= {printing.latex(equation.rhs)}" for equation in self.equations]
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
        the part of the state that stands in the way.

    The parameters are one leaf, a vector: a sum over its weights reads `Σ(...)`, their number `N`, and an optimizer
    that treats matrices otherwise, such as Adafactor, reads as it treats vectors. The step is traced in float64, casts
    between floating-point types are seen through, and so is `store`; what is asked whether it is finite is, and counts
    are taken not to have reached their maximum.
    """
    found = recurrence(x, Letters())
    told = with_symbols(x, ("learning_rate", "weight_decay")) if isinstance(x, Transform) else found
    return Explanation(found, _equations(found), regime_of(told))


def _equations(found: Recurrence) -> tuple[Formula, ...]:
    hats = corrections(found)
    equations = []
    for slot in found.slots:
        equations.append(sp.Eq(slot.after, with_hats(slot.new, hats), evaluate=False))
        if slot.after in hats:
            hat, divisor = hats[slot.after]
            equations.append(sp.Eq(hat, slot.after / divisor, evaluate=False))
    weight = sp.Symbol("w_t", real=True)
    return (*equations, sp.Eq(weight, with_hats(found.weight, hats), evaluate=False))
