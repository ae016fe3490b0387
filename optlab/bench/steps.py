"""What a step costs: counts of the compiled program first, then times against peers, taken in turns in one process."""

import functools
import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.bench.provenance import load_between, setting
from optlab.memory import codecs
from optlab.memory.storage import store
from optlab.optimizers import adamw
from optlab.outside import system
from optlab.training.step import train_step

HYPERPARAMS = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
MAKERS: dict[str, Callable[[], Any]] = {
    "optlab": lambda: adamw(**HYPERPARAMS),
    "optax": lambda: optax.adamw(**HYPERPARAMS),  # pyright: ignore[reportArgumentType]
}
REPEATS = 15
MOVED = 28  # bytes per float32 weight: w, g, m and v read, w, m and v written

Shapes = Sequence[tuple[int, ...]]
FOUR_SHAPES = ((16, 16), (32, 8), (64,), (8, 4, 8))
TREES: dict[str, Shapes] = {
    "one leaf of 32M": [(1 << 25,)],
    "64 leaves of 500k": [(500_000,)] * 64,
    "1000 leaves of 4k": [(64, 64)] * 1000,
}


class Row(NamedTuple):
    """One line of a table: a figure of optlab and those of its peers, by name."""

    name: str
    unit: str
    figures: dict[str, float]


def tree(shapes: Shapes, value: float = 0.5, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    return {f"leaf{number:04d}": jnp.full(shape, value, dtype) for number, shape in enumerate(shapes)}


def many(count: int) -> Shapes:
    """Small leaves of four shapes."""
    return [FOUR_SHAPES[number % len(FOUR_SHAPES)] for number in range(count)]


def weights(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes))


def make_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The whole step of a weight: `(params, state, grads) -> (params, state)`."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def in_place(step: Callable[..., Any]) -> Any:
    """A step, compiled, with donated weights and state."""
    return jax.jit(step, donate_argnums=(0, 1), keep_unused=True)


def compiled(tx: optax.GradientTransformation, shapes: Shapes) -> Any:
    params = jax.eval_shape(lambda: tree(shapes))
    return in_place(make_step(tx)).lower(params, jax.eval_shape(tx.init, params), params).compile()


# Clocks -------------------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    """Time of one call, without the garbage collector, as timeit takes it."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    jax.block_until_ready(call())
    taken = time.perf_counter() - start
    gc.enable()
    return taken


def in_turns(
    calls: dict[str, Callable[[], Any]], repeats: int, prepare: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Median milliseconds of every call, taken in turns after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            prepare()
            taken = seconds(call)
            if number:
                times[name].append(1e3 * taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


# Parts --------------------------------------------------------------------------------------------------------------


def counts(tx: optax.GradientTransformation, shapes: Shapes) -> dict[str, float]:
    """What XLA counts of the compiled step, for each weight, and loops for each leaf; none of it varies."""
    program = compiled(tx, shapes)
    cost, memory = program.cost_analysis(), program.memory_analysis()
    text = program.as_text()
    loops = len(re.findall(r" fusion\(", text[text.index("\nENTRY") :]))
    return {
        "bytes accessed per weight": cost["bytes accessed"] / weights(shapes),
        "flops per weight": cost["flops"] / weights(shapes),
        "temporary bytes per weight": memory.temp_size_in_bytes / weights(shapes),
        "loops per leaf": loops / len(shapes),
    }


def count_rows(repeats: int) -> list[Row]:
    del repeats
    rows = []
    for name, shapes in {"1M weights in one leaf": [(1_000_000,)], "100 leaves of 4 shapes": many(100)}.items():
        counted = {who: counts(make(), shapes) for who, make in MAKERS.items()}
        rows += [Row(f"{what}, {name}", "", {who: counted[who][what] for who in counted}) for what in counted["optlab"]]
    return rows


def compile_rows(repeats: int) -> list[Row]:
    """Tracing and lowering of many leaves, compiling of fewer, every cache cleared before."""

    def stages(make: Callable[[], Any], count: int) -> dict[str, Callable[[], Any]]:
        tx, params = make(), jax.eval_shape(lambda: tree(many(count)))
        state = jax.eval_shape(tx.init, params)
        trace = lambda: in_place(make_step(make())).trace(params, state, params)  # noqa: E731
        return {"trace": trace, "lower": lambda: trace().lower(), "compile": lambda: trace().lower().compile()}

    rows = []
    for what, stage, count in (
        ("trace", "trace", 1000),
        ("trace and lower", "lower", 1000),
        ("trace, lower and compile", "compile", 100),
    ):
        calls = {who: stages(make, count)[stage] for who, make in MAKERS.items()}
        taken = in_turns(calls, repeats, prepare=jax.clear_caches)
        rows.append(Row(f"{what}, {count} leaves of 4 shapes", "ms", taken))
    return rows


def eager_rows(repeats: int) -> list[Row]:
    params = tree(many(1000))

    def update(tx: Any) -> Callable[[], Any]:
        state = tx.init(params)
        return lambda: tx.update(params, state, params)

    calls = {who: update(make()) for who, make in MAKERS.items()}
    return [Row("an update outside jit, 1000 leaves of 4 shapes", "ms", in_turns(calls, repeats))]


def step_rows(repeats: int, trees: dict[str, Shapes] | None = None) -> list[Row]:
    """One step of every tree: optlab's, optax's, torch's two, arrays handed through, and a copy of as many bytes."""
    rows = []
    for name, shapes in (TREES | flax_tree() if trees is None else trees).items():
        calls = {who: stepping(make(), shapes) for who, make in MAKERS.items()}
        if _torch() is not None:
            calls |= {f"torch {kind}": torch_stepping(kind, shapes) for kind in ("fused", "foreach")}
        calls |= {"handed through": handing_through(shapes), "copy": copying(weights(shapes))}
        taken = in_turns(calls, repeats)
        copied = taken.pop("copy")
        rows.append(Row(name, "ms", taken | {f"copy of {MOVED} bytes": copied * MOVED / 8}))
        gc.collect()
    return rows


STATES: dict[str, Callable[[], Any]] = {
    "float32": MAKERS["optlab"],
    "bfloat16": lambda: store(MAKERS["optlab"](), codecs.bfloat16),
    "int8": lambda: store(MAKERS["optlab"](), codecs.int8),
}
TEMPORARIES_OF = ("one leaf of 32M", "64 leaves of 500k")


def state_rows(repeats: int, shapes: Shapes = ((1024, 1024),) * 8, trees: dict[str, Shapes] | None = None) -> list[Row]:
    """AdamW with its state in float32, bfloat16 and int8, and with weights in bfloat16."""
    matrices = f"{len(shapes)} matrices of {shapes[0][0]}²"
    size, rows = weights(shapes), []
    states = {name: jax.eval_shape(make().init, tree(shapes)) for name, make in STATES.items()}
    kept = {name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) for name, state in states.items()}
    rows.append(Row("bytes of state per weight", "", {name: held / size for name, held in kept.items()}))
    for name, others in ({name: TREES[name] for name in TEMPORARIES_OF} if trees is None else trees).items():
        temporary = {state: temporaries(make(), others) for state, make in STATES.items()}
        rows.append(Row(f"temporary bytes per weight, an update of {name}", "", temporary))
    trained = {name: training_temporaries(make(), shapes) for name, make in STATES.items()}
    rows.append(Row(f"temporary bytes per weight, a train_step of {matrices}", "", trained))
    small = [(64, 64)] * 8
    calls = {name: functools.partial(compiled, make(), small) for name, make in STATES.items()}
    taken = in_turns(calls, repeats, prepare=jax.clear_caches)
    rows.append(Row(f"trace, lower and compile (ms), {len(small)} leaves of 4k", "ms", taken))
    calls = {name: stepping(make(), shapes) for name, make in STATES.items()}
    calls["bfloat16 weights"] = stepping(MAKERS["optlab"](), shapes, jnp.bfloat16)
    rows.append(Row(f"a step (ms), {matrices}", "ms", in_turns(calls, repeats)))
    return rows


def temporaries(tx: optax.GradientTransformation, shapes: Shapes) -> float:
    """Bytes per weight that an update needs besides state and gradients, whose memory it may write over."""
    params = jax.eval_shape(lambda: tree(shapes))
    update = jax.jit(tx.update, donate_argnums=(0, 1)).lower(params, jax.eval_shape(tx.init, params), params)
    return _temporary(update.compile()) / weights(shapes)


def training_temporaries(tx: optax.GradientTransformation, shapes: Shapes) -> float:
    """The same of a whole `train_step`, forward and backward, of matrices one after the other, in a batch of 8."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for matrix in params.values():
            x = jnp.tanh(x @ matrix)
        return jnp.mean(x**2)

    params, x = jax.eval_shape(lambda: (tree(shapes), jnp.zeros((8, shapes[0][0]))))
    program = train_step(loss, tx).lower(params, jax.eval_shape(tx.init, params), x)
    return _temporary(program.compile()) / weights(shapes)


def _temporary(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


@functools.cache
def flax_tree() -> dict[str, Shapes]:
    """The parameters of the transformer that `python_lm` trains; nothing where that task can't be made."""
    try:
        from optlab.lab import TASKS

        task = TASKS["python_lm"]()
    except (ImportError, ValueError):
        return {}
    params = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    return {f"a Flax transformer, {len(shapes)} leaves, {weights(shapes) / 1e6:.1f}M": shapes}


def stepping(tx: optax.GradientTransformation, shapes: Shapes, dtype: Any = jnp.float32) -> Callable[[], Any]:
    """A call that takes one step of a tree, compiled and in place."""
    step = in_place(make_step(tx))
    params, grads = tree(shapes, dtype=dtype), tree(shapes, 0.01, dtype)
    held = [params, tx.init(params)]

    def call() -> Any:
        held[:] = step(*held, grads)
        return held

    return call


def handing_through(shapes: Shapes) -> Callable[[], Any]:
    """The call of a program that computes nothing: what JAX takes to hand over the arrays of AdamW's step."""
    step = in_place(lambda params, state, grads: jax.lax.optimization_barrier((params, state)))
    held, grads = [tree(shapes), (tree(shapes), tree(shapes))], tree(shapes)

    def call() -> Any:
        held[:] = step(*held, grads)
        return held

    return call


def copying(size: int) -> Callable[[], Any]:
    """A call that reads and writes as many float32 numbers, once each, without asking for memory."""
    copy = jax.jit(lambda source, target: -source, donate_argnums=1, keep_unused=True)
    source, held = jnp.full((size,), 0.5), [jnp.full((size,), 0.25)]

    def call() -> Any:
        held[0] = copy(source, held[0])
        return held

    return call


@functools.cache
def _torch() -> Any:
    """torch, where it is installed and has the kind of device that JAX uses."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return torch if jax.default_backend() == "cpu" or torch.cuda.is_available() else None


def torch_stepping(kind: str, shapes: Shapes) -> Callable[[], Any]:
    torch = _torch()
    place = "cpu" if jax.default_backend() == "cpu" else "cuda"
    params = [torch.full(shape, 0.5, device=place, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = torch.full_like(param, 0.01)
    names = {"learning_rate": "lr", "eps": "eps", "weight_decay": "weight_decay"}
    given = {names[name]: value for name, value in HYPERPARAMS.items() if name in names}
    optimizer = torch.optim.AdamW(params, betas=(HYPERPARAMS["b1"], HYPERPARAMS["b2"]), **given, **{kind: True})

    def call() -> None:
        optimizer.step()
        if place == "cuda":
            torch.cuda.synchronize()

    return call


PARTS: dict[str, tuple[str, Callable[[int], list[Row]]]] = {
    "counts": ("The compiled step, as XLA counts it", count_rows),
    "compile": ("Before the first step", compile_rows),
    "eager": ("Outside jit", eager_rows),
    "step": ("A step of float32 weights", step_rows),
    "state": ("What the state is kept in", state_rows),
}


def measure(parts: Sequence[str] = tuple(PARTS), repeats: int = REPEATS) -> dict[str, Any]:
    """All figures of the `parts`, as JSON can hold them."""
    began = system.load()
    rows = {part: [row._asdict() for row in PARTS[part][1](repeats)] for part in parts}
    peers = () if _torch() is None else ("torch",)
    return {
        "rows": rows,
        "left out": left_out(),
        "setting": setting(repeats, *peers) | {"load": load_between(began, system.load())},
    }


def left_out() -> list[str]:
    reasons = []
    if _torch() is None:
        reasons.append("torch.optim.AdamW: torch is not installed, or not for this device")
    if not flax_tree():
        reasons.append("the Flax transformer: pip install 'optlab[lab]', in a Python with the source of its library")
    return reasons


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown; behind a peer's, in brackets, optlab's divided by it."""
    blocks = []
    for part, rows in figures["rows"].items():
        names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
        units = {row["unit"] for row in rows}
        unit = f" ({min(units)})" if len(units) == 1 and units != {""} else ""
        lines = [f"| {PARTS[part][0]}{unit} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in rows:
            ours = row["figures"].get("optlab")
            cells = [_cell(row["figures"].get(name), None if name == "optlab" else ours) for name in names]
            lines.append(f"| {' | '.join([row['name'], *cells])} |")
        blocks.append("\n".join(lines))
    notes = [f"left out: {reason}" for reason in figures["left out"]]
    said = [f"{name}: {value}" for name, value in figures["setting"].items()]
    return "\n\n".join([*blocks, "\n".join([*notes, *said])])


def _cell(value: float | None, ours: float | None) -> str:
    if value is None:
        return ""
    said = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return said if ours is None or not value else f"{said} ({ours / value:.2f})"
