"""Figures of a study's dataset; every function takes the dataset and gives a matplotlib figure, or None without data.

A structure has one colour, line and marker in all figures of a dataset. `width` is in inches: panels that don't fit
beside each other stand below each other.
"""

from optlab.lab.figures.averaging import averages, averages_data
from optlab.lab.figures.decay_by_layer import effective_decay
from optlab.lab.figures.equal_strength import at_equal_strength
from optlab.lab.figures.gains import gain_curves
from optlab.lab.figures.heat_maps import maps
from optlab.lab.figures.paths import trajectories
from optlab.lab.figures.training_curves import curves

__all__ = [
    "at_equal_strength",
    "averages",
    "averages_data",
    "curves",
    "effective_decay",
    "gain_curves",
    "maps",
    "trajectories",
]
