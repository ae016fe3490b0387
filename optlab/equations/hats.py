"""Bias correction as papers write it: a hat for an average that is divided by the sum of its weights."""

import sympy as sp

from optlab.equations import symbols
from optlab.equations.interpret import Formula, t
from optlab.equations.recurrences import Recurrence

Hats = dict[sp.Symbol, tuple[sp.Symbol, Formula]]


def corrections(found: Recurrence) -> Hats:
    """The slots that the step divides by `1 - b**t`, each with its hat and the divisor."""
    hats: Hats = {}
    slots = {slot.after for slot in found.slots}
    for expression in found.expressions:
        for product in sorted(expression.atoms(sp.Mul), key=sp.default_sort_key):
            for divisor in (1 / factor for factor in product.args if is_weight_sum(1 / factor)):
                for slot in slots & set(product.args):
                    hats.setdefault(slot, (symbols.corrected(slot), divisor))
    return hats


def is_weight_sum(divisor: Formula) -> bool:
    """Whether it is `1 - b**t`."""
    power = 1 - divisor
    return power.is_Pow and power.exp == t and not power.base.has(t)


def with_hats(expression: Formula, hats: Hats) -> Formula:
    """`expression` with hats for the corrected slots."""

    def replaced(product: Formula) -> Formula:
        factors = list(product.args)
        for slot, (hat, divisor) in hats.items():
            if slot in factors and 1 / divisor in factors:
                factors.remove(slot)
                factors.remove(1 / divisor)
                factors.append(hat)
        return sp.Mul(*factors)

    return expression.replace(lambda part: part.is_Mul, replaced) if hats else expression
