"""The target of decay: the weights that training began with, in the place of zero."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.combinators import require_rule
from optlab.algebra.rules import Rule, Slots
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, lifted


@spelled()
def decay_toward_init(link: optax.GradientTransformation) -> Transform:
    """`u -> link(u)`, with `w - w0` for its weights, where `w0` are those that `init` was given.

    Args:
      link: made of rules, such as `add_decayed_weights(wd)`. The slot `initial_weights` keeps `w0`,
        a copy, where its mask is not False.

    Raises:
      TypeError: it is not made of rules.
      ValueError: at update, without params.

    Source: Li, Grandvalet & Davoine 2018 (L2-SP), around `add_l2_to_grad`.
    """
    rule = require_rule("decay_toward_init: the link", link)

    def init(w: Any) -> Slots:
        kept = _copy(w) if rule.needs_params else optax.MaskedNode()
        return {"initial_weights": kept, "link": rule.init(jnp.zeros_like(w))}

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        w0 = slots["initial_weights"]
        away = w - w0.astype(w.dtype) if rule.needs_params else w
        u, own = rule.update(u, slots["link"], away, t)
        return u, {"initial_weights": w0, "link": own}

    around = Rule(update, init, elementwise=rule.elementwise, needs_params=rule.needs_params)
    return lifted(decay_toward_init, around, parts=(link,))


def _copy(w: Any) -> Any:
    """Weights of their own, which a donation of the parameters does not take away."""
    return w if isinstance(w, jax.ShapeDtypeStruct) else jnp.array(w)
