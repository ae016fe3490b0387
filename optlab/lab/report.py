"""The folder of a study: its dataset, its figures and one page that tells what they say."""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import xarray as xr
from matplotlib.figure import Figure

from optlab.lab import figures, results, tooltips
from optlab.lab.derivations import from_text
from optlab.lab.errors import StudyError
from optlab.lab.files import replace, sweep
from optlab.lab.folder import OTHERWISE, Store

FIGURES: dict[str, Callable[..., Figure | None]] = {
    "maps": figures.maps,
    "gains": figures.gain_curves,
    "curves": figures.curves,
    "effective_decay": figures.effective_decay,
    "equal_norm": figures.at_equal_strength,
    "equal_share": functools.partial(figures.at_equal_strength, strength="decay_share"),
    "trajectories": figures.trajectories,
}
NARROW = 4.4
PAGE = "report.html"


def file_names() -> list[str]:
    """What a study's folder may hold: its figures are those that its data allows."""
    return [results.FILE, *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")), PAGE]


def begin(folder: Path, overwrite: bool, decided: Callable[[], Mapping[str, Any]]) -> None:
    """Makes sure, before anything is computed, that `folder` can take a study, or go on with the one that is there.

    What an earlier start left half written is deleted: for the one process that writes there.

    Args:
      decided: the `Decided.values` of the study.

    Raises:
      StudyError: finished results are there and `overwrite` is False, or the folder can't be written.
    """
    store = Store(folder)
    if overwrite:
        store.remove()
    if not overwrite and store.header() is None and (changed := results.differences(folder / results.FILE, decided)):
        said = "; ".join(changed)
        raise StudyError(f"{folder} already holds {results.FILE} of another study ({said}); {OTHERWISE}")
    prepare(folder, overwrite or store.header() is not None)
    for name in file_names():
        sweep(folder / name)


def prepare(folder: Path, overwrite: bool, names: Sequence[str] = ()) -> None:
    """Makes sure, before anything is computed, that `names`, or all of a study, may be written to `folder`.

    Raises:
      StudyError: files of these names are there already and `overwrite` is False, or the folder can't be written.
    """
    try:
        there = [name for name in names or file_names() if (folder / name).exists()]
        if there and not overwrite:
            raise StudyError(f"{folder} already holds {there[0]}; {OTHERWISE}")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StudyError(f"{folder} can't be written: {error.strerror}") from None


def write(data: xr.Dataset, folder: str | Path) -> list[str]:
    """Writes the dataset, the figures and the page; each file is whole or not there. Gives their names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results.save(data, folder / results.FILE)
    return [results.FILE, *render(data, folder)]


def render(data: xr.Dataset, folder: str | Path) -> list[str]:
    """Writes the figures and the page of a dataset, and gives their names."""
    folder, written, wide = Path(folder), [], {}
    for name, make in FIGURES.items():
        figure = make(data)
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            if figure is None:
                path.unlink(missing_ok=True)
            else:
                wide[name] = _file(figure, kind)
                replace(path, wide[name])
                written.append(path.name)
    replace(folder / PAGE, page(data, wide).encode())
    return [*written, PAGE]


def _file(figure: Figure, kind: str) -> bytes:
    """The file of a figure, the same for the same data."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # what was laid out once fits every kind
    buffer = io.BytesIO()
    unsaid = {"Software"} if kind == "png" else {"Creator", "Date", "Format", "Type"}
    with matplotlib.rc_context({"svg.hashsalt": "optlab"}):
        figure.savefig(buffer, format=kind, dpi=130, metadata=dict.fromkeys(unsaid))
    return buffer.getvalue()


def page(data: xr.Dataset, drawn: Mapping[str, bytes]) -> str:
    """The report as self-contained HTML.

    Args:
      data: of a study.
      drawn: those of `FIGURES` that it has, as SVG, as wide as a screen or a sheet of paper; the page draws them anew
        for phones.
    """
    best, cells = results.best_cells(data), tooltips.texts(data)
    inline = {}
    for name, wide in drawn.items():
        narrow = FIGURES[name](data, width=NARROW)
        assert narrow is not None
        looks = {"wide": wide, "narrow": _file(narrow, "svg")}
        inline[name] = {look: _svg(tooltips.add(svg.decode(), cells), f"{name}-{look}") for look, svg in looks.items()}
    loader = jinja2.PackageLoader("optlab.lab", "")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return template.get_template("report.html.j2").render(
        title=data.attrs["task"],
        attrs=data.attrs,
        drawn=inline,
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
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element)
