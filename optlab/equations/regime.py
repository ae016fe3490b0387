"""An optimizer's regime in words: what its equations say about decay, scale, bias correction, ε and order."""

import dataclasses
import math

import numpy as np
import sympy as sp

from optlab.equations import printing, symbols
from optlab.equations.hats import Hats, corrections, with_hats
from optlab.equations.interpret import Formula, largest, over_weights, t
from optlab.equations.moments import moments_of, names_of, steps_without_decay
from optlab.equations.recurrences import Recurrence
from optlab.equations.site import site_and_coupling

GUARDS = (symbols.hyperparameter("eps"), symbols.hyperparameter("eps_root"))


@dataclasses.dataclass(frozen=True)
class Regime:
    """One sentence for each question.

    Attributes:
      site: where weight decay acts.
      coupling: what multiplies it.
      scale: what a gradient a thousand times as large does to the steps, measured on the equations.
      correction: which averages are divided by the sum of their weights.
      epsilon: where the guard of the divisor stands.
      order: in which order momentum and normalization come.
    """

    site: str
    coupling: str
    scale: str
    correction: str
    epsilon: str
    order: str

    def __str__(self) -> str:
        names = {"site": "decay", "epsilon": "ε"}
        rows = [(names.get(name, name), sentence) for name, sentence in dataclasses.asdict(self).items()]
        return "\n".join(f"  {name + ':':<12}{sentence}" for name, sentence in rows)


def regime_of(found: Recurrence) -> Regime:
    """The regime that the equations show."""
    hats = corrections(found)
    site, coupling = site_and_coupling(found)
    return Regime(site, coupling, _scale(found), _correction(found, hats), _epsilon(found, hats), _order(found))


def _scale(found: Recurrence) -> str:
    gradients = np.random.default_rng(0).uniform(1, 3, 12) * np.resize([1, 1, -1], 12)
    runs = [[step.moved for step in steps_without_decay(found, scale * gradients)] for scale in (1, 1000)]
    small, large = (next((moved for moved in reversed(run) if moved), math.nan) for run in runs)
    if not math.isfinite(small + large):
        return "not measured: the equations at default hyperparameters don't move the weight"
    ratio = large / small
    if math.isclose(ratio, 1, rel_tol=1e-2):
        return "scale-free: gradients a thousand times as large give the same step"
    if math.isclose(ratio, 1000, rel_tol=1e-2):
        return "proportional to the gradient"
    return f"neither scale-free nor proportional: a thousand times the gradient gives {ratio:.3g} times the step"


def _correction(found: Recurrence, hats: Hats) -> str:
    slots = [slot.after for slot in found.slots]
    divided = [f"{symbols.unicode(slot)} by {printing.text(hats[slot][1])}" for slot in slots if slot in hats]
    powers = {power for e in found.expressions for power in with_hats(e, hats).atoms(sp.Pow) if _of_weight_sum(power)}
    below = {power for power in powers if power.exp.could_extract_minus_sign()}
    divided += sorted(f"a term of the step by {printing.text(1 / power)}" for power in below)
    multiplied = sorted(f"multiplies a term of the step by {printing.text(power)}" for power in powers - below)
    if divided or multiplied:
        return "; ".join((["divides " + ", ".join(divided)] if divided else []) + multiplied)
    return "none" if slots else "none: there is no average"


def _of_weight_sum(power: Formula) -> bool:
    """Whether it is a power of `1 - b**t`, or of that at a later step."""
    kept = 1 - power.base
    return kept.is_Pow and kept.exp.has(t) and not kept.base.has(t)


# The guard of the divisor -------------------------------------------------------------------------------------------


def _epsilon(found: Recurrence, hats: Hats) -> str:
    letters = {letter for slot in found.slots for letter in (slot.before, slot.after)} | {symbols.g}
    letters |= {hat for hat, _ in hats.values()}
    expressions = [with_hats(e, hats) for e in found.expressions]
    rooted = {power.base for e in expressions for power in e.atoms(sp.Pow) if _is_root(power)}
    places: dict[str, None] = {}
    for slot, expression in zip((*found.slots, None), expressions, strict=True):
        for total in sorted(expression.atoms(sp.Add), key=sp.default_sort_key):
            guard = next(filter(_is_guard, total.args), None)
            if guard is None or not total.free_symbols & letters:
                continue
            sign, shown = printing.text(guard), printing.text(total)
            shown = shown if len(shown) <= 40 else f"… + {sign}"
            if slot is not None and total == expression:
                places[f"{sign} is added to {symbols.unicode(slot.after)} at every step"] = None
            elif total in rooted:
                places[f"{sign} inside the root, √({shown})"] = None
            elif any(_is_root(power) and power.exp > 0 for power in (total - guard).atoms(sp.Pow)):
                places[f"{sign} outside the root, {shown}"] = None
            else:
                places[f"{sign} is added, {shown}"] = None
    return "; ".join(places) or "none"


def _is_root(power: Formula) -> bool:
    return power.exp.is_Rational and power.exp.q == 2


def _is_guard(term: Formula) -> bool:
    return term in GUARDS or (term.is_Number and 0 < term < sp.Rational(1, 20))


# Order --------------------------------------------------------------------------------------------------------------


def _order(found: Recurrence) -> str:
    sums = {total for e in found.expressions for total in e.atoms(over_weights, largest)}
    by_norm = any(total.free_symbols - {symbols.w, symbols.first_weight} for total in sums)
    return _order_of_moments(found) + ("; with sums over the whole leaf" if by_norm else "")


def _order_of_moments(found: Recurrence) -> str:
    moments = moments_of(found)
    firsts, seconds = ({slot.after for slot in slots} for slots in (moments.first, moments.second))
    m, v = names_of(moments.first), names_of(moments.second)
    if firsts & found.weight.free_symbols and found.weight.has(symbols.g):
        m += ", looked ahead by the gradient (Nesterov)"
    if not firsts and not seconds:
        if found.weight.atoms(sp.sign):
            return "the sign of the gradient"
        return "the gradient as it is" if not found.slots else "no average of gradients or of their sizes"
    if not seconds:
        if found.weight.atoms(sp.sign):
            return f"momentum {m}, then its sign (the order of Signum and Lion)"
        return f"momentum {m}, no normalization"
    if not firsts:
        return f"normalization by {v}, no momentum"
    if any(slot.new.free_symbols & seconds for slot in moments.first):
        return f"normalization by {v}, then momentum {m} (the order of LaProp)"
    seen = [slot for slot in moments.second if slot.new.free_symbols & firsts]
    if any(slot.new.has(symbols.g) for slot in seen):
        return f"momentum {m}, normalized by the deviation {v} of the gradient from it (the order of AdaBelief)"
    if seen:
        return f"momentum {m}, normalized by its own size {v} (the order of AdaMomentum)"
    return f"momentum {m} and normalization {v} of the same gradient, then their quotient (the order of Adam)"
