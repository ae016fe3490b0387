"""The digits again, but so that no weight is without a gradient: nothing in it is dead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from optlab.lab.tasks.handwriting import CLASSES, DATA, all_images, draw
from optlab.lab.tasks.supervision import Split, supervised
from optlab.lab.tasks.task import Task

# A pixel that is 0 in two thirds of the images is 0 in all 50 of a batch once in 10^8 or 10^9 steps. The 20 left out
# are in the corners and at the edges: 3 of them are 0 in every image of the data set, 16 in nine of ten.
INKED = 1 / 3


@functools.cache
def pixels() -> np.ndarray:
    """Which pixels are not 0 in at least a third of all images."""
    images, _ = all_images()
    return np.flatnonzero((images > 0).mean(0) >= INKED)


class Network(nnx.Module):
    """The pixels that vary, 64 hidden units, 10 classes; tanh, because a unit of relu can be 0 for a whole batch."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(len(pixels()), 64, rngs=rngs)
        self.out = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, of shape (images, classes)."""
        return self.out(nnx.tanh(self.hidden(images)))


def _draw(key: jax.Array) -> Split:
    return Split(*((images[:, jnp.asarray(pixels())], labels) for images, labels in draw(key)))


def digits_dense(steps: int = 1000, batch_size: int = 50) -> Task:
    """`digits` with the 44 of 64 pixels that vary and tanh for relu: every weight has a gradient at every step.

    In `digits` 192 weights never have one, those of three pixels that are 0 in all images, and many seldom: decay
    treats such weights apart, site by site. Here a study shows what is left without them. The images, wrong labels,
    batches and hidden units are those of `digits`; 3,530 weights. Only a saturated tanh can still stop a gradient, at
    hidden units beyond 9.
    """
    return supervised(
        Network,
        _draw,
        name="digits_dense",
        description=f"{DATA}; {len(pixels())} of the pixels, a tanh network, {steps} steps of {batch_size} images",
        steps=steps,
        batch_size=batch_size,
    )
