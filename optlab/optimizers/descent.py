"""Descent along the gradient, or along an average of it.

`learning_rate` is a number or a schedule here and everywhere; see `scale_by_learning_rate`.
"""

from typing import Any

from optlab.algebra.combinators import chain
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import accumulate, accumulate_nesterov, scale_by_ema
from optlab.atoms.rate import scale_by_learning_rate
from optlab.decay.links import add_decayed_weights


@checked
def sgd(learning_rate: ScalarOrSchedule) -> Transform:
    """`w <- w - lr*g`. Source: Robbins & Monro 1951."""
    return scale_by_learning_rate(learning_rate)


@checked
def momentum(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9) -> Transform:
    """`m <- EMA(g);  w <- w - lr*m`, raw; see `scale_by_ema`, and `heavy_ball` for torch's momentum."""
    return chain(scale_by_ema(b1), scale_by_learning_rate(learning_rate))


@checked
def heavy_ball(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9) -> Transform:
    """`m <- b1*m + g;  w <- w - lr*m`; see `accumulate`."""
    return chain(accumulate(b1), scale_by_learning_rate(learning_rate))


@checked
def nesterov(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9) -> Transform:
    """`m <- b1*m + g;  w <- w - lr*(b1*m + g)`; see `accumulate_nesterov`."""
    return chain(accumulate_nesterov(b1), scale_by_learning_rate(learning_rate))


@checked
def sgdw(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, *, weight_decay: ScalarOrSchedule, mask: Any = None
) -> Transform:
    """`m <- b1*m + g;  w <- w - lr*(m + weight_decay*w)`; see `add_decayed_weights`.

    Source: Loshchilov & Hutter 2019, Algorithm 1. Differs in: the learning rate stands after the momentum and
    multiplies the decay.
    """
    return chain(accumulate(b1), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))
