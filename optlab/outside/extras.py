"""What needs more than jax and optax: imported when it is asked for, with an error that names the extra to install."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(package: str, homes: Mapping[str, str], extra: str) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that live in the modules `homes` below `package`."""

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            raise ImportError(f"{package}.{name} needs {error.name}: pip install '{package}[{extra}]'") from error

    return attribute
