"""Figures of a study's dataset; every function gives a matplotlib figure."""

import matplotlib

matplotlib.use("agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from optlab.lab.results import Best, best_cells, gains

COLUMNS = 4
BEST_EDGE = "#d62728"
DIVERGED = {"facecolor": "#dddddd", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}


def accuracy_maps(results: xr.Dataset) -> Figure:
    """Mean test accuracy over seeds, learning rate by weight decay, one map per site on one colour scale.

    Cells with a diverged run are hatched, and say how many if not all; the best cell is outlined.
    """
    sites = [str(site) for site in results.site.values]
    columns = min(COLUMNS, len(sites) + 1)
    rows = -(-(len(sites) + 1) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.7 * columns + 1, 3.4 * rows), layout="constrained", squeeze=False
    )
    panels = grid.ravel()
    sound = ~results.diverged.any("seed")
    accuracy = 100 * results.test_accuracy.where(sound).mean("seed", skipna=False)
    norm = Normalize(float(accuracy.min()), float(accuracy.max())) if accuracy.notnull().any() else Normalize(0, 100)
    best = {cell.site: cell for cell in best_cells(results)}
    for panel, site in zip(panels, sites, strict=False):
        _accuracy_map(panel, accuracy.sel(site=site), results.diverged.sel(site=site), norm, best.get(site))
    for panel in panels[len(sites) :]:
        panel.axis("off")
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=grid, aspect=40, pad=0.01, label="test accuracy (%)")
    panels[len(sites)].legend(
        handles=[
            Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=BEST_EDGE, linewidth=2.5, label="best cell"),
            Rectangle((0, 0), 1, 1, **DIVERGED, label="diverged (runs, if not all)"),
        ],
        loc="center",
        frameon=False,
        fontsize=11,
    )
    attrs = results.attrs
    figure.suptitle(
        f"Where the weight decay acts: Adam on {attrs['task']}, {attrs['steps']} steps, "
        f"mean over {results.sizes['seed']} seeds"
    )
    return figure


def _accuracy_map(
    panel: Axes, accuracy: xr.DataArray, diverged: xr.DataArray, norm: Normalize, best: Best | None
) -> None:
    values = accuracy.transpose("learning_rate", "weight_decay").values
    failed = diverged.sum("seed").transpose("learning_rate", "weight_decay").values
    seeds = diverged.sizes["seed"]
    panel.imshow(np.ma.masked_invalid(values), norm=norm, cmap="viridis", origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if failed[row, column]:
            panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **DIVERGED))
            text, colour = f"{failed[row, column]}/{seeds}" if failed[row, column] < seeds else "", "#333333"
        else:
            text, colour = f"{value:.0f}", "white" if norm(value) < 0.6 else "black"
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    rates, decays = accuracy.learning_rate.values, accuracy.weight_decay.values
    panel.set_xticks(range(len(decays)), [_tick(decay) for decay in decays], fontsize=8, rotation=45)
    panel.set_yticks(range(len(rates)), [_tick(rate) for rate in rates], fontsize=8)
    panel.set_xlabel("weight decay", fontsize=9)
    panel.set_ylabel("learning rate", fontsize=9)
    panel.set_title(str(accuracy.site.values), fontsize=11, fontweight="bold")
    if best is not None:
        column, row = list(decays).index(best.weight_decay), list(rates).index(best.learning_rate)
        outline = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=BEST_EDGE, linewidth=2.5)
        panel.add_patch(outline)


def _tick(value: float) -> str:
    return f"{value:g}" if value >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def gain_curves(results: xr.Dataset) -> Figure | None:
    """What the best decay adds to the test accuracy at every learning rate, one line per site.

    Paired over seeds, with 95% intervals. None where the study has no site `none`.
    """
    curves = gains(results)
    if curves is None:
        return None
    figure, panel = plt.subplots(figsize=(8, 4.2), layout="constrained")
    positions = np.arange(results.sizes["learning_rate"])
    for number, (site, curve) in enumerate(curves.items()):
        mean, width = 100 * np.array(curve).T
        shifted = positions + 0.05 * (number - (len(curves) - 1) / 2)
        panel.errorbar(shifted, mean, np.nan_to_num(width), marker="o", markersize=4, capsize=2, label=site)
    panel.axhline(0, color="#888888", linewidth=1)
    panel.set_xticks(positions, [_tick(rate) for rate in results.learning_rate.values])
    panel.set_xlabel("learning rate")
    panel.set_ylabel("test accuracy over no decay (points)")
    panel.set_title("What the best decay adds at every learning rate")
    panel.legend(frameon=False, fontsize=9)
    return figure
