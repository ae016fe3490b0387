"""Schedules as values: what they equal, how they print, and that they are the schedules of their factories."""

import builtins
import copy
import gc
import math
import pickle
import re
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab import schedule

COUNTS = (0, 1, 5, 10, 11, 50, 1000)
WAVE = {"init_value": 0.0, "peak_value": 0.1, "decay_steps": 9, "warmup_steps": 0}


def halving(rate, every=2, *more, scale=1.0, **others):
    """A factory with arguments of every kind."""

    def at(count):
        halved = 0.5 ** (jnp.asarray(count).astype(jnp.float32) // every)
        return rate * scale * halved + sum(more) + sum(others.values())

    return at


def branching(rate):
    return lambda count: rate if count < 1 else rate / 2


def not_a_schedule(rate):
    return rate


def warm_up(peak=0.1):
    return [schedule(optax.linear_schedule, 0.0, peak, 10), schedule(optax.cosine_decay_schedule, peak, 100)]


# How it is made, the schedule itself, and how it prints.
MADE = {
    "cosine": (
        lambda: schedule(optax.cosine_decay_schedule, 0.1, 1000),
        optax.cosine_decay_schedule(0.1, 1000),
        "schedule(optax.cosine_decay_schedule, 0.1, 1000)",
    ),
    "by name": (
        lambda: schedule(optax.cosine_decay_schedule, decay_steps=1000, init_value=0.1, alpha=0.5),
        optax.cosine_decay_schedule(0.1, 1000, 0.5),
        "schedule(optax.cosine_decay_schedule, 0.1, 1000, alpha=0.5)",
    ),
    "joined": (
        lambda: schedule(optax.join_schedules, warm_up(), [10]),
        optax.join_schedules([optax.linear_schedule(0.0, 0.1, 10), optax.cosine_decay_schedule(0.1, 100)], [10]),
        "schedule(optax.join_schedules, (schedule(optax.linear_schedule, 0.0, 0.1, 10), "
        "schedule(optax.cosine_decay_schedule, 0.1, 100)), (10,))",
    ),
    "a dict": (
        lambda: schedule(optax.piecewise_constant_schedule, 0.1, {10: 0.5, 50: 0.1}),
        optax.piecewise_constant_schedule(0.1, {10: 0.5, 50: 0.1}),
        "schedule(optax.piecewise_constant_schedule, 0.1, boundaries_and_scales={10: 0.5, 50: 0.1})",
    ),
    "dicts in a list": (
        lambda: schedule(optax.sgdr_schedule, [dict(WAVE)]),
        optax.sgdr_schedule([WAVE]),
        f"schedule(optax.sgdr_schedule, ({WAVE},))",
    ),
    "a text": (
        lambda: schedule(optax.piecewise_interpolate_schedule, "linear", 0.1, {10: 0.5}),
        optax.piecewise_interpolate_schedule("linear", 0.1, {10: 0.5}),
        "schedule(optax.piecewise_interpolate_schedule, 'linear', 0.1, boundaries_and_scales={10: 0.5})",
    ),
    "arguments of every kind": (
        lambda: schedule(halving, 0.1, 3, 0.25, 0.5, scale=2.0, low=0.125),
        halving(0.1, 3, 0.25, 0.5, scale=2.0, low=0.125),
        "schedule(test_schedule_values.halving, 0.1, 3, 0.25, 0.5, scale=2.0, low=0.125)",
    ),
    "an array": (
        lambda: schedule(halving, jnp.float32(0.5)),
        halving(jnp.float32(0.5)),
        "schedule(test_schedule_values.halving, jnp.float32(0.5))",
    ),
    "a product inside": (
        lambda: schedule(optax.join_schedules, (optlab.product(0.5, schedule(halving, 0.1)), abs), (10,)),
        optax.join_schedules((lambda count: 0.5 * halving(0.1)(count), abs), (10,)),
        "schedule(optax.join_schedules, (product(0.5, schedule(test_schedule_values.halving, 0.1)), builtins.abs), "
        "(10,))",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_it_is_the_schedule_of_its_factory(name, peer):
    make, itself, _ = MADE[name]
    with peer():
        for count in COUNTS:
            np.testing.assert_allclose(make()(jnp.int32(count)), itself(jnp.int32(count)), rtol=1e-6)


@pytest.mark.parametrize("name", MADE)
def test_it_compares_hashes_and_pickles_by_what_built_it(name):
    make, *_ = MADE[name]
    one = make()
    for again in make(), copy.deepcopy(one), pickle.loads(pickle.dumps(one)):
        assert again == one
        assert hash(again) == hash(one)
    others = [other() for key, (other, *_) in MADE.items() if key != name]
    assert one not in others


@pytest.mark.parametrize("name", MADE)
def test_it_prints_as_what_builds_it(name):
    make, _, printed = MADE[name]
    assert repr(make()) == printed
    names = {"optax": optax, "jnp": jnp, "builtins": builtins, "test_schedule_values": sys.modules[__name__]}
    assert eval(printed, {**vars(optlab), **names}) == make()


def test_defaults_and_places_do_not_count():
    assert schedule(halving, 0.1, 2) == schedule(halving, rate=0.1) == schedule(halving, 0.1, every=2, scale=1.0)


@pytest.mark.parametrize(
    "other",
    [
        lambda: schedule(halving, 0.2),
        lambda: schedule(halving, 0.1, 3),
        lambda: schedule(halving, 0.1, low=0.5),
        lambda: schedule(halving, 0.1, 2, 0.5),
        lambda: schedule(branching, 0.1),
        lambda: schedule(halving, jnp.float32(0.1)),
        lambda: schedule(halving, math.nextafter(0.1, 1)),
        lambda: halving(0.1),
        lambda: optlab.product(schedule(halving, 0.1), schedule(halving, 0.1)),
    ],
)
def test_what_it_does_not_equal(other):
    assert schedule(halving, 0.1) != other()


def test_a_schedule_within_compares_by_value():
    one, again, other = (schedule(optax.join_schedules, warm_up(peak), [10]) for peak in (0.1, 0.1, 0.2))
    assert one == again
    assert one != other


def test_what_is_changed_afterwards_changes_nothing():
    boundaries, scales, factors = [10], {10: 0.5}, np.ones(2)
    joined = schedule(optax.join_schedules, warm_up(), boundaries)
    piecewise = schedule(optax.piecewise_constant_schedule, 0.1, scales)
    kept = schedule(halving, 0.1, extra=factors)
    before = [hash(each) for each in (joined, piecewise, kept)]
    boundaries[0], scales[10], factors[0] = 99, 0.9, 7.0
    assert [hash(each) for each in (copy.deepcopy(joined), copy.deepcopy(piecewise), copy.deepcopy(kept))] == before
    assert kept(0)[0] == pytest.approx(1.1)


SCHEDULED = {
    "a rate": lambda rate: optlab.adam(rate),
    "a decay": lambda rate: optlab.sgdw(0.1, weight_decay=rate),
    "a product": lambda rate: optlab.sgd(optlab.product(0.5, rate)),
    "a shape": lambda rate: optlab.Decay("update", "schedule").apply_to(optlab.identity(), 0.1, 0.5, schedule=rate),
}


@pytest.mark.parametrize("place", SCHEDULED)
def test_it_goes_where_a_schedule_does(place):
    make = SCHEDULED[place]
    ours, again = (make(schedule(halving, 0.5)) for _ in range(2))
    bare = make(halving(0.5))
    assert ours == again == pickle.loads(pickle.dumps(ours))
    assert "schedule(test_schedule_values.halving, 0.5)" in repr(ours)
    assert "schedule(test_schedule_values.halving, 0.5)" in optlab.draw(ours)
    assert bare != make(halving(0.5))
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        pickle.dumps(bare)
    w = jnp.array([1.0, -2.0])
    states = ours.init(w), bare.init(w)
    for step in range(4):
        updates, states = zip(
            *(tx.update(w + step, s, w) for tx, s in zip((ours, bare), states, strict=True)), strict=True
        )
        np.testing.assert_array_equal(*updates)


def test_optax_takes_it(peer):
    with peer():
        tx = optax.sgd(schedule(optax.linear_schedule, 0.5, 0.0, 2))
        updates, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
        np.testing.assert_allclose(updates, -0.5)
        np.testing.assert_allclose(tx.update(jnp.ones(2), state)[0], -0.25)


def test_equal_schedules_share_a_program():
    traces = []

    def step(tx, u):
        traces.append(None)
        return tx.update(u, tx.init(u))[0]

    compiled = jax.jit(step, static_argnums=0)
    for _ in range(2):
        compiled(optlab.sgd(schedule(halving, 0.5)), jnp.ones(2))
    assert len(traces) == 1
    compiled(optlab.sgd(schedule(halving, 0.25)), jnp.ones(2))
    assert len(traces) == 2


def test_its_number_may_be_traced():
    def step(rate):
        tx = optlab.sgd(schedule(halving, rate))
        return tx.update(jnp.float32(1), tx.init(jnp.float32(1)))[0]

    with jax.checking_leaks():
        assert jax.jit(step)(0.5) == -0.5
    np.testing.assert_array_equal(jax.vmap(step)(jnp.array([0.5, 0.25])), [-0.5, -0.25])
    assert jax.grad(step)(0.5) == -1


def test_it_may_branch_on_the_count_outside_of_jit():
    tx = optlab.sgd(schedule(branching, 0.5))
    updates, state = tx.update(jnp.float32(1), tx.init(jnp.float32(1)))
    assert (updates, tx.update(jnp.float32(1), state)[0]) == (-0.5, -0.25)


def test_it_is_let_go():
    made = schedule(halving, 0.5)
    optlab.sgd(made).init(jnp.ones(2))
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


REFUSED = {
    "a schedule for a factory": (
        lambda: schedule(optax.cosine_decay_schedule(0.1, 1000)),
        TypeError,
        "schedule: the factory must be a function of a module, got what optax.cosine_decay_schedule made: write "
        "schedule(factory, ...) in the place of factory(...)",
    ),
    "a bare schedule within": (
        lambda: schedule(optax.join_schedules, [warm_up()[0], optax.cosine_decay_schedule(0.1, 9)], [10]),
        TypeError,
        "schedule: schedules[1] must be a value, got what optax.cosine_decay_schedule made: write schedule(factory, "
        "...) in the place of factory(...)",
    ),
    "a bare schedule in a product within": (
        lambda: schedule(optax.join_schedules, [optlab.product(0.5, halving(0.1))], []),
        TypeError,
        "schedule: a factor of schedules[0] must be a value, got what test_schedule_values.halving made: write "
        "schedule(factory, ...) in the place of factory(...)",
    ),
    "a lambda": (
        lambda: schedule(lambda rate: abs, 0.1),
        TypeError,
        "schedule: the factory must be a function of a module, got test_schedule_values.<lambda>.<locals>.<lambda>, "
        "which no module has by that name: define it in one, with def",
    ),
    "a value already": (
        lambda: schedule(schedule(halving, 0.1)),
        TypeError,
        "schedule: the factory must be a function of a module, got schedule(test_schedule_values.halving, 0.1) "
        "(BuiltSchedule)",
    ),
    "a number": (
        lambda: schedule(0.1),
        TypeError,
        "schedule: the factory must be a function of a module, got 0.1 (float)",
    ),
    "an object": (
        lambda: schedule(halving, 0.1, low=np.random.default_rng(0)),
        TypeError,
        "schedule: others['low'] must be a value, got Generator(PCG64) at ... (Generator)",
    ),
    "a set": (lambda: schedule(halving, {1}), TypeError, "schedule: rate must be a value, got {1} (set)"),
    "another keyword": (
        lambda: schedule(optax.cosine_decay_schedule, 0.1, decay_step=9),
        TypeError,
        "schedule: optax.cosine_decay_schedule: no argument 'decay_step'; did you mean decay_steps=?",
    ),
    "too few": (
        lambda: schedule(optax.cosine_decay_schedule, 0.1),
        TypeError,
        "schedule: optax.cosine_decay_schedule: missing a required argument: 'decay_steps'",
    ),
    "what the factory refuses": (
        lambda: schedule(optax.cosine_decay_schedule, 0.1, -9),
        ValueError,
        "schedule(optax.cosine_decay_schedule, 0.1, -9) does not run: ValueError: ...",
    ),
    "what only the schedule notices": (
        lambda: schedule(optax.cosine_decay_schedule, "0.1", 9),
        ValueError,
        "schedule(optax.cosine_decay_schedule, '0.1', 9) does not run: TypeError: ...",
    ),
    "no factory": (
        lambda: schedule(not_a_schedule, 0.1),
        TypeError,
        "schedule: test_schedule_values.not_a_schedule gives 0.1 (float), which is no schedule: the factory must make "
        "one",
    ),
    "below zero": (
        lambda: optlab.sgd(schedule(halving, -0.5)),
        ValueError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got a schedule that begins at -0.5",
    ),
    "the factory for the schedule": (
        lambda: optlab.sgd(optax.cosine_decay_schedule),
        TypeError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got the function cosine_decay_schedule, which "
        "takes more than the step: call it, cosine_decay_schedule(...)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    do, error, message = REFUSED[name]
    with pytest.raises(error, match=f"^{re.escape(message)}$".replace(r"\.\.\.", ".*")):
        do()
