"""The two combinators, `chain` and `divide`, and their unit, `identity`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.algebra.hyperparameters import is_traced
from optlab.algebra.rules import Rule, Slots, no_slots, wide, widened
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import Transform, atom, describe, lifted, name_of, require_params
from optlab.outside import optax_internals


@atom
def identity() -> Rule:
    """`u -> u`."""
    return Rule(lambda u, slots, w, t: (u, slots))


@spelled()
def chain(*links: optax.GradientTransformation) -> Transform:
    """`u -> last(... second(first(u)))`: the links in order, each fed what the one before gives.

    A run of rule-made links is one pass over the leaves with one step count. optax's transforms may stand among
    them. Chains inside chains are spliced in, so `chain` is associative to the last bit of the state. A chain of one
    transform of optlab is that transform, a chain of nothing is `identity()`.

    Args:
      *links: transforms of optlab or optax.

    Raises:
      TypeError: a link is no transform.
      ValueError: a sign trap (see `add_decayed_weights`), as far as the learning rate is optlab's own, or a
        `bias_correct` whose decay is not that of the `scale_by_ema` right before it.

    Differs from `optax.chain` in: 1. the state of a run is one `State` and not a tuple; 2. the checks above;
    3. statistics are kept, and updates leave, in float32 or wider.
    """
    flat = _spliced(links)
    _check_order(flat)
    if not flat:
        return identity()
    if len(flat) == 1 and isinstance(flat[0], Transform):
        return flat[0]
    rules = _rules(flat)
    if rules is not None:
        return lifted(chain, _chain_rule(rules), parts=flat)
    stages = [optax.with_extra_args_support(stage) for stage in _stages(flat)]

    def init(params: Any) -> tuple[Any, ...]:
        states = []
        for stage in stages:
            states.append(stage.init(params))
            if isinstance(stage, Transform):  # updates leave it in the dtype of the statistics
                params = jax.tree.map(widened, params)
        return tuple(states)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, tuple[Any, ...]]:
        require_params(tx, params)
        if type(state) is not tuple or len(state) != len(stages):
            got = f"{len(state)}" if type(state) is tuple else f"a {type(state).__name__}"
            raise ValueError(f"chain: state must be what its init returned, a tuple of {len(stages)}, got {got}")
        states = []
        for stage, stage_state in zip(stages, state, strict=True):
            updates, stage_state = stage.update(updates, stage_state, params, **extra_args)
            states.append(stage_state)
        return updates, tuple(states)

    tx = Transform(init, update, maker=chain, parts=flat)
    return tx


@spelled()
def divide(numerator: optax.GradientTransformation, denominator: optax.GradientTransformation) -> Transform:
    """`u -> numerator(u) / denominator(u)`, both fed the same `u`: the fork in Adam's data flow.

    Args:
      numerator, denominator: transforms of optlab or optax. Where both are rule-made, so is the quotient.

    Raises:
      TypeError: one of them is no transform.
      ValueError: the denominator ends in a learning rate.
    """
    parts = (numerator, denominator)
    for side, part in zip(("numerator", "denominator"), parts, strict=True):
        require_transform(f"divide: the {side}", part)
    if rate := _rate_in(denominator):
        raise ValueError(f"divide: the denominator holds {rate}; put that after the quotient")
    rules = _rules(parts)
    if rules is not None:
        return lifted(divide, _divide_rule(*rules), parts=parts)
    above, below = map(optax.with_extra_args_support, parts)

    def init(params: Any) -> dict[str, Any]:
        return {"numerator": above.init(params), "denominator": below.init(params)}

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, dict[str, Any]]:
        require_params(tx, params)
        if not isinstance(state, dict) or state.keys() != {"numerator", "denominator"}:
            got = sorted(state) if isinstance(state, dict) else f"a {type(state).__name__}"
            raise ValueError(
                f"divide: state must be what its init returned, a dict of numerator and denominator, got {got}"
            )
        dividend, above_state = above.update(updates, state["numerator"], params, **extra_args)
        divisor, below_state = below.update(updates, state["denominator"], params, **extra_args)
        quotient = jax.tree.map(_wide_quotient, dividend, divisor)
        return quotient, {"numerator": above_state, "denominator": below_state}

    tx = Transform(init, update, maker=divide, parts=parts)
    return tx


# Rules --------------------------------------------------------------------------------------------------------------


def _rules(parts: Sequence[optax.GradientTransformation]) -> list[Rule] | None:
    """The rules of the parts, if every one of them has one."""
    rules = [part.rule for part in parts if isinstance(part, Transform) and part.rule is not None]
    return rules if len(rules) == len(parts) else None


def _chain_rule(rules: Sequence[Rule]) -> Rule:
    def init(w: Any) -> Slots:
        slots: Slots = {}
        for rule in rules:
            own = rule.init(w)
            slots |= dict(zip(_names_beside(slots, own), own.values(), strict=True))
            w = _in_dtype_after(rule, w, own)
        return slots

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        new_slots: Slots = {}
        for rule in rules:
            own_names = list(jax.eval_shape(rule.init, u)) if rule.init is not no_slots else []
            names = _names_beside(new_slots, own_names)
            u, own = rule.update(u, {mine: slots[name] for mine, name in zip(own_names, names, strict=True)}, w, t)
            new_slots |= {name: own[mine] for mine, name in zip(own_names, names, strict=True)}
        return u, new_slots

    return Rule(
        update,
        init if any(rule.init is not no_slots for rule in rules) else no_slots,
        elementwise=all(rule.elementwise for rule in rules),
        needs_params=any(rule.needs_params for rule in rules),
    )


def _names_beside(taken: Slots, own: Any) -> list[str]:
    """The names of a link's slots within a chain: a second `ema` is `ema_2`."""
    names: list[str] = []
    for name in own:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        names.append(free)
    return names


def _in_dtype_after(rule: Rule, w: Any, slots: Slots) -> Any:
    """`w` in the dtype in which updates leave `rule`: behind a `square()`, complex weights have real statistics."""
    if not jnp.issubdtype(w.dtype, jnp.complexfloating):
        return w
    u, _ = jax.eval_shape(rule.update, w, slots, w, jax.ShapeDtypeStruct((), jnp.int32))
    if jnp.issubdtype(u.dtype, jnp.complexfloating):
        return w
    if isinstance(w, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(w.shape, u.dtype, sharding=w.sharding)
    return jnp.real(w)


def _divide_rule(numerator: Rule, denominator: Rule) -> Rule:
    def init(w: Any) -> Slots:
        return {"numerator": numerator.init(w), "denominator": denominator.init(w)}

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        dividend, above = numerator.update(u, slots["numerator"], w, t)
        divisor, below = denominator.update(u, slots["denominator"], w, t)
        dtype = dividend.dtype if jnp.iscomplexobj(dividend) else divisor.dtype
        return dividend.astype(dtype) / divisor.astype(dtype), {"numerator": above, "denominator": below}

    return Rule(
        update,
        init,
        elementwise=numerator.elementwise and denominator.elementwise,
        needs_params=numerator.needs_params or denominator.needs_params,
    )


def _wide_quotient(dividend: jax.Array, divisor: jax.Array) -> jax.Array:
    dividend = dividend.astype(wide(dividend.dtype))
    return dividend / divisor.astype(dividend.dtype)


# Links --------------------------------------------------------------------------------------------------------------


def require_transform(place: str, link: Any) -> None:
    """Refuses what is no transform, saying what came and what to do."""
    if isinstance(link, optax.GradientTransformation):
        return
    if isinstance(link, list | tuple) and any(isinstance(item, optax.GradientTransformation) for item in link):
        raise TypeError(f"{place} is a {type(link).__name__} of transforms: give them one by one, chain(*links)")
    if callable(link):
        name = getattr(link, "__name__", repr(link))
        raise TypeError(f"{place} is the function {name}, not a transform: call it, {name}(...)")
    raise TypeError(f"{place} is {link!r} ({type(link).__name__}), not a transform")


def require_rule(place: str, link: Any) -> Rule:
    """The rule of a link that has to be rule-made; refuses what is not."""
    require_transform(place, link)
    if not isinstance(link, Transform) or link.rule is None:
        raise TypeError(f"{place} must be made of rules, as optlab's own links are, got {describe(link)}")
    return link.rule


def descends(tx: Any) -> bool:
    """Whether updates leave `tx` as steps, with the sign of a descent: a learning rate has been applied."""
    if not isinstance(tx, Transform):
        link = optax_internals.what_is(tx)
        return link is not None and link.sign == -1
    if tx.maker is divide:
        return descends(tx.parts[0])
    return (tx.rule is not None and tx.rule.descends) or any(map(descends, tx.parts))


def _first(tx: Any, holds: Callable[[Any], bool]) -> str | None:
    """The name of the first link inside `tx`, of optlab or optax, for which `holds`."""
    if holds(tx):
        return name_of(tx)
    parts = tx.parts if isinstance(tx, Transform) else ()
    return next((found for part in parts if (found := _first(part, holds))), None)


def _rate_in(tx: Any) -> str | None:
    """The name of the first link inside `tx` that turns the sign of updates."""
    if isinstance(tx, Transform):
        own = tx.name if tx.rule is not None and tx.rule.descends else None
        return own or next((name for part in tx.parts if (name := _rate_in(part))), None)
    if not descends(tx):
        return None
    link = optax_internals.what_is(tx)
    assert link is not None
    return next((name for part in link.parts if (name := _rate_in(part))), f"optax's {link.name}")


def _pulls(way: str) -> Callable[[Any], bool]:
    def holds(tx: Any) -> bool:
        if isinstance(tx, Transform):
            return tx.rule is not None and tx.rule.pulls == way
        link = optax_internals.what_is(tx)
        return way == "up" and link is not None and link.name == "add_decayed_weights"

    return holds


def _compares_signs(tx: Any) -> bool:
    return isinstance(tx, Transform) and tx.rule is not None and tx.rule.compares_signs


def _spliced(links: Sequence[Any]) -> list[optax.GradientTransformation]:
    flat: list[optax.GradientTransformation] = []
    for number, link in enumerate(links, start=1):
        require_transform(f"chain: link {number}", link)
        flat += link.parts if isinstance(link, Transform) and link.maker is chain else [link]
    return flat


def _stages(links: Sequence[optax.GradientTransformation]) -> list[optax.GradientTransformation]:
    """The links with every run of rule-made ones lifted as one."""
    stages: list[optax.GradientTransformation] = []
    run: list[optax.GradientTransformation] = []
    for link in links:
        if _rules([link]):
            run.append(link)
            continue
        stages += [chain(*run), link] if run else [link]
        run = []
    return [*stages, chain(*run)] if run else stages


def _check_order(links: Sequence[optax.GradientTransformation]) -> None:
    stepped: str | None = None
    shrunk: str | None = None
    for number, link in enumerate(links, start=1):
        place = f"link {number} of {len(links)} in chain"
        if stepped and (adder := _first(link, _pulls("up"))):
            raise ValueError(
                f"{adder} ({place}) stands after {stepped}: updates are negative there, so adding weights makes them "
                "grow. Put it before the learning rate, or use shrink_weights, which subtracts"
            )
        if stepped and (comparer := _first(link, _compares_signs)):
            raise ValueError(
                f"{comparer} ({place}) stands after {stepped}: the direction has changed its sign there, so it "
                "decays the wrong weights. Put the learning rate on both of its sides"
            )
        rate = _rate_in(link)
        if rate:
            if stepped:
                raise ValueError(f"{rate} ({place}) stands after {stepped}: two minus signs climb")
            if shrunk:
                raise ValueError(
                    f"{shrunk} stands before {rate} ({place}): the sign flips after it, so weights "
                    "grow. Put it after the learning rate, or use add_decayed_weights"
                )
            stepped = f"{rate} ({place})"
        if not rate and (shrinker := _first(link, _pulls("down"))):
            shrunk = f"{shrinker} ({place})"
        if number > 1:
            _check_correction(place, links[number - 2], link)


def _check_correction(place: str, before: Any, link: Any) -> None:
    average, correction = (tx.rule if isinstance(tx, Transform) else None for tx in (before, link))
    if average is None or correction is None:
        return
    decay, corrected = average.averages, correction.corrects
    if not all(isinstance(value, float | jax.Array) and not is_traced(value) for value in (decay, corrected)):
        return
    if np.float32(decay) != np.float32(corrected):
        raise ValueError(
            f"{name_of(link)} ({place}) has decay {float(corrected)}, the {name_of(before)} right before it "
            f"{float(decay)}: the correction must have the average's own decay"
        )
