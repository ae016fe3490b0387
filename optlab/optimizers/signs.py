"""Descent by signs: every weight moves by the learning rate."""

from typing import Any

from optlab.algebra.combinators import chain
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import interpolate_ema, scale_by_ema
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import sign
from optlab.decay.links import add_decayed_weights


@checked
def sign_sgd(learning_rate: ScalarOrSchedule) -> Transform:
    """`w <- w - lr*sign(g)`. Source: Bernstein et al. 2018, Algorithm 1."""
    return chain(sign(), scale_by_learning_rate(learning_rate))


def signum_core(b1: Scalar) -> Transform:
    """`m <- EMA(u);  u -> sign(m)`."""
    return chain(scale_by_ema(b1), sign())


@checked
def signum(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9) -> Transform:
    """`m <- EMA(g);  w <- w - lr*sign(m)`. Source: Bernstein et al. 2018, Algorithm 2."""
    return chain(signum_core(b1), scale_by_learning_rate(learning_rate))


def lion_core(b1: Scalar, b2: Scalar) -> Transform:
    """`u -> sign(b1*m + (1 - b1)*u);  m <- b2*m + (1 - b2)*u`."""
    return chain(interpolate_ema(b1, b2), sign())


@checked
def lion(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    *,
    weight_decay: ScalarOrSchedule,
    mask: Any = None,
) -> Transform:
    """`u = sign(b1*m + (1 - b1)*g);  m <- b2*m + (1 - b2)*g;  w <- w - lr*(u + weight_decay*w)`.

    See `interpolate_ema`, `add_decayed_weights`. Source: Chen et al. 2023, Algorithm 2.
    """
    decay = add_decayed_weights(weight_decay, mask)
    return chain(lion_core(b1, b2), decay, scale_by_learning_rate(learning_rate))
