"""The gradient divided by the root of a sum or an average of its squares."""

from optlab.algebra.combinators import chain, divide, identity
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, checked
from optlab.algebra.transform import Transform
from optlab.atoms.averages import scale_by_ema
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import root, running_sum, square


def adagrad_core(eps: Scalar, initial: Scalar) -> Transform:
    """`s <- s + u**2;  u -> u/(sqrt(s) + eps)`."""
    return divide(identity(), chain(square(), running_sum(initial), root(eps)))


@checked
def adagrad(learning_rate: ScalarOrSchedule, eps: Scalar = 1e-8, *, initial: Scalar = 0.0) -> Transform:
    """`s <- s + g**2;  w <- w - lr * g/(sqrt(s) + eps)`; see `running_sum`.

    Source: Duchi et al. 2011, as torch has it, whose `eps` is 1e-10. `optax.adagrad` starts at `initial=0.1`, with
    `eps=1e-7` inside the root.
    """
    return chain(adagrad_core(eps, initial), scale_by_learning_rate(learning_rate))


def rmsprop_core(b2: Scalar, eps: Scalar) -> Transform:
    """`v <- EMA(u**2);  u -> u/(sqrt(v) + eps)`, raw."""
    return divide(identity(), chain(square(), scale_by_ema(b2), root(eps)))


@checked
def rmsprop(learning_rate: ScalarOrSchedule, decay: Scalar, eps: Scalar = 1e-8) -> Transform:
    """`v <- EMA(g**2);  w <- w - lr * g/(sqrt(v) + eps)`, raw; see `scale_by_ema`, `root`.

    `decay` has no default: Hinton's lecture and optax say 0.9, torch 0.99. Source: Tieleman & Hinton 2012, lecture
    6.5, as torch has it. `optax.rmsprop` has `eps` inside the root unless `eps_in_sqrt=False`. The `momentum=` of
    torch is an `accumulate` behind the quotient.
    """
    return chain(rmsprop_core(decay, eps), scale_by_learning_rate(learning_rate))
