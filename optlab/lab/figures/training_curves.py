"""How training went in the best cells."""

import xarray as xr
from matplotlib.figure import Figure

from optlab.lab.figures.style import WIDTH, band, labelled, legend, looks, scale, sheet, unit
from optlab.lab.results import best_decays, best_rows, title


def curves(results: xr.Dataset, *, width: float = WIDTH) -> Figure | None:
    """What is reported (the training loss, if that has no curve) and the weight norm over the steps, in the best cells.

    Means over seeds with bands of their 95% intervals. None where there is one measurement, or no cell without a
    diverged run.

    Args:
      width: in inches.
    """
    rows = best_rows(best_decays(results))
    if results.sizes.get("step", 1) == 1 or not rows:
        return None
    reported, look = results.attrs["reported"], looks(results)
    names = (reported if f"curve_{reported}" in results else "train_loss", "weight_norm")
    figure, panels = sheet(len(names), width, 4, 3.6)
    for panel, name in zip(panels, names, strict=True):
        values = {str(row.structure.values): unit(name) * row[f"curve_{name}"] for row in rows}
        for structure, curve in values.items():
            band(panel, curve, structure, look[structure])
        scale(panel, list(values.values()))
        panel.set_xlabel("step")
        panel.set_ylabel(title(name))
    legend(figure, labelled(panels[-1]))
    return figure
