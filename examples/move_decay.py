"""The same links in another order: what moving the decay does to three weights.

One weight has a large gradient, one a small one, one none at all, as an unused embedding has. The loss gradient is held
at that value, so that what differs between the rows is the decay alone.

    python examples/move_decay.py

prints

    weights that began at 5, after 100 steps      gradient 10   gradient 0.1   no gradient
    no decay                                              4.000         4.000         5.000
    before the moments (L2)                               4.002         4.030         4.036
    after the quotient (AdamW)                            3.572         3.572         4.524
    after the learning rate (not times it)               -0.100        -0.100         0.000
"""

import jax
import jax.numpy as jnp
import optax

from optlab import (
    add_decayed_weights,
    add_l2_to_grad,
    bias_correct,
    chain,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_rms,
    shrink_weights,
)

LR, WD, STEPS = 0.01, 0.1, 100
GRADS = jnp.array([10.0, 0.1, 0.0])

core = scale_by_rms(0.999, 1e-8, numerator=chain(scale_by_ema(0.9), bias_correct(0.9)))
rate = scale_by_learning_rate(LR)
ORDERS = {
    "no decay": chain(core, rate),
    "before the moments (L2)": chain(add_l2_to_grad(WD), core, rate),
    "after the quotient (AdamW)": chain(core, add_decayed_weights(WD), rate),
    "after the learning rate (not times it)": chain(core, rate, shrink_weights(WD)),
}


def train(tx):
    def step(carry, _):
        weights, state = carry
        updates, state = tx.update(GRADS, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    weights = jnp.full((3,), 5.0)
    return jax.lax.scan(step, (weights, tx.init(weights)), length=STEPS)[0][0]


def main():
    print(f"weights that began at 5, after {STEPS} steps      gradient 10   gradient 0.1   no gradient")
    for name, tx in ORDERS.items():
        print(f"{name:45}" + "".join(f"{weight:14.3f}" for weight in train(tx).tolist()))


if __name__ == "__main__":
    main()
