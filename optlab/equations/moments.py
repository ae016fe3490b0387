"""Which slots are first moments and which are second, from how they follow the gradients."""

import dataclasses
import math

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from optlab.equations import symbols
from optlab.equations.interpret import Formula, largest, over_weights, t
from optlab.equations.numeric import Step, run, value_of
from optlab.equations.recurrences import Recurrence, Slot

DECAY = symbols.hyperparameter("weight_decay")
RATE = symbols.hyperparameter("learning_rate")
TYPICAL = {RATE: 0.01, **{symbols.hyperparameter(name): 0.9 for name in ("b1", "b2", "decay", "momentum")}}


@dataclasses.dataclass(frozen=True)
class Moments:
    """The running slots that follow the gradient's sign, as first moments do, and its size, as second ones do.

    What starts from the weight is no moment, and a first one that the step doesn't use is none beside one that it does.
    """

    first: tuple[Slot, ...]
    second: tuple[Slot, ...]


def moments_of(found: Recurrence) -> Moments:
    gradients = np.random.default_rng(0).uniform(0.5, 2, 3)
    up, down, smaller = (steps_without_decay(found, sign * gradients)[-1].slots for sign in (1, -1, 0.5))
    first, second = [], []
    for slot in found.slots:
        if not _is_running(slot) or slot.first.has(symbols.w):
            continue
        a, b, c = (float(slots[slot.after]) for slots in (up, down, smaller))
        if math.isclose(a, -b, rel_tol=1e-4) and a:
            first.append(slot)
        elif math.isclose(a, b, rel_tol=1e-9) and not math.isclose(a, c, rel_tol=1e-9) and not _mixes_slots(slot):
            second.append(slot)
    weight = weight_in_running(found)
    used = [slot for slot in first if weight.has(slot.before, slot.after)]
    return Moments(tuple(used or first), tuple(second))


def _is_running(slot: Slot) -> bool:
    return sp.diff(slot.new, slot.before) != 0


def _mixes_slots(slot: Slot) -> bool:
    """Whether it holds sums over more than gradients: it estimates something, as a distance or a rate."""
    totals = slot.new.atoms(over_weights, largest)
    return any(total.free_symbols - {symbols.g} for total in totals)


def weight_in_running(found: Recurrence) -> Formula:
    """The new weight, with what is made anew in every step written out."""
    made = {slot.after: slot.new for slot in found.slots if not _is_running(slot)}
    weight = found.weight
    while weight.free_symbols & made.keys():
        weight = weight.xreplace(made)
    return weight


def share_of_divisors(found: Recurrence, moments: Moments) -> float:
    """How many times as far a step goes where second moments have seen gradients a thousand times as large."""
    gradients = np.random.default_rng(0).uniform(0.5, 2, 24)
    plain, large = (steps_without_decay(found, scale * gradients)[-2:] for scale in (1, 1000))
    known = typical(found) | {DECAY: 0.0, t: 24, symbols.g: gradients[-1], symbols.w: 0.0, symbols.first_weight: 0.0}
    for slot in found.slots:
        known |= {slot.before: plain[0].slots[slot.after], slot.after: plain[1].slots[slot.after]}
    swapped = {slot.before: large[0].slots[slot.after] for slot in moments.second}
    swapped |= {slot.after: large[1].slots[slot.after] for slot in moments.second}
    weight = weight_in_running(found)
    near, far = (abs(value_of(weight, values)) for values in (known, known | swapped))
    return far / near if near else math.nan


def typical(found: Recurrence) -> dict[sp.Symbol, float]:
    """The defaults of the hyperparameters, or what is usual."""
    return {
        symbol: found.defaults.get(name, TYPICAL.get(symbol, 0.5)) for name, symbol in found.hyperparameters.items()
    }


def steps_without_decay(found: Recurrence, gradients: np.ndarray) -> list[Step]:
    """Steps without decay, at the defaults of the hyperparameters, each from the same weight.

    The weight stays at zero, where nothing decays, or at one where its size multiplies the step.
    """
    by_size = any(f.has(symbols.w) for e in found.expressions for f in e.atoms(AppliedUndef))
    return run(found, typical(found) | {DECAY: 0.0}, gradients, weight=float(by_size), held=True)


def names_of(slots: tuple[Slot, ...]) -> str:
    return " and ".join(symbols.unicode(slot.after) for slot in slots)
