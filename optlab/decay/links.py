"""The atoms of weight decay: one term, for different places of a chain."""

from typing import Any

import jax.numpy as jnp

from optlab.algebra.hyperparameters import ScalarOrSchedule, at_step, like
from optlab.algebra.rules import LeafError, Rule, Slots
from optlab.algebra.transform import atom


def _beside(owner: str, w: Any, u: Any) -> Any:
    """The weights in the dtype of the updates that they are added to."""
    if jnp.iscomplexobj(w) and not jnp.iscomplexobj(u):
        raise LeafError(f"{owner} would add complex weights to real updates")
    return w.astype(u.dtype)


def _plus_weights(owner: str, weight_decay: ScalarOrSchedule, sign: int) -> Rule:
    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        return u + sign * like(at_step(owner, weight_decay, t), u) * _beside(owner, w, u), slots

    return Rule(update, needs_params=True, pulls="up" if sign > 0 else "down")


@atom
def add_l2_to_grad(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> u + weight_decay*w`: the gradient of `weight_decay/2 * |w|**2`, for a place before the moments.

    Args:
      weight_decay: >= 0; a number, or a schedule that counts steps from 0. Twice the factor of a penalty written
        `factor * |w|**2`.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: the coupled form that Loshchilov & Hutter 2019, Algorithm 2, set against AdamW; torch's `weight_decay=` in
    every class but `AdamW` and `NAdam(decoupled_weight_decay=True)`.
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


@atom
def shrink_after_step(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> u - weight_decay*(w + u)`: shrinks what the step `u` makes of the weights, not what they were before it.

    For a place after the learning rate, like `shrink_weights`; the new weight is `(w + u) * (1 - weight_decay)`.

    Args:
      weight_decay: >= 0, the share of the moved weight that goes at each step; a number, or a schedule that counts
        steps from 0.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: the CUDA kernels of bitsandbytes, with `learning_rate * weight_decay` given as `weight_decay`.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        share = like(at_step("shrink_after_step", weight_decay, t), u)
        return u - share * (_beside("shrink_after_step", w, u) + u), slots

    return Rule(update, needs_params=True, pulls="down")


@atom
def shrink_proximally(weight_decay: ScalarOrSchedule, mask: Any = None) -> Rule:
    """`u -> (u - weight_decay*w) / (1 + weight_decay)`: the proximal step of `weight_decay/2 * |w|**2` after `u`.

    For a place after the learning rate, like `shrink_weights`; the new weight is `(w + u) / (1 + weight_decay)`, which
    no decay is too large for.

    Args:
      weight_decay: >= 0; a number, or a schedule that counts steps from 0.
      mask: where it acts; see `atom`.

    Raises:
      ValueError: at update, without params.

    Source: Zhuang et al. 2022 (AdamProx), with `learning_rate * weight_decay` given as `weight_decay`.
    """

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        strength = like(at_step("shrink_proximally", weight_decay, t), u)
        return (u - strength * _beside("shrink_proximally", w, u)) / (1 + strength), slots

    return Rule(update, needs_params=True, pulls="down")
