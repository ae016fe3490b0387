"""Where weight decay acts and what multiplies it, from how one step depends on the weight."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from optlab.equations import printing, symbols
from optlab.equations.hats import Hats, corrections, with_hats
from optlab.equations.interpret import Formula, largest, over_weights
from optlab.equations.moments import DECAY, RATE, moments_of, names_of, typical
from optlab.equations.prediction import along
from optlab.equations.recurrences import Recurrence, Slot

DRAWS = 8
THROUGH_MOMENTS = "through what is averaged; its share of the step depends on the gradients"
LAWS = {
    "update": "update: decoupled, beside the update, w − η·u − κ·w",
    "step": "step: decoupled, beside the update, w − η·u − κ·w",
    "after": "after: decoupled, after the step, (w − η·u)·(1 − κ)",
    "proximal": "proximal: decoupled, after the step, (w − η·u)/(1 + κ)",
    "whole": "after: decoupled, the step and the weight by one factor, (w − η·u)·(1 − κ)",
    "other": "decoupled, by a law of its own",
}


@dataclasses.dataclass(frozen=True)
class _Step:
    """How one step depends on the weight itself.

    Conditions on the weight are taken to hold, and sums over the leaf are letters, so that what remains is the term
    itself.

    Attributes:
      news: what the slots become.
      update: what is added to the weight.
      sums: the letters of the sums.
      gates: the conditions, as text.
      hats: see `hats.corrections`.
    """

    found: Recurrence
    news: Mapping[Slot, Formula]
    update: Formula
    sums: Mapping[Formula, sp.Dummy]
    gates: tuple[str, ...]
    hats: Hats

    @property
    def parts(self) -> tuple[Formula, ...]:
        return (*self.news.values(), self.update)

    @property
    def direct(self) -> Formula:
        """What the update takes from the weight beside its slots."""
        return sp.diff(self.update, symbols.w)

    @property
    def seen_by(self) -> tuple[Slot, ...]:
        return tuple(slot for slot, new in self.news.items() if new.has(symbols.w))

    @property
    def letters(self) -> set[sp.Symbol]:
        return {symbols.g, *(letter for slot in self.news for letter in (slot.before, slot.after))}

    @property
    def is_named(self) -> bool:
        """Whether the decay is a symbol, and not a number."""
        return any(part.has(DECAY) for part in self.parts)

    def shown(self, expression: Formula) -> str:
        back = {letter: total for total, letter in self.sums.items()}
        text = printing.text(with_hats(expression.xreplace(back), self.hats))
        short = {letter: over_weights(sp.Symbol("…")) for letter in self.sums.values()}
        return text if len(text) <= 60 else printing.text(with_hats(expression.xreplace(short), self.hats))


def site_and_coupling(found: Recurrence) -> tuple[str, str]:
    """Where decay acts and what multiplies it, a sentence each."""
    step = _opened(found)
    where, coupling = _site_and_coupling(step)
    if where.startswith("none"):
        return where, coupling
    if any(part.has(symbols.first_weight) for part in step.parts):
        where += "; toward the initial weight"
    if step.gates:
        where += f"; only where {' and '.join(step.gates)}"
    return where, coupling


def _opened(found: Recurrence) -> _Step:
    hats = corrections(found)
    functions: list[AppliedUndef] = sorted({f for e in found.expressions for f in e.atoms(AppliedUndef)}, key=str)
    schedules = {f: DECAY for f in functions if symbols.schedule(f) == DECAY}
    totals = [f for f in functions if isinstance(f, over_weights | largest)]
    sums = {f.xreplace(schedules): sp.Dummy(f"sum_{k}", positive=True) for k, f in enumerate(totals)}
    gates: dict[str, None] = {}

    def opened(piecewise: Formula) -> Formula:
        if not any(condition.has(symbols.w) for _, condition in piecewise.args):
            return piecewise
        value, condition = next((pair for pair in piecewise.args if pair[0] != 0), piecewise.args[0])
        if condition != sp.true:
            gates[printing.text(with_hats(condition, hats))] = None
        return value

    replaced = [
        e.xreplace(schedules).xreplace(sums).replace(lambda part: isinstance(part, sp.Piecewise), opened)
        for e in found.expressions
    ]
    update = sp.expand(replaced[-1] - symbols.w, deep=False)
    return _Step(found, dict(zip(found.slots, replaced, strict=False)), update, sums, tuple(gates), hats)


def _site_and_coupling(step: _Step) -> tuple[str, str]:
    direct, seen_by = step.direct, step.seen_by
    is_beside_slots = direct.has(*step.letters)
    if direct == 0 and not seen_by:
        by_size = any(total.has(symbols.w) for total in step.sums)
        return ("none; the step depends on the size of the weights" if by_size else "none"), "no decay"
    c = _beside_gradient(step)
    if c is not None and (seen_by or is_beside_slots):
        sees = "every average" if step.news else "the step"
        return f"gradient: {sees} sees g + {_times_w(c)} (L2, coupled)", THROUGH_MOMENTS
    if c is not None:
        return f"gradient or update, the same without averages: g + {_times_w(c)}", _multiplied(step, -direct)
    if direct == 0:
        return _in_moments(step), THROUGH_MOMENTS
    if seen_by:
        return f"in {names_of(seen_by)} and beside the update", THROUGH_MOMENTS
    if is_beside_slots:
        place = "direction: beside the momentum, under the same divisor, (m + λ·w)/P"
        is_under_divisor = _is_under_divisor(step, direct)
        by = "depends on the gradients" if _follows_gradient(step, direct) else "changes with the steps"
        factor = f"the weight loses {step.shown(-direct)} of itself per step"
        return place if is_under_divisor else f"beside the update, by a factor that {by}", factor
    return _decoupled(step, direct)


def _follows_gradient(step: _Step, expression: Formula) -> bool:
    """Whether the gradient, of this step or an earlier one, stands in it."""
    reached: set[sp.Symbol] = set()
    waiting = expression.free_symbols
    while waiting:
        reached |= waiting
        fed = [new for slot, new in step.news.items() if {slot.before, slot.after} & reached]
        back = {letter: total for total, letter in step.sums.items()}
        waiting = {x for new in fed for x in new.xreplace(back).free_symbols} - reached
    return symbols.g in reached


def _is_under_divisor(step: _Step, direct: Formula) -> bool:
    """Whether the weight stands beside a slot or the gradient as one multiple of the other."""
    ratios = [direct / sp.diff(step.update, letter) for letter in step.letters if step.update.has(letter)]
    return any(not sp.simplify(ratio).has(*step.letters) for ratio in ratios)


def _beside_gradient(step: _Step) -> Formula | None:
    """c, where the weight is seen only as part of `g + c*w`."""
    for c in [DECAY] if step.is_named else _ratios(step.parts):
        shifted = {symbols.g: symbols.g - c * symbols.w}
        if not any(sp.expand(part.subs(shifted)).has(symbols.w) for part in step.parts):
            return c
    return None


def _ratios(parts: Iterable[Formula]) -> list[Formula]:
    mixed = [part for part in parts if part.has(symbols.w) and part.has(symbols.g)]
    ratios = [sp.simplify(sp.diff(part, symbols.w) / sp.diff(part, symbols.g)) for part in mixed]
    return [ratio for ratio in ratios if ratio.is_Number]


def _in_moments(step: _Step) -> str:
    moments, seen_by = moments_of(step.found), set(step.seen_by)
    seen = names_of(step.seen_by)
    if seen_by <= set(moments.first):
        return f"first_moment: only {seen} sees the weight"
    if seen_by <= set(moments.second):
        return f"second_moment: only {seen} sees the weight"
    return f"in {seen}"


def _decoupled(step: _Step, direct: Formula) -> tuple[str, str]:
    """The law of a decay that neither the gradient nor a slot touches: linear, after the step, or proximal.

    What the decay does to the rest of the update tells them apart: nothing, or one factor for the step and the weight.
    """
    signs = _signs(step, direct)
    if signs == {1}:
        return "after the learning rate with the wrong sign: weights grow (the sign trap)", _multiplied(step, -direct)
    if signs != {-1}:
        by = "sums over weights" if direct.free_symbols & set(step.sums.values()) else "its hyperparameters"
        return f"beside the update, by a factor of either sign that depends on {by}", _multiplied(step, -direct)
    knob = DECAY if step.is_named else RATE
    if not direct.has(knob):
        alike = "update, step, after and proximal" if not step.found.hyperparameters else "step and after"
        return f"decoupled; from numbers alone {alike} can't be told apart", _multiplied(step, -direct)
    rest = step.update.subs({symbols.w: 0, symbols.first_weight: 0})
    alone = rest.subs(DECAY, 0) if step.is_named else RATE * sp.cancel(rest / RATE).subs(RATE, 0)
    factor = _at_random(rest / alone) if alone != 0 else 1.0
    linear, proximal = sp.simplify(-direct / knob), sp.simplify((1 / (1 + direct) - 1) / knob)
    if math.isclose(factor, 1, rel_tol=1e-9) and not linear.has(knob):
        return LAWS["update" if _has_rate(direct) else "step"], _multiplied(step, linear * knob)
    if not math.isclose(factor, _at_random(1 + direct), rel_tol=1e-9):
        return LAWS["other"], _multiplied(step, -direct)
    if not linear.has(knob):
        return LAWS["after"], _multiplied(step, linear * knob)
    if not proximal.has(knob):
        return LAWS["proximal"], _multiplied(step, proximal * knob)
    return LAWS["whole"], _multiplied(step, -direct)


def _signs(step: _Step, direct: Formula) -> set[int]:
    """The signs of what a step adds to the weight in proportion to it: at many numbers, with sums along a run."""
    back = {letter: total for total, letter in step.sums.items()}
    if not direct.free_symbols & back.keys():
        return {int(np.sign(_at_random(direct, draw))) for draw in range(DRAWS)} - {0}
    values = typical(step.found) | {RATE: 0.1, DECAY: 0.1}
    values = {symbol: value for symbol, value in values.items() if symbol in step.found.hyperparameters.values()}
    seen = along(step.found, values, direct.xreplace(back))
    return {int(sign) for sign in np.unique(np.sign(seen[np.isfinite(seen)]))} - {0}


def _multiplied(step: _Step, kappa: Formula) -> str:
    beside = ", and by sums over weights" if kappa.free_symbols & set(step.sums.values()) else ""
    if not step.is_named and not _has_rate(kappa):
        return f"the weight loses {step.shown(kappa)} of itself per step"
    by = "multiplied by the learning rate" if _has_rate(kappa) else "not multiplied by the learning rate"
    return f"{by}{beside}: κ = {step.shown(kappa)}"


def _has_rate(kappa: Formula) -> bool:
    return kappa.has(RATE) or any(symbols.schedule(function) == RATE for function in kappa.atoms(AppliedUndef))


def _times_w(c: Formula) -> str:
    return printing.text(c * sp.Symbol("w_", real=True)).replace("w_", "w")


def _at_random(expression: Formula, draw: int = 0) -> float:
    """The value at positive numbers, drawn for each symbol and schedule by its name."""
    names: list[Formula] = [*expression.atoms(AppliedUndef), *expression.free_symbols]
    values = {name: 3 if name.is_integer else sp.Float(_draw(str(name), draw)) for name in names}
    return float(sp.re(expression.xreplace(values).evalf()))


def _draw(name: str, draw: int) -> float:
    return np.random.default_rng([draw, *name.encode()]).uniform(0.1, 0.9)
