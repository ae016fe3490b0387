"""Prints one line of what the tests that follow run on."""

import platform
from importlib.metadata import PackageNotFoundError, version


def said(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


names = ("jax", "jaxlib", "optax", "flax", "torch")
print(f"Python {platform.python_version()}, {', '.join(map(said, names))}", flush=True)
