"""The table of optimizers: what optlab calls it, the paper's loop, and the same optimizer built of optax's parts.

Whoever is built from a row gets every hyperparameter that it names (`trajectories.build`), so no default decides.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference import optimizers as loops
from trajectories import STEPS, WEIGHTS, Loop

import optlab


class Case(NamedTuple):
    """One optimizer, three times; None where there is no loop, or nothing like it in optax."""

    ours: Callable[..., optlab.Transform]
    loop: Loop | None
    peer: Callable[..., optax.GradientTransformation] | None


def _descending(*links: optax.GradientTransformation, learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(*links, optax.scale_by_learning_rate(learning_rate))


OPTIMIZERS = {
    "sgd": Case(
        optlab.sgd,
        loops.sgd,
        lambda learning_rate: optax.sgd(learning_rate, momentum=None),
    ),
    "momentum": Case(
        optlab.momentum,
        loops.momentum,
        lambda learning_rate, b1: _descending(optax.ema(b1, debias=False), learning_rate=learning_rate),
    ),
    "heavy_ball": Case(
        optlab.heavy_ball,
        loops.heavy_ball,
        lambda learning_rate, b1: optax.sgd(learning_rate, momentum=b1, nesterov=False),
    ),
    "nesterov": Case(
        optlab.nesterov,
        loops.nesterov,
        lambda learning_rate, b1: optax.sgd(learning_rate, momentum=b1, nesterov=True),
    ),
    "sgdw": Case(
        optlab.sgdw,
        loops.sgdw,
        lambda learning_rate, b1, weight_decay: _descending(
            optax.trace(b1, nesterov=False), optax.add_decayed_weights(weight_decay), learning_rate=learning_rate
        ),
    ),
    "sign_sgd": Case(
        optlab.sign_sgd,
        loops.sign_sgd,
        lambda learning_rate: optax.sign_sgd(learning_rate),
    ),
    "signum": Case(
        optlab.signum,
        loops.signum,
        lambda learning_rate, b1: optax.signum(learning_rate, beta=b1),
    ),
    "lion": Case(
        optlab.lion,
        loops.lion,
        lambda learning_rate, b1, b2, weight_decay: optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay),
    ),
    # optax has it with eps inside the root only: see adagrad_eps_in_root.
    "adagrad": Case(optlab.adagrad, loops.adagrad, None),
    "rmsprop": Case(
        optlab.rmsprop,
        loops.rmsprop,
        lambda learning_rate, decay, eps: optax.rmsprop(
            learning_rate, decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=False, bias_correction=False
        ),
    ),
    "adam": Case(
        optlab.adam,
        loops.adam,
        lambda learning_rate, b1, b2, eps: optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0),
    ),
    "adam_l2": Case(
        optlab.adam_l2,
        loops.adam_l2,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.chain(
            optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0)
        ),
    ),
    "adamw": Case(
        optlab.adamw,
        loops.adamw,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.adamw(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0, weight_decay=weight_decay
        ),
    ),
    "adamw_independent": Case(
        optlab.adamw_independent,
        loops.adamw_independent,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.chain(
            optax.adam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0), optax.add_decayed_weights(-weight_decay)
        ),
    ),
    "adams": Case(optlab.adams, loops.adams, None),
    "amsgrad": Case(
        optlab.amsgrad,
        loops.amsgrad,
        lambda learning_rate, b1, b2, eps: optax.amsgrad(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0, bias_correction_mu=True, bias_correction_nu=True
        ),
    ),
    "adamax": Case(
        optlab.adamax,
        loops.adamax,
        lambda learning_rate, b1, b2, eps: optax.adamax(learning_rate, b1=b1, b2=b2, eps=eps),
    ),
    "nadam": Case(
        optlab.nadam,
        loops.nadam,
        lambda learning_rate, b1, b2, eps: optax.nadam(learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0),
    ),
    "laprop": Case(
        optlab.laprop,
        loops.laprop,
        lambda learning_rate, b1, b2, eps: _descending(
            optax.scale_by_rms(b2, eps, initial_scale=0.0, eps_in_sqrt=False, bias_correction=True),
            optax.ema(b1, debias=True),
            learning_rate=learning_rate,
        ),
    ),
    "adabelief": Case(
        optlab.adabelief,
        loops.adabelief,
        lambda learning_rate, b1, b2, eps, eps_root: optax.adabelief(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root
        ),
    ),
}


# Optimizers that optlab has no name for, masks and schedules -------------------------------------------------------


def cosine(count: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jnp.cos(jnp.asarray(count, float) * (math.pi / STEPS))


def cosine_of_step(t: int) -> float:
    return 0.5 + 0.5 * math.cos((t - 1) * (math.pi / STEPS))


def triangle(count: jax.Array) -> jax.Array:
    """Up from 0 to 1 in four steps and down to nearly 0 in sixteen: every step of 20 has another rate."""
    count = jnp.asarray(count, float)
    return jnp.minimum(count / 4, (20 - count) / 16)


def triangle_of_step(t: int) -> float:
    return min((t - 1) / 4, (21 - t) / 16)


def is_matrix(params: Any) -> Any:
    """A mask: decay is for what has two dimensions or more."""
    return jax.tree.map(lambda w: len(w.shape) > 1, params)


def momentum(b1: float) -> optlab.Transform:
    """Adam's numerator."""
    return optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))


# 1 for the weights of the matrices of `trajectories.SHAPES`, by name; 0 for the others.
OF_MATRICES = np.array([name.startswith(("['conv']", "['dense']['kernel']")) for name in WEIGHTS], float)

EXPRESSIONS = {
    "adagrad_eps_in_root": Case(
        lambda learning_rate, eps, initial: optlab.chain(
            optlab.divide(
                optlab.identity(),
                optlab.chain(optlab.square(), optlab.running_sum(initial), optlab.root(0.0, eps_root=eps)),
            ),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        None,
        lambda learning_rate, eps, initial: optax.adagrad(learning_rate, initial_accumulator_value=initial, eps=eps),
    ),
    "rmsprop_eps_in_root": Case(
        lambda learning_rate, decay, eps: optlab.chain(
            optlab.divide(
                optlab.identity(),
                optlab.chain(optlab.square(), optlab.scale_by_ema(decay), optlab.root(0.0, eps_root=eps)),
            ),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        None,
        lambda learning_rate, decay, eps: optax.rmsprop(
            learning_rate, decay=decay, eps=eps, initial_scale=0.0, eps_in_sqrt=True, bias_correction=False
        ),
    ),
    "adamw_eps_root": Case(
        lambda learning_rate, b1, b2, eps, eps_root, weight_decay: optlab.chain(
            optlab.scale_by_rms(b2, eps, eps_root, numerator=momentum(b1)),
            optlab.add_decayed_weights(weight_decay),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        None,
        lambda learning_rate, b1, b2, eps, eps_root, weight_decay: optax.adamw(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root, weight_decay=weight_decay
        ),
    ),
    "adamaxw": Case(
        lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            optlab.divide(momentum(b1), optlab.chain(optlab.absolute(eps), optlab.decayed_max(b2))),
            optlab.add_decayed_weights(weight_decay),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        None,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.adamaxw(
            learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay
        ),
    ),
    "nadamw": Case(
        lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            optlab.scale_by_rms(b2, eps, numerator=optlab.scale_by_nesterov_ema(b1)),
            optlab.add_decayed_weights(weight_decay),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        None,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.nadamw(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0, weight_decay=weight_decay
        ),
    ),
    "adamw_masked": Case(
        functools.partial(optlab.adamw, mask=is_matrix),
        lambda w, grad, learning_rate, b1, b2, eps, weight_decay: loops.adamw(
            w, grad, learning_rate, b1, b2, eps, weight_decay * OF_MATRICES
        ),
        lambda learning_rate, b1, b2, eps, weight_decay: optax.adamw(
            learning_rate, b1=b1, b2=b2, eps=eps, eps_root=0.0, weight_decay=weight_decay, mask=is_matrix
        ),
    ),
    "adamw_scheduled": Case(
        lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            lambda count: learning_rate * cosine(count), b1=b1, b2=b2, eps=eps, weight_decay=weight_decay
        ),
        None,
        lambda learning_rate, b1, b2, eps, weight_decay: optax.adamw(
            lambda count: learning_rate * cosine(count),
            b1=b1,
            b2=b2,
            eps=eps,
            eps_root=0.0,
            weight_decay=weight_decay,
        ),
    ),
    "adamw_independent_scheduled": Case(
        lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw_independent(
            lambda count: learning_rate * cosine(count),
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=lambda count: weight_decay * cosine(count),
        ),
        functools.partial(loops.adamw_independent, schedule=cosine_of_step),
        None,
    ),
}


CASES = OPTIMIZERS | EXPRESSIONS
