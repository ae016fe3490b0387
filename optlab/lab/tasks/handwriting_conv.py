"""The digits again, to a small convolutional network."""

import jax
import jax.numpy as jnp
from flax import nnx

from optlab.lab.tasks.handwriting import CLASSES, DATA, draw
from optlab.lab.tasks.supervision import supervised
from optlab.lab.tasks.task import Task


class Convolution(nnx.Module):
    """A 3x3 convolution, edges padded with zeros, as one matrix product over its windows.

    Differs from `nnx.Conv` in nothing but the shape of its kernel: mapped over the weights of many runs, convolutions
    take XLA's slow path on CPUs, six times slower here than the matrix product.
    """

    def __init__(self, channels: int, features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(9 * channels, features, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """(images, height, width, channels) to (images, height, width, features)."""
        _, height, width, _ = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        return self.linear(jnp.concatenate(shifted, axis=-1))


class Network(nnx.Module):
    """Two convolutions of 16 and 32 features, each halved by its largest values, and 10 classes."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = Convolution(1, 16, rngs=rngs)
        self.second = Convolution(16, 32, rngs=rngs)
        self.out = nnx.Linear(2 * 2 * 32, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, of shape (images, classes)."""
        images = images.reshape(-1, 8, 8, 1)
        for convolution in (self.first, self.second):
            images = _halved(nnx.relu(convolution(images)))
        return self.out(images.reshape(len(images), -1))


def _halved(images: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels."""
    count, height, width, channels = images.shape
    return images.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))


def digits_conv(steps: int = 1000, batch_size: int = 50) -> Task:
    """The data of `digits` and a convolutional network of 6,090 weights."""
    return supervised(
        Network,
        draw,
        name="digits_conv",
        description=f"{DATA}; two 3x3 convolutions, {steps} steps of {batch_size} images",
        steps=steps,
        batch_size=batch_size,
    )
