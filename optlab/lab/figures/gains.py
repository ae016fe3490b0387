"""What decay adds, learning rate by learning rate."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from optlab.lab.figures.style import labelled, legend, looks, sheet, tick, unit
from optlab.lab.results import gains, is_share, title


def gain_curves(results: xr.Dataset, *, width: float = 9.5) -> Figure | None:
    """What the best decay adds to what is reported at every learning rate, one line per structure.

    Paired over seeds, with 95% intervals. None where the study has no site `none`, or nothing else.

    Args:
      width: in inches.
    """
    differences = gains(results)
    if not differences:
        return None
    name, look = results.attrs["reported"], looks(results)
    figure, (panel,) = sheet(1, width, width, 3.6)
    positions = np.arange(results.sizes["learning_rate"])
    for number, (structure, difference) in enumerate(differences.items()):
        mean, half = unit(name) * np.array(difference).T
        mean = np.where(np.isfinite(mean), mean, np.nan)
        shifted = positions + 0.4 * ((number + 0.5) / len(differences) - 0.5)
        panel.errorbar(shifted, mean, np.nan_to_num(half), markersize=4, capsize=2, label=structure, **look[structure])
    panel.axhline(0, color="#888888", linewidth=1, zorder=0)
    panel.set_xticks(positions, [tick(rate) for rate in results.learning_rate.values])
    panel.set_xlabel("learning rate")
    panel.set_ylabel(f"{title(name).replace('(%)', '').strip()} over no decay{' (points)' if is_share(name) else ''}")
    legend(figure, labelled(panel))
    return figure
