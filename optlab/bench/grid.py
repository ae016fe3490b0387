"""What the engine gains: 100 configurations of the digits task, against the two loops that people write."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.bench.provenance import setting
from optlab.lab.engine import run
from optlab.lab.one_run import Start, measure, start
from optlab.lab.study import Study
from optlab.lab.tasks import Task

RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 1e-1, 10))
DECAYS = tuple(float(decay) for decay in np.geomspace(1e-3, 1e0, 10))
B1, B2, EPS = 0.9, 0.999, 1e-8
COMPILED_EACH = 5  # of the loop that compiles every time, as many configurations are run and the rest taken as like
REPEATS = 3
FEW = 10  # steps of a study that shows what is spent before training

Loop = Callable[[Start, list[tuple[float, float]]], list[float]]


def study(steps: int | None) -> Study:
    """The grid: AdamW at ten rates and ten decays, one seed."""
    return Study(
        sites=("update",), learning_rates=RATES, weight_decays=DECAYS, seeds=1, steps=steps, every=steps, b1=B1, b2=B2
    )


def one_step_each(task: Task) -> Loop:
    """Builds one `optax.adamw` and one jitted step for every configuration."""

    def loop(begin: Start, cells: list[tuple[float, float]]) -> list[float]:
        losses = []
        for rate, decay in cells:
            tx = optax.adamw(rate, B1, B2, EPS, weight_decay=decay)

            @jax.jit
            def step(params: Any, state: Any, number: Any, tx: Any = tx) -> tuple[Any, Any]:
                grads = jax.grad(task.loss)(params, task.batch(begin.data, begin.batch_key, number))
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            params, state = begin.params, tx.init(begin.params)
            for number in range(task.steps):
                params, state = step(params, state, jnp.int32(number))
            losses.append(float(jax.jit(lambda params: measure(task, params, begin.data))(params)["train_loss"]))
        return losses

    return loop


def one_scan_for_all(task: Task) -> Loop:
    """One jitted scan over the steps, its rate and decay arguments, reused for every configuration."""

    def loop(begin: Start, cells: list[tuple[float, float]]) -> list[float]:
        @jax.jit
        def train(rate: jax.Array, decay: jax.Array, begin: Any) -> Any:
            tx = optax.adamw(rate, B1, B2, EPS, weight_decay=decay)

            def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
                params, state = carry
                grads = jax.grad(task.loss)(params, task.batch(begin.data, begin.batch_key, number))
                updates, state = tx.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), None

            steps = jnp.arange(task.steps, dtype=jnp.int32)
            (params, _), _ = jax.lax.scan(step, (begin.params, tx.init(begin.params)), steps)
            return measure(task, params, begin.data)["train_loss"]

        return [float(train(jnp.float32(rate), jnp.float32(decay), begin)) for rate, decay in cells]

    return loop


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Of one call that has to compile everything, and what it gives."""
    jax.clear_caches()
    began = time.perf_counter()
    given = jax.block_until_ready(call())
    return time.perf_counter() - began, given


def compare(steps: int = 1000, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds for 100 configurations, compilation included, of the engine and both loops, taken in turns."""
    grid, task = study(steps), study(steps).make_task()
    cells = grid.cells(grid.structures()[0])
    compiled_each = cells[:: len(cells) // COMPILED_EACH]
    each, scan = one_step_each(task), one_scan_for_all(task)
    taken: dict[str, list[float]] = {"engine": [], "engine, few": [], "one step each": [], "one scan for all": []}
    for _ in range(repeats):
        taken["engine"].append(_seconds(lambda: run(grid))[0])
        taken["engine, few"].append(_seconds(lambda: run(study(FEW)))[0])
        drawing, begin = _seconds(lambda: jax.jit(lambda seed: start(task, seed))(jnp.int32(0)))
        taken["one scan for all"].append(drawing + _seconds(partial(scan, begin, cells))[0])
        part = _seconds(partial(each, begin, compiled_each))[0]
        taken["one step each"].append(drawing + part * len(cells) / len(compiled_each))
    return {
        "configurations": len(cells),
        "steps": steps,
        "seconds": {name: statistics.median(seconds) for name, seconds in taken.items()},
        "setting": setting(repeats, "flax") | {"devices": jax.local_device_count()},
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    seconds, number = figures["seconds"], figures["configurations"]
    said = {
        "engine": "the engine",
        "engine, few": f"the engine, {FEW} steps: what it spends before training",
        "one scan for all": "one jitted scan, reused for all",
        "one step each": f"one optax.adamw and jitted step each ({COMPILED_EACH} run, times {number // COMPILED_EACH})",
    }
    lines = [
        f"{number} configurations of digits, {figures['steps']} steps, compilation included",
        f"{'':66}{'seconds':>10}{'ratio':>8}",
    ]
    for name, text in said.items():
        lines.append(f"{text:66}{seconds[name]:10.2f}{seconds[name] / seconds['engine']:8.1f}")
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in figures["setting"].items())])
