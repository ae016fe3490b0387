"""How much of each step was decay."""

from collections.abc import Sequence

import xarray as xr
from matplotlib.figure import Figure

from optlab.lab.figures.style import WIDTH, band, labelled, legend, looks, scale, sheet
from optlab.lab.results import best_decays, best_rows

LAYERS = 4
LABELS = {"decay_share": "share of the step", "decay_rate": "share of the weights"}
REFERENCE = "rate × decay (update)"


def effective_decay(results: xr.Dataset, *, layers: Sequence[str] | None = None, width: float = WIDTH) -> Figure | None:
    """Which share of each step was decay, and at which rate it took the weights, by layer, in the best cells.

    One panel per layer and measure, one line per structure: means over seeds with bands of their 95% intervals. The
    thin line beside the rate under `update` is learning rate times decay, which AdamW's rate is while the learning rate
    is constant. None where the decay was not measured, or no cell with decay is free of diverged runs.

    Args:
      layers: which, in this order; None for the first four, where `all` is the first.
      width: in inches.

    Raises:
      KeyError: a layer that the study does not have.
    """
    if not {"curve_decay_share", "curve_decay_rate"} <= set(results.data_vars):
        return None
    rows = [row for row in best_rows(best_decays(results)) if row.structure != "none"]
    if not rows:
        return None
    chosen = [str(layer) for layer in (results.layer.values[:LAYERS] if layers is None else layers)]
    look = looks(results)
    shown = [(measure, layer) for measure in LABELS for layer in chosen]
    figure, panels = sheet(len(shown), width, min(2.7, width / 2), 2.3)
    for panel, (measure, layer) in zip(panels, shown, strict=True):
        values = {str(row.structure.values): row[f"curve_{measure}"].sel(layer=layer) for row in rows}
        for structure, curve in values.items():
            band(panel, curve, structure, look[structure])
        if measure == "decay_rate":
            scale(panel, list(values.values()))
            for row in rows:
                if row.structure == "update":
                    asked = float(row.learning_rate * row.weight_decay)
                    panel.axhline(asked, color="black", linewidth=0.8, linestyle=":", zorder=4, label=REFERENCE)
        else:
            panel.set_ylim(-0.03, 1.03)
        panel.set_title(layer, fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        panel.set_ylabel(LABELS[measure], fontsize=9)
        panel.tick_params(labelsize=8)
    legend(figure, labelled(panels[-1]))
    return figure
