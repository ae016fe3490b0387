"""What all figures share: sheets of panels, the look of a structure, bands, scales and labels."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optlab.lab.results import by_structure, is_share, mean_and_width

WIDTH = 11.0
# Okabe & Ito 2008, without their yellow, which is too light on white, and with black for no decay.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES = ("-", "--", ":", "-.")
NONE = {"color": "black", "linestyle": (0, (5, 2)), "marker": "x", "zorder": 3}
DECADES = 100.0


def sheet(panels: int, width: float, least: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure `width` inches wide of so many panels, each at least `least` wide and `height` high.

    pyplot forgets it at once: it need not be closed, and a notebook shows it once, as the value of its cell.
    """
    columns = min(panels, max(1, int(width // least)))
    rows = -(-panels // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(width, height * rows), layout="constrained", squeeze=False, **options
    )
    plt.close(figure)
    for spare in grid.ravel()[panels:]:
        spare.remove()
    return figure, list(grid.ravel()[:panels])


def looks(results: xr.Dataset) -> dict[str, dict[str, Any]]:
    """How every structure is drawn: six colours and markers, then the same with other dashes; black without decay."""
    structures = [str(structure) for structure in by_structure(results).structure.values]
    return {
        structure: NONE if structure == "none" else _look(number)
        for number, structure in enumerate(sorted(structures, key=lambda structure: structure == "none"))
    }


def _look(number: int) -> dict[str, Any]:
    turn, which = divmod(number, len(COLOURS))
    marker = MARKERS[(which + turn) % len(MARKERS)]
    return {"color": COLOURS[which], "linestyle": DASHES[turn % len(DASHES)], "marker": marker}


def band(panel: Axes, values: xr.DataArray, label: str, look: dict[str, Any]) -> None:
    """The mean over seeds of `values` over (seed, step), with the band of its 95% interval."""
    mean, width = mean_and_width(values.transpose("step", "seed").values)
    between = max(1, len(mean) // 4)
    marked = (len(panel.lines) % between, between)  # where lines coincide, their markers don't
    panel.plot(values.step, mean, label=label, markersize=4.5, markevery=marked, linewidth=1.5, **look)
    panel.fill_between(values.step, mean - width, mean + width, color=look["color"], alpha=0.18, linewidth=0)


def unit(name: str) -> int:
    """What values of the metric `name` are multiplied by when they are shown."""
    return 100 if is_share(name) else 1


def spans_decades(values: np.ndarray) -> bool:
    """Whether `values` are for a logarithmic scale: all positive, and over more than two decades."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > DECADES * finite.min())


def scale(panel: Axes, values: Sequence[xr.DataArray]) -> None:
    """A logarithmic axis where the means over seeds of `values` are for one; it holds them, and of bands what fits."""
    means = np.concatenate([value.mean("seed").values.ravel() for value in values])
    if spans_decades(means):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(bottom=np.nanmin(means) / 2)


def tick(value: float) -> str:
    """A rate or a decay, short."""
    if value >= 1e-3 or value == 0:
        return f"{value:g}"
    return np.format_float_scientific(value, precision=5, trim="-", exp_digits=1)


def legend(figure: Figure, handles: Sequence[Any], entry: float = 1.6) -> None:
    """The labels of `handles` below all panels, in columns of `entry` inches; the figure grows by them."""
    columns = min(len(handles), max(1, int(figure.get_figwidth() // entry)))
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.19 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def labelled(panel: Axes) -> list[Any]:
    """What `panel` has with a label."""
    return panel.get_legend_handles_labels()[0]
