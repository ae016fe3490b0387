"""What a study needs to know of a task."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and data to train it on; every function is pure, and is traced inside `vmap` and `scan`.

    Attributes:
      name: what the results call it.
      description: one sentence for the report.
      steps: how many updates a run makes.
      data: `data(key) -> data`, what the run with this key trains and is measured on.
      init: `init(key) -> params`.
      batch: `batch(data, key, step) -> batch`, where `step` is an int32 scalar from 0.
      loss: `loss(params, batch) -> loss`, a scalar.
      metrics: `metrics(params, data) -> metrics`, scalars by name; `train_loss` among them, in the unit of `loss`, and
        `validation_accuracy`, which chooses the best cell of a grid.
      divergence: a run whose `train_loss` ends above this, or is not finite, has diverged.
    """

    name: str
    description: str
    steps: int
    data: Callable[[jax.Array], Any]
    init: Callable[[jax.Array], Any]
    batch: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    metrics: Callable[[Any, Any], Mapping[str, jax.Array]]
    divergence: float
