"""Addition modulo a prime: the training data is soon learnt by heart, and decay decides when the rule is found."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from optlab.lab.tasks.supervision import Split, supervised
from optlab.lab.tasks.task import Task, require_whole, steps_between

PRIME = 59
TRAINING, VALIDATION = 0.7, 0.1
GENERALIZED = 0.95
MEASUREMENTS = 160


class Network(nnx.Module):
    """The sum of two embeddings of 64, 128 hidden units, one logit per residue."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(PRIME, 64, rngs=rngs)
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, PRIME, rngs=rngs)

    def __call__(self, pairs: jax.Array) -> jax.Array:
        """Logits, of shape (pairs, residues)."""
        return self.out(nnx.relu(self.hidden(self.embedding(pairs).sum(1))))


def draw(key: jax.Array) -> Split:
    """All pairs `a <= b` with `(a + b) % 59`, in an order drawn from `key`.

    Differs from the usual split of all ordered pairs, where the mirror image of most test pairs is a training pair, and
    a network that only knows that addition commutes answers them.
    """
    pairs = np.stack(np.triu_indices(PRIME), axis=-1).astype(np.int32)
    order = jax.random.permutation(key, jnp.asarray(pairs))
    bounds = [round(TRAINING * len(pairs)), round((TRAINING + VALIDATION) * len(pairs))]
    return Split(*((part, part.sum(1) % PRIME) for part in jnp.split(order, bounds)))


def steps_to(accuracy: float, steps: jax.Array, curve: jax.Array) -> jax.Array:
    """The first of `steps` at which `curve` is at `accuracy` or above, as a float; infinity if it never is.

    Infinity, not NaN or the last step: fewer steps are better, so a run that has not generalized must lose against
    every run that has, and a mean over seeds must not hide it.
    """
    reached = curve >= accuracy
    return jnp.where(reached.any(), steps[reached.argmax()].astype(jnp.float32), jnp.inf)


def summary(steps: jax.Array, curves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """`<part>_steps_to_95`, see `steps_to`, for each part of the data."""
    return {
        f"{part}_steps_to_95": steps_to(GENERALIZED, steps, curves[f"{part}_accuracy"])
        for part in ("train", "validation", "test")
    }


def modular(steps: int = 4000) -> Task:
    """Addition modulo 59 by an embedding and one hidden layer, each step on all training pairs.

    70% of the 1770 pairs are trained on, 10% choose the best cell, 20% are reported; which, and the initial weights,
    are drawn from the run's seed. What counts is how many steps it takes to 95% of the held-out pairs.

    Source: Power et al. 2022, "Grokking".
    """
    require_whole("modular", steps=steps)
    return supervised(
        Network,
        draw,
        name="modular",
        description=(
            f"addition modulo {PRIME}: {TRAINING:.0%} of all unordered pairs; the sum of two embeddings, one hidden "
            f"layer, {steps} steps on the full batch; steps to {GENERALIZED:.0%} of the held-out pairs"
        ),
        steps=steps,
        batch_size=None,
        objective="validation_steps_to_95",
        reported="test_steps_to_95",
        maximize=False,
        every=steps_between(steps, MEASUREMENTS),
        summary=summary,
    )
