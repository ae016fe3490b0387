"""Second moments: powers, their running forms, and the quotient by them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.combinators import chain, divide, identity
from optlab.algebra.hyperparameters import Scalar, checked, like
from optlab.algebra.rules import Rule, Slots
from optlab.algebra.transform import Transform, atom
from optlab.atoms.averages import average, bias_correct, scale_by_ema, weight_sum

_IDENTITY = identity()


def squared(u: jax.Array) -> jax.Array:
    return u.real * u.real + u.imag * u.imag if jnp.iscomplexobj(u) else u * u


@jax.custom_jvp
def square_root(x: jax.Array) -> jax.Array:
    """`sqrt(x)`, with the derivative 0 at 0.

    A second moment is 0 where there was no gradient yet, whatever the hyperparameters, and derivatives with respect to
    them are not to become infinity times 0 there.
    """
    return jnp.sqrt(x)


@square_root.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = square_root(*primals)
    return root, jnp.where(root > 0, tangents[0] / (2 * jnp.where(root > 0, root, 1)), 0)


@atom
def square() -> Rule:
    """`u -> u**2`; for complex `u`, `|u|**2`, real."""
    return Rule(lambda u, slots, w, t: (squared(u), slots))


@atom
def absolute(eps: Scalar = 0.0) -> Rule:
    """`u -> |u| + eps`; real for complex `u`.

    Args:
      eps: >= 0, in the unit of `u`.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        size = jnp.abs(u)
        return size + like(eps, size), slots

    return Rule(update)


@atom
def sign() -> Rule:
    """`u -> sign(u)`; for complex `u`, `u / |u|`; 0 at 0."""
    return Rule(lambda u, slots, w, t: (jnp.sign(u), slots))


@atom
def root(eps: Scalar, eps_root: Scalar = 0.0) -> Rule:
    """`u -> sqrt(u + eps_root) + eps`.

    Args:
      eps: >= 0, in the unit of the root; at 0, and with `eps_root` 0, what is divided by it is not finite where `u`
        is 0.
      eps_root: >= 0, in the unit of `u`, the square of the former.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return square_root(u + like(eps_root, u)) + like(eps, u), slots

    return Rule(update)


@atom
def running_sum(initial: Scalar = 0.0) -> Rule:
    """`s <- s + u;  u -> s`, from `s = initial`.

    Args:
      initial: >= 0, in the unit of `u`.

    Source: Duchi et al. 2011, Algorithm 1 (AdaGrad, diagonal), over `square()`. torch starts at 0 too,
    `optax.adagrad` at 0.1.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        s = slots["sum"] + u
        return s, {"sum": s}

    return Rule(update, init=lambda w: {"sum": jnp.zeros_like(w) + like(initial, w)})


@atom
def running_max() -> Rule:
    """`s <- max(s, u);  u -> s`, from `s = 0`.

    Source: Reddi et al. 2018, Algorithm 2 (AMSGrad).
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        s = jnp.maximum(slots["max"], u)
        return s, {"max": s}

    return Rule(update, init=lambda w: {"max": jnp.zeros_like(w)})


@atom
def decayed_max(decay: Scalar) -> Rule:
    """`s <- max(decay*s, u);  u -> s`, from `s = 0`.

    Args:
      decay: in [0, 1).

    Source: Kingma & Ba 2015, Algorithm 2 (AdaMax), over `absolute()`.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        s = jnp.maximum(like(decay, u) * slots["max"], u)
        return s, {"max": s}

    return Rule(update, init=lambda w: {"max": jnp.zeros_like(w)})


@checked
def rms(decay: Scalar, eps: Scalar, eps_root: Scalar = 0.0) -> Transform:
    """`u -> sqrt(EMA(u**2) / (1 - decay**t) + eps_root) + eps`, the size that a weight's updates usually have.

    Args:
      decay: see `scale_by_ema`.
      eps, eps_root: see `root`.
    """
    return chain(square(), scale_by_ema(decay), bias_correct(decay), root(eps, eps_root))


@checked
def scale_by_rms(
    decay: Scalar, eps: Scalar, eps_root: Scalar = 0.0, *, numerator: optax.GradientTransformation = _IDENTITY
) -> Transform:
    """`u -> numerator(u) / rms(u)`, both fed the same `u`.

    Args:
      decay, eps, eps_root: see `rms`.
      numerator: what is divided; `chain(scale_by_ema(b1), bias_correct(b1))` makes it Adam.

    Source: Kingma & Ba 2015, Algorithm 1. `optax.scale_by_rms` neither corrects the average nor forks.
    """
    return divide(numerator, rms(decay, eps, eps_root))


@atom
def scale_by_belief(b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar) -> Rule:
    """`m <- EMA(u);  s <- EMA((u - m)**2) + eps_root;  u -> corrected m / (sqrt(corrected s) + eps)`.

    One rule and no quotient of links, because both averages share the slot `m`.

    Args:
      b1, b2: in [0, 1), the decays of `m` and `s`.
      eps: >= 0, in the unit of `u`.
      eps_root: >= 0, in the unit of `u**2`, added at every step.

    Source: Zhuang et al. 2020, Algorithm 2, whose one epsilon is both of ours; `optax.adabelief`.
    """

    def init(w: Any) -> Slots:
        return {"ema": jnp.zeros_like(w), "deviation": jnp.zeros_like(w, dtype=jnp.finfo(w.dtype).dtype)}

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        m = average(b1, slots["ema"], u)
        s = average(b2, slots["deviation"], squared(u - m))
        s = s + like(eps_root, s)
        divisor = square_root(s / weight_sum(b2, t, u)) + like(eps, s)
        return m / like(weight_sum(b1, t, u), u) / divisor.astype(u.dtype), {"ema": m, "deviation": s}

    return Rule(update, init)
