"""Whether sites differ where they decay equally strongly."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from optlab.lab.figures.style import WIDTH, labelled, legend, looks, sheet, spans_decades, unit
from optlab.lab.results import best_decays, best_rows, by_structure, mean_and_width, near_best, title

NEAR = 0.1


def at_equal_strength(results: xr.Dataset, strength: str = "weight_norm", *, width: float = WIDTH) -> Figure | None:
    """What is reported against how strong the decay was measured to be, one point per decay at the best learning rate.

    A line per structure in the order of its decays, 95% intervals over seeds both ways: at equal strength, do sites
    differ? Beside it, the cells that are within 10% of their structure's best objective. Cells with a diverged run are
    left out. None where the study has no variable `strength`.

    Args:
      strength: a variable of the study at the end of training, `weight_norm` or `decay_share`; of one with layers,
        the layer `all`.
      width: in inches.
    """
    if strength not in results:
        return None
    name, look = results.attrs["reported"], looks(results)
    sound, near = by_structure(results), near_best(results, NEAR)
    figure, panels = sheet(2, width, 4, 3.8)
    measured = []
    for best in best_rows(best_decays(results)):
        structure, rate = str(best.structure.values), float(best.learning_rate)
        cells = sound.sel(structure=structure, learning_rate=rate)
        whole = ~cells.diverged.any("seed").values
        whole[1:] &= structure != "none"
        for panel, chosen in zip(
            panels, (whole, near.sel(structure=structure, learning_rate=rate).values), strict=True
        ):
            x, x_width, y, y_width = _points(cells.isel(weight_decay=np.flatnonzero(chosen)), strength, name)
            panel.errorbar(
                x, y, y_width, x_width, markersize=4, capsize=2, linewidth=0.9, label=structure, **look[structure]
            )
            measured.append(x)
    if not measured:
        return None
    positive = (values := np.concatenate(measured))[values > 0]
    if spans_decades(positive):
        panels[0].set_xscale("symlog", linthresh=positive.min())  # the strength of no decay may be zero
    for panel, heading in zip(panels, ("all sound cells", f"within {NEAR:.0%} of the structure's best"), strict=True):
        panel.set_title(heading, fontsize=10)
        panel.set_xlabel(title(strength))
        panel.set_ylabel(title(name))
    legend(figure, labelled(panels[0]))
    return figure


def _points(cells: xr.Dataset, strength: str, name: str) -> tuple[np.ndarray, ...]:
    """Mean and half an interval of the strength and of what is reported, over the decays."""
    measured = cells[strength].sel(layer="all") if "layer" in cells[strength].dims else cells[strength]
    x, x_width = mean_and_width(measured.transpose("weight_decay", "seed").values)
    y, y_width = mean_and_width((unit(name) * cells[name]).transpose("weight_decay", "seed").values)
    return x, np.nan_to_num(x_width), y, np.nan_to_num(y_width)
