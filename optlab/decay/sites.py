"""Where weight decay acts, what multiplies it, what holds it back, and what it pulls towards: one specification."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.combinators import chain, divide, require_transform
from optlab.algebra.hyperparameters import Scalar, ScalarOrSchedule, canonical, check
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, describe
from optlab.atoms.products import product
from optlab.atoms.rate import scale_by_learning_rate
from optlab.atoms.second_moments import root
from optlab.decay.gates import decay_cautiously
from optlab.decay.links import (
    add_decayed_weights,
    add_l2_to_grad,
    shrink_after_step,
    shrink_proximally,
    shrink_weights,
)
from optlab.decay.penalty import l2_penalty, number_without_schedule
from optlab.decay.stable import divide_and_decay_stably
from optlab.decay.targets import decay_toward_init

SITES = (
    "none",
    "loss",
    "gradient",
    "first_moment",
    "second_moment",
    "direction",
    "update",
    "step",
    "after",
    "proximal",
)
COUPLINGS = ("lr", "schedule", "constant", "corrected")
GATES = ("none", "cautious", "stable")
TARGETS = ("zero", "init")

_DECOUPLED = ("update", "step", "after", "proximal")


@spelled()
@dataclasses.dataclass(frozen=True)
class Decay:
    """Where weight decay acts on an optimizer, what multiplies it, what holds it back, what it pulls towards.

    With `g` the gradient, `m/P` the core's quotient, `u` what the core makes of `g`, `lr` the rate of this step, which
    is `base * eta` with `eta` from a schedule in [0, 1], `wd` the decay, and `d = w - target`:

    | site | new weight | couplings | gates |
    |---|---|---|---|
    | `none` | `w - lr*u` | `lr` | |
    | `loss` | the loss has `wd/2 * |d|**2` more (`penalize`) | `lr` | |
    | `gradient` | both sides of the quotient see `g + wd*d` | `lr` | |
    | `first_moment` | only the numerator does | `lr` | |
    | `second_moment` | only the denominator does | `lr` | |
    | `direction` | `w - lr*(m + wd*d)/P` | `lr` | |
    | `update` | `w - lr*u - k*wd*d` | all, by default `lr` | all |
    | `step` | `w - lr*u - k*wd*d` | all, by default `constant` | all |
    | `after` | `(1 - k*wd)*(d - lr*u) + target` | all, by default `lr` | all |
    | `proximal` | `(d - lr*u)/(1 + k*wd) + target` | all, by default `lr` | all |

    `update` and `step` are one place with two customs: at equal couplings they make equal transforms.

    Attributes:
      site: one of `SITES`.
      coupling: one of `COUPLINGS`, what `k` is: `lr` the rate, `schedule` its shape `eta`, `constant` 1, `corrected`
        `lr*eta`, which is `lr**2 / max(lr)` for a schedule that reaches 1. Before and inside of the quotient the decay
        is part of what the rate multiplies, so that there is nothing to choose.
      gate: one of `GATES`: `cautious` decays only where `u*d >= 0` (`decay_cautiously`), `stable` divides the decay by
        the root of the mean of the second moment (`divide_and_decay_stably`).
      target: one of `TARGETS`: zero, or the weights that the state was made of (`decay_toward_init`).

    Raises:
      ValueError: no such site, coupling, gate or target, or a combination without meaning.

    Source: `update` Loshchilov & Hutter 2019 as torch and optax have it, `step` as the paper has it, by schedule;
    `corrected` Defazio 2025 (AdamC); those of the others stand at the links they are made of.
    """

    site: str
    coupling: str | None = None
    gate: str = "none"
    target: str = "zero"

    def __post_init__(self) -> None:
        if self.coupling is None:
            object.__setattr__(self, "coupling", "constant" if self.site == "step" else "lr")
        for kind, known in (("site", SITES), ("coupling", COUPLINGS), ("gate", GATES), ("target", TARGETS)):
            if getattr(self, kind) not in known:
                raise ValueError(f"Decay: unknown {kind} {getattr(self, kind)!r}; the {kind}s are {', '.join(known)}")
        if self.site in _DECOUPLED:
            return
        if self.site == "none" and (self.coupling, self.gate, self.target) != ("lr", "none", "zero"):
            raise ValueError("Decay: the site 'none' has no decay for a coupling, a gate or a target to act on")
        behind = f"behind it, at {', '.join(_DECOUPLED)}, it"
        if self.coupling != "lr":
            raise ValueError(
                f"Decay: no coupling {self.coupling!r} at the site {self.site!r}: the learning rate multiplies all "
                f"that comes out of the core, the decay with it; {behind} can be coupled otherwise. Here, give "
                "weight_decay a schedule"
            )
        if self.gate != "none":
            raise ValueError(
                f"Decay: no gate {self.gate!r} at the site {self.site!r}: a gate compares the decay with what comes "
                f"out of the core, of which it is a part here; {behind} can be gated"
            )

    @spelled("Decay.apply_to")
    def apply_to(
        self,
        core: optax.GradientTransformation,
        learning_rate: ScalarOrSchedule,
        weight_decay: ScalarOrSchedule,
        mask: Any = None,
        *,
        schedule: Callable[[Any], Any] | None = None,
    ) -> Transform:
        """The optimizer that `core` becomes with this decay.

        Args:
          core: what makes a direction of gradients, without a learning rate: `identity()` for SGD, `scale_by_rms(b2,
            eps, numerator=...)` for Adam. Three sites, and the gate `stable`, want a quotient, `divide(...)`, in it.
          learning_rate: see `scale_by_learning_rate`; the base rate, where there is a `schedule`.
          weight_decay: see the link at the site, such as `add_decayed_weights`, before the coupling multiplies it.
          mask: where it acts; see `atom`.
          schedule: the shape of the rate, in [0, 1], counting steps from 0; None for 1.

        Raises:
          TypeError: the core is no transform, or an argument is of another kind.
          ValueError: the core has no such quotient, or the coupling needs a schedule apart from its base rate.
        """
        check("Decay.apply_to", "learning_rate", learning_rate)
        check("Decay.apply_to", "weight_decay", weight_decay)
        learning_rate, weight_decay = canonical(learning_rate), canonical(weight_decay)
        require_transform("Decay.apply_to: the core", core)
        eta = self._shape(learning_rate, schedule)
        rate = scale_by_learning_rate(product(learning_rate, *eta))
        if self.site in ("none", "loss"):
            return chain(core, rate)
        if self.site not in _DECOUPLED:
            return chain(self._within(core, weight_decay, mask), rate)

        link, stepped = self._behind(learning_rate, weight_decay, eta, mask)
        before, behind = ((rate,), ()) if stepped else ((), (rate,))
        if self.gate == "cautious":
            link, before = decay_cautiously(chain(*before, link), chain(*before)), ()
        if self.target == "init":
            link = decay_toward_init(link)
        placed = chain(*before, link)
        return chain(_stably(core, placed) if self.gate == "stable" else chain(core, placed), *behind)

    @spelled("Decay.penalize")
    def penalize(
        self,
        loss_fn: Callable[..., jax.Array],
        weight_decay: Scalar,
        mask: Any = None,
        *,
        init_params: Any = None,
    ) -> Callable[..., jax.Array]:
        """`loss_fn` itself, but at the site `loss`, where it has the penalty that `apply_to` has no link for.

        So that every site is trained alike: `decay.penalize(loss_fn, ...)` is differentiated, `decay.apply_to(...)`
        takes the gradient. For a loss with auxiliary outputs add `l2_penalty` yourself.

        Args:
          loss_fn: `loss_fn(params, *args, **kwargs)` gives one real number.
          weight_decay, mask: as in `apply_to`, but no schedule: a loss does not know the step.
          init_params: the initial weights, for the target `init`.

        Raises:
          TypeError: `weight_decay` is no number, or, when it is called, the loss gives something else than one.
          ValueError: the target is `init` and `init_params` are missing.
        """
        if isinstance(loss_fn, optax.GradientTransformation) or not callable(loss_fn):
            raise TypeError(f"Decay.penalize: loss_fn must be a function of params, got {loss_fn!r}")
        check("Decay.penalize", "weight_decay", weight_decay)
        if self.site != "loss":
            return loss_fn
        weight_decay = number_without_schedule("Decay.penalize", weight_decay)
        if self.target == "init" and init_params is None:
            raise ValueError("Decay.penalize: the target 'init' needs the initial weights: give init_params=")
        origin = init_params if self.target == "init" else None

        def penalized(params: Any, *args: Any, **kwargs: Any) -> jax.Array:
            loss = loss_fn(params, *args, **kwargs)
            if isinstance(loss, tuple) or jnp.shape(loss) != ():
                got = f"{len(loss)} results" if isinstance(loss, tuple) else f"shape {jnp.shape(loss)}"
                raise TypeError(f"Decay.penalize: the loss must be one number, got {got}; add optlab.l2_penalty to it")
            loss = jnp.asarray(loss)
            return loss + l2_penalty(params, weight_decay, mask, origin).astype(loss.dtype)

        return penalized

    def _shape(self, learning_rate: Any, schedule: Any) -> tuple[Callable[[Any], Any], ...]:
        """The schedule as factors of the rate: none, or one."""
        if schedule is not None and not callable(schedule):
            raise TypeError(
                "Decay.apply_to: schedule must be a function of the number of steps taken, from 0, or None, "
                f"got {schedule!r} ({type(schedule).__name__})"
            )
        if callable(learning_rate) and schedule is not None:
            raise ValueError(
                "Decay.apply_to: learning_rate must be a number beside schedule=, which gives it its shape"
            )
        if callable(learning_rate) and self.coupling in ("schedule", "corrected"):
            raise ValueError(
                f"Decay.apply_to: the coupling {self.coupling!r} needs the shape of the rate apart from its base: "
                "give learning_rate as a number, and schedule="
            )
        return () if schedule is None else (schedule,)

    def _behind(
        self,
        learning_rate: ScalarOrSchedule,
        weight_decay: ScalarOrSchedule,
        eta: tuple[ScalarOrSchedule, ...],
        mask: Any,
    ) -> tuple[Transform, bool]:
        """The decay behind the core, and whether the learning rate stands before it."""
        if self.site in ("update", "step") and self.coupling in ("lr", "corrected"):
            factors = eta if self.coupling == "corrected" else ()
            return add_decayed_weights(product(weight_decay, *factors), mask), False
        coupled: dict[str | None, tuple[ScalarOrSchedule, ...]] = {
            "lr": (learning_rate, *eta),
            "schedule": eta,
            "constant": (),
            "corrected": (learning_rate, *eta, *eta),
        }
        shrink = {"after": shrink_after_step, "proximal": shrink_proximally}.get(self.site, shrink_weights)
        return shrink(product(weight_decay, *coupled[self.coupling]), mask), True

    def _within(self, core: optax.GradientTransformation, weight_decay: ScalarOrSchedule, mask: Any) -> Transform:
        """`core` with the decay before or inside of its quotient."""

        def placed(link: Transform) -> Transform:
            return decay_toward_init(link) if self.target == "init" else link

        l2, added = (placed(make(weight_decay, mask)) for make in (add_l2_to_grad, add_decayed_weights))
        if self.site == "gradient":
            return chain(l2, core)
        before, quotient, behind = _around_quotient(f"the site {self.site!r}", core)
        numerator, denominator = quotient.parts
        sides = {
            "first_moment": (chain(l2, numerator), denominator),
            "second_moment": (numerator, chain(l2, denominator)),
            "direction": (chain(numerator, added), denominator),
        }
        return chain(*before, divide(*sides[self.site]), *behind)


def _around_quotient(
    what: str, core: optax.GradientTransformation
) -> tuple[Sequence[optax.GradientTransformation], Transform, Sequence[optax.GradientTransformation]]:
    """The links before the quotient of `core`, the quotient, and the links behind it."""
    links = _links(core)
    places = [number for number, link in enumerate(links) if isinstance(link, Transform) and link.maker is divide]
    if len(places) != 1:
        raise ValueError(
            f"Decay.apply_to: {what} needs a core with one quotient, divide(...), alone or as a link of a chain, "
            f"got {describe(core)}"
        )
    (place,) = places
    quotient = links[place]
    assert isinstance(quotient, Transform)
    return links[:place], quotient, links[place + 1 :]


def _stably(core: optax.GradientTransformation, placed: Transform) -> Transform:
    """`core` and the decay `placed` behind it, divided by the root of the mean of the core's second moment."""
    before, quotient, behind = _around_quotient("the gate 'stable'", core)
    numerator, denominator = quotient.parts
    *moment, last = _links(denominator)
    if not isinstance(last, Transform) or last.maker is not root:
        raise ValueError(
            "Decay.apply_to: the gate 'stable' needs a second moment, a denominator that ends in root(eps), "
            f"got {describe(denominator)}"
        )
    following = chain(*behind, placed)
    return chain(*before, divide_and_decay_stably(numerator, chain(*moment), following, **last.hyperparams))


def _links(tx: optax.GradientTransformation) -> Sequence[optax.GradientTransformation]:
    return tx.parts if isinstance(tx, Transform) and tx.maker is chain else (tx,)
