"""The paths of the optimizers over a landscape of two weights."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from optlab.lab.errors import StudyError
from optlab.lab.figures.style import labelled, legend, looks, sheet
from optlab.lab.one_run import start
from optlab.lab.results import best_decays, best_rows
from optlab.lab.tasks import TASKS
from optlab.lab.tasks.landscapes import BEALE, QUADRATIC, ROSENBROCK, Landscape

LANDSCAPES = {"rosenbrock": ROSENBROCK, "beale": BEALE, "quadratic": QUADRATIC}
MARGIN = 0.2
REACH = 1.0
RESOLUTION = 200
PER_DECADE = 2


def trajectories(
    results: xr.Dataset,
    *,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    width: float = 8.0,
) -> Figure | None:
    """The path of one run per structure over its landscape, whose contours are evenly spaced in the logarithm.

    From the start (white circle) over the measured steps to the end (the marker of the structure); the star is the
    minimum. A path that leaves the picture is cut at its frame; a structure with a diverged run in its cell has none.
    Paths are the narrower the later they are drawn, so that those beneath show. None for a task that is no landscape
    of optlab's.

    Args:
      learning_rate: of every structure; None for that of its best cell.
      weight_decay: likewise.
      seed: which run.
      width: in inches.

    Raises:
      StudyError: the study has no such rate, decay or seed.
    """
    if results.attrs["task"] not in LANDSCAPES or not {"curve_x", "curve_y"} <= set(results.data_vars):
        return None
    landscape = LANDSCAPES[results.attrs["task"]]
    asked = {"learning_rate": learning_rate, "weight_decay": weight_decay, "seed": seed}
    for axis, value in asked.items():
        if value is not None and value not in results[axis].values:
            known = ", ".join(f"{value:g}" for value in results[axis].values)
            raise StudyError(f"trajectories: the study has no {axis} {value:g}; it has {known}")
    x, y = start(TASKS[results.attrs["task"]](), jnp.int32(seed)).params["position"]
    chosen = {axis: [value] for axis, value in asked.items() if value is not None and axis != "seed"}
    paths = {
        str(row.structure.values): (np.append(x, row.curve_x.sel(seed=seed)), np.append(y, row.curve_y.sel(seed=seed)))
        for row in best_rows(best_decays(results.sel(chosen)))
    }
    figure, (panel,) = sheet(1, width, width, 0.75 * width)
    low, high = _frame(np.array([(x, y), landscape.minimum]), [np.stack(path, 1) for path in paths.values()])
    _contours(panel, landscape, low, high)
    look = looks(results)
    for number, (structure, (xs, ys)) in enumerate(paths.items()):
        on_top = {"linewidth": 1.4 + 0.9 * (len(paths) - 1 - number), "zorder": 3}  # of paths that coincide all show
        panel.plot(xs, ys, label=structure, markersize=6, markevery=[len(xs) - 1], **look[structure] | on_top)
    points: dict[str, Any] = {"markeredgecolor": "black", "linestyle": "none"}
    panel.plot([x], [y], marker="o", markersize=9, color="white", label="start", zorder=4, **points)
    panel.plot(*landscape.minimum, marker="*", markersize=17, color="#ffe45c", label="minimum", zorder=2.5, **points)
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="x", ylabel="y")
    where = [f"{axis.replace('_', ' ')} {value:g}" for axis, value in asked.items() if value is not None]
    if learning_rate is None or weight_decay is None:
        where.append("each structure's best otherwise" if len(where) > 1 else "each structure's best cell")
    panel.set_title(f"{results.attrs['task']}, {', '.join(where)}", fontsize=10)
    legend(figure, labelled(panel))
    return figure


def _frame(fixed: np.ndarray, paths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners that hold the points `fixed`, and of `paths` what is near those."""
    low, high = fixed.min(0), fixed.max(0)
    reach = REACH * (high - low).max()
    points = np.concatenate([fixed, *paths])
    points = points[np.isfinite(points).all(1)].clip(low - reach, high + reach)
    margin = MARGIN * (high - low).max()
    return points.min(0) - margin, points.max(0) + margin


def _contours(panel: Axes, landscape: Landscape, low: np.ndarray, high: np.ndarray) -> None:
    x, y = np.meshgrid(*(np.linspace(*ends, RESOLUTION, dtype=np.float32) for ends in zip(low, high, strict=True)))
    values = np.asarray(landscape.value(jnp.asarray(x), jnp.asarray(y)))
    highest = float(values.max())
    lowest = max(float(values.min()), 1e-6 * highest)
    levels = np.geomspace(lowest, highest, max(2, round(PER_DECADE * math.log10(highest / lowest))))
    panel.contour(x, y, values, levels=levels, norm=LogNorm(), cmap="Greys_r", linewidths=0.7, zorder=0)
