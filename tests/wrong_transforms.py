"""Transforms with one mistake each, for every property of `optlab.testing` the mistakes that it is there to find.

Each is something that people write. Beside it stands a part of what the property must say about it.
"""

import operator
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optlab
from optlab.outside.jax_internals import is_traced


class Wrong(NamedTuple):
    make: Callable[[], optax.GradientTransformation]
    says: str


def each_leaf(function):
    """A transform without a state: `function(u, w)` of every leaf."""
    return optax.stateless_with_tree_map(function)


def remembering(slot, step):
    """A transform with a tree of slots: `slot(w)` at first, then `step(u, m) -> (u, m)`."""

    def update(updates, state, params=None):
        del params
        pairs = jax.tree.map(step, updates, state)
        return jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0)), pairs)

    return optax.GradientTransformation(lambda params: jax.tree.map(slot, params), update)


def average(u, m):
    m = 0.5 * m + 0.5 * u
    return m, m


# What a leaf does ---------------------------------------------------------------------------------------------------


def up_or_down(u, w):
    return u if jnp.sum(u) > 0 else -u


def twice_when_traced(u, w):
    return 2 * u if is_traced(u) else u


def doubled_by_a_new_program(u, w):
    return jax.jit(lambda u: 2 * u)(u)


def normalized(x):
    return x / np.max(np.abs(x))


def called_back(u, w, **how):
    return jax.pure_callback(normalized, jax.ShapeDtypeStruct(u.shape, u.dtype), u, **how)


def triangular(u, w):
    return u + jnp.sum(jax.lax.linalg.schur(jnp.ones((2, 2)))[0])


def squared_before_it_is_widened(u, w):
    return (u * u).astype(jnp.float32)


def real_part(u, w):
    return jnp.real(u).astype(u.dtype)


def over_the_last_axis(u, w):
    return u / jnp.max(jnp.abs(u), axis=-1, keepdims=True)


def warned(u, w):
    warnings.warn("use double() instead", DeprecationWarning, stacklevel=1)
    return 2 * u


def refusing(u, w):
    if not is_traced(u) and not np.all(np.isfinite(u)):
        raise FloatingPointError("the gradient is not finite")
    return u


# What needs more than a leaf ----------------------------------------------------------------------------------------


def counting_in_python():
    """Bias correction by a step count that the state does not hold."""
    steps = []

    def update(updates, params):
        del params
        steps.append(1)
        return jax.tree.map(lambda u: u / (1 - 0.5 ** len(steps)), updates)

    return optax.stateless(update)


def beginning_with_nothing():
    """Momentum whose first step finds no average yet."""

    def update(updates, state, params=None):
        del params
        state = updates if state is None else jax.tree.map(lambda u, m: 0.5 * m + u, updates, state)
        return state, state

    return optax.GradientTransformation(lambda params: None, update)


def by_the_mean_weight():
    def update(updates, params):
        leaves = jax.tree.leaves(params)
        mean = sum(jnp.sum(w) for w in leaves) / sum(w.size for w in leaves)
        return jax.tree.map(lambda u: u * mean, updates)

    return optax.stateless(update)


def by_name():
    return optax.stateless(lambda updates, params: {name: 2 * u for name, u in updates.items()})


def writing_into_its_state():
    def update(updates, state, params=None):
        del params
        state["last"] = updates
        return updates, state

    return optax.GradientTransformation(lambda params: {"last": params}, update)


def donating():
    doubled = jax.jit(lambda updates: jax.tree.map(lambda u: 2 * u, updates), donate_argnums=0)
    return optax.stateless(lambda updates, params: doubled(updates))


def random_of_a_typed_key():
    def update(updates, key, params=None):
        del params
        key, now = jax.random.split(key)
        return jax.tree.map(lambda u: u + jax.random.normal(now, u.shape, u.dtype), updates), key

    return optax.GradientTransformation(lambda params: jax.random.key(0), update)


class Half:
    """A hyperparameter without `__eq__`."""

    def __call__(self):
        return 0.5


@optlab.atom
def times(factor):
    return optlab.Rule(lambda u, slots, w, t: (factor() * u, slots))


@optlab.atom
def centred():
    """It should say `elementwise=False`."""
    return optlab.Rule(lambda u, slots, w, t: (u - jnp.mean(u), slots))


@optlab.atom
def narrow_average():
    def update(u, slots, w, t):
        m = 0.5 * slots["average"].astype(u.dtype) + 0.5 * u
        return m, {"average": m}

    return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w, dtype=jnp.bfloat16)})


@optlab.atom
def square_that_stays_complex():
    return optlab.Rule(lambda u, slots, w, t: (u * u, slots))


# The table ----------------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Wrong]] = {
    "jit computes what eager does": {
        "Python `if` on a value": Wrong(lambda: each_leaf(up_or_down), "TracerBoolConversionError"),
        "other numbers for tracers": Wrong(lambda: each_leaf(twice_when_traced), "inside jit, at .updates[0]['bias']"),
        "steps counted in Python": Wrong(counting_in_python, "inside jit, at .updates[0]['bias']"),
    },
    "nothing is traced twice": {
        "a new program at every call": Wrong(
            lambda: each_leaf(doubled_by_a_new_program), "outside jit, a second call of the same transform"
        ),
        "a weakly typed state": Wrong(
            lambda: remembering(lambda w: jnp.asarray(1.0), lambda u, m: (u * m, m * jnp.float32(0.5))),
            "a second call of the same transform",
        ),
        "a hyperparameter that equals itself only": Wrong(
            lambda: times(Half()), "outside jit, a second call of an equal transform"
        ),
    },
    "the state is a carry of scan and cond": {
        "a state that grows": Wrong(beginning_with_nothing, "carry"),
        "a state that widens": Wrong(
            lambda: remembering(lambda w: w.astype(jnp.bfloat16), lambda u, m: average(u, m.astype(u.dtype))),
            "bfloat16[3]",
        ),
    },
    "vmap over models is a loop": {
        "a callback for one model": Wrong(lambda: each_leaf(called_back), "vmap_method"),
        "a callback that takes all models for one": Wrong(
            lambda: each_leaf(lambda u, w: called_back(u, w, vmap_method="expand_dims")), "update, at [0]['bias']"
        ),
    },
    "elementwise rules mix nothing": {
        "a mean over the leaf": Wrong(centred, "updates of the others, at [0]['kernel']"),
    },
    "it lowers for cpu cuda and tpu": {
        "a factorization for CPUs only": Wrong(lambda: each_leaf(triangular), "schur"),
        "a callback to the host": Wrong(
            lambda: each_leaf(lambda u, w: called_back(u, w, vmap_method="sequential")), "callback"
        ),
    },
    "the state keeps its types": {
        "statistics in the dtype of the gradients": Wrong(
            lambda: remembering(jnp.zeros_like, lambda u, m: average(u, m.astype(u.dtype))),
            "state after float32 gradients on bfloat16 weights, at ['bias']",
        ),
        "a weakly typed state": Wrong(
            lambda: remembering(lambda w: jnp.asarray(1.0), lambda u, m: (u, m * jnp.float32(0.5))), "weak_type=True"
        ),
        "a state that grows": Wrong(beginning_with_nothing, "the tree is"),
    },
    "numbers are kept in single precision or wider": {
        "statistics in the dtype of the weights": Wrong(lambda: optax.trace(0.9), "float16 in ['state'].trace['bias']"),
        "a slot in bfloat16": Wrong(narrow_average, "float16 weights have bfloat16 in ['state'].slots['average']"),
        "updates rounded to the weights' dtype": Wrong(
            lambda: each_leaf(lambda u, w: u.astype(w.dtype)), "float16 weights have float16 in ['updates']"
        ),
        "float32 for every weight": Wrong(
            lambda: each_leaf(lambda u, w: u.astype(jnp.float32)), "float64 weights have float32 in ['updates']"
        ),
    },
    "half precision is computed in single": {
        "widened too late": Wrong(
            lambda: each_leaf(squared_before_it_is_widened), "bfloat16 gradients on bfloat16 weights"
        ),
    },
    "complex weights have no direction": {
        "no absolute value in the second moment": Wrong(
            lambda: optlab.divide(
                optlab.identity(),
                optlab.chain(square_that_stays_complex(), optlab.scale_by_ema(0.5), optlab.root(0.1)),
            ),
            "size of the updates",
        ),
        "the imaginary part dropped": Wrong(lambda: each_leaf(real_part), "size of the updates"),
    },
    "promotion is strict and nothing warns": {
        "a float32 factor": Wrong(lambda: each_leaf(lambda u, w: jnp.float32(2) * u), "TypePromotionError"),
        "a row added to a matrix": Wrong(lambda: each_leaf(lambda u, w: u + jnp.ones(3, u.dtype)), "rank"),
        "a deprecation": Wrong(lambda: each_leaf(warned), "DeprecationWarning: use double() instead"),
        "float64 that is not to be had": Wrong(
            lambda: each_leaf(lambda u, w: u.astype("float64")), "UserWarning: Explicitly requested dtype"
        ),
    },
    "empty trees and none leaves pass": {
        "a mean over no weights": Wrong(by_the_mean_weight, "ZeroDivisionError"),
        "a dict expected": Wrong(by_name, "AttributeError"),
        "None taken for a leaf": Wrong(
            lambda: optax.stateless(
                lambda updates, params: jax.tree.map(lambda u: 2 * u, updates, is_leaf=lambda u: u is None)
            ),
            "NoneType",
        ),
    },
    "scalars and leaves of size zero pass": {
        "the largest of nothing": Wrong(
            lambda: each_leaf(lambda u, w: u / jnp.max(jnp.abs(u))), "zero-size array to reduction operation max"
        ),
        "the mean of nothing": Wrong(lambda: each_leaf(lambda u, w: u - jnp.mean(u)), "FloatingPointError"),
        "the last axis of a scalar": Wrong(lambda: each_leaf(over_the_last_axis), "axis -1"),
    },
    "init is abstract": {
        "a start that depends on values": Wrong(
            lambda: remembering(lambda w: jnp.float32(float(jnp.max(w))), average), "ConcretizationTypeError"
        ),
        "arithmetic for a shape": Wrong(lambda: remembering(lambda w: 0 * w, average), "ShapeDtypeStruct"),
    },
    "shardings are kept": {
        "slots made from a shape": Wrong(
            lambda: remembering(lambda w: jnp.zeros(w.shape, w.dtype), average),
            "state of init, Auto axes, at ['bias']",
        ),
        "updates made from a shape": Wrong(
            lambda: each_leaf(lambda u, w: jnp.full(u.shape, jnp.mean(u))), "updates, Auto axes, at ['bias']"
        ),
    },
    "a saved state continues bit for bit": {
        "steps counted in Python": Wrong(counting_in_python, "saved and restored, at .updates[0]['bias']"),
        "a typed key": Wrong(random_of_a_typed_key, "key"),
    },
    "what comes in is not changed": {
        "a state written into": Wrong(writing_into_its_state, "state after a call, at ['last']['bias']"),
        "gradients doubled in place": Wrong(
            lambda: each_leaf(lambda u, w: operator.imul(u, 2)), "gradients after a call, at ['bias']"
        ),
        "gradients donated": Wrong(donating, "deleted"),
    },
    "ordinary numbers make no nan": {
        "zero by zero": Wrong(lambda: optlab.scale_by_rms(0.9, 0.0), "FloatingPointError"),
        "one by zero": Wrong(lambda: each_leaf(lambda u, w: 1 / u), "inf"),
    },
    "gradients that are not finite can be held off": {
        "a check outside jit": Wrong(lambda: each_leaf(refusing), "FloatingPointError: the gradient is not finite"),
        "steps counted in Python": Wrong(counting_in_python, "beside those held off, at .updates[0]['bias']"),
        "updates narrower than gradients": Wrong(
            lambda: each_leaf(lambda u, w: u.astype(jnp.bfloat16)), "cond branches must have equal output types"
        ),
    },
}
