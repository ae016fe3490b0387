"""What needs more than jax and optax: imported when it is asked for, with an error that names the extra to install."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

from optlab.outside import names

BROUGHT_BY = {
    "explain": ("scipy", "sympy"),
    "lab": ("scipy", "sympy", "flax", "h5netcdf", "jinja2", "matplotlib", "rich", "sklearn", "xarray"),
}


def missing(extra: str) -> str | None:
    """The first module that `extra` brings and that is not installed; none is imported to find out."""

    def found(module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # an importer that hides it
            return False

    return next((module for module in BROUGHT_BY[extra] if not found(module)), None)


def require(extra: str, who: str) -> None:
    """Raises a ModuleNotFoundError that says what `who` needs and how it is installed, if it is not."""
    if (module := missing(extra)) is not None:
        raise ModuleNotFoundError(f"{who} needs {module}: pip install 'optlab[{extra}]'", name=module)


def on_demand(package: str, homes: Mapping[str, str], extra: str) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that live in the modules `homes` below `package`, and need `extra`."""

    def attribute(name: str) -> Any:
        if name not in homes:
            near = "" if name.startswith("_") else names.alike(name, [*vars(sys.modules[package]), *homes])
            raise AttributeError(f"module {package!r} has no attribute {name!r}{near}")
        require(extra, f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return attribute
