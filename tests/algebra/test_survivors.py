"""What a mutation tool could change in the core without a test that failed, until these were written."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import OPTIMIZERS
from trajectories import SETTINGS, TOLERANCES, assert_agree, build, of_loop, of_transform

import optlab

PARAMS = {"w": jnp.ones(3)}
LARGE = SETTINGS["large"]


@pytest.mark.parametrize("name", ["adam", "nadam", "adabelief", "adamax", "lion", "rmsprop", "nesterov"])
def test_decays_below_one_half(name):
    """`1 % decay` is `1 - decay` down to one half."""
    short = LARGE._replace(hyperparams=LARGE.hyperparams | {"b1": 0.3, "b2": 0.4, "decay": 0.4})
    got = of_transform(build(OPTIMIZERS[name].ours, short), short.steps, "float64", as_params=jnp.asarray)
    assert_agree(got, of_loop(OPTIMIZERS[name].loop, short), TOLERANCES["float64"].from_loop)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_correction_is_checked_wherever_it_stands(before):
    links = [optlab.sign()] * before
    with pytest.raises(ValueError, match=re.escape(f"bias_correct (link {before + 2} of {before + 2} in chain)")):
        optlab.chain(*links, optlab.scale_by_ema(0.9), optlab.bias_correct(0.99))
    optlab.chain(optlab.scale_by_ema(0.9), *links, optlab.sign(), optlab.bias_correct(0.99))
    optlab.chain(optlab.bias_correct(0.99), *links, optlab.scale_by_ema(0.9))


@pytest.mark.parametrize("state", [{}, {"numerator": ()}, {"a": (), "b": ()}, {"numerator": (), "b": ()}, ()])
def test_a_quotient_of_trees_wants_the_state_of_both_sides(state):
    tx = optlab.divide(optax.scale(1.0), optlab.absolute(1.0))
    with pytest.raises(ValueError, match="divide: state must be what its init returned"):
        tx.update(PARAMS, state)


def test_a_quotient_of_trees_knows_its_sides():
    sides = optax.scale(1.0), optlab.absolute(1.0)
    tx = optlab.divide(*sides)
    assert (tx.name, tx.parts, tx.rule) == ("divide", sides, None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "int32"])
def test_slots_of_any_other_dtype_are_refused(dtype, x64):
    tx = optlab.scale_by_ema(0.9)
    params = {"w": jnp.ones(3, jnp.float32)}
    state = optlab.State(jnp.int32(0), {"ema": {"w": jnp.ones(3, dtype)}})
    with pytest.raises(ValueError, match=re.escape(f"['ema'] is {dtype}[3] where these weights need float32[3]")):
        tx.update(params, state, params)


@pytest.mark.parametrize("params", [None, PARAMS])
def test_a_string_among_the_updates_is_refused(params):
    tx = optlab.scale_by_ema(0.9)
    with pytest.raises(ValueError, match=re.escape("scale_by_ema: at ['w']: expected an array, got str")):
        tx.update({"w": "relu"}, tx.init(PARAMS), params)


def test_repr_names_a_function_by_its_module():
    assert repr(optlab.sgd(jnp.sin)) == f"scale_by_learning_rate({jnp.sin.__module__}.sin)"
    masked = optlab.add_decayed_weights(0.1, mask=np.isfinite)
    assert repr(masked) == "add_decayed_weights(0.1, mask=numpy.isfinite)"


def test_repr_names_what_can_only_be_given_by_name():
    @optlab.atom
    def half(*, decay):
        return optlab.Rule(lambda u, slots, w, t: (u / 2, slots))

    assert repr(half(decay=0.5)) == "half(decay=0.5)"


def both(one, other):
    """A combinator of one's own, which comes before `chain` in the alphabet."""
    return optlab.Transform(one.init, one.update, maker=both, parts=(one, other))


def test_draw_forks_at_any_combinator_of_two():
    assert optlab.draw(both(optlab.sign(), optlab.square())) == (
        """\
updates
│
├────────┐
sign()   square()
│        │
├────────┘
both()
│
▼"""
    )


def test_the_layout_of_the_slots_is_found_once():
    inits = []

    @optlab.atom
    def remembering():
        def init(w):
            inits.append(w)
            return {"last": jnp.zeros_like(w)}

        return optlab.Rule(lambda u, slots, w, t: (u, {"last": u}), init)

    tx = remembering()
    _, state = tx.update(PARAMS, tx.init(PARAMS))
    found = len(inits)
    tx.update(PARAMS, state)
    assert len(inits) == found


def test_a_sum_starts_at_zero_unless_told_otherwise():
    tx = optlab.running_sum()
    assert tx == optlab.running_sum(0.0)
    np.testing.assert_array_equal(tx.init(PARAMS).slots["sum"]["w"], np.zeros(3))


def test_stable_decay_of_a_single_weight():
    """Alone, a weight is its own mean: the decay is divided by what the gradient is divided by."""
    tx = optlab.adams(0.5, eps=0.0, weight_decay=3.0)
    w, g = jnp.float32(2.0), jnp.float32(4.0)
    updates, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_allclose(updates, -0.5 * (1 + 3 * 2 / 4), rtol=1e-6)


def test_an_unhashable_hyperparameter_of_any_name_is_refused():
    @optlab.atom
    def along(axes=(), sizes=(), mask=None):
        return optlab.Rule(lambda u, slots, w, t: (u, slots))

    along(axes=(0,), sizes=(1,), mask={"w": True})
    for name in ("axes", "sizes"):
        with pytest.raises(TypeError, match=f"along: {name} must be hashable or a jax array"):
            along(**{name: [0]})


def test_who_needs_params_is_placed_in_the_innermost_chain():
    first = optlab.chain(optlab.scale_by_ema(0.9), optlab.add_l2_to_grad(0.1), optlab.sign())
    tx = optlab.chain(optax.scale(1.0), optlab.divide(first, optlab.absolute(1.0)))
    with pytest.raises(ValueError, match=r"^add_l2_to_grad \(link 2 of 3 in chain\) needs params: call update"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_who_needs_params_is_placed_in_the_combinator_that_holds_it():
    tx = optlab.chain(optax.scale(1.0), both(optlab.add_l2_to_grad(0.1), optlab.sign()))
    with pytest.raises(ValueError, match=r"^add_l2_to_grad \(link 1 of 2 in both\) needs params: call update"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_abstract_complex_weights_lend_their_sharding_to_real_slots():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    w = jax.ShapeDtypeStruct((8,), jnp.complex64, sharding=sharding)
    for name, slot in optlab.scale_by_rms(0.9, 1e-3, numerator=optlab.scale_by_ema(0.9)).init(w).slots.items():
        assert slot["ema"].dtype == (jnp.complex64 if name == "numerator" else jnp.float32)
        assert slot["ema"].sharding == sharding
