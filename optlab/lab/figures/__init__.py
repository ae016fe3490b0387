"""Figures of a study's dataset; every function takes the dataset and gives a matplotlib figure, or None without data.

A structure has one colour, line and marker in all figures of a dataset. `width` is in inches: panels that don't fit
beside each other stand below each other.
"""

from optlab.lab.figures.averages import averages, averages_data
from optlab.lab.figures.curves import curves
from optlab.lab.figures.effective_decay import effective_decay
from optlab.lab.figures.equal_strength import at_equal_strength
from optlab.lab.figures.gains import gain_curves
from optlab.lab.figures.maps import maps
from optlab.lab.figures.trajectories import trajectories

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
