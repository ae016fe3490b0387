"""A task that trains in milliseconds: a noisy line through two features, learnt from batches of four points.

As a program, `python tiny.py FOLDER MOMENT` runs `STUDY` into a folder, without figures, and kills itself at a moment:
`progress:N` at the Nth progress, `save:N` before the file of the Nth chunk saved here gets its name, `saved:N` right
after, and `write:FILE` and `wrote:FILE` so for the file of that name.
"""

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from optlab.lab import engine, plan, report
from optlab.lab.study import Study
from optlab.lab.tasks import Task


def _numbers(key: jax.Array, *shape: int) -> jax.Array:
    """In [-1, 1], other ones for every key; compiles faster than what `jax.random` draws."""
    first, second = (jax.random.key_data(key) % 997).astype(jnp.float32)
    return jnp.sin(jnp.arange(math.prod(shape), dtype=jnp.float32) * (first + 1) + second).reshape(shape)


def _data(key: jax.Array) -> Mapping[str, tuple[jax.Array, jax.Array]]:
    points, slope = _numbers(key, 3, 16, 3), _numbers(key, 2)
    return {
        name: (features := part[:, :2], features @ slope + 0.1 * part[:, 2])
        for name, part in zip(("train", "validation", "test"), points, strict=True)
    }


def _init(key: jax.Array) -> Mapping[str, jax.Array]:
    return {"slope": _numbers(key, 2), "offset": jnp.zeros(())}


def _batch(data: Any, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    shift = (jax.random.key_data(key)[0] % 16).astype(jnp.int32)
    chosen = (5 * jnp.arange(4, dtype=jnp.int32) + 3 * step + shift) % 16
    return jax.tree.map(lambda values: values[chosen], data["train"])


def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    features, targets = batch
    return jnp.mean((features @ params["slope"] + params["offset"] - targets) ** 2)


def _metrics(params: Any, data: Any) -> dict[str, jax.Array]:
    return {f"{part}_loss": loss(params, points) for part, points in data.items()}


def _summary(steps: jax.Array, curves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {f"{part}_lowest_at": steps[curves[f"{part}_loss"].argmin()] for part in ("validation", "test")}


def tiny(steps: int = 12) -> Task:
    return Task(
        name="tiny",
        description="a noisy line",
        steps=steps,
        data=_data,
        init=_init,
        batch=_batch,
        loss=loss,
        metrics=_metrics,
        every=steps // 3,
        objective="validation_loss",
        reported="test_loss",
        maximize=False,
        divergence=100.0,
        summary=_summary,
    )


STUDY = Study(
    task=tiny(),
    sites=("none", "update"),
    learning_rates=(0.01, 0.3, 30.0),
    weight_decays=(0.1, 1.0),
    seeds=3,
    eps=1e-3,
)


def use(devices: int, runs: int, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Has studies use so many devices, and so many runs on each at once."""
    there = jax.devices()[:devices]
    patch(jax, "local_devices", lambda: there)
    patch(plan, "CPU_RUNS", runs)


def _killing(moment: str) -> tuple[Callable[[Any], None], Callable[..., None]]:
    kind, _, at = moment.partition(":")
    seen = {"progress": 0, "save": 0}

    def kill() -> None:
        print("killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(_: Any) -> None:
        seen["progress"] += 1
        if kind == "progress" and at == str(seen["progress"]):
            kill()

    def replace(source: Path, target: Path, replace: Callable[..., None] = os.replace) -> None:
        seen["save"] += target.suffix == ".npz"
        now = target.name == at or (target.suffix == ".npz" and at == str(seen["save"]))
        if now and kind in ("save", "write"):
            kill()
        replace(source, target)
        if now and kind in ("saved", "wrote"):
            kill()

    return progress, replace


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    use(devices=2, runs=2)
    report.FIGURES.clear()
    report.page = lambda data, drawn: "a page"
    progress, os.replace = _killing(sys.argv[2])
    engine.run(STUDY, Path(sys.argv[1]), progress)
