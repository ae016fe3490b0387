"""An optimizer under AdamW's name, checked from outside, read from inside, and held against the real one.

    python examples/unmask.py

prints

    adamw: differs
    - decay acts after the step, (w − ηu)(1 − ηλ); AdamW decays before, w − η(u + λw)

    promised(η, λ)

      mₜ = 0.1·gₜ + 0.9·mₜ₋₁
      m̂ₜ = mₜ/(1 − 0.9ᵗ)
      vₜ = 0.001·gₜ² + 0.999·vₜ₋₁
      v̂ₜ = vₜ/(1 − 0.999ᵗ)
      wₜ = wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + 1e-8) − η·λ·(wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + 1e-8))

      from m₀ = v₀ = 0

      decay:      after: decoupled, after the step, (w − η·u)·(1 − κ)
      coupling:   multiplied by the learning rate: κ = η·λ
      scale:      scale-free: gradients a thousand times as large give the same step
      correction: divides mₜ by 1 − 0.9ᵗ, vₜ by 1 − 0.999ᵗ
      ε:          1e-8 outside the root, √v̂ₜ + 1e-8
      order:      momentum mₜ and normalization vₜ of the same gradient, then their quotient (the order of Adam)
      holds for:  vectors (3,), matrices (4, 3) and (130, 129), leaves of 4 axes (2, 3, 2, 4)
      driven:     64 steps in one tree, gradients given and those of a quadratic

    different: promised and real part at step 1
      difference: λ·η²·g₁/(|g₁| + 1e-8)
      order 2 in η, order 1 in λ
      for example 0.891000001 and 0.890000001
      at η = 0.1, λ = 0.1, from weight 1, gradients 1
"""

import jax
import optax

import optlab


def promised(learning_rate, weight_decay):
    """It says AdamW, and shrinks the weights after the step instead of beside it."""

    def shrink(updates, params):
        return jax.tree.map(lambda u, w: u - learning_rate * weight_decay * (w + u), updates, params)

    return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(learning_rate), optax.stateless(shrink))


def real(learning_rate, weight_decay):
    return optax.adamw(learning_rate, weight_decay=weight_decay)


print(optlab.check(promised, says="adamw"), end="\n\n")
print(optlab.explain(promised), end="\n\n")
print(optlab.compare(promised, real))
