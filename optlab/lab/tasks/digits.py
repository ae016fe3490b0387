"""Handwritten digits, few and partly mislabelled, so that regularization matters."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from optlab.lab.tasks.task import Task

TRAINING, TESTING, CLASSES = 300, 1000, 10
WRONG_LABELS = 0.2


class Network(nnx.Module):
    """64 pixels, 64 hidden units, 10 classes."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, of shape (images, classes)."""
        return self.out(nnx.relu(self.hidden(images)))


class Split(NamedTuple):
    """Images of shape (n, 64) in [0, 1] with their labels; those of `train` are partly wrong."""

    train: tuple[jax.Array, jax.Array]
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]


@functools.cache
def _all_images() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return np.asarray(images / 16, np.float32), np.asarray(labels, np.int32)


def _data(key: jax.Array) -> Split:
    images, labels = map(jnp.asarray, _all_images())
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


def _loss_and_accuracy(
    graphdef: nnx.GraphDef, params: nnx.State, batch: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    images, labels = batch
    logits = nnx.merge(graphdef, params)(images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    accuracy = (logits.argmax(-1) == labels).mean()
    return loss, jnp.where(jnp.isfinite(loss), accuracy, jnp.nan)


def digits(steps: int = 1000, batch_size: int = 50) -> Task:
    """300 training images, each with a wrong label with probability 0.2, against 1000 clean test images.

    Scikit-learn's bundled 8x8 digits; the other 497 images, clean, choose the best cell of a grid. Images, wrong
    labels, initial weights and batches are all drawn from the run's seed.
    """
    graphdef = nnx.graphdef(Network(nnx.Rngs(0)))

    def init(key: jax.Array) -> nnx.State:
        return nnx.state(Network(nnx.Rngs(key)), nnx.Param)

    def batch(data: Split, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = data.train
        chosen = jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, TRAINING)
        return images[chosen], labels[chosen]

    def loss(params: nnx.State, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _loss_and_accuracy(graphdef, params, batch)[0]

    def metrics(params: nnx.State, data: Split) -> dict[str, jax.Array]:
        measured = {}
        for part, batch in data._asdict().items():
            measured[f"{part}_loss"], measured[f"{part}_accuracy"] = _loss_and_accuracy(graphdef, params, batch)
        return measured

    return Task(
        name="digits",
        description=(
            f"scikit-learn's 8x8 handwritten digits: {TRAINING} training images with {WRONG_LABELS:.0%} wrong labels, "
            f"{TESTING} clean test images; a 64-64-10 network, {steps} steps of {batch_size} images"
        ),
        steps=steps,
        data=_data,
        init=init,
        batch=batch,
        loss=loss,
        metrics=metrics,
        divergence=1e3,
    )
