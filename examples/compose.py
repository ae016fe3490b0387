"""AdamW from its parts, inside an optax chain with clipping and a schedule.

    python examples/compose.py

prints

    updates
    │
    ├───────────────────┐
    scale_by_ema(0.9)   square()
    │                   │
    bias_correct(0.9)   scale_by_ema(0.999)
    │                   │
    │                   bias_correct(0.999)
    │                   │
    │                   root(1e-08)
    │                   │
    ├ ÷ ────────────────┘
    │
    add_decayed_weights(0.1)  ← params
    │
    ▼
    step   0  loss 2.5000
    step 100  loss 0.8183
    step 200  loss 0.5473
"""

import jax
import jax.numpy as jnp
import optax

import optlab

momentum = optlab.chain(optlab.scale_by_ema(0.9), optlab.bias_correct(0.9))
core = optlab.scale_by_rms(0.999, 1e-8, numerator=momentum)
decayed = optlab.chain(core, optlab.add_decayed_weights(0.1))

schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=20, decay_steps=200)
tx = optax.chain(optax.clip_by_global_norm(1.0), decayed, optlab.scale_by_learning_rate(schedule))


def loss(params):
    return 0.5 * jnp.sum((params["slope"] - 2.0) ** 2) + 0.5 * jnp.sum((params["offset"] - 1.0) ** 2)


@jax.jit
def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def main():
    print(optlab.draw(decayed))
    params = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
    state = tx.init(params)
    for number in range(201):
        params, state, value = step(params, state)
        if number % 100 == 0:
            print(f"step {number:3d}  loss {value:.4f}")


if __name__ == "__main__":
    main()
