"""optax's transforms are recognized by their functions, and whatever is said of their signs is what they do."""

import contextlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import lenient

import optlab
from optlab.outside.optax_internals import what_is

HALF = optax.constant_schedule(0.5)
WEIGHTS = {"a": np.ones((2,), np.float32), "b": np.ones((2,), np.float32)}
MASK = {"a": True, "b": False}
LABELS = {"a": "left", "b": "right"}

DESCENTS = {
    "scale_by_learning_rate(0.1)": lambda: optax.scale_by_learning_rate(0.1),
    "scale_by_learning_rate(schedule)": lambda: optax.scale_by_learning_rate(HALF),
    "scale(-0.1)": lambda: optax.scale(-0.1),
    "scale of an array": lambda: optax.scale(jnp.float32(-0.1)),
    "scale of numbers of one sign": lambda: optax.scale(np.array([-1.0, -2.0], np.float32)),
    "sgd": lambda: optax.sgd(0.1),
    "sgd with momentum and a schedule": lambda: optax.sgd(HALF, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "lion": lambda: optax.lion(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "chain": lambda: optax.chain(optax.clip(1.0), optax.scale(-0.1)),
    "chain within chain": lambda: optax.chain(optax.identity(), optax.chain(optax.trace(0.9), optax.scale(-0.1))),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("rate", optax.scale(-0.1))),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.scale(-0.1)),
    "partition": lambda: optax.partition({"left": optax.sgd(0.1), "right": optax.adam(0.1)}, LABELS),
    "partition that freezes": lambda: optax.partition({"left": optax.sgd(0.1), "right": optax.set_to_zero()}, LABELS),
}

NO_DESCENTS = {
    "scale_by_learning_rate(None)": lambda: optax.scale_by_learning_rate(None),
    "scale_by_learning_rate without a flip": lambda: optax.scale_by_learning_rate(0.1, flip_sign=False),
    "scale_by_learning_rate(schedule) without a flip": lambda: optax.scale_by_learning_rate(HALF, flip_sign=False),
    "scale(0.1)": lambda: optax.scale(0.1),
    "two descents": lambda: optax.chain(optax.sgd(0.1), optax.scale(-1.0)),
    "adam's direction": lambda: optax.scale_by_adam(),
    "add_decayed_weights": lambda: optax.add_decayed_weights(0.1),
    "masked clip": lambda: optax.masked(optax.clip(1.0), MASK),
}

UNKNOWN = {
    "scale_by_schedule of anybody's function": lambda: optax.scale_by_schedule(lambda count: -0.1),
    "scale of numbers of two signs": lambda: optax.scale(np.array([-1.0, 1.0], np.float32)),
    "scale of nothing": lambda: optax.scale(np.zeros((0,), np.float32)),
    "scale of NaN": lambda: optax.scale(float("nan")),
    "scale of a complex number": lambda: optax.scale(1j),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(0.1),
    "descent of some leaves": lambda: optax.masked(optax.scale(-0.1), MASK),
    "descent of one part": lambda: optax.partition({"left": optax.sgd(0.1), "right": optax.identity()}, LABELS),
    "chain with a link of somebody": lambda: optax.chain(_scale_of_somebody().scale(1.0), optax.scale(-0.1)),
    "chain with a link of optlab": lambda: optax.chain(optlab.scale_by_ema(0.9), optax.scale(-0.1)),
    "chain of nothing known": lambda: optax.chain(optax.stateless(lambda u, w: u)),
}


class _scale_of_somebody:
    """Functions of optax's names, which hold what optax's do and do something else."""

    def scale(self, step_size):
        def update_fn(updates, state, params=None):
            return jax.tree.map(lambda u: -step_size * u, updates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def _turns(tx, steps=3):
    """The signs of the updates' inner products with gradients that stay as they are, of every step and leaf."""
    params, grads = WEIGHTS, jax.tree.map(lambda w: 2 * w, WEIGHTS)
    state = tx.init(params)
    signs = set()
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        signs |= {int(np.sign(np.sum(u * g))) for u, g in zip(map(updates.get, "ab"), grads.values(), strict=True)}
    return signs


@pytest.mark.parametrize("name", DESCENTS)
def test_a_descent_is_seen(name, peer):
    with peer():
        assert what_is(DESCENTS[name]()).sign == -1
        assert what_is(DESCENTS[name]().update).sign == -1
        assert -1 in _turns(DESCENTS[name]()) <= {-1, 0}


@pytest.mark.parametrize("name", NO_DESCENTS)
def test_what_keeps_directions_is_seen(name, peer):
    with peer():
        assert what_is(NO_DESCENTS[name]()).sign == 1
        assert _turns(NO_DESCENTS[name]()) == {1}


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_said_of_what_is_not_known(name):
    assert what_is(UNKNOWN[name]()).sign is None


def _told():
    """Whatever optax makes of a few arguments that transforms have, where a sign is told of it and it can be run."""
    for name, make in sorted(vars(optax).items()):
        if not inspect.isfunction(make):
            continue
        for arguments in (), (0.1,), (optax.identity(), 1), (optax.scale(-1.0), 1), (optax.identity(), MASK):
            with lenient(), contextlib.suppress(TypeError, AttributeError, ValueError, ArithmeticError):
                tx = make(*arguments)
                if isinstance(tx, optax.GradientTransformation) and (link := what_is(tx)) and link.sign is not None:
                    jax.eval_shape(lambda tree, tx=tx: tx.update(tree, tx.init(tree), tree), WEIGHTS)
                    yield pytest.param(tx, link.sign, id=f"{name}-{len(arguments)}")


@pytest.mark.parametrize(("tx", "sign"), [*_told()])
def test_a_sign_that_is_told_is_right(tx, sign, peer):
    with peer():
        assert _turns(tx) <= {sign, 0}


def test_links_have_the_names_of_the_functions_that_make_them():
    named = {
        "scale_by_learning_rate": optax.scale_by_learning_rate(HALF),
        "scale_by_schedule": optax.scale_by_schedule(HALF),
        "scale": optax.scale_by_learning_rate(0.1),
        "add_decayed_weights": optax.add_decayed_weights(0.1),
        "trace": optax.trace(0.9),
        "scale_by_adam": optax.scale_by_adam(),
        "clip_by_global_norm": optax.clip_by_global_norm(1.0),
        "set_to_zero": optax.set_to_zero(),
        "masked": optax.masked(optax.clip(1.0), MASK),
        "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(0.1),
        "prodigy": optax.contrib.prodigy(),
    }
    assert {name: what_is(tx).name for name, tx in named.items()} == {name: name for name in named}


def test_parts_are_the_updates_of_what_was_combined():
    somebody, ours = _scale_of_somebody().scale(1.0), optlab.scale_by_ema(0.9)
    links = optax.add_decayed_weights(0.1), somebody, ours, optax.chain(optax.scale(2.0))
    parts = what_is(optax.chain(*links)).parts
    assert parts == tuple(link.update for link in links)
    assert [link and link.name for link in map(what_is, parts)] == ["add_decayed_weights", None, None, "chain"]
    assert what_is(optax.masked(links[0], MASK)).parts == (links[0].update,)
    assert what_is(optax.named_chain(("one", links[0]), ("two", ours))).parts == (links[0].update, ours.update)
    assert what_is(optax.scale(1.0)).parts == ()


def test_functions_of_others_are_not_taken_for_those_of_optax():
    tx = _scale_of_somebody().scale(0.1)
    assert what_is(tx) is None
    assert what_is(optax.with_extra_args_support(tx)) is None
    assert what_is(optlab.sgd(0.1)) is None
    assert what_is(optlab.scale_by_learning_rate(0.1)) is None
    assert what_is(optax.GradientTransformation(tx.init, print)) is None


def test_a_traced_rate_has_no_sign_and_one_on_the_device_has():
    seen = []

    @jax.jit
    def make(rate):
        seen.append(what_is(optax.scale(rate)))
        seen.append(what_is(optax.sgd(rate)))
        return rate

    make(jnp.float32(-1.0))
    assert [(link.name, link.sign) for link in seen] == [("scale", None), ("chain", None)]
    deleted = jnp.float32(-1.0) + jnp.float32(1.0)
    tx = optax.scale(deleted)
    assert what_is(tx).sign == 0
    deleted.delete()
    assert what_is(tx).sign is None
