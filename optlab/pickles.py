"""Pickles of 0.1.0 name functions by the modules in which they stood then; here they are found where they stand now."""

import sys

from optlab.algebra import hyperparameters, lifting, transform
from optlab.atoms import averages, products, rate, second_moments
from optlab.decay import gates, sites, stable, targets
from optlab.memory import codecs, rounding, storage

_STOOD_IN = {
    "codecs": codecs,
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
sys.modules.update({f"optlab.{name}": module for name, module in _STOOD_IN.items()})
