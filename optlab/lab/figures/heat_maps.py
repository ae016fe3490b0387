"""Heat maps of a study: what is reported, learning rate by weight decay."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from optlab.lab.figures.style import WIDTH, legend, sheet, spans_decades, tick, unit
from optlab.lab.results import Best, best_cells, by_structure, is_share, near_best, title
from optlab.optimizers.cores import CORES

BESIDE, CELL = 0.6, 0.25  # what a panel has beside its cells, and how wide a cell is at least, in inches
TOLERANCE = 0.01
BEST = {"edgecolor": "#c00000", "linewidth": 2.2}
BASIN = {"color": "black", "linewidth": 1.6}
DIVERGED = {"facecolor": "#e4e4e4", "edgecolor": "#8c8c8c", "hatch": "////", "linewidth": 0}


def maps(results: xr.Dataset, *, width: float = WIDTH) -> Figure:
    """What is reported, mean over seeds, learning rate by weight decay, one map per structure on one colour scale.

    Brighter is better. The best cell is outlined, and so is the basin around it: the cells whose mean objective is
    within 1% of the best. Cells with a diverged run are hatched, and say how many if not all. Without decay a rate has
    one cell. The artist of a cell has the `gid` that `cell_id` gives.

    Args:
      width: in inches.
    """
    attrs, name = results.attrs, results.attrs["reported"]
    rows = by_structure(results)
    diverged = rows.diverged.sum("seed").transpose("structure", "learning_rate", "weight_decay")
    scores = (unit(name) * rows[name].where(diverged == 0).mean("seed", skipna=False)).transpose(*diverged.dims)
    colours = ScalarMappable(_norm(scores.values), "viridis" if attrs["maximize"] else "viridis_r")
    best = {cell.structure: cell for cell in best_cells(results)}
    near = near_best(results, TOLERANCE).transpose(*diverged.dims)
    figure, panels = sheet(rows.sizes["structure"], width, BESIDE + CELL * rows.sizes["weight_decay"], 2.5)
    for number, panel in enumerate(panels):
        structure = str(rows.structure.values[number])
        columns = slice(None) if structure != "none" else slice(1)
        cells = scores[number, :, columns]
        _cells(panel, number, cells, diverged[number, :, columns], results.sizes["seed"], colours, is_share(name))
        _axes(panel, structure, cells.learning_rate.values, rows.weight_decay.values)
        if structure in best:
            _best(panel, cells, best[structure])
        edges = LineCollection(_outline(near[number, :, columns].values), **BASIN, zorder=3, clip_on=False)
        edges.set_path_effects(_halo(3.2))
        panel.add_collection(edges)
    bar = figure.colorbar(colours, ax=panels, location="top", aspect=50, shrink=0.6, pad=0.01)
    bar.set_label(f"{title(name)}, mean over {results.sizes['seed']} seeds", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    keys = (
        Rectangle((0, 0), 1, 1, facecolor="none", **BEST, label="best cell"),
        Line2D([], [], **BASIN, label=f"within {TOLERANCE:.0%} of its {attrs['objective'].replace('_', ' ')}"),
        Rectangle((0, 0), 1, 1, **DIVERGED, label="diverged (runs, if not all)"),
    )
    legend(figure, keys, entry=2.9)
    core, _, _ = attrs["core"].partition("(")
    core = core.capitalize() if core in CORES else "a core of its own"
    beside = " " if width > 6 else "\n"
    figure.suptitle(
        f"Where the weight decay acts:{beside}{core} on {attrs['task']}, {attrs['steps']} steps", fontsize=11
    )
    return figure


def cell_id(structure: int, rate: int, decay: int) -> str:
    """The `gid` of a cell, from the places of its structure, rate and decay among those of the study."""
    return f"cell-{structure}-{rate}-{decay}"


def _norm(values: np.ndarray) -> Normalize:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Normalize(0, 1)
    return (LogNorm if spans_decades(finite) else Normalize)(finite.min(), finite.max())


def _cells(
    panel: Axes, number: int, scores: xr.DataArray, failed: xr.DataArray, seeds: int, colours: ScalarMappable,
    share: bool,
) -> None:  # fmt: skip
    for (row, column), value in np.ndenumerate(scores.values):
        count = int(failed[row, column])
        colour = colours.to_rgba(value) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        look = DIVERGED if count else {"facecolor": colour, "edgecolor": "white", "linewidth": 0.3}
        panel.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, **look, gid=cell_id(number, row, column), in_layout=False)
        )
        text = f"{value:.0f}" if share else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
        if count:
            text = f"{count}/{seeds}" if count < seeds else ""
        dark = not count and float(np.mean(np.asarray(colour)[:3])) < 0.5
        panel.text(
            column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black", in_layout=False
        )


def _axes(panel: Axes, structure: str, rates: np.ndarray, decays: np.ndarray) -> None:
    panel.set(xlim=(-0.5, len(decays) - 0.5), ylim=(-0.5, len(rates) - 0.5))
    panel.set_yticks(range(len(rates)), [tick(rate) for rate in rates], fontsize=7.5)
    panel.set_ylabel("learning rate", fontsize=8)
    panel.set_title(structure, fontsize=10.5, fontweight="bold", loc="left")
    if structure == "none":
        panel.set_xticks([0], ["no decay"], fontsize=7.5)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    else:
        panel.set_xticks(range(len(decays)), [tick(decay) for decay in decays], fontsize=7.5, rotation=45)
        panel.set_xlabel("weight decay", fontsize=8)


def _best(panel: Axes, scores: xr.DataArray, best: Best) -> None:
    row = list(scores.learning_rate.values).index(best.learning_rate)
    column = list(scores.weight_decay.values).index(best.weight_decay)
    outline = Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, zorder=4, **BEST)
    outline.set_path_effects(_halo(4.2))
    panel.add_patch(outline)


def _halo(width: float) -> list[AbstractPathEffect]:
    """White around a line, which then shows on any colour."""
    return [withStroke(linewidth=width, foreground="white")]


def _outline(inside: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The edges between the cells that are `inside` and those that are not; nothing beyond the map is."""
    padded = np.pad(inside, 1).astype(int)
    across, along = np.diff(padded, axis=1)[1:-1] != 0, np.diff(padded, axis=0)[:, 1:-1] != 0
    upright = [((x - 0.5, y - 0.5), (x - 0.5, y + 0.5)) for y, x in np.argwhere(across).tolist()]
    level = [((x - 0.5, y - 0.5), (x + 0.5, y - 0.5)) for y, x in np.argwhere(along).tolist()]
    return upright + level
