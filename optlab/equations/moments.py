"""Which slots are first moments and which are second, from how they follow the gradients."""

import dataclasses
import math

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from optlab.equations import symbols
from optlab.equations.numeric import Step, run
from optlab.equations.recurrences import Recurrence, Slot

DECAY = symbols.hyperparameter("weight_decay")
RATE = symbols.hyperparameter("learning_rate")
TYPICAL = {RATE: 0.01, **{symbols.hyperparameter(name): 0.9 for name in ("b1", "b2", "decay", "momentum")}}


@dataclasses.dataclass(frozen=True)
class Moments:
    """The running slots that follow the gradient's sign, as first moments do, and its size, as second ones do."""

    first: tuple[Slot, ...]
    second: tuple[Slot, ...]


def moments_of(found: Recurrence) -> Moments:
    gradients = np.random.default_rng(0).uniform(0.5, 2, 3)
    up, down, smaller = (steps_without_decay(found, sign * gradients)[-1].slots for sign in (1, -1, 0.5))
    first, second = [], []
    for slot in found.slots:
        if sp.diff(slot.new, slot.before) == 0:
            continue
        a, b, c = (float(slots[slot.after]) for slots in (up, down, smaller))
        if math.isclose(a, -b, rel_tol=1e-4) and a:
            first.append(slot)
        elif math.isclose(a, b, rel_tol=1e-9) and not math.isclose(a, c, rel_tol=1e-9):
            second.append(slot)
    return Moments(tuple(first), tuple(second))


def steps_without_decay(found: Recurrence, gradients: np.ndarray) -> list[Step]:
    """Steps without decay, at the defaults of the hyperparameters, each from the same weight.

    The weight stays at zero, where nothing decays, or at one where its size multiplies the step.
    """
    by_size = any(f.has(symbols.w) for e in found.expressions for f in e.atoms(AppliedUndef))
    values = {
        symbol: found.defaults.get(name, TYPICAL.get(symbol, 0.5)) for name, symbol in found.hyperparameters.items()
    }
    return run(found, values | {DECAY: 0.0}, gradients, weight=float(by_size), held=True)


def names_of(slots: tuple[Slot, ...]) -> str:
    return " and ".join(symbols.unicode(slot.after) for slot in slots)
