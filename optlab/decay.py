"""Weight decay: the same term at different places of a chain."""

from typing import Any

from optlab.hyperparameters import at_step
from optlab.lifting import Rule, Slots
from optlab.rate import ScalarOrSchedule
from optlab.transform import atom


def _plus_weights(owner: str, weight_decay: ScalarOrSchedule, sign: int) -> Rule:
    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return u + sign * at_step(owner, weight_decay, t, u) * w.astype(u.dtype), slots

    return Rule(update, needs_params=True)


@atom
def add_l2_to_grad(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> u + weight_decay*w`: the gradient of `weight_decay/2 * |w|**2`, for a place before the moments.

    Args:
      weight_decay: >= 0; a number, or a schedule that counts steps from 0. Twice the factor of a penalty written
        `factor * |w|**2`.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: the coupled form that Loshchilov & Hutter 2019, Algorithm 2, set against AdamW; torch's
    `Adam(weight_decay=)` and `SGD(weight_decay=)`.
    """
    return _plus_weights("add_l2_to_grad", weight_decay, 1)


@atom
def add_decayed_weights(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> u + weight_decay*w`: decoupled decay, for a place after the preconditioner and before the learning rate.

    The learning rate that follows multiplies it. After `scale_by_learning_rate` updates are negative and the same
    term would make weights grow: `chain` refuses that order; `shrink_weights` belongs there.

    Args:
      weight_decay: >= 0, per step and per unit of learning rate; a number, or a schedule that counts steps from 0.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: Loshchilov & Hutter 2019, Algorithm 2, with the decay multiplied by the whole learning rate, as
    `torch.optim.AdamW` and `optax.adamw` have it; the paper multiplies it by the schedule alone.
    """
    return _plus_weights("add_decayed_weights", weight_decay, 1)


@atom
def shrink_weights(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> u - weight_decay*w`: decay for a place after the learning rate, which does not multiply it.

    Args:
      weight_decay: >= 0, the share of the weight that goes at each step; a number, or a schedule that counts steps
        from 0.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: Loshchilov & Hutter 2019, Algorithm 2, line 12, with the schedule (eta) given as `weight_decay`.
    """
    return _plus_weights("shrink_weights", weight_decay, -1)
