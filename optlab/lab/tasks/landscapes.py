"""Functions of two weights with a known minimum, for looking at trajectories. No data, and no noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from optlab.lab.tasks.supervision import functional
from optlab.lab.tasks.task import Task, require_whole, steps_between

SPREAD = 0.1
MEASUREMENTS = 100


class Landscape(NamedTuple):
    """`value(x, y) >= 0`, zero at `minimum` alone; seeds begin around `start`."""

    value: Callable[[jax.Array, jax.Array], jax.Array]
    formula: str
    start: tuple[float, float]
    minimum: tuple[float, float]


ROSENBROCK = Landscape(
    value=lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
    formula="(1 - x)^2 + 100 (y - x^2)^2",
    start=(-1.2, 1.0),
    minimum=(1.0, 1.0),
)
BEALE = Landscape(
    value=lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
    formula="(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2",
    start=(1.0, 1.0),
    minimum=(3.0, 0.5),
)
QUADRATIC = Landscape(
    value=lambda x, y: ((x + y - 3) ** 2 + 100 * (x - y - 1) ** 2) / 2,
    formula="((x + y - 3)^2 + 100 (x - y - 1)^2) / 2",
    start=(-1.0, 1.0),
    minimum=(2.0, 1.0),
)


class Point(nnx.Module):
    """Two weights; a landscape has no inputs, so this module has no call."""

    def __init__(self, start: tuple[float, float], rngs: nnx.Rngs) -> None:
        self.position = nnx.Param(jnp.float32(start) + SPREAD * jax.random.normal(rngs.params(), (2,)))


def rosenbrock(steps: int = 2000) -> Task:
    """`(1 - x)^2 + 100 (y - x^2)^2` from around (-1.2, 1): a curved valley down to (1, 1). Source: Rosenbrock 1960."""
    return _task("rosenbrock", ROSENBROCK, steps)


def beale(steps: int = 2000) -> Task:
    """Beale's function from around (1, 1): flat, with steep corners, down to (3, 0.5). Source: Beale 1958."""
    return _task("beale", BEALE, steps)


def quadratic(steps: int = 500) -> Task:
    """`((x + y - 3)^2 + 100 (x - y - 1)^2) / 2` from around (-1, 1) down to (2, 1): curvatures of 2 and 200.

    They are along the diagonals, so that no division by a root of a second moment undoes the conditioning.
    """
    return _task("quadratic", QUADRATIC, steps)


def _task(name: str, landscape: Landscape, steps: int) -> Task:
    require_whole(name, steps=steps)
    init, _ = functional(lambda rngs: Point(landscape.start, rngs))

    def loss(params: nnx.State, batch: tuple[()]) -> jax.Array:
        del batch
        return landscape.value(*params["position"])

    def metrics(params: nnx.State, data: tuple[()]) -> dict[str, jax.Array]:
        x, y = params["position"]
        distance = jnp.hypot(x - landscape.minimum[0], y - landscape.minimum[1])
        return {"train_loss": loss(params, data), "x": x, "y": y, "distance": distance}

    return Task(
        name=name,
        description=f"{landscape.formula}, from around {landscape.start} to {landscape.minimum}, {steps} steps",
        steps=steps,
        data=lambda key: (),
        init=init,
        batch=lambda data, key, step: (),
        loss=loss,
        metrics=metrics,
        every=steps_between(steps, MEASUREMENTS),
        objective="train_loss",
        reported="train_loss",
        maximize=False,
        divergence=1e6,
    )
