"""Figures of a study's dataset; every function gives a matplotlib figure."""

from typing import Any

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

from optlab.lab.results import Best, best_cells, best_decays, best_rows, by_structure, gains, is_share, title

COLUMNS = 4
BEST_EDGE = "#d62728"
DIVERGED = {"facecolor": "#dddddd", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}


def maps(results: xr.Dataset) -> Figure:
    """What is reported, mean over seeds, learning rate by weight decay, one map per structure on one colour scale.

    Brighter is better. Cells with a diverged run are hatched, and say how many if not all; the best cell is outlined.
    """
    attrs, name = results.attrs, results.attrs["reported"]
    rows = by_structure(results)
    structures = [str(structure) for structure in rows.structure.values]
    columns = min(COLUMNS, len(structures) + 1)
    lines = -(-(len(structures) + 1) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.7 * columns + 1, 3.4 * lines), layout="constrained", squeeze=False
    )
    panels = grid.ravel()
    scores = _unit(name) * rows[name].where(~rows.diverged.any("seed")).mean("seed", skipna=False)
    finite = scores.where(np.isfinite(scores))
    norm = Normalize(float(finite.min()), float(finite.max())) if finite.notnull().any() else Normalize(0, 100)
    colours = ScalarMappable(norm, "viridis" if attrs["maximize"] else "viridis_r")
    best = {cell.structure: cell for cell in best_cells(results)}
    for panel, structure in zip(panels, structures, strict=False):
        _map(
            panel,
            scores.sel(structure=structure),
            rows.diverged.sel(structure=structure),
            colours,
            best.get(structure),
            ".0f" if is_share(name) else ".3g",
        )
    for panel in panels[len(structures) :]:
        panel.axis("off")
    figure.colorbar(colours, ax=grid, aspect=40, pad=0.01, label=title(name))
    panels[len(structures)].legend(
        handles=[
            Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=BEST_EDGE, linewidth=2.5, label="best cell"),
            Rectangle((0, 0), 1, 1, **DIVERGED, label="diverged (runs, if not all)"),
        ],
        loc="center",
        frameon=False,
        fontsize=11,
    )
    core = attrs["core"].partition("(")[0].capitalize()
    figure.suptitle(
        f"Where the weight decay acts: {core} on {attrs['task']}, {attrs['steps']} steps, "
        f"mean over {results.sizes['seed']} seeds"
    )
    return figure


def _unit(name: str) -> int:
    return 100 if is_share(name) else 1


def _map(
    panel: Axes, scores: xr.DataArray, diverged: xr.DataArray, colours: ScalarMappable, best: Best | None, digits: str
) -> None:
    values = scores.transpose("learning_rate", "weight_decay").values
    failed = diverged.sum("seed").transpose("learning_rate", "weight_decay").values
    seeds = diverged.sizes["seed"]
    shown = panel.imshow(np.ma.masked_invalid(values), cmap=colours.get_cmap(), origin="lower", aspect="auto")
    shown.set_norm(colours.norm)
    for (row, column), value in np.ndenumerate(values):
        if failed[row, column]:
            panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **DIVERGED))
            text, colour = f"{failed[row, column]}/{seeds}" if failed[row, column] < seeds else "", "#333333"
        else:
            dark = np.isfinite(value) and np.mean(colours.to_rgba(value)[:3]) < 0.5
            text, colour = f"{value:{digits}}", "white" if dark else "black"
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    rates, decays = scores.learning_rate.values, scores.weight_decay.values
    panel.set_xticks(range(len(decays)), [_tick(decay) for decay in decays], fontsize=8, rotation=45)
    panel.set_yticks(range(len(rates)), [_tick(rate) for rate in rates], fontsize=8)
    panel.set_xlabel("weight decay", fontsize=9)
    panel.set_ylabel("learning rate", fontsize=9)
    panel.set_title(str(scores.structure.values), fontsize=11, fontweight="bold")
    if best is not None:
        column, row = list(decays).index(best.weight_decay), list(rates).index(best.learning_rate)
        outline = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=BEST_EDGE, linewidth=2.5)
        panel.add_patch(outline)


def _tick(value: float) -> str:
    return f"{value:g}" if value >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def gain_curves(results: xr.Dataset) -> Figure | None:
    """What the best decay adds to what is reported at every learning rate, one line per structure.

    Paired over seeds, with 95% intervals. None where the study has no site `none`.
    """
    differences = gains(results)
    if differences is None:
        return None
    name = results.attrs["reported"]
    figure, panel = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    positions = np.arange(results.sizes["learning_rate"])
    for number, (structure, difference) in enumerate(differences.items()):
        mean, width = _unit(name) * np.array(difference).T
        mean = np.where(np.isfinite(mean), mean, np.nan)
        shifted = positions + 0.05 * (number - (len(differences) - 1) / 2)
        error = np.nan_to_num(width)
        panel.errorbar(shifted, mean, error, marker="o", markersize=4, capsize=2, label=structure, **_line(number))
    panel.axhline(0, color="#888888", linewidth=1)
    panel.set_xticks(positions, [_tick(rate) for rate in results.learning_rate.values])
    panel.set_xlabel("learning rate")
    panel.set_ylabel(f"{title(name).replace('(%)', '').strip()} over no decay{' (points)' if is_share(name) else ''}")
    panel.set_title("What the best decay adds at every learning rate")
    _legend(figure, panel)
    return figure


def curves(results: xr.Dataset) -> Figure | None:
    """What is reported (the training loss, if that has no curve) and the weight norm over the steps, in the best cells.

    Means over seeds. None where there is one measurement, or no cell without a diverged run.
    """
    rows = best_rows(best_decays(results))
    if results.sizes.get("step", 1) == 1 or not rows:
        return None
    reported = results.attrs["reported"]
    figure, panels = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    for panel, name in zip(
        panels, (reported if f"curve_{reported}" in results else "train_loss", "weight_norm"), strict=True
    ):
        for number, row in enumerate(rows):
            values = _unit(name) * row[f"curve_{name}"].mean("seed")
            panel.plot(row.step, values, label=str(row.structure.values), **_line(number))
        panel.set_xlabel("step")
        panel.set_ylabel(title(name))
    _legend(figure, panels[-1])
    return figure


def _line(number: int) -> dict[str, Any]:
    """Ten colours, then the same in another style."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
