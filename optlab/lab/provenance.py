"""What decides the numbers of a study, and what its results say of how they came about."""

import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp

from optlab.lab.derivations import as_text, formulas
from optlab.lab.folder import PROGRAM, Decided
from optlab.lab.one_run import Start, advance, measured_at, start, treatment
from optlab.lab.study import Structure, Study
from optlab.lab.tasks import Task
from optlab.outside import system
from optlab.outside.fingerprints import Opaque, fingerprint

SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
)
"""Of JAX's, those that programs are compiled by; what they are traced by shows in the programs."""
VARIABLES = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")
_UNTOLD = "?"


# What decides ---------------------------------------------------------------------------------------------------------


def decided(study: Study, task: Task) -> Decided:
    """All that decides the numbers to the last bit: values, programs with their constants, versions, device, flags."""
    values: dict[str, Any] = study.definition(task) | {"divergence": float(task.divergence)}
    opaque: dict[str, str] = {}
    for name, function, args in _programs(study, task):
        try:
            values[name] = PROGRAM + _fingerprint(function, args)[:16]
        except Opaque as error:
            values[name] = _UNTOLD
            if str(error) not in opaque.values():  # a whole run holds what the functions hold
                opaque[name] = str(error)
    return Decided(values | machine() | settings(), opaque)


def machine() -> dict[str, str]:
    """Where programs are compiled and run, and by what."""
    device = jax.devices()[0]
    kind = f"{jax.local_device_count()} x {device.device_kind}, {platform.machine()} with {os.cpu_count()} cores"
    compiled_for = system.processor() if device.platform == "cpu" else device.client.platform_version
    return {"device": kind, "compiled for": compiled_for, "versions": _versions(), "python": platform.python_version()}


def _versions() -> str:
    packages = ("optlab", "jax", "jaxlib", "optax", "flax", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in packages)


def settings() -> dict[str, str | None]:
    """What of JAX's configuration and of the environment programs are compiled by."""
    configured = {name: jax.config.values[name] for name in SETTINGS if name in jax.config.values}
    said = {name: None if value is None else str(value) for name, value in configured.items()}
    return said | {name: os.environ.get(name) for name in VARIABLES}


def _programs(study: Study, task: Task) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """What is traced of a study, by name: its task's functions, so that the one that changed is named, and a whole run.

    That is of the first structure. The others share all of it but the transform and the penalty.
    """
    cell, number = _arrays(jnp.float32), _arrays(jnp.int32)
    key, begin = jax.eval_shape(lambda: jax.random.key(0)), jax.eval_shape(partial(start, task), number)
    metrics = jax.eval_shape(task.metrics, begin.params, begin.data)
    measured = task.steps // task.every
    curves = jax.tree.map(lambda value: _arrays(value.dtype, measured, *value.shape), dict(metrics))
    batch = jax.eval_shape(task.batch, begin.data, begin.batch_key, number)
    yield "data", task.data, (key,)
    yield "init", task.init, (key,)
    yield "batch", task.batch, (begin.data, begin.batch_key, number)
    yield "loss", task.loss, (begin.params, batch)
    yield "metrics", task.metrics, (begin.params, begin.data)
    yield "summary", task.summary, (_arrays(jnp.int32, measured), curves)
    if task.schedule is not None:
        yield "the schedule's factor", task.schedule, (number,)

    def whole(structure: Structure, rate: Any, decay: Any, begin: Start) -> Any:
        treated = treatment(study, task, structure, rate, decay, begin.params)
        carry, strength = advance(task, treated, begin, treated.launch(begin.params), 0)
        return carry, strength, measured_at(task, begin, carry.params, carry.diverged_at, task.every)

    def update(structure: Structure, rate: Any, decay: Any, params: Any) -> Any:
        treated = treatment(study, task, structure, rate, decay, params)
        grads = jax.tree.map(jnp.add, params, jax.grad(treated.penalty)(params))
        return treated.tx.update(grads, treated.tx.init(params), params)

    first, *others = study.structures()
    yield f"runs of {first}", partial(whole, first), (cell, cell, begin)
    for structure in others:
        yield f"updates of {structure}", partial(update, structure), (cell, cell, begin.params)


def _fingerprint(function: Callable[..., Any], args: Any) -> str:
    """Of one run, or, where a function has its own rule for many, of many: that takes three times as long to trace."""
    try:
        return fingerprint(function, *args)
    except Opaque:
        many = jax.tree.map(lambda leaf: _arrays(leaf.dtype, 2, 2, *leaf.shape), args)
        return fingerprint(jax.vmap(jax.vmap(function)), *many)


def _arrays(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


# What is said ---------------------------------------------------------------------------------------------------------


def attributes(study: Study, task: Task) -> dict[str, Any]:
    """What results say of themselves, but for how long they took."""
    said = study.definition(task) | machine()
    said = {name: said[name] for name in ("task", "description", "steps", "core", "device", "versions", "python")}
    judged = {"objective": task.objective, "reported": task.reported, "maximize": int(task.maximize)}
    own = {"command": f"optlab.lab.run({study})", "runs": study.runs()}
    equations = {"equations": as_text(formulas(study, scheduled=task.schedule is not None))}
    return said | judged | own | equations
