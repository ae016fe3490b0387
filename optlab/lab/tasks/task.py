"""What a study needs to know of a task."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

MOST = 2**31 - 1


def no_summary(steps: jax.Array, curves: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """`{}`: nothing is derived from the curves."""
    del steps, curves
    return {}


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and data to train it on; every function is pure, and is traced inside `jit`, `vmap` and `scan`.

    A batch is a function of the run's key and the step alone, so a run can be resumed or repeated bit for bit. For a
    Flax NNX module and arrays, `supervised` builds all of it.

    Attributes:
      name: what the results call it.
      description: one sentence for the report.
      steps: how many updates a run makes, from 1.
      data: `data(key) -> data`, what the run with this key trains and is measured on.
      init: `init(key) -> params`.
      batch: `batch(data, key, step) -> batch`, where `step` is an int32 scalar from 0.
      loss: `loss(params, batch) -> loss`, a scalar.
      metrics: `metrics(params, data) -> metrics`, scalars by name; `train_loss` among them, in the unit of `loss`.
      every: steps between measurements of `metrics`; divides `steps`, so that the last one is at the end.
      objective: the metric or summary that chooses the best cell of a grid: one of validation data.
      reported: the metric or summary that is then reported of that cell: one of test data.
      maximize: whether larger is better, of both.
      divergence: a run whose `train_loss` is above this, or is not finite, has diverged.
      summary: `summary(steps, curves) -> values`, scalars by name derived from every metric's curve, of shape (n,), at
        the steps (n,) it was measured after.
      schedule: `schedule(step) -> factor` in [0, 1] for an int32 `step` from 0; it multiplies the learning rate. None:
        a constant rate.

    Raises:
      ValueError: `steps` or `every` is not a whole number from 1, or `every` does not divide `steps`.
    """

    name: str
    description: str
    steps: int
    data: Callable[[jax.Array], Any]
    init: Callable[[jax.Array], Any]
    batch: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    metrics: Callable[[Any, Any], Mapping[str, jax.Array]]
    every: int
    objective: str
    reported: str
    maximize: bool
    divergence: float
    summary: Callable[[jax.Array, Mapping[str, jax.Array]], Mapping[str, jax.Array]] = no_summary
    schedule: Callable[[jax.Array], jax.typing.ArrayLike] | None = None

    def __post_init__(self) -> None:
        require_whole(f"task {self.name}", steps=self.steps, every=self.every)
        if self.steps % self.every:
            raise ValueError(
                f"task {self.name}: every must divide steps, so that the end is measured; "
                f"got every={self.every}, steps={self.steps}"
            )

    def check(self) -> None:
        """Traces every function once, and computes nothing.

        Raises:
          ValueError: the loss, a metric, a summary or the schedule is no scalar; the metrics lack `train_loss`; neither
            metrics nor summary have `objective` or `reported`.
        """
        key, step = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
        data, params = jax.eval_shape(self.data, key), jax.eval_shape(self.init, key)
        metrics = jax.eval_shape(self.metrics, params, data)
        measurements = self.steps // self.every
        steps = jax.ShapeDtypeStruct((measurements,), jnp.int32)
        curves = {
            name: jax.ShapeDtypeStruct((measurements, *value.shape), value.dtype) for name, value in metrics.items()
        }
        values = {**metrics, **jax.eval_shape(self.summary, steps, curves)}
        scalars = {"loss": jax.eval_shape(self.loss, params, jax.eval_shape(self.batch, data, key, step)), **values}
        if self.schedule is not None:
            scalars["schedule"] = jax.eval_shape(self.schedule, step)
        for name, value in scalars.items():
            if value.shape != ():
                raise ValueError(f"task {self.name}: {name} must be a scalar, got shape {value.shape}; take its mean")
        if "train_loss" not in metrics:
            raise ValueError(f"task {self.name}: metrics must hold train_loss, got {', '.join(metrics)}")
        for role in ("objective", "reported"):
            if getattr(self, role) not in values:
                raise ValueError(
                    f"task {self.name}: {role} must be a metric or a summary, got {getattr(self, role)!r}; "
                    f"there are {', '.join(values)}"
                )


def require_whole(who: str, **values: int) -> None:
    """Raises ValueError for the first of `values` that is not a whole number from 1 that int32 holds."""
    for name, value in values.items():
        whole(f"{who}: {name}", value)


def whole(what: str, value: Any) -> int:
    """`value` as a Python integer, or a ValueError, if it is not a whole number from 1 that int32 holds."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{what} must be a whole number from 1, got {value!r}")
    if int(value) > MOST:
        raise ValueError(f"{what} must be at most {MOST}, got {value}")
    return int(value)


def steps_between(steps: int, measurements: int) -> int:
    """The smallest divisor of `steps` that leaves no more than `measurements` of them."""
    return steps // max(count for count in range(1, measurements + 1) if steps % count == 0)
