"""The folder of a study: its dataset, its figures and one page that tells what they say."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import xarray as xr

from optlab.lab import figures, results
from optlab.lab.formulas import from_text
from optlab.lab.store import Store, replace
from optlab.lab.study import StudyError

FIGURES = {"maps": figures.maps, "gains": figures.gain_curves, "curves": figures.curves}
PAGE = "report.html"


def file_names() -> list[str]:
    """What a study's folder holds; `gains` only with the site `none`, `curves` only with several measurements."""
    return [results.FILE, *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")), PAGE]


def begin(folder: Path, overwrite: bool) -> None:
    """Makes sure, before anything is computed, that `folder` can take a study, or go on with the one that is there.

    Raises:
      StudyError: finished results are there and `overwrite` is False, or the folder can't be written.
    """
    store = Store(folder)
    if overwrite:
        store.remove()
    prepare(folder, overwrite or store.header() is not None)


def prepare(folder: Path, overwrite: bool, names: Sequence[str] = ()) -> None:
    """Makes sure, before anything is computed, that `names`, or all of a study, may be written to `folder`.

    Raises:
      StudyError: files of these names are there already and `overwrite` is False, or the folder can't be written.
    """
    try:
        there = [name for name in names or file_names() if (folder / name).exists()]
        if there and not overwrite:
            raise StudyError(f"{folder} already holds {there[0]}; give --overwrite, or another --output")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StudyError(f"{folder} can't be written: {error.strerror}") from None


def write(data: xr.Dataset, folder: Path) -> list[str]:
    """Writes the dataset, the figures and the page; each file is whole or not there. Gives their names."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(data, folder / results.FILE)
    return [results.FILE, *render(data, folder)]


def render(data: xr.Dataset, folder: Path) -> list[str]:
    """Writes the figures and the page of a dataset, and gives their names."""
    drawn = {name: figure for name, make in FIGURES.items() if (figure := make(data)) is not None}
    for name in FIGURES.keys() - drawn.keys():
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    inline = {}
    for name, figure in drawn.items():
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=130)
            replace(folder / f"{name}.{kind}", buffer.getvalue())
        inline[name] = buffer.getvalue().decode()
        plt.close(figure)
    replace(folder / PAGE, page(data, inline).encode())
    return [*(f"{name}.{kind}" for name in drawn for kind in ("png", "svg")), PAGE]


def page(data: xr.Dataset, drawn: dict[str, str]) -> str:
    """The report as self-contained HTML, around the figures as SVG."""
    best = results.best_cells(data)
    loader = jinja2.PackageLoader("optlab.lab", "")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return template.get_template("report.html.j2").render(
        title=data.attrs["task"],
        attrs=data.attrs,
        drawn={name: _svg(document, name) for name, document in drawn.items()},
        best=best,
        without=sorted(set(results.by_structure(data).structure.values) - {cell.structure for cell in best}),
        formulas=from_text(data.attrs["equations"]),
        words=results.title,
        seeds=data.sizes["seed"],
        confidence=round(100 * results.CONFIDENCE),
    )


def _svg(document: str, prefix: str) -> str:
    """The `<svg>` element alone, its identifiers made unique within the page."""
    element = document[document.index("<svg") :]
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", element)
