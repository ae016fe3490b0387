"""The documentation: `make docs` builds it offline, and a warning fails it.

Sphinx with MyST-NB, as JAX, Flax and optax have it: pages are Markdown whose code runs at every build, the reference is
read off the modules as they are imported, so that names given on demand are in it.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import optlab

project = "optlab"
version = release = optlab.__version__
project_copyright = "the authors of optlab"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
templates_path = []
html_theme = "furo"
html_title = f"optlab {version}"
html_copy_source = False

default_role = "py:obj"  # a name between backticks becomes a link where it has an entry
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120


# Docstrings are Markdown with Google's sections; autodoc reads reStructuredText.


def _cells(row: str) -> list[str]:
    """The cells of a row of a table; a bar between backticks is no border."""
    return [cell.strip() for cell in re.findall(r"((?:`[^`]*`|[^|`])*)\|", row.strip().removeprefix("|"))]


def _table(rows: list[str]) -> Iterator[str]:
    indent = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    cells = [_cells(row) for row in rows]
    has_heading = len(cells) > 1 and all(set(cell) <= set("-:") for cell in cells[1]) and any(cells[0])
    cells = [row for row in cells if not all(cell and set(cell) <= set("-:") for cell in row) and any(row)]
    yield from ("", f"{indent}.. list-table::", *([f"{indent}   :header-rows: 1"] if has_heading else []), "")
    for row in cells:
        for number, cell in enumerate(row):
            yield f"{indent}   {' ' if number else '*'} - {cell}"
    yield ""


def _blocks(lines: list[str]) -> Iterator[str]:
    """The lines, with tables and indented code as directives."""
    rows, code = [], False
    for before, line in zip(["", *lines], [*lines, ""], strict=True):
        if line.lstrip().startswith("|"):
            rows.append(line)
            continue
        if rows:
            yield from _table(rows)
            rows = []
        if line.strip() and not line.startswith("    "):
            code = False
        elif line.startswith("    ") and not before.strip() and not code:
            code = True
            yield from (".. code-block:: python", "")
        yield line


def _spans(text: str) -> str:
    """Backticks as reStructuredText wants them: apart from what stands right before and behind."""

    def apart(span: re.Match[str]) -> str:
        before, behind = text[: span.start()][-1:], text[span.end() :][:1]
        start = "\\ " if before and not re.match(r"[\s(\[{<'\"/:-]", before) else ""
        end = "\\ " if behind and not re.match(r"[\s)\]}>'\"/:.,;!?-]", behind) else ""
        return f"{start}{span[0]}{end}"

    return re.sub(r"`[^`]+`", apart, text)


def _docstring(app: Any, what: str, name: str, entry: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _spans("\n".join(_blocks(list(lines)))).split("\n")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon
