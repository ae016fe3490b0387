"""First moments: averages of what flows through, their bias correction, and the look-ahead forms of both."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optlab.algebra.hyperparameters import Scalar, like
from optlab.algebra.operands import derived
from optlab.algebra.rules import LeafError, Rule, Slots
from optlab.algebra.transform import atom


def weight_sum(decay: Any, t: jax.Array, u: jax.Array) -> jax.Array:
    """`1 - decay**t`, the sum of the weights of an average after `t` steps, in the real dtype of `u`.

    Differs from the plain form in: 1. it is `-expm1(t * log(decay))`, which keeps the digits that `1 - decay**t` loses
    in float32 while `decay**t` is near 1, 1.4e-3 of it at decay 0.99999; 2. it is the sum of the weights that the
    average has, `(1 - decay) * sum(d**k)` with `d` the decay as its dtype rounds it, without which the average of a
    constant would end 1.3e-5 off at decay 0.999 and 1.4e-3 off at 0.99999.

    Raises:
      LeafError: `decay` rounds to 1, so that the average would forget nothing.
    """
    dtype = jnp.finfo(u.dtype).dtype
    steps = t.astype(dtype)
    if isinstance(decay, jax.Array):
        return _traced_weight_sum(decay.astype(dtype), steps)

    def kept(decay: float) -> float:
        rounded = float(np.asarray(decay, dtype))
        if rounded == 1:
            raise LeafError(
                f"decay {decay!r} is 1 in {dtype}, so the average would forget nothing; take float64 weights"
            )
        return rounded

    def log_kept(decay: float) -> float:
        return math.log(kept(decay)) if kept(decay) else -math.inf

    share = derived(lambda decay: (1 - decay) / (1 - kept(decay)), decay)
    return share * -jnp.expm1(steps * derived(log_kept, decay))


@jax.custom_jvp
def _traced_weight_sum(decay: jax.Array, steps: jax.Array) -> jax.Array:
    """`1 - decay**steps`; a function of its own because the logarithm has no derivative at 0, where the power has."""
    return -jnp.expm1(steps * jnp.log(decay))


@jax.custom_jvp
def _power(decay: jax.Array, steps: jax.Array) -> jax.Array:
    """`decay**steps`, whose derivative is 0 at 0 steps; JAX has 0 times infinity there, at a decay of 0."""
    return decay**steps


_traced_weight_sum.defjvps(lambda tangent, _, decay, steps: -steps * _power(decay, steps - 1) * tangent, None)
_power.defjvps(lambda tangent, _, decay, steps: steps * _power(decay, jnp.maximum(steps - 1, 0)) * tangent, None)


def average(decay: Any, m: jax.Array, u: jax.Array) -> jax.Array:
    decay = like(decay, u)
    return decay * m + (1 - decay) * u


@atom
def scale_by_ema(decay: Scalar) -> Rule:
    """`m <- decay*m + (1 - decay)*u;  u -> m`, from `m = 0`, raw: chain `bias_correct(decay)` to correct it.

    Args:
      decay: in [0, 1), the share of the average that stays at each step.

    Source: Kingma & Ba 2015, Algorithm 1, for both moments. `optax.ema` corrects by default; torch's
    `SGD(momentum=b, dampening=b)` starts at the first gradient instead of zero.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = average(decay, slots["ema"], u)
        return m, {"ema": m}

    return Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)}, averages=decay)


@atom
def bias_correct(decay: Scalar) -> Rule:
    """`u -> u / (1 - decay**t)`: makes the weights of an average that began at zero sum to one.

    Args:
      decay: in [0, 1), that of the `scale_by_ema` before it; `chain` refuses another one.

    Source: Kingma & Ba 2015, section 3. The divisor keeps its relative precision for decays near 1, where the plain
    float32 form of optax and torch loses digits.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return u / like(weight_sum(decay, t, u), u), slots

    return Rule(update, corrects=decay)


@atom
def accumulate(decay: Scalar) -> Rule:
    """`m <- decay*m + u;  u -> m`, from `m = 0`: the heavy ball.

    Args:
      decay: in [0, 1), the momentum coefficient.

    Source: Polyak 1964, as torch writes it (`SGD(momentum=decay)`); `optax.trace(decay)`. With a constant learning
    rate it is `scale_by_ema(decay)` at a rate larger by `1 / (1 - decay)`.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = like(decay, u) * slots["trace"] + u
        return m, {"trace": m}

    return Rule(update, init=lambda w: {"trace": jnp.zeros_like(w)})


@atom
def accumulate_nesterov(decay: Scalar) -> Rule:
    """`m <- decay*m + u;  u -> decay*m + u`: the heavy ball, looked at one step ahead.

    Args:
      decay: in [0, 1), the momentum coefficient.

    Source: Sutskever et al. 2013 in the form of torch's `SGD(momentum=decay, nesterov=True)` and
    `optax.trace(decay, nesterov=True)`, which moves the looked-ahead weights and not the paper's.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = like(decay, u) * slots["trace"] + u
        return like(decay, u) * m + u, {"trace": m}

    return Rule(update, init=lambda w: {"trace": jnp.zeros_like(w)})


@atom
def scale_by_nesterov_ema(decay: Scalar) -> Rule:
    """`m <- decay*m + (1 - decay)*u;  u -> decay*m / (1 - decay**(t+1)) + (1 - decay)*u / (1 - decay**t)`.

    The average, corrected and looked at one step ahead; no `bias_correct` belongs after it.

    Args:
      decay: in [0, 1).

    Source: Dozat 2016, Algorithm 2 with a constant decay, as `optax.nadam` has it; the paper also multiplies the
    corrected second moment by its decay, which both leave out. torch's `NAdam` warms the coefficient of the
    look-ahead up, `decay * (1 - 0.96**(t * momentum_decay) / 2)`, and corrects by the product of the coefficients.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = average(decay, slots["ema"], u)
        b = like(decay, u)
        next_t = t.astype(jnp.finfo(u.dtype).dtype) + 1  # in floating point, where a saturated count does not wrap
        ahead = b * (m / like(weight_sum(decay, next_t, u), u))
        return ahead + (1 - b) * (u / like(weight_sum(decay, t, u), u)), {"ema": m}

    return Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})


@atom
def interpolate_ema(b1: Scalar, b2: Scalar) -> Rule:
    """`u -> b1*m + (1 - b1)*u;  m <- b2*m + (1 - b2)*u`: one average, read with another decay than it is kept with.

    Args:
      b1: in [0, 1), the decay that `u` leaves with.
      b2: in [0, 1), the decay that the slot is kept with.

    Source: Chen et al. 2023, Algorithm 2 (Lion), before its sign.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = slots["ema"]
        return average(b1, m, u), {"ema": average(b2, m, u)}

    return Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})
