"""Adam, and where its decay acts."""

from typing import Any

from optlab.algebra.combinators import chain
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import bias_correct, scale_by_ema
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import scale_by_rms, square
from optlab.decay.links import add_decayed_weights, add_l2_to_grad, shrink_weights
from optlab.decay.stable import divide_and_decay_stably


def adam_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    """`u -> m_hat/(sqrt(v_hat) + eps)`."""
    return scale_by_rms(b2, eps, numerator=chain(scale_by_ema(b1), bias_correct(b1)))


@checked
def adam(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`w <- w - lr * m_hat/(sqrt(v_hat) + eps)`; see `scale_by_rms`.

    Source: Kingma & Ba 2015, Algorithm 1.
    """
    return chain(adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


@checked
def adam_l2(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    weight_decay: ScalarOrSchedule,
    mask: Any = None,
) -> Transform:
    """`u = g + weight_decay*w;  w <- w - lr * m_hat/(sqrt(v_hat) + eps)`, averages of `u`; see `add_l2_to_grad`.

    Source: Loshchilov & Hutter 2019, Algorithm 2, the form they advise against; torch's `Adam(weight_decay=)`.
    """
    l2 = add_l2_to_grad(weight_decay, mask)
    return chain(l2, adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


@checked
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    weight_decay: ScalarOrSchedule,
    mask: Any = None,
) -> Transform:
    """`w <- w - lr * (m_hat/(sqrt(v_hat) + eps) + weight_decay*w)`; see `add_decayed_weights`.

    `weight_decay` has no default: optax says 1e-4, torch 1e-2. Source: Loshchilov & Hutter 2019, Algorithm 2, with
    the decay multiplied by the learning rate; `adamw_independent` is the paper's.
    """
    decay = add_decayed_weights(weight_decay, mask)
    return chain(adam_core(b1, b2, eps), decay, scale_by_learning_rate(learning_rate))


@checked
def adamw_independent(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    weight_decay: ScalarOrSchedule,
    mask: Any = None,
) -> Transform:
    """`w <- w - lr * m_hat/(sqrt(v_hat) + eps) - weight_decay*w`; see `shrink_weights`.

    Source: Loshchilov & Hutter 2019, Algorithm 2, line 12; its schedule multiplier goes into both arguments.
    """
    shrink = shrink_weights(weight_decay, mask)
    return chain(adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate), shrink)


@checked
def adams(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    *,
    weight_decay: ScalarOrSchedule,
    mask: Any = None,
) -> Transform:
    """`w <- w - lr * (m_hat/(sqrt(v_hat) + eps) + weight_decay*w / (sqrt(mean(v_hat)) + eps))`.

    Adam with stable weight decay; see `divide_and_decay_stably`. Source: Xie et al. 2023, Algorithm 3.
    """
    mean = chain(scale_by_ema(b1), bias_correct(b1))
    second_moment = chain(square(), scale_by_ema(b2), bias_correct(b2))
    decay = add_decayed_weights(weight_decay, mask)
    return chain(divide_and_decay_stably(mean, second_moment, decay, eps), scale_by_learning_rate(learning_rate))
