"""Does AdamW learn as well with its state, or its weights, in fewer bits?

    python examples/studies/small_state.py

prints the table of the README from small_state.json. With `--train` it trains first and writes that file: 5 seeds of
every form side by side, 20 minutes on two cores. Every leaf is encoded here (`min_size=0`), since three of the four of
`digits` are smaller than what `store` encodes by itself. Forward and backward pass are float32, so that the rounding of
state and weights is all that differs; the seed of a run draws its rounding too.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optlab
from optlab import codecs
from optlab.lab import one_run, results, tasks
from optlab.lab.results import Interval
from optlab.lab.tasks import Task

FILE = Path(__file__).with_suffix(".json")
SEEDS = 5
PLAIN = "float32"
WEIGHTS = "bfloat16 weights, "
NAIVE_WEIGHTS = WEIGHTS + "to nearest"


class Form(NamedTuple):
    """What a run keeps in fewer bits: nothing, as it stands here.

    Attributes:
      codec: of the state.
      weights: their dtype.
      rounding: of `apply_updates`.
    """

    codec: codecs.Codec | None = None
    weights: Any = jnp.float32
    rounding: str = "nearest"
    kahan: bool = False


FORMS = {
    PLAIN: Form(),
    "int8 state": Form(codecs.int8),
    "bfloat16 state, by chance": Form(codecs.bfloat16),
    "bfloat16 state, to nearest": Form(codecs.BFloat16("nearest")),
    NAIVE_WEIGHTS: Form(weights=jnp.bfloat16),
    WEIGHTS + "by chance": Form(weights=jnp.bfloat16, rounding="stochastic"),
    WEIGHTS + "Kahan": Form(weights=jnp.bfloat16, kahan=True),
}


class Setting(NamedTuple):
    make: Callable[[], Task]
    learning_rate: float
    weight_decay: float = 0.1


SETTINGS = {
    "digits": Setting(tasks.digits, 1e-3),
    "python_lm_small": Setting(partial(tasks.python_lm_small, steps=1000), 1e-3),
}


# Training -----------------------------------------------------------------------------------------------------------


def optimizer(setting: Setting, task: Task, form: Form, seed: Any) -> Any:
    factor = task.schedule or jnp.ones_like
    tx = optlab.adamw(lambda step: setting.learning_rate * factor(step), weight_decay=setting.weight_decay)
    if form.codec is not None:
        tx = optlab.store(tx, form.codec, min_size=0, seed=seed)
    return optlab.chain(tx, optlab.kahan()) if form.kahan else tx


def train(setting: Setting, task: Task, form: Form, seed: jax.Array) -> dict[str, jax.Array]:
    """The task's metrics at the end of one run."""
    begin = one_run.start(task, seed)
    tx = optimizer(setting, task, form, seed)
    rounding_key = jax.random.fold_in(begin.batch_key, 1)

    def single(params: Any) -> Any:
        return jax.tree.map(lambda w: w.astype(jnp.float32), params)

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        params, state = carry
        batch = task.batch(begin.data, begin.batch_key, number)
        updates, state = tx.update(jax.grad(task.loss)(single(params), batch), state, params)
        key = jax.random.fold_in(rounding_key, number) if form.rounding == "stochastic" else None
        return (optlab.apply_updates(params, updates, rounding=form.rounding, key=key), state), None

    params = jax.tree.map(lambda w: w.astype(form.weights), begin.params)
    steps = jnp.arange(task.steps, dtype=jnp.int32)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), steps)
    return dict(task.metrics(single(params), begin.data))


def state_bytes(setting: Setting, task: Task, form: Form) -> float:
    """Of state, for each weight; scales of narrow leaves included."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    state = jax.eval_shape(optimizer(setting, task, form, jnp.uint32(0)).init, params)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.ndim)
    return held / sum(leaf.size for leaf in jax.tree.leaves(params))


def study() -> dict[str, Any]:
    found: dict[str, Any] = {"versions": {name: version(name) for name in ("optlab", "jax", "optax")}, "tasks": {}}
    for name, setting in SETTINGS.items():
        task, metrics, kept = setting.make(), {}, {}
        for title, form in FORMS.items():
            ends = jax.jit(jax.vmap(partial(train, setting, task, form)))(jnp.arange(SEEDS, dtype=jnp.uint32))
            metrics[title] = {metric: [float(f"{x:.6g}") for x in values] for metric, values in ends.items()}
            kept[title] = state_bytes(setting, task, form)
            print(name, title, metrics[title]["train_loss"], file=sys.stderr, flush=True)
        found["tasks"][name] = {
            "description": task.description,
            "learning_rate": setting.learning_rate,
            "weight_decay": setting.weight_decay,
            "reported": task.reported,
            "metrics": metrics,
            "state bytes": kept,
        }
    return found


# What the data says -------------------------------------------------------------------------------------------------


def losses(data: Any, task: str, form: str) -> np.ndarray:
    """The last training losses of a form, by seed."""
    return np.asarray(data["tasks"][task]["metrics"][form]["train_loss"])


def loss(data: Any, task: str, form: str) -> Interval:
    return results.interval(losses(data, task, form))


def difference(data: Any, task: str, form: str) -> Interval:
    """From float32, taken seed by seed."""
    return results.interval(losses(data, task, form) - losses(data, task, PLAIN))


def within_seeds(data: Any, task: str, form: str) -> bool:
    """Whether the mean loss lies in float32's interval over seeds."""
    return abs(difference(data, task, form).mean) <= loss(data, task, PLAIN).half_width


def recovered(data: Any, task: str, form: str) -> float:
    """The share of what weights in bfloat16 lose by nearest rounding that this form gets back."""
    return 1 - difference(data, task, form).mean / difference(data, task, NAIVE_WEIGHTS).mean


def table(data: Any) -> str:
    heads = ["kept in fewer bits", "bytes of state", *(f"`{task}` | from float32" for task in data["tasks"])]
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|---|---" * len(data["tasks"]) + "|"]
    for form in FORMS:
        kept = [f"{list(data['tasks'].values())[-1]['state bytes'][form]:.2f}"]
        for task in data["tasks"]:
            mean, width = loss(data, task, form)
            off, off_width = difference(data, task, form)
            kept += [f"{mean:.3f} ± {width:.3f}", "" if form == PLAIN else f"{off:+.4f} ± {off_width:.4f}"]
        lines.append(f"| {' | '.join(['nothing' if form == PLAIN else form, *kept])} |")
    return "\n".join(lines)


def main() -> None:
    if "--train" in sys.argv[1:]:
        FILE.write_text(json.dumps(study(), indent=1) + "\n")
    data = json.loads(FILE.read_text())
    print(table(data))
    for task in data["tasks"]:
        shares = [f"{100 * recovered(data, task, form):.1f}% {form}" for form in FORMS if form.startswith(WEIGHTS)][1:]
        print(f"\n{task}: of the loss by nearest rounding of weights, recovered {', '.join(shares)}")
    print(f"\n{SEEDS} seeds; {', '.join(f'{name} {number}' for name, number in data['versions'].items())}")


if __name__ == "__main__":
    main()
