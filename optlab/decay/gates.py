"""The cautious gate: decay only where the step goes that way anyway."""

from typing import Any

import jax.numpy as jnp
import optax

from optlab.algebra.combinators import descends, identity, require_rule
from optlab.algebra.rules import Rule, Slots
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, lifted

_IDENTITY = identity()


@spelled()
def decay_cautiously(
    link: optax.GradientTransformation, otherwise: optax.GradientTransformation = _IDENTITY
) -> Transform:
    """`u -> link(u)` where `u*w >= 0`, `otherwise(u)` where not; both fed the same direction `u`, to be subtracted.

    Decay pulls a weight towards zero, and so does the step where both have one sign. A direction of zero lets decay
    pass. Before the learning rate one side is enough, `decay_cautiously(add_decayed_weights(wd))`; decay behind the
    rate has the rate on either side, `decay_cautiously(chain(rate, shrink_weights(wd)), rate)`, because the sign that
    counts is the one before it.

    Args:
      link, otherwise: made of rules, the former with the decay in it; given the other way round, the one that reads
        the weights is taken for the link. For complex weights `u*w` is the real part of `u * conj(w)`. Signs are
        compared, where the product may be too small or too large for its dtype.

    Raises:
      TypeError: one of the two is not made of rules.
      ValueError: only one of them holds a learning rate; at update, without params.

    Source: Chen et al. 2025, "Cautious Weight Decay".
    """
    rule, other = (
        require_rule(f"decay_cautiously: the {name}", side)
        for name, side in (("link", link), ("other side", otherwise))
    )
    if descends(link) != descends(otherwise):
        raise ValueError("decay_cautiously: a learning rate on one side alone; put it on both, or behind")

    turned = _reads_weights(otherwise) and not _reads_weights(link)

    def init(w: Any) -> Slots:
        return {"link": rule.init(w), "otherwise": other.init(w)}

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        first, link_slots = rule.update(u, slots["link"], w, t)
        second, other_slots = other.update(u, slots["otherwise"], w, t)
        slots = {"link": link_slots, "otherwise": other_slots}
        decayed, plain = (second, first) if turned else (first, second)
        if not (other if turned else rule).needs_params:  # the decay is masked here
            return plain, slots
        return jnp.where(_agree(u, w.astype(u.dtype)), decayed, plain), slots

    both = Rule(
        update,
        init,
        elementwise=rule.elementwise and other.elementwise,
        needs_params=rule.needs_params or other.needs_params,
        compares_signs=True,
    )
    return lifted(decay_cautiously, both, parts=(link, otherwise))


def _reads_weights(tx: Any) -> bool:
    """Whether there is a decay in it, masked or not."""
    return tx.rule.needs_params or any(map(_reads_weights, tx.parts))


def _agree(u: Any, w: Any) -> Any:
    """Whether `u*w >= 0`, of which the sign alone is taken."""
    if jnp.iscomplexobj(u):
        return jnp.real(jnp.sign(u) * jnp.conj(jnp.sign(w))) >= 0
    return jnp.sign(u) * w >= 0
