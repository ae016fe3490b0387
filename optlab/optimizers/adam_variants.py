"""Adam with another average, with a maximum, or in another order."""

from optlab.algebra.combinators import chain, divide
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import bias_correct, scale_by_ema, scale_by_nesterov_ema
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import absolute, decayed_max, root, running_max, scale_by_belief, scale_by_rms, square


def amsgrad_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    """`s <- max(s, v_hat);  u -> m_hat/(sqrt(s) + eps)`."""
    size = chain(square(), scale_by_ema(b2), bias_correct(b2), running_max(), root(eps))
    return divide(chain(scale_by_ema(b1), bias_correct(b1)), size)


@checked
def amsgrad(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`s <- max(s, v_hat);  w <- w - lr * m_hat/(sqrt(s) + eps)`; see `running_max`.

    Source: Reddi et al. 2018, Algorithm 2, with Adam's corrections before the maximum, as `optax.amsgrad` has it;
    torch's `Adam(amsgrad=True)` takes the maximum of the raw average and corrects it afterwards, so that its divisor
    may shrink while the correction fades.
    """
    return chain(amsgrad_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamax_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    """`s <- max(b2*s, |u| + eps);  u -> m_hat/s`."""
    return divide(chain(scale_by_ema(b1), bias_correct(b1)), chain(absolute(eps), decayed_max(b2)))


@checked
def adamax(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`s <- max(b2*s, |g| + eps);  w <- w - lr * m_hat/s`; see `decayed_max`.

    Source: Kingma & Ba 2015, Algorithm 2, which has no eps; its place is that of optax and torch.
    """
    return chain(adamax_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


def nadam_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    """Adam's quotient with its first moment looked at one step ahead."""
    return scale_by_rms(b2, eps, numerator=scale_by_nesterov_ema(b1))


@checked
def nadam(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`w <- w - lr * (b1*m/(1 - b1**(t+1)) + (1 - b1)*g/(1 - b1**t)) / (sqrt(v_hat) + eps)`.

    Adam with the first moment looked at one step ahead; see `scale_by_nesterov_ema`. Source: Dozat 2016.
    """
    return chain(nadam_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


def laprop_core(b1: Scalar, b2: Scalar, eps: Scalar) -> Transform:
    """`m <- EMA(u/(sqrt(v_hat) + eps));  u -> m_hat`."""
    return chain(scale_by_rms(b2, eps), scale_by_ema(b1), bias_correct(b1))


@checked
def laprop(learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Transform:
    """`m <- EMA(g/(sqrt(v_hat) + eps));  w <- w - lr*m_hat`: Adam with the quotient before the momentum.

    Source: Ziyin et al. 2020, Algorithm 1, with a constant learning rate inside or outside of the average alike.
    """
    return chain(laprop_core(b1, b2, eps), scale_by_learning_rate(learning_rate))


@checked
def adabelief(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-16, eps_root: Scalar = 1e-16
) -> Transform:
    """`m <- EMA(g);  s <- EMA((g - m)**2) + eps_root;  w <- w - lr * m_hat/(sqrt(s_hat) + eps)`.

    Adam with the variance around the mean for the second moment; see `scale_by_belief`.

    Source: Zhuang et al. 2020, Algorithm 2.
    """
    return chain(scale_by_belief(b1, b2, eps, eps_root), scale_by_learning_rate(learning_rate))
