"""One run: what it begins with, how a structure treats it, how it advances and is measured."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.decay.sites import Decay
from optlab.lab import record
from optlab.lab.study import Structure, Study
from optlab.lab.tasks import Task

NEVER = -1


class Start(NamedTuple):
    """What a run begins with; drawn from its seed alone, so that the cells of a grid share it."""

    data: Any
    params: Any
    batch_key: jax.Array


def start(task: Task, seed: Any) -> Start:
    """The start of the run with this seed, an int32 scalar."""
    data_key, init_key, batch_key = jax.random.split(jax.random.key(seed), 3)
    return Start(task.data(data_key), task.init(init_key), batch_key)


class Carry(NamedTuple):
    """A run under way.

    Attributes:
      diverged_at: after how many updates its loss was first out of bounds, or `NEVER`.
      plain_state: of `Treatment.plain`.
    """

    params: Any
    state: Any
    diverged_at: jax.Array
    plain_state: Any = None


class Treatment(NamedTuple):
    """What a structure does to training at one cell.

    Attributes:
      penalty: what it adds to the loss.
      tx: the transform of the gradient.
      target: the weights that decay pulls towards; None for zero.
      measured: whether to measure how much of a step is decay.
      plain: `tx` without decay, to measure by; None where `tx` has none, or nothing is measured.
    """

    penalty: Callable[[Any], jax.Array]
    tx: optax.GradientTransformation
    target: Any
    measured: bool
    plain: optax.GradientTransformation | None

    def launch(self, params: Any) -> Carry:
        """The run that begins with these weights."""
        plain_state = None if self.plain is None else self.plain.init(params)
        return Carry(params, self.tx.init(params), jnp.int32(NEVER), plain_state)


def treatment(
    study: Study, task: Task, structure: Structure, learning_rate: Any, weight_decay: Any, params: Any
) -> Treatment:
    """The hyperparameters may be traced; `params` are those that the run begins with."""
    decay, core = structure.decay(study.target), study.make_core()

    def place(decay: Decay) -> optax.GradientTransformation:
        return decay.apply_to(core, learning_rate, weight_decay, schedule=task.schedule)

    return Treatment(
        decay.penalize(lambda params: jnp.zeros(()), weight_decay, init_params=params),
        place(decay),
        params if decay.target == "init" else None,
        study.measure_decay,
        place(Decay("none")) if study.measure_decay and decay.site != "none" else None,
    )


def advance(
    task: Task, treated: Treatment, begin: Start, carry: Carry, first: Any
) -> tuple[Carry, dict[str, jax.Array]]:
    """The run after `task.every` more updates, from number `first`, and how much of them was decay, if it is measured.

    One that has diverged keeps its params.
    """

    def step(carry: Carry, number: jax.Array) -> tuple[Carry, Any]:
        batch = task.batch(begin.data, begin.batch_key, number)
        loss, plain_grads = jax.value_and_grad(task.loss)(carry.params, batch)
        grads = optax.tree.add(plain_grads, jax.grad(treated.penalty)(carry.params))
        diverged_at = _checked(task, carry.diverged_at, loss, number)
        updates, state = treated.tx.update(grads, carry.state, carry.params)
        moved = optax.apply_updates(carry.params, updates)
        params = jax.tree.map(partial(jnp.where, diverged_at == NEVER), moved, carry.params)
        if not treated.measured:
            return Carry(params, state, diverged_at), {}
        plain, plain_state = updates, None
        if treated.plain is not None:
            plain, plain_state = treated.plain.update(plain_grads, carry.plain_state, carry.params)
        away = carry.params if treated.target is None else optax.tree.sub(carry.params, treated.target)
        measured = record.of_step(updates, plain, away), diverged_at == NEVER
        return Carry(params, state, diverged_at, plain_state), measured

    carry, measured = jax.lax.scan(step, carry, first + jnp.arange(task.every, dtype=jnp.int32))
    return carry, record.over_window(*measured) if measured else {}


def _checked(task: Task, diverged_at: jax.Array, loss: jax.Array, updates: Any) -> jax.Array:
    out_of_bounds = ~(jnp.isfinite(loss) & (loss <= task.divergence))
    return jnp.where((diverged_at == NEVER) & out_of_bounds, updates, diverged_at)


def measure(task: Task, params: Any, data: Any) -> dict[str, jax.Array]:
    """The task's metrics and the weight norm."""
    return dict(task.metrics(params, data)) | {"weight_norm": optax.tree.norm(params)}


def measured_at(task: Task, begin: Start, params: Any, diverged_at: jax.Array, updates: Any) -> dict[str, jax.Array]:
    """The measurements after so many updates, and `diverged_at`, as they may show what no batch has shown yet."""
    metrics = measure(task, params, begin.data)
    worst = jnp.where(jnp.isfinite(metrics["weight_norm"]), metrics["train_loss"], jnp.inf)
    return metrics | {"diverged_at": _checked(task, diverged_at, worst, updates)}
