"""Handwritten digits, few and partly mislabelled, so that regularization matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

from optlab.lab.tasks.supervision import Split, supervised
from optlab.lab.tasks.task import Task

TRAINING, TESTING, CLASSES = 300, 1000, 10
WRONG_LABELS = 0.2
DATA = (
    f"scikit-learn's 8x8 handwritten digits: {TRAINING} training images with {WRONG_LABELS:.0%} wrong labels, "
    f"{TESTING} clean test images"
)


class Network(nnx.Module):
    """64 pixels, 64 hidden units, 10 classes."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, of shape (images, classes)."""
        return self.out(nnx.relu(self.hidden(images)))


@functools.cache
def all_images() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 images of shape (64,) in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    return np.asarray(images / 16, np.float32), np.asarray(labels, np.int32)


def draw(key: jax.Array) -> Split:
    """Images of shape (n, 64) in [0, 1] with their labels; those of `train` are partly wrong."""
    images, labels = map(jnp.asarray, all_images())
    order_key, which_key, shift_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, len(labels))
    images, labels = images[order], labels[order]
    wrong = jax.random.uniform(which_key, (TRAINING,)) < WRONG_LABELS
    shift = jax.random.randint(shift_key, (TRAINING,), 1, CLASSES)
    noisy = jnp.where(wrong, (labels[:TRAINING] + shift) % CLASSES, labels[:TRAINING])
    held_out = TRAINING + TESTING
    return Split(
        train=(images[:TRAINING], noisy),
        validation=(images[held_out:], labels[held_out:]),
        test=(images[TRAINING:held_out], labels[TRAINING:held_out]),
    )


def digits(steps: int = 1000, batch_size: int = 50) -> Task:
    """300 training images, each with a wrong label with probability 0.2, against 1000 clean test images.

    Scikit-learn's bundled 8x8 digits; the other 497 images, clean, choose the best cell of a grid. Images, wrong
    labels, initial weights and batches are all drawn from the run's seed.
    """
    return supervised(
        Network,
        draw,
        name="digits",
        description=f"{DATA}; a 64-64-10 network, {steps} steps of {batch_size} images",
        steps=steps,
        batch_size=batch_size,
    )
