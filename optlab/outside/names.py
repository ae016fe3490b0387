"""From what a user types on the command line to the object that it names."""

import difflib
import importlib
import os
import sys
from types import ModuleType
from typing import Any


class UnknownName(ValueError):
    """Nothing has this name; the message is one line for the user."""


def resolve(name: str, home: ModuleType) -> Any:
    """The object called `name`: `adamw` of the module `home`, `optax.adamw`, or `package.module:factory`.

    A module that stands in the current folder is found, as `python -m` finds it.

    Raises:
      UnknownName: no such module, or nothing of this name in it; the message offers what is spelled alike.
    """
    module_name, colon, path = name.partition(":")
    if not colon:
        module_name, _, path = name.rpartition(".")
    if not path or (colon and not module_name):
        raise UnknownName(f"{name!r} is no name; give adamw, optax.adamw or package.module:factory")
    value = _module(name, module_name) if module_name else home
    for part in path.split("."):
        if not hasattr(value, part):
            raise UnknownName(f"{name}: {getattr(value, '__name__', 'it')} has no {part!r}{alike(part, dir(value))}")
        value = getattr(value, part)
    return value


def _module(name: str, module_name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownName(f"{name}: {module_name} needs {error.name}, which is not installed") from None
        raise UnknownName(f"{name}: there is no module {error.name!r}") from None
    except Exception as error:
        raise UnknownName(f"{name}: importing {module_name} raises {type(error).__name__}: {error}") from error


def alike(name: str, names: list[str]) -> str:
    """The end of an error that offers what is spelled alike; nothing where nothing is."""
    public = [other for other in names if not other.startswith("_")]
    found = difflib.get_close_matches(name, public, n=3)
    return f"; did you mean {', '.join(found)}?" if found else ""
