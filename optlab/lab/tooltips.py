"""What the cells of the maps say when they are pointed at, in the report."""

import html
import re
from collections.abc import Mapping

import numpy as np
import xarray as xr

from optlab.lab.figures.heat_maps import cell_id
from optlab.lab.results import by_structure, interval, title


def texts(results: xr.Dataset) -> dict[str, str]:
    """The text of every cell, by the `gid` that it has in `maps`; one line per fact."""
    rows, name = by_structure(results), results.attrs["reported"]
    measured = {name: rows[name], "weight_norm": rows.weight_norm}
    if "decay_share" in rows:
        measured["decay_share"] = rows.decay_share.sel(layer="all")
    axes = ("structure", "learning_rate", "weight_decay", "seed")
    values = {which: array.transpose(*axes).values for which, array in measured.items()}
    failed = rows.diverged.transpose(*axes).values.sum(-1)
    found = {}
    for cell, count in np.ndenumerate(failed):
        number, row, column = cell
        structure = str(rows.structure.values[number])
        if structure == "none" and column:
            continue
        lines = [structure, f"learning rate {rows.learning_rate.values[row]:g}"]
        lines += [f"weight decay {rows.weight_decay.values[column]:g}"] if structure != "none" else []
        if not count:
            lines += [
                f"{title(which)} {interval(array[number, row, column]).text(which)}" for which, array in values.items()
            ]
        found[cell_id(*cell)] = "\n".join([*lines, f"diverged {count}/{results.sizes['seed']}"])
    return found


def add(svg: str, texts: Mapping[str, str]) -> str:
    """`svg` with the text of every cell as its title and its label; a reader without sight or script has both."""

    def cell(found: re.Match[str]) -> str:
        text = html.escape(texts[found["cell"]])
        return (
            f'<g id="{found["cell"]}" class="cell" tabindex="-1" role="img" aria-label="{text}"><title>{text}</title>'
        )

    return re.sub(r'<g id="(?P<cell>cell-[0-9-]+)">', cell, svg)
