"""A Flax NNX classifier of handwritten digits, trained under jit with AdamW.

    python examples/train_nnx.py

prints

    epoch 1  training loss 1.42  test accuracy 0.92
    epoch 2  training loss 0.47  test accuracy 0.93
    epoch 3  training loss 0.28  test accuracy 0.95
    epoch 4  training loss 0.20  test accuracy 0.95
    epoch 5  training loss 0.16  test accuracy 0.96
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optlab


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        return self.out(nnx.relu(self.hidden(images)))


def cross_entropy(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


@nnx.jit
def train_epoch(model, optimizer, images, labels):
    def step(carry, batch):
        model, optimizer = carry
        loss, grads = nnx.value_and_grad(cross_entropy)(model, *batch)
        optimizer.update(model, grads)
        return (model, optimizer), loss

    _, losses = nnx.scan(step)((model, optimizer), (images, labels))
    return losses.mean()


def main():
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    order = jax.random.permutation(jax.random.key(0), len(labels))
    images, labels = images[order], labels[order]
    batches = images[:1280].reshape(-1, 32, 64), labels[:1280].reshape(-1, 32)

    model = Classifier(nnx.Rngs(0))
    matrices = lambda params: jax.tree.map(lambda w: w.ndim > 1, params)  # noqa: E731
    tx = optlab.adamw(3e-3, weight_decay=0.1, mask=matrices)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for epoch in range(1, 6):
        loss = train_epoch(model, optimizer, *batches)
        accuracy = (model(images[1280:]).argmax(-1) == labels[1280:]).mean()
        print(f"epoch {epoch}  training loss {loss:.2f}  test accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
