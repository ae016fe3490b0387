"""An optimizer's regime in words: what its equations say about decay, scale, bias correction, ε and order."""

import dataclasses
import itertools
import math
from collections.abc import Iterable

import numpy as np
import sympy as sp

from optlab.equations import printing, symbols
from optlab.equations.hats import Hats, corrections, with_hats
from optlab.equations.interpret import Formula, largest, over_weights, t
from optlab.equations.moments import (
    moments_of,
    names_of,
    share_of_divisors,
    steps_without_decay,
    weight_in_running,
)
from optlab.equations.recurrences import Recurrence, Slot
from optlab.equations.site import site_and_coupling

SCALED_STEPS = 24
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
    gradients = np.random.default_rng(0).uniform(1, 3, SCALED_STEPS) * np.resize([1, 1, -1], SCALED_STEPS)
    runs = [[step.moved for step in steps_without_decay(found, scale * gradients)] for scale in (1e-3, 1, 1e3)]
    small, large = (_ratios(*pair) for pair in itertools.pairwise(runs))
    if not small or not large:
        return "not measured: the equations at default hyperparameters don't move the weight"
    if _all_close(large, 1) and _all_close(small, 1):
        return "scale-free: gradients a thousand times as large give the same step"
    if _all_close(large, 1000) and _all_close(small, 1000):
        return "proportional to the gradient"
    if _all_close(large, 1):
        times = _times(small)
        return (
            f"scale-free from gradients around 1 on; from 0.001 on a thousand times the gradient gives {times} the step"
        )
    for start in range(2, SCALED_STEPS // 2):
        if all(_all_close(_from(start, ratios), 1) for ratios in (small, large)):
            times = _times({step: large[step] for step in large if step < start})
            return f"scale-free from step {start} on; before, a thousand times the gradient gives {times} the step"
    last = large[max(large)]
    if _all_close(small, last) and _all_close(large, last):
        found_times = f"gives {last:.3g} times the step"
    else:
        found_times = f"gives {_times(small)} the step from 0.001 on, {_times(large)} from 1 on"
    return f"neither scale-free nor proportional: a thousand times the gradient {found_times}"


def _ratios(steps: list[float], of_larger: list[float]) -> dict[int, float]:
    """How many times as far each step goes, by its number, where both move."""
    pairs = enumerate(zip(steps, of_larger, strict=True), start=1)
    return {
        number: large / small for number, (small, large) in pairs if small and large and math.isfinite(small + large)
    }


def _from(start: int, ratios: dict[int, float]) -> dict[int, float]:
    return {step: ratio for step, ratio in ratios.items() if step >= start}


def _all_close(ratios: dict[int, float], wanted: float) -> bool:
    return all(math.isclose(ratio, wanted, rel_tol=1e-2) for ratio in ratios.values())


def _times(ratios: dict[int, float]) -> str:
    low, high = min(ratios.values()), max(ratios.values())
    return f"{low:.3g} times" if math.isclose(low, high, rel_tol=1e-2) else f"{low:.3g} to {high:.3g} times"


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
            guard = next(filter(_is_guard, total.args), None) or next(filter(_holds_guard, total.args), None)
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
    elsewhere = [f"{printing.text(guard)} is {place}" for guard in GUARDS if (place := _place_of(found, guard))]
    return "; ".join(places) or "; ".join(elsewhere) or "none"


def _place_of(found: Recurrence, guard: Formula) -> str:
    """Where a guard stands that is added to nothing."""
    bounds = {bound for e in found.expressions for bound in e.atoms(sp.Max) if guard in bound.args}
    if bounds:
        return "the least that a divisor can be, " + ", ".join(sorted(map(printing.text, bounds)))
    where = [symbols.unicode(slot.after) for slot in found.slots if slot.new.has(guard)]
    where += ["the step"] if found.weight.has(guard) else []
    starts = [symbols.unicode(slot.before) for slot in found.slots if slot.first.has(guard)]
    if where:
        return "in " + " and ".join(where)
    return "where " + " and ".join(starts).replace("ₜ₋₁", "₀") + " starts" if starts else ""


def _is_root(power: Formula) -> bool:
    return power.exp.is_Rational and power.exp.q == 2


def _holds_guard(term: Formula) -> bool:
    """Whether a guard stands in it as a factor, beside no gradient or weight."""
    return term.is_Mul and any(guard in term.args for guard in GUARDS) and not term.has(symbols.g, symbols.w)


def _is_guard(term: Formula) -> bool:
    return term in GUARDS or (term.is_Number and 0 < term < sp.Rational(1, 20))


# Order --------------------------------------------------------------------------------------------------------------


def _order(found: Recurrence) -> str:
    sums = {total for e in found.expressions for total in e.atoms(over_weights, largest)}
    by_norm = any(total.free_symbols - {symbols.w, symbols.first_weight} for total in sums)
    return _order_of_moments(found, by_norm=by_norm) + ("; with sums over weights" if by_norm else "")


def _order_of_moments(found: Recurrence, *, by_norm: bool) -> str:
    moments = moments_of(found)
    firsts, seconds = (_letters(slots) for slots in (moments.first, moments.second))
    weight = weight_in_running(found)
    m, v = names_of(moments.first), names_of(moments.second)
    if weight.has(symbols.g) and weight.free_symbols & {slot.after for slot in moments.first}:
        m += ", looked ahead by the gradient (Nesterov)"
    signs = weight.atoms(sp.sign)
    if not firsts and not seconds:
        if signs:
            return "the sign of the gradient"
        if found.slots:
            return "no average of gradients or of their sizes"
        if not weight.has(symbols.g):
            return "the gradient is not used"
        return "the gradient, times a number for all weights" if by_norm else "the gradient as it is"
    if not seconds:
        if signs:
            return f"momentum {m}, then its sign (the order of Signum and Lion)"
        return f"momentum {m}, no normalization" + (" of single weights" if by_norm else "")
    if not firsts:
        return f"normalization by {v}, no momentum"
    averaged, sized = ([slot.new.free_symbols for slot in slots] for slots in (moments.first, moments.second))
    see_sizes, see_averages = (
        any(new & letters for new in news) for news, letters in ((averaged, seconds), (sized, firsts))
    )
    if see_sizes and not see_averages:
        return f"normalization by {v}, then momentum {m} (the order of LaProp)"
    if see_averages and not see_sizes and weight.free_symbols & firsts:
        if any(symbols.g in new for new in sized):
            return f"momentum {m}, normalized by the deviation {v} of the gradient from it (the order of AdaBelief)"
        return f"momentum {m}, normalized by its own size {v} (the order of AdaMomentum)"
    if see_sizes or see_averages or not (share := share_of_divisors(found, moments)) < 0.1:
        m = names_of(moments.first)
        return f"averages {m} of gradients and {v} of their sizes, in an order without a name here"
    others = _letters(found.slots) - firsts - seconds
    if any(new & others for new in (*averaged, *sized)) or not math.isclose(share, 1e-3, rel_tol=1e-2):
        return f"momentum {m} and normalization {v}, then their quotient"
    return f"momentum {m} and normalization {v} of the same gradient, then their quotient (the order of Adam)"


def _letters(slots: Iterable[Slot]) -> set[sp.Symbol]:
    return {letter for slot in slots for letter in (slot.before, slot.after)}
