"""The shapes of the learning rate that a study can give every task, from optax, 1 at their peak."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

WARM_UP = 0.1

SCHEDULES: dict[str, Callable[[int], optax.Schedule | None]] = {
    "constant": lambda steps: None,
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "warmup_cosine": lambda steps: optax.warmup_cosine_decay_schedule(0.0, 1.0, round(WARM_UP * steps), steps),
}


def schedule(name: str, steps: int) -> Callable[[jax.Array], jax.typing.ArrayLike] | None:
    """The factor of the rate as `Task.schedule` wants it: of a step counted from 0; None for a constant rate.

    `linear` and `cosine` go from 1 at the first step to 0 at the one after the last; `warmup_cosine` goes from 0 to 1
    in a tenth of the steps first.
    """
    shape = SCHEDULES[name](steps)
    return None if shape is None else lambda step: shape(step.astype(jnp.float32))  # optax promotes integers
