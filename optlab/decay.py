"""Weight decay: the same term at different places of a chain."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from optlab.algebra import chain, divide, require_transform
from optlab.hyperparameters import ScalarOrSchedule, at_step, like
from optlab.lifting import LeafError, Rule, Slots
from optlab.rate import scale_by_learning_rate
from optlab.transform import Transform, atom


def _plus_weights(owner: str, weight_decay: ScalarOrSchedule, sign: int) -> Rule:
    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        if jnp.iscomplexobj(w) and not jnp.iscomplexobj(u):
            raise LeafError(f"{owner} would add complex weights to real updates")
        return u + sign * like(at_step(owner, weight_decay, t), u) * w.astype(u.dtype), slots

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


SITES = ("none", "gradient", "first_moment", "second_moment", "direction", "update", "step")


@dataclasses.dataclass(frozen=True)
class Decay:
    """Where weight decay acts on a quotient `numerator(u) / denominator(u)` such as Adam's.

    Attributes:
      site: one of `SITES`. With `g` the gradient, `m/P` the quotient, `lr` the rate and `wd` the decay:
        `none`: nowhere;
        `gradient`: both sides see `g + wd*w`, as with L2 in the loss;
        `first_moment`: only the numerator does;
        `second_moment`: only the denominator does;
        `direction`: `(m + wd*w) / P`;
        `update`: `w - lr*(m/P + wd*w)`, AdamW as torch and optax have it;
        `step`: `w - lr*m/P - wd*w`, AdamW as published.

    Raises:
      ValueError: no such site.
    """

    site: str

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"Decay: unknown site {self.site!r}; the sites are {', '.join(SITES)}")

    def apply_to(
        self, core: Transform, learning_rate: ScalarOrSchedule, weight_decay: ScalarOrSchedule, mask: Any = None
    ) -> Transform:
        """The optimizer that `core`, a `divide(...)`, becomes with decay at this site.

        Args:
          core: a quotient, such as `scale_by_rms(b2, eps, numerator=...)`.
          learning_rate: see `scale_by_learning_rate`.
          weight_decay: see `add_decayed_weights`, and `shrink_weights` for the site `step`.
          mask: where it acts; see `atom`.

        Raises:
          TypeError: the core is no transform.
          ValueError: it is no quotient.
        """
        require_transform("Decay.apply_to: the core", core)
        if not isinstance(core, Transform) or core.name != "divide":
            raise ValueError(f"Decay.apply_to: the core must be a quotient, divide(...), got {core}")
        numerator, denominator = core.parts
        rate = scale_by_learning_rate(learning_rate)
        l2 = add_l2_to_grad(weight_decay, mask)
        added = add_decayed_weights(weight_decay, mask)
        return {
            "none": chain(core, rate),
            "gradient": chain(l2, core, rate),
            "first_moment": chain(divide(chain(l2, numerator), denominator), rate),
            "second_moment": chain(divide(numerator, chain(l2, denominator)), rate),
            "direction": chain(divide(chain(numerator, added), denominator), rate),
            "update": chain(core, added, rate),
            "step": chain(core, rate, shrink_weights(weight_decay, mask)),
        }[self.site]
