"""What decides the numbers of a study, and what its results say of how they came about."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

from optlab.lab.derivations import as_text, formulas
from optlab.lab.study import Study
from optlab.lab.tasks import Task


def _device() -> str:
    device = jax.devices()[0]
    return f"{jax.local_device_count()} x {device.device_kind}, {platform.machine()} with {os.cpu_count()} cores"


def _versions() -> str:
    packages = ("optlab", "jax", "jaxlib", "optax", "flax", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in packages)


def about(study: Study, task: Task) -> dict[str, Any]:
    """All that decides the numbers to the last bit."""
    return study.definition(task) | {"device": _device(), "versions": _versions(), "python": platform.python_version()}


def attributes(study: Study, task: Task, decided: Mapping[str, Any]) -> dict[str, Any]:
    said = ("task", "description", "steps", "core", "device", "versions", "python")
    judged = {"objective": task.objective, "reported": task.reported, "maximize": int(task.maximize)}
    own = {"command": f"optlab.lab.run({study})", "runs": study.runs()}
    equations = {"equations": as_text(formulas(study, scheduled=task.schedule is not None))}
    return {name: decided[name] for name in said} | judged | own | equations
