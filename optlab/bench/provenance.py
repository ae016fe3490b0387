"""Where and how often something was measured."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def setting(repeats: int, *peers: str) -> dict[str, Any]:
    """The device, the versions of optlab, of what it stands on and of the `peers`, and the commit."""
    names = ("optlab", "jax", "jaxlib", "optax", *peers)
    return {
        "device": f"{jax.devices()[0].device_kind} ({jax.devices()[0].platform}), {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "commit": _commit(),
        "repeats": repeats,
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return "unknown"
    return asked.stdout.strip() or "unknown"


def load_between(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"unknown, {os.cpu_count()} cores"
    return f"{before:.1f} before, {after:.1f} after, {os.cpu_count()} cores"
