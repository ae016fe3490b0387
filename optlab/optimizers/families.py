"""The optimizers, one expression each. `learning_rate` is a number or a schedule; see `scale_by_learning_rate`."""

from typing import Any

from optlab.algebra.combinators import chain, divide, identity
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import (
    accumulate,
    accumulate_nesterov,
    bias_correct,
    interpolate_ema,
    scale_by_ema,
    scale_by_nesterov_ema,
)
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import (
    absolute,
    decayed_max,
    root,
    running_max,
    running_sum,
    scale_by_belief,
    scale_by_rms,
    sign,
    square,
)
from optlab.decay.links import add_decayed_weights, add_l2_to_grad, shrink_weights
from optlab.decay.stable import divide_and_decay_stably


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


@checked
def sign_sgd(learning_rate: ScalarOrSchedule) -> Transform:
    """`w <- w - lr*sign(g)`. Source: Bernstein et al. 2018, Algorithm 1."""
    return chain(sign(), scale_by_learning_rate(learning_rate))


@checked
def signum(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9) -> Transform:
    """`m <- EMA(g);  w <- w - lr*sign(m)`. Source: Bernstein et al. 2018, Algorithm 2."""
    return chain(scale_by_ema(b1), sign(), scale_by_learning_rate(learning_rate))


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
    return chain(interpolate_ema(b1, b2), sign(), decay, scale_by_learning_rate(learning_rate))


@checked
def adagrad(learning_rate: ScalarOrSchedule, eps: Scalar = 1e-8, *, initial: Scalar = 0.0) -> Transform:
    """`s <- s + g**2;  w <- w - lr * g/(sqrt(s) + eps)`; see `running_sum`.

    Source: Duchi et al. 2011, as torch has it, whose `eps` is 1e-10. `optax.adagrad` starts at `initial=0.1`, with
    `eps=1e-7` inside the root.
    """
    size = chain(square(), running_sum(initial), root(eps))
    return chain(divide(identity(), size), scale_by_learning_rate(learning_rate))


@checked
def rmsprop(learning_rate: ScalarOrSchedule, decay: Scalar, eps: Scalar = 1e-8) -> Transform:
    """`v <- EMA(g**2);  w <- w - lr * g/(sqrt(v) + eps)`, raw; see `scale_by_ema`, `root`.

    `decay` has no default: Hinton's lecture and optax say 0.9, torch 0.99. Source: Tieleman & Hinton 2012, lecture
    6.5, as torch has it. `optax.rmsprop` has `eps` inside the root unless `eps_in_sqrt=False`. The `momentum=` of
    torch is an `accumulate` behind the quotient.
    """
    size = chain(square(), scale_by_ema(decay), root(eps))
    return chain(divide(identity(), size), scale_by_learning_rate(learning_rate))


def _adam_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    return scale_by_rms(b2, eps, numerator=chain(scale_by_ema(b1), bias_correct(b1)))


@checked
def adam(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`w <- w - lr * m_hat/(sqrt(v_hat) + eps)`; see `scale_by_rms`.

    Source: Kingma & Ba 2015, Algorithm 1.
    """
    return chain(_adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


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
    return chain(l2, _adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


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
    return chain(_adam_core(b1, b2, eps), decay, scale_by_learning_rate(learning_rate))


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
    return chain(_adam_core(b1, b2, eps), scale_by_learning_rate(learning_rate), shrink)


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


@checked
def amsgrad(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`s <- max(s, v_hat);  w <- w - lr * m_hat/(sqrt(s) + eps)`; see `running_max`.

    Source: Reddi et al. 2018, Algorithm 2, with Adam's corrections before the maximum, as `optax.amsgrad` has it;
    torch's `Adam(amsgrad=True)` takes the maximum of the raw average and corrects it afterwards, so that its divisor
    may shrink while the correction fades.
    """
    size = chain(square(), scale_by_ema(b2), bias_correct(b2), running_max(), root(eps))
    core = divide(chain(scale_by_ema(b1), bias_correct(b1)), size)
    return chain(core, scale_by_learning_rate(learning_rate))


@checked
def adamax(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`s <- max(b2*s, |g| + eps);  w <- w - lr * m_hat/s`; see `decayed_max`.

    Source: Kingma & Ba 2015, Algorithm 2, which has no eps; its place is that of optax and torch.
    """
    size = chain(absolute(eps), decayed_max(b2))
    core = divide(chain(scale_by_ema(b1), bias_correct(b1)), size)
    return chain(core, scale_by_learning_rate(learning_rate))


@checked
def nadam(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`w <- w - lr * (b1*m/(1 - b1**(t+1)) + (1 - b1)*g/(1 - b1**t)) / (sqrt(v_hat) + eps)`.

    Adam with the first moment looked at one step ahead; see `scale_by_nesterov_ema`. Source: Dozat 2016.
    """
    core = scale_by_rms(b2, eps, numerator=scale_by_nesterov_ema(b1))
    return chain(core, scale_by_learning_rate(learning_rate))


@checked
def laprop(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`m <- EMA(g/(sqrt(v_hat) + eps));  w <- w - lr*m_hat`: Adam with the quotient before the momentum.

    Source: Ziyin et al. 2020, Algorithm 1, with a constant learning rate inside or outside of the average alike.
    """
    return chain(scale_by_rms(b2, eps), scale_by_ema(b1), bias_correct(b1), scale_by_learning_rate(learning_rate))


@checked
def adabelief(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-16, eps_root: Scalar = 1e-16
) -> Transform:
    """`m <- EMA(g);  s <- EMA((g - m)**2) + eps_root;  w <- w - lr * m_hat/(sqrt(s_hat) + eps)`.

    Adam with the variance around the mean for the second moment; see `scale_by_belief`.

    Source: Zhuang et al. 2020, Algorithm 2.
    """
    return chain(scale_by_belief(b1, b2, eps, eps_root), scale_by_learning_rate(learning_rate))
