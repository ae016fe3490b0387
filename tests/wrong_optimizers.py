"""The table of wrong optimizers: by the one that each is taken for, and by what is wrong with it.

A factory takes the hyperparameters that it names (`trajectories.build`), as the factories of `cases` do. The mistakes
come from bug reports, from papers and libraries that disagree, and from what is easily mistyped. Eight of them are
those that the best-known suite of tests in this field lets pass; they head the tables of Adam, Adam+L2 and AdamW.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from cases import cosine, is_matrix, momentum, triangle

import optlab
from optlab import (
    absolute,
    accumulate,
    accumulate_nesterov,
    add_decayed_weights,
    add_l2_to_grad,
    bias_correct,
    chain,
    decay_cautiously,
    decay_toward_init,
    decayed_max,
    divide,
    identity,
    product,
    rms,
    root,
    running_max,
    running_sum,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_nesterov_ema,
    scale_by_rms,
    shrink_after_step,
    shrink_proximally,
    shrink_weights,
    sign,
    square,
)

Factory = Callable[..., optax.GradientTransformation]

# Parts that are wrong by themselves ---------------------------------------------------------------------------------


@optlab.atom
def correct_at(decay: float, step: Callable[[Any], Any]) -> optlab.Rule:
    """`u -> u / (1 - decay**step(t))`: the correction of another step than this one."""
    return optlab.Rule(lambda u, slots, w, t: (u / (1 - decay ** step(t).astype(u.dtype)), slots))


@optlab.atom
def scale_by_corrected_ema_kept(decay: float) -> optlab.Rule:
    """`m <- EMA(u) / (1 - decay**t)`: the corrected average written back into the slot."""

    def update(u, slots, w, t):
        m = (decay * slots["ema"] + (1 - decay) * u) / (1 - decay ** t.astype(u.dtype))
        return m, {"ema": m}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})


@optlab.atom
def scale_by_ema_before(decay: float) -> optlab.Rule:
    """`u -> m;  m <- EMA(u)`: the average as it was a step ago."""

    def update(u, slots, w, t):
        return slots["ema"], {"ema": decay * slots["ema"] + (1 - decay) * u}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})


@optlab.atom
def accumulate_before(decay: float) -> optlab.Rule:
    """`u -> decay*m;  m <- decay*m + u`: the momentum without the gradient that just came."""

    def update(u, slots, w, t):
        m = decay * slots["trace"]
        return m, {"trace": m + u}

    return optlab.Rule(update, init=lambda w: {"trace": jnp.zeros_like(w)})


@optlab.atom
def scale_by_ahead(decay: float, corrected: bool) -> optlab.Rule:
    """Nadam's numerator, all of it corrected as Adam's is, or none of it."""

    def update(u, slots, w, t):
        m = decay * slots["ema"] + (1 - decay) * u
        ahead = decay * m + (1 - decay) * u
        return ahead / (1 - decay ** t.astype(u.dtype)) if corrected else ahead, {"ema": m}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w)})


@optlab.atom
def scale_by_distrust(b1: float, b2: float, eps: float, eps_root: float, before: bool) -> optlab.Rule:
    """AdaBelief around the average of the step `before`, or with an `eps_root` that is not summed."""

    def update(u, slots, w, t):
        m = b1 * slots["ema"] + (1 - b1) * u
        s = b2 * slots["deviation"] + (1 - b2) * (u - (slots["ema"] if before else m)) ** 2
        s, under = (s + eps_root, 0.0) if before else (s, eps_root)
        m_hat, s_hat = (x / (1 - b ** t.astype(u.dtype)) for x, b in ((m, b1), (s, b2)))
        return m_hat / (jnp.sqrt(s_hat + under) + eps), {"ema": m, "deviation": s}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w), "deviation": jnp.zeros_like(w)})


def in_bfloat16(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` with every statistic rounded to bfloat16 between steps."""

    def rounded(slot: jax.Array) -> jax.Array:
        return slot.astype(jnp.bfloat16).astype(slot.dtype) if jnp.issubdtype(slot.dtype, jnp.floating) else slot

    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        return updates, jax.tree.map(rounded, state)

    return optax.GradientTransformation(tx.init, update)


def by_leaf(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` of each leaf alone, as if it were the whole tree."""

    def init(params):
        return [tx.init(w) for w in jax.tree.leaves(params)]

    def update(updates, state, params=None):
        us, treedef = jax.tree.flatten(updates)
        pairs = [tx.update(u, own, w) for u, own, w in zip(us, state, jax.tree.leaves(params), strict=True)]
        return treedef.unflatten([u for u, _ in pairs]), [own for _, own in pairs]

    return optax.GradientTransformation(init, update)


# Adam, Adam+L2 and AdamW with a wrong core --------------------------------------------------------------------------

Core = Callable[[float, float, float], optax.GradientTransformation]


def core(b1: float, b2: float, eps: float) -> optlab.Transform:
    return scale_by_rms(b2, eps, numerator=momentum(b1))


def over(b1: float, *size: optax.GradientTransformation) -> optlab.Transform:
    """Adam's numerator over a denominator of these links."""
    return divide(momentum(b1), chain(*size))


THREE_OF_THE_EIGHT: dict[str, Core] = {
    "eps inside the root": lambda b1, b2, eps: scale_by_rms(b2, 0.0, eps, numerator=momentum(b1)),
    "b2 a hundredth too small": lambda b1, b2, eps: core(b1, 0.99 * b2, eps),
    "no bias correction": lambda b1, b2, eps: divide(scale_by_ema(b1), chain(square(), scale_by_ema(b2), root(eps))),
}

WRONG_CORES: dict[str, Core] = {
    # eps and the decays.
    "eps squared inside the root": lambda b1, b2, eps: scale_by_rms(b2, 0.0, eps**2, numerator=momentum(b1)),
    "eps dropped": lambda b1, b2, eps: core(b1, b2, 1e-12),
    "eps before the correction": lambda b1, b2, eps: over(
        b1, square(), scale_by_ema(b2), root(eps), square(), bias_correct(b2), root(0.0)
    ),
    "b1 and b2 exchanged": lambda b1, b2, eps: core(b2, b1, eps),
    "b1 for b2 too": lambda b1, b2, eps: core(b1, b1, eps),
    # The corrections.
    "first moment not corrected": lambda b1, b2, eps: scale_by_rms(b2, eps, numerator=scale_by_ema(b1)),
    "second moment not corrected": lambda b1, b2, eps: over(b1, square(), scale_by_ema(b2), root(eps)),
    "first moment corrected twice": lambda b1, b2, eps: scale_by_rms(
        b2, eps, numerator=chain(momentum(b1), bias_correct(b1))
    ),
    "second moment corrected twice": lambda b1, b2, eps: over(
        b1, square(), scale_by_ema(b2), bias_correct(b2), bias_correct(b2), root(eps)
    ),
    "first moment corrected early, before it is averaged": lambda b1, b2, eps: scale_by_rms(
        b2, eps, numerator=chain(bias_correct(b1), scale_by_ema(b1))
    ),
    "second moment corrected early, before it is averaged": lambda b1, b2, eps: over(
        b1, square(), bias_correct(b2), scale_by_ema(b2), root(eps)
    ),
    "second moment corrected after the root": lambda b1, b2, eps: over(
        b1, square(), scale_by_ema(b2), root(0.0), bias_correct(b2), absolute(eps)
    ),
    "corrections a step ahead": lambda b1, b2, eps: divide(
        chain(scale_by_ema(b1), correct_at(b1, _next)),
        chain(square(), scale_by_ema(b2), correct_at(b2, _next), root(eps)),
    ),
    "corrections that count by twos": lambda b1, b2, eps: divide(
        chain(scale_by_ema(b1), correct_at(b1, _odd)),
        chain(square(), scale_by_ema(b2), correct_at(b2, _odd), root(eps)),
    ),
    "corrected average kept": lambda b1, b2, eps: scale_by_rms(b2, eps, numerator=scale_by_corrected_ema_kept(b1)),
    # The fork.
    "one line: the momentum squared for the gradient": lambda b1, b2, eps: chain(momentum(b1), scale_by_rms(b2, eps)),
    "one line: the quotient before the momentum": lambda b1, b2, eps: chain(scale_by_rms(b2, eps), momentum(b1)),
    # The averages.
    "square of the mean for mean of the square": lambda b1, b2, eps: over(
        b1, scale_by_ema(b2), bias_correct(b2), square(), root(eps)
    ),
    "mean of the absolute value": lambda b1, b2, eps: over(
        b1, absolute(), scale_by_ema(b2), bias_correct(b2), absolute(eps)
    ),
    "root forgotten": lambda b1, b2, eps: over(b1, square(), scale_by_ema(b2), bias_correct(b2), absolute(eps)),
    "gradients accumulated, not averaged": lambda b1, b2, eps: scale_by_rms(b2, eps, numerator=accumulate(b1)),
    "squares accumulated, not averaged": lambda b1, b2, eps: over(b1, square(), running_sum(), root(eps)),
    "looked one step ahead": lambda b1, b2, eps: scale_by_rms(b2, eps, numerator=scale_by_nesterov_ema(b1)),
    "largest second moment so far": lambda b1, b2, eps: over(
        b1, square(), scale_by_ema(b2), bias_correct(b2), running_max(), root(eps)
    ),
    "statistics kept in bfloat16": lambda b1, b2, eps: in_bfloat16(core(b1, b2, eps)),
}


def _next(t: jax.Array) -> jax.Array:
    return t + 1


def _odd(t: jax.Array) -> jax.Array:
    return 2 * t - 1


def _adam(core: Core) -> Factory:
    return lambda learning_rate, b1, b2, eps: chain(core(b1, b2, eps), scale_by_learning_rate(learning_rate))


def _adam_l2(core: Core) -> Factory:
    return lambda learning_rate, b1, b2, eps, weight_decay: chain(
        add_l2_to_grad(weight_decay), core(b1, b2, eps), scale_by_learning_rate(learning_rate)
    )


def _adamw(core: Core) -> Factory:
    return lambda learning_rate, b1, b2, eps, weight_decay: chain(
        core(b1, b2, eps), add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate)
    )


def _each(adam: Callable[[Core], Factory], cores: dict[str, Core]) -> dict[str, Factory]:
    return {what: adam(core) for what, core in cores.items()}


@optlab.atom
def climb(learning_rate: float) -> optlab.Rule:
    """`u -> learning_rate * u`."""
    return optlab.Rule(lambda u, slots, w, t: (learning_rate * u, slots))


WRONG: dict[str, dict[str, Factory]] = {
    # Adam has no decay: in place of the five that are wrong about it, decay that nobody asked for.
    "adam": {
        "L2 that nobody asked for": optlab.adam_l2,
        "decay that nobody asked for": optlab.adamw,
        "growth that nobody asked for": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            core(b1, b2, eps), optax.add_decayed_weights(-weight_decay), scale_by_learning_rate(learning_rate)
        ),
        "decay after the rate that nobody asked for": optlab.adamw_independent,
        "rate ten times too large": lambda learning_rate, b1, b2, eps: optlab.adam(10 * learning_rate, b1, b2, eps),
        **_each(_adam, THREE_OF_THE_EIGHT),
        **_each(_adam, WRONG_CORES),
        "sign of the rate": lambda learning_rate, b1, b2, eps: chain(core(b1, b2, eps), climb(learning_rate)),
        "rate twice": lambda learning_rate, b1, b2, eps: optlab.adam(learning_rate**2, b1, b2, eps),
    },
    "adam_l2": {
        "decay for L2": optlab.adamw,
        "L2's sign flipped": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            optax.add_decayed_weights(-weight_decay), core(b1, b2, eps), scale_by_learning_rate(learning_rate)
        ),
        "L2 dropped": optlab.adam,
        "L2 ten times too large": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adam_l2(
            learning_rate, b1, b2, eps, weight_decay=10 * weight_decay
        ),
        "L2 after the rate": optlab.adamw_independent,
        **_each(_adam_l2, THREE_OF_THE_EIGHT),
        **_each(_adam_l2, WRONG_CORES),
        "sign of the rate": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            add_l2_to_grad(weight_decay), core(b1, b2, eps), climb(learning_rate)
        ),
        "L2 twice, of a penalty without its half": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adam_l2(
            learning_rate, b1, b2, eps, weight_decay=2 * weight_decay
        ),
        "L2 times the rate": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adam_l2(
            learning_rate, b1, b2, eps, weight_decay=learning_rate * weight_decay
        ),
        "L2 in the first moment only": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(chain(add_l2_to_grad(weight_decay), momentum(b1)), rms(b2, eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "L2 in the second moment only": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(momentum(b1), chain(add_l2_to_grad(weight_decay), rms(b2, eps))),
            scale_by_learning_rate(learning_rate),
        ),
        "L2 behind the moments": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(chain(momentum(b1), add_decayed_weights(weight_decay)), rms(b2, eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "L2 of the sign of the weight, not of the weight": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            optax.stateless_with_tree_map(lambda u, w: u + weight_decay * jnp.sign(w)),
            core(b1, b2, eps),
            scale_by_learning_rate(learning_rate),
        ),
    },
    "adamw": {
        "L2 for decay": optlab.adam_l2,
        "decay's sign flipped": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            core(b1, b2, eps), optax.add_decayed_weights(-weight_decay), scale_by_learning_rate(learning_rate)
        ),
        "decay dropped": optlab.adam,
        "decay ten times too large": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            learning_rate, b1, b2, eps, weight_decay=10 * weight_decay
        ),
        "decay after the rate": optlab.adamw_independent,
        **_each(_adamw, THREE_OF_THE_EIGHT),
        **_each(_adamw, WRONG_CORES),
        "sign of the rate": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            core(b1, b2, eps), add_decayed_weights(weight_decay), climb(learning_rate)
        ),
        "decay after the rate, growing": lambda learning_rate, b1, b2, eps, weight_decay: optax.chain(
            optlab.adam(learning_rate, b1, b2, eps), optax.add_decayed_weights(learning_rate * weight_decay)
        ),
        "decay of the weight after the step": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            core(b1, b2, eps),
            optax.scale(1 - learning_rate * weight_decay),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(learning_rate),
        ),
        "decay divided, not multiplied": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            learning_rate / (1 + learning_rate * weight_decay), b1, b2, eps, weight_decay=weight_decay
        ),
        "decay times the rate twice": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            learning_rate, b1, b2, eps, weight_decay=learning_rate * weight_decay
        ),
        "decay inside the quotient": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(chain(momentum(b1), add_decayed_weights(weight_decay)), rms(b2, eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "decay in the first moment": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(chain(add_l2_to_grad(weight_decay), momentum(b1)), rms(b2, eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "decay in the second moment": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(momentum(b1), chain(add_l2_to_grad(weight_decay), rms(b2, eps))),
            scale_by_learning_rate(learning_rate),
        ),
        "stable decay": optlab.adams,
    },
    "adamw_independent": {
        "decay times the rate": optlab.adamw,
        "decay growing": lambda learning_rate, b1, b2, eps, weight_decay: optax.chain(
            optlab.adam(learning_rate, b1, b2, eps), optax.add_decayed_weights(weight_decay)
        ),
        "decay of the weight after the step": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            optlab.adam(learning_rate * (1 - 0.9 * weight_decay), b1, b2, eps), shrink_weights(weight_decay)
        ),
    },
    "adamw_masked": {
        "mask inverted": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            learning_rate,
            b1,
            b2,
            eps,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda masked: not masked, is_matrix(params)),
        ),
        "mask dropped": optlab.adamw,
        "mask of everything": functools.partial(optlab.adamw, mask=False),
        "mask by name, not by shape": functools.partial(
            optlab.adamw, mask={"conv": False, "dense": {"bias": False, "kernel": True}, "scale": False}
        ),
    },
    "adamw_scheduled": {
        "schedule a step ahead": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            lambda count: learning_rate * cosine(count + 1), b1, b2, eps, weight_decay=weight_decay
        ),
        "schedule a step behind": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            lambda count: learning_rate * cosine(count - 1), b1, b2, eps, weight_decay=weight_decay
        ),
        "schedule of the quotient only": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw_independent(
            lambda count: learning_rate * cosine(count), b1, b2, eps, weight_decay=learning_rate * weight_decay
        ),
        "schedule dropped": optlab.adamw,
    },
    "adamw_independent_scheduled": {
        "schedule of the rate only": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw_independent(
            lambda count: learning_rate * cosine(count), b1, b2, eps, weight_decay=weight_decay
        ),
        "schedule of the decay a step ahead": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw_independent(
            lambda count: learning_rate * cosine(count),
            b1,
            b2,
            eps,
            weight_decay=lambda count: weight_decay * cosine(count + 1),
        ),
    },
    "adams": {
        "decay not divided": optlab.adamw,
        "decay divided weight by weight": lambda learning_rate, b1, b2, eps, weight_decay: chain(
            divide(chain(momentum(b1), add_decayed_weights(weight_decay)), rms(b2, eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "decay divided leaf by leaf": lambda learning_rate, b1, b2, eps, weight_decay: by_leaf(
            optlab.adams(learning_rate, b1, b2, eps, weight_decay=weight_decay)
        ),
    },
    "sgd": {
        "sign of the rate": lambda learning_rate: climb(learning_rate),
        "rate twice": lambda learning_rate: scale_by_learning_rate(learning_rate**2),
    },
    "momentum": {
        "accumulated, not averaged": optlab.heavy_ball,
        "corrected": lambda learning_rate, b1: chain(momentum(b1), scale_by_learning_rate(learning_rate)),
        "average of the step before": lambda learning_rate, b1: chain(
            scale_by_ema_before(b1), scale_by_learning_rate(learning_rate)
        ),
        "average kept in bfloat16": lambda learning_rate, b1: in_bfloat16(optlab.momentum(learning_rate, b1)),
    },
    "heavy_ball": {
        "averaged, not accumulated": optlab.momentum,
        "looked one step ahead": optlab.nesterov,
        "without the gradient that just came": lambda learning_rate, b1: chain(
            accumulate_before(b1), scale_by_learning_rate(learning_rate)
        ),
    },
    "nesterov": {
        "not looked ahead": optlab.heavy_ball,
        "averaged, not accumulated": lambda learning_rate, b1: chain(
            scale_by_nesterov_ema(b1), scale_by_learning_rate(learning_rate)
        ),
        "looked ahead twice": lambda learning_rate, b1: chain(
            optax.trace(b1, nesterov=True), optax.trace(b1 / 10, nesterov=True), scale_by_learning_rate(learning_rate)
        ),
        "in the wrong order, ahead of the gradient": lambda learning_rate, b1: chain(
            accumulate(b1), optax.scale(b1), scale_by_learning_rate(learning_rate)
        ),
    },
    "sgdw": {
        "L2 for decay": lambda learning_rate, b1, weight_decay: chain(
            add_l2_to_grad(weight_decay), accumulate(b1), scale_by_learning_rate(learning_rate)
        ),
        "decay dropped": optlab.heavy_ball,
        "decay after the rate": lambda learning_rate, b1, weight_decay: chain(
            accumulate(b1), scale_by_learning_rate(learning_rate), shrink_weights(weight_decay)
        ),
    },
    "sign_sgd": {
        "sign of the rate": lambda learning_rate: chain(sign(), climb(learning_rate)),
        "zero counted as positive": lambda learning_rate: chain(
            optax.stateless_with_tree_map(lambda u, w: jnp.where(u >= 0, 1.0, -1.0).astype(u.dtype)),
            scale_by_learning_rate(learning_rate),
        ),
    },
    "signum": {
        "average of the signs": lambda learning_rate, b1: chain(
            sign(), scale_by_ema(b1), scale_by_learning_rate(learning_rate)
        ),
        "looked one step ahead": lambda learning_rate, b1: chain(
            accumulate_nesterov(b1), sign(), scale_by_learning_rate(learning_rate)
        ),
    },
    "lion": {
        "b1 and b2 exchanged": lambda learning_rate, b1, b2, weight_decay: optlab.lion(
            learning_rate, b2, b1, weight_decay=weight_decay
        ),
        "sign of the average that is kept": lambda learning_rate, b2, weight_decay: chain(
            scale_by_ema(b2), sign(), add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate)
        ),
        "decay inside the sign": lambda learning_rate, b1, b2, weight_decay: chain(
            optlab.interpolate_ema(b1, b2),
            add_decayed_weights(weight_decay),
            sign(),
            scale_by_learning_rate(learning_rate),
        ),
        "L2 for decay": lambda learning_rate, b1, b2, weight_decay: chain(
            add_l2_to_grad(weight_decay), optlab.lion(learning_rate, b1, b2, weight_decay=0.0)
        ),
    },
    "adagrad": {
        "eps inside the root": lambda learning_rate, eps, initial: chain(
            divide(identity(), chain(square(), running_sum(initial), root(0.0, eps))),
            scale_by_learning_rate(learning_rate),
        ),
        "sum that starts at zero": lambda learning_rate, eps: optlab.adagrad(learning_rate, eps, initial=0.0),
        "sum divided by the steps": lambda learning_rate, eps, initial: chain(
            optlab.adagrad(1.0, eps, initial=initial),
            optax.scale_by_schedule(lambda count: learning_rate * (count + 1) ** 0.5),
        ),
        "root forgotten": lambda learning_rate, eps, initial: chain(
            divide(identity(), chain(square(), running_sum(initial), absolute(eps))),
            scale_by_learning_rate(learning_rate),
        ),
    },
    "rmsprop": {
        "eps inside the root": lambda learning_rate, decay, eps: chain(
            divide(identity(), chain(square(), scale_by_ema(decay), root(0.0, eps))),
            scale_by_learning_rate(learning_rate),
        ),
        "corrected": lambda learning_rate, decay, eps: chain(
            scale_by_rms(decay, eps), scale_by_learning_rate(learning_rate)
        ),
        "average that starts at one": lambda learning_rate, decay, eps: optax.rmsprop(
            learning_rate, decay=decay, eps=eps, initial_scale=1.0, eps_in_sqrt=False
        ),
        "around the mean": lambda learning_rate, decay, eps: optax.rmsprop(
            learning_rate, decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=False, centered=True
        ),
    },
    "amsgrad": {
        # torch's, as right as this one, and wrong for anyone who expects this one.
        "largest before it is corrected": lambda learning_rate, b1, b2, eps: chain(
            over(b1, square(), scale_by_ema(b2), running_max(), bias_correct(b2), root(eps)),
            scale_by_learning_rate(learning_rate),
        ),
        "largest dropped": optlab.adam,
        "largest not corrected": lambda learning_rate, b1, b2, eps: chain(
            over(b1, square(), scale_by_ema(b2), running_max(), root(eps)), scale_by_learning_rate(learning_rate)
        ),
        "largest square, not largest average": lambda learning_rate, b1, b2, eps: chain(
            over(b1, square(), running_max(), root(eps)), scale_by_learning_rate(learning_rate)
        ),
        "average of the largest": lambda learning_rate, b1, b2, eps: chain(
            over(b1, square(), running_max(), scale_by_ema(b2), bias_correct(b2), root(eps)),
            scale_by_learning_rate(learning_rate),
        ),
    },
    "adamax": {
        "eps outside the maximum": lambda learning_rate, b1, b2, eps: chain(
            over(b1, absolute(), decayed_max(b2), absolute(eps)), scale_by_learning_rate(learning_rate)
        ),
        "average for maximum": lambda learning_rate, b1, b2, eps: chain(
            over(b1, absolute(eps), scale_by_ema(b2)), scale_by_learning_rate(learning_rate)
        ),
        "maximum that does not decay": lambda learning_rate, b1, b2, eps: chain(
            over(b1, absolute(eps), running_max()), scale_by_learning_rate(learning_rate)
        ),
        "maximum corrected": lambda learning_rate, b1, b2, eps: chain(
            over(b1, absolute(eps), decayed_max(b2), bias_correct(b2)), scale_by_learning_rate(learning_rate)
        ),
        "first moment not corrected": lambda learning_rate, b1, b2, eps: chain(
            divide(scale_by_ema(b1), chain(absolute(eps), decayed_max(b2))), scale_by_learning_rate(learning_rate)
        ),
    },
    "nadam": {
        "not looked ahead": optlab.adam,
        "both corrections of this step": lambda learning_rate, b1, b2, eps: chain(
            scale_by_rms(b2, eps, numerator=scale_by_ahead(b1, corrected=True)), scale_by_learning_rate(learning_rate)
        ),
        "numerator not corrected": lambda learning_rate, b1, b2, eps: chain(
            scale_by_rms(b2, eps, numerator=scale_by_ahead(b1, corrected=False)), scale_by_learning_rate(learning_rate)
        ),
        "the paper's factor in the second moment": lambda learning_rate, b1, b2, eps: chain(
            divide(
                scale_by_nesterov_ema(b1),
                chain(square(), scale_by_ema(b2), bias_correct(b2), optax.scale(b2), root(eps)),
            ),
            scale_by_learning_rate(learning_rate),
        ),
    },
    "laprop": {
        "quotient after the momentum": optlab.adam,
        "momentum squared for the gradient": _adam(WRONG_CORES["one line: the momentum squared for the gradient"]),
        "second moment not corrected": lambda learning_rate, b1, b2, eps: chain(
            divide(identity(), chain(square(), scale_by_ema(b2), root(eps))),
            momentum(b1),
            scale_by_learning_rate(learning_rate),
        ),
        "momentum not corrected": lambda learning_rate, b1, b2, eps: chain(
            scale_by_rms(b2, eps), scale_by_ema(b1), scale_by_learning_rate(learning_rate)
        ),
    },
    "adabelief": {
        "around zero": lambda learning_rate, b1, b2, eps, eps_root: chain(
            scale_by_rms(b2, eps, eps_root, numerator=momentum(b1)), scale_by_learning_rate(learning_rate)
        ),
        "around the mean of the step before": lambda learning_rate, b1, b2, eps, eps_root: chain(
            scale_by_distrust(b1, b2, eps, eps_root, before=True), scale_by_learning_rate(learning_rate)
        ),
        "eps_root not summed": lambda learning_rate, b1, b2, eps, eps_root: chain(
            scale_by_distrust(b1, b2, eps, eps_root, before=False), scale_by_learning_rate(learning_rate)
        ),
        "eps_root dropped": lambda learning_rate, b1, b2, eps: optlab.adabelief(
            learning_rate, b1, b2, eps, eps_root=0.0
        ),
    },
}


# Decays that are wrong at a point of their space -------------------------------------------------------------------
#
# A point is a site, a coupling, a gate and a target. The mask is `is_matrix`, and the schedule `triangle`, which begins
# at 0.


@optlab.atom
def shrink_where(weight_decay: Any, where: Callable[[Any], Any], mask: Any = None) -> optlab.Rule:
    """`u -> u - weight_decay*w` where `where(u*w)`."""

    def update(u, slots, w, t):
        return jnp.where(where(u * w), u - weight_decay * w, u), slots

    return optlab.Rule(update, needs_params=True)


@optlab.atom
def add_where(weight_decay: Any, where: Callable[[Any], Any], mask: Any = None) -> optlab.Rule:
    """`u -> u + weight_decay*w` where `where(u*w)`."""

    def update(u, slots, w, t):
        return jnp.where(where(u * w), u + weight_decay * w, u), slots

    return optlab.Rule(update, needs_params=True)


@optlab.atom
def add_away_from(weight_decay: float, follow: float, turn: float, mask: Any = None) -> optlab.Rule:
    """`u -> u + weight_decay*(w - turn*target)`, `target` a slot that follows the weights by a share of the way."""

    def update(u, slots, w, t):
        target = slots["target"]
        return u + weight_decay * (w - turn * target), {"target": target + follow * (w - target)}

    return optlab.Rule(update, init=lambda w: {"target": jnp.array(w)}, needs_params=True)


@optlab.atom
def shrink_by_inverse(weight_decay: Any, mask: Any = None) -> optlab.Rule:
    """`u -> u - (1 - 1/(1 + weight_decay))*w`: divides the weights before the step and not behind it."""

    def update(u, slots, w, t):
        return u - (1 - 1 / (1 + weight_decay)) * w, slots

    return optlab.Rule(update, needs_params=True)


def stably(typical: Callable[[Any, Any], Any], corrected: bool = True) -> Factory:
    """Adam with its decay divided by what `typical` makes of the second moments and the mask, one number per leaf."""

    def make(learning_rate, b1, b2, eps, weight_decay):
        adam = core(b1, b2, eps)
        moment = chain(square(), scale_by_ema(b2), *([bias_correct(b2)] if corrected else []))
        rate = scale_by_learning_rate(product(learning_rate, triangle))

        def update(updates, state, params):
            v, of_moment = moment.update(updates, state[1], params)
            u, of_adam = adam.update(updates, state[0], params)
            strength = jax.tree.map(lambda size: weight_decay / (size + eps), typical(v, is_matrix(params)))
            masked = is_matrix(params)
            u = jax.tree.map(lambda u, w, s, act: u + s * w if act else u, u, params, strength, masked)
            u, of_rate = rate.update(u, state[2], params)
            return u, (of_adam, of_moment, of_rate)

        return optax.GradientTransformation(
            lambda params: tuple(tx.init(params) for tx in (adam, moment, rate)), update
        )

    return make


def _everywhere(tree: Any, number: Any) -> Any:
    return jax.tree.map(lambda _: number, tree)


def _mean(leaves: list[Any]) -> Any:
    return sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def root_mean(v: Any, mask: Any) -> Any:
    return _everywhere(v, jnp.sqrt(_mean(jax.tree.leaves(v))))


def _acting(v: Any, mask: Any) -> list[Any]:
    return [leaf for leaf, acts in zip(*map(jax.tree.leaves, (v, mask)), strict=True) if acts]


def behind(*links: Callable[[float, float], optax.GradientTransformation]) -> Factory:
    """Adam, and behind it what each of `links` makes of a rate and a decay."""

    def make(learning_rate, b1, b2, eps, weight_decay):
        return chain(core(b1, b2, eps), *(link(learning_rate, weight_decay) for link in links))

    return make


def scheduled(learning_rate: float, weight_decay: float = 0.0) -> optlab.Transform:
    """The right rate, which no decay changes."""
    return scale_by_learning_rate(product(learning_rate, triangle))


def in_fork(numerator_decays: bool, make: Callable[[float], optlab.Transform]) -> Factory:
    """Adam with `make(weight_decay)` in front of one side of its quotient."""

    def factory(learning_rate, b1, b2, eps, weight_decay):
        above, below = momentum(b1), rms(b2, eps)
        link = make(weight_decay)
        sides = (chain(link, above), below) if numerator_decays else (above, chain(link, below))
        return chain(divide(*sides), scheduled(learning_rate))

    return factory


def added(decay: Any) -> optlab.Transform:
    return add_decayed_weights(decay, is_matrix)


Point = tuple[str, str, str, str]

WRONG_DECAYS: dict[Point, dict[str, Factory]] = {
    ("update", "lr", "none", "zero"): {
        "schedule of the core only": behind(scheduled, lambda rate, wd: shrink_weights(rate * wd, is_matrix)),
        "decay dropped": behind(scheduled),
        "mask dropped": behind(lambda rate, wd: add_decayed_weights(wd), scheduled),
        "of the weight after the step": behind(
            scheduled, lambda rate, wd: shrink_after_step(product(rate, triangle, wd), is_matrix)
        ),
    },
    ("update", "corrected", "none", "zero"): {
        "the rate once": behind(lambda rate, wd: added(wd), scheduled),
        "the rate squared, over nothing": behind(lambda rate, wd: added(product(wd, rate, triangle)), scheduled),
        "the rate cubed": behind(lambda rate, wd: added(product(wd, triangle, triangle)), scheduled),
        "the step corrected too": behind(
            lambda rate, wd: added(wd), lambda rate, wd: scale_by_learning_rate(product(rate, triangle, triangle))
        ),
        "divided, not multiplied": behind(
            lambda rate, wd: added(lambda count: wd / jnp.maximum(triangle(count), 0.05)), scheduled
        ),
    },
    ("update", "schedule", "none", "zero"): {
        "constant": behind(scheduled, lambda rate, wd: shrink_weights(wd, is_matrix)),
        "times the rate": behind(lambda rate, wd: added(wd), scheduled),
        "schedule a step ahead": behind(
            scheduled, lambda rate, wd: shrink_weights(product(wd, lambda count: triangle(count + 1)), is_matrix)
        ),
        "the step without its schedule": behind(
            lambda rate, wd: scale_by_learning_rate(rate),
            lambda rate, wd: shrink_weights(product(wd, triangle), is_matrix),
        ),
    },
    ("after", "lr", "none", "zero"): {
        "of the weight before the step": behind(lambda rate, wd: added(wd), scheduled),
        "divided, not multiplied": behind(
            scheduled, lambda rate, wd: shrink_proximally(product(rate, triangle, wd), is_matrix)
        ),
        "schedule of the core only": behind(scheduled, lambda rate, wd: shrink_after_step(rate * wd, is_matrix)),
        "not times the rate": behind(scheduled, lambda rate, wd: shrink_after_step(product(triangle, wd), is_matrix)),
        "twice, before the step and after": behind(
            lambda rate, wd: added(wd / 2),
            scheduled,
            lambda rate, wd: shrink_after_step(product(rate, triangle, wd / 2), is_matrix),
        ),
        "mask dropped": behind(scheduled, lambda rate, wd: shrink_after_step(product(rate, triangle, wd))),
    },
    ("proximal", "lr", "none", "zero"): {
        "multiplied, not divided": behind(
            scheduled, lambda rate, wd: shrink_after_step(product(rate, triangle, wd), is_matrix)
        ),
        "of the weight before the step": behind(lambda rate, wd: added(wd), scheduled),
        "divided before the step": behind(
            scheduled, lambda rate, wd: shrink_by_inverse(product(rate, triangle, wd), is_matrix)
        ),
        "twice as strong": behind(
            scheduled, lambda rate, wd: shrink_proximally(product(2.0, rate, triangle, wd), is_matrix)
        ),
    },
    ("update", "lr", "cautious", "zero"): {
        "gate inverted": behind(lambda rate, wd: add_where(wd, lambda x: x <= 0, is_matrix), scheduled),
        "gate open": behind(lambda rate, wd: added(wd), scheduled),
        "gate closed at zero": behind(lambda rate, wd: add_where(wd, lambda x: x > 0, is_matrix), scheduled),
        "gate of a leaf": behind(lambda rate, wd: add_where(wd, lambda x: jnp.mean(x) >= 0, is_matrix), scheduled),
        "mask dropped": behind(lambda rate, wd: decay_cautiously(add_decayed_weights(wd)), scheduled),
    },
    ("update", "constant", "cautious", "zero"): {
        # Where the rate is 0, so is the step, and the gate is open.
        "gate behind the rate": behind(scheduled, lambda rate, wd: shrink_where(wd, lambda x: x <= 0, is_matrix)),
        "gate behind the rate, inverted by its sign": behind(
            scheduled, lambda rate, wd: shrink_where(wd, lambda x: x >= 0, is_matrix)
        ),
    },
    ("update", "lr", "stable", "zero"): {
        "not divided": behind(lambda rate, wd: added(wd), scheduled),
        "leaf by leaf": stably(lambda v, mask: jax.tree.map(lambda v: jnp.sqrt(jnp.mean(v)), v)),
        "mean of the roots": stably(lambda v, mask: _everywhere(v, _mean([*map(jnp.sqrt, jax.tree.leaves(v))]))),
        "no root": stably(lambda v, mask: _everywhere(v, _mean(jax.tree.leaves(v)))),
        "mean of what decays": stably(lambda v, mask: _everywhere(v, jnp.sqrt(_mean(_acting(v, mask))))),
        "mean of leaves": stably(
            lambda v, mask: _everywhere(v, jnp.sqrt(jnp.mean(jnp.stack([*map(jnp.mean, jax.tree.leaves(v))]))))
        ),
        "second moment not corrected": stably(root_mean, corrected=False),
    },
    ("update", "lr", "none", "init"): {
        "toward zero": behind(lambda rate, wd: added(wd), scheduled),
        "target follows the weights": behind(lambda rate, wd: add_away_from(wd, 1.0, 1.0, is_matrix), scheduled),
        "target drifts": behind(lambda rate, wd: add_away_from(wd, 0.1, 1.0, is_matrix), scheduled),
        "toward the mirror image": behind(lambda rate, wd: add_away_from(wd, 0.0, -1.0, is_matrix), scheduled),
        "toward a tenth less": behind(lambda rate, wd: add_away_from(wd, 0.0, 0.9, is_matrix), scheduled),
    },
    ("update", "lr", "cautious", "init"): {
        "gate toward zero": behind(lambda rate, wd: decay_cautiously(decay_toward_init(added(wd))), scheduled),
    },
    ("after", "lr", "none", "init"): {
        "of the weight before the step": behind(lambda rate, wd: decay_toward_init(added(wd)), scheduled),
    },
    ("gradient", "lr", "none", "init"): {
        "in the first moment only": in_fork(True, lambda wd: decay_toward_init(add_l2_to_grad(wd, is_matrix))),
    },
    ("first_moment", "lr", "none", "zero"): {
        "in the second moment": in_fork(False, lambda wd: add_l2_to_grad(wd, is_matrix)),
        "mask dropped": in_fork(True, add_l2_to_grad),
    },
    ("second_moment", "lr", "none", "init"): {
        "toward zero": in_fork(False, lambda wd: add_l2_to_grad(wd, is_matrix)),
    },
}
