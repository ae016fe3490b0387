"""Modules by other names than their files have: public ones by short names, and those that pickles of 0.1.0 name."""

import sys

from optlab.algebra import hyperparameters, lifting, transform
from optlab.atoms import averages, masks, products, rate, second_moments
from optlab.decay import gates, sites, stable, targets
from optlab.memory import codecs, rounding, storage

_PUBLIC = {"codecs": codecs, "masks": masks}

_STOOD_IN = {
    "ema": averages,
    "gate": gates,
    "hyperparameters": hyperparameters,
    "lifting": lifting,
    "product": products,
    "rate": rate,
    "rms": second_moments,
    "rounding": rounding,
    "sites": sites,
    "stable": stable,
    "store": storage,
    "target": targets,
    "transform": transform,
}

# Entries and no modules: to import a module would put it in the place of the function `optlab.store`.
sys.modules.update({f"optlab.{name}": module for name, module in (_STOOD_IN | _PUBLIC).items()})
