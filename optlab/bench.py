"""What composition costs: AdamW from atoms against `optax.adamw`, counts first, then ratios of times."""

import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.optimizers import adamw

HYPERPARAMS = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
SHAPES = ((16, 16), (32, 8), (64,), (8, 4, 8))
LEAVES, REPEATS = 1000, 7

MAKERS = {"optlab": lambda: adamw(**HYPERPARAMS), "optax": lambda: optax.adamw(**HYPERPARAMS)}  # pyright: ignore[reportArgumentType]


def make_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The whole step of a weight: `(params, state, grads) -> (params, state)`."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def lowered(tx: optax.GradientTransformation, params: Any, state: Any) -> Any:
    """The step, traced and lowered with donated weights and state."""
    return jax.jit(make_step(tx), donate_argnums=(0, 1)).lower(params, state, params)


def counts(tx: optax.GradientTransformation, params: Any) -> dict[str, float]:
    """Bytes accessed, flops and temporary bytes of the compiled step, each per weight, as XLA counts them."""
    compiled = lowered(tx, params, tx.init(params)).compile()
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    cost = compiled.cost_analysis()
    memory = compiled.memory_analysis()
    return {
        "bytes": cost["bytes accessed"] / weights,
        "flops": cost["flops"] / weights,
        "temporary bytes": memory.temp_size_in_bytes / weights,
    }


def many_leaves(count: int = LEAVES) -> dict[str, jax.Array]:
    """Small leaves of four shapes."""
    return {f"leaf{number:04d}": jnp.full(SHAPES[number % len(SHAPES)], 0.5) for number in range(count)}


def _seconds(call: Callable[[], Any]) -> float:
    """Time of one call, without the garbage collector, as timeit takes it."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds


def _interleaved(calls: dict[str, Callable[[], Any]], prepare: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Median seconds of every call, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            prepare()
            times[name].append(_seconds(call))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _trace_and_lower(name: str, params: Any) -> Callable[[], None]:
    state = MAKERS[name]().init(params)

    def call() -> None:
        lowered(MAKERS[name](), params, state)

    return call


def _eager_update(name: str, params: Any) -> Callable[[], Any]:
    tx = MAKERS[name]()
    state = tx.init(params)

    def call() -> Any:
        return tx.update(params, state, params)

    call()
    return call


def measure() -> dict[str, Any]:
    """All figures, by name; times in seconds."""
    big, small = {"w": jnp.full((1_000_000,), 0.5)}, many_leaves()
    return {
        "counts": {
            "one leaf of 1M weights": {name: counts(make(), big) for name, make in MAKERS.items()},
            f"{LEAVES} leaves of 4 shapes": {name: counts(make(), small) for name, make in MAKERS.items()},
        },
        "seconds": {
            f"trace and lower the step, {LEAVES} leaves, caches cleared": _interleaved(
                {name: _trace_and_lower(name, small) for name in MAKERS}, prepare=jax.clear_caches
            ),
            f"update outside jit, {LEAVES} leaves": _interleaved({name: _eager_update(name, small) for name in MAKERS}),
        },
        "setting": setting(REPEATS),
    }


def setting(repeats: int) -> dict[str, Any]:
    """Where and how often it was measured."""
    return {
        "device": f"{jax.devices()[0].device_kind} ({jax.devices()[0].platform}), {platform.machine()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("optlab", "jax", "jaxlib", "optax")),
        "commit": _commit(),
        "repeats": repeats,
    }


def _commit() -> str:
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = ["AdamW, float32, per weight, of the compiled step", f"{'':44}{'optlab':>12}{'optax':>12}{'ratio':>8}"]
    for tree, by_name in figures["counts"].items():
        for count in by_name["optlab"]:
            ours, theirs = by_name["optlab"][count], by_name["optax"][count]
            lines.append(f"{f'{count}, {tree}':44}{ours:12.4f}{theirs:12.4f}{_ratio(ours, theirs):>8}")
    lines += ["", f"{f'milliseconds, median of {REPEATS}, interleaved':56}"]
    for what, by_name in figures["seconds"].items():
        ours, theirs = 1e3 * by_name["optlab"], 1e3 * by_name["optax"]
        lines.append(f"{what:52}{ours:8.1f}{theirs:8.1f}{_ratio(ours, theirs):>8}")
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in figures["setting"].items())])


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"
