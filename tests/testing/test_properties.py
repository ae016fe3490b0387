"""Every property over every public transform, every property shown to fail, and drawn trees, chains and numbers."""

import inspect
import re
import subprocess
import sys
import textwrap
import unittest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wrong_transforms import WRONG

import optlab
from optlab import testing

# Functions of the table of contents that make no transform of their own; everything else must be in TABLE.
NOT_IN_TABLE = {
    "apply_updates",
    "atom",
    "chain",
    "check",
    "compare",
    "draw",
    "explain",
    "identify",
    "l2_penalty",
    "product",
    "schedule",
    "train_step",
}
# These continue a second moment; they stand behind what makes one.
AFTER_SQUARE = ("decayed_max", "root", "running_max", "running_sum")


def in_place(name, tx):
    return optlab.chain(optlab.square(), tx) if name in AFTER_SQUARE else tx


def shown_by(documented):
    """The indented code of a docstring."""
    lines = inspect.getdoc(documented).splitlines()
    return textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    ")))


def documented_atom():
    """The whole atom that the docstring of `optlab.atom` shows."""
    names = {"optlab": optlab, "jnp": jnp}
    exec(shown_by(optlab.atom), names)
    return names["sign_of_average"](0.9)


def over_one_dimension(params):
    return jax.tree.map(lambda w: w.ndim > 1, params)


def falling(count):
    return 1 / (count.astype(jnp.float32) + 1)


def falling_from(rate):
    """A factory of schedules, which promotes nothing, as those of optax do."""
    return lambda count: rate / (count.astype(jnp.float32) + 1)


def sites():
    """What the sites of the decay make of Adam's quotient, where that has no name yet."""
    core, *_ = public.build("adam").parts
    rate, decay = public.ARGUMENTS["learning_rate"], public.ARGUMENTS["weight_decay"]
    made = {f"decay at {site}": optlab.Decay(site).apply_to(core, rate, decay) for site in optlab.SITES}
    named = {public.build(name) for name in public.OPTIMIZERS}
    return {name: tx for name, tx in made.items() if tx not in named}


TABLE = {
    **{name: in_place(name, public.build(name)) for name in public.TRANSFORMS},
    **sites(),
    "the atom of the docstring": documented_atom(),
    "adamw with a mask": optlab.adamw(0.01, weight_decay=0.1, mask=over_one_dimension),
    "adamw on schedules": optlab.adamw(
        optlab.product(0.1, falling), weight_decay=lambda count: jnp.where(count > 0, 0.1, 0.2)
    ),
    "adamw on schedules that are values": optlab.adamw(
        optlab.schedule(falling_from, 0.1), weight_decay=optlab.schedule(falling_from, rate=0.2)
    ),
    "adamw of arrays": optlab.adamw(
        jnp.float32(0.01), jnp.float32(0.9), jnp.float32(0.99), jnp.float32(1e-3), weight_decay=jnp.float32(0.1)
    ),
    "decay on every axis": optlab.Decay("after", "corrected", "cautious", "init").apply_to(
        optlab.scale_by_rms(0.9, 1e-3), 0.01, 0.1, over_one_dimension, schedule=falling
    ),
    "stable decay on every axis": optlab.Decay("proximal", "schedule", "stable", "init").apply_to(
        optlab.scale_by_rms(0.9, 1e-3), jnp.float32(0.01), jnp.float32(0.1), schedule=falling
    ),
    "adamw in bfloat16": optlab.store(
        optlab.adamw(0.01, weight_decay=0.1), optlab.codecs.BFloat16("nearest"), min_size=0
    ),
    "adamw in int8": optlab.store(optlab.adamw(0.01, weight_decay=0.1), optlab.codecs.Int8(2, "nearest"), min_size=0),
    "a chain around optax": optlab.chain(optlab.scale_by_rms(0.9, 1e-3), optax.clip(0.5), optlab.sgd(0.1)),
}
EXEMPT = {
    "kahan": {
        "numbers are kept in single precision or wider": "what is left over of a sum has few digits that count",
        "half precision is computed in single": "it makes up for the rounding of half-precision weights",
    },
    "keep_dtype": {
        "numbers are kept in single precision or wider": "updates in the gradients' dtype are what it is for",
        "half precision is computed in single": "and rounded to it",
    },
    "adamw in bfloat16": {"numbers are kept in single precision or wider": "bfloat16 is what was asked for"},
    "adamw in int8": {"shardings are kept": "blocks of two numbers are refused in shards of one"},
    "a chain around optax": {"complex weights have no direction": "optax.clip takes real numbers only"},
}


def test_every_public_function_is_in_the_table():
    functions = {name for name in optlab.__all__ if inspect.isfunction(getattr(optlab, name))}
    assert functions - NOT_IN_TABLE == set(public.TRANSFORMS)
    assert set(public.TRANSFORMS) <= set(TABLE)


ON_DEVICES = {"adamw", "adamw in bfloat16"}


def _marks(name):
    """One worker takes all properties of a transform, which share its programs."""
    return [pytest.mark.xdist_group(name), *([pytest.mark.device] if name in ON_DEVICES else [])]


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in TABLE])
@pytest.mark.parametrize("prop", testing.PROPERTIES)
def test_property(prop, name):
    testing.check(TABLE[name], prop, exempt=EXEMPT.get(name, ()))


# The properties themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prop", "mistake"), [(prop, mistake) for prop in WRONG for mistake in WRONG[prop]])
def test_a_wrong_transform_is_rejected(prop, mistake):
    make, says = WRONG[prop][mistake]
    with pytest.raises(AssertionError, match=re.escape(says)):
        testing.check(make(), prop)


def test_every_property_is_seen_to_fail():
    assert list(WRONG) == list(testing.PROPERTIES)


def test_the_lines_that_a_user_writes():
    names = {"my_optimizer": optlab.adam}
    exec(shown_by(testing), names)
    test = names["test_my_optimizer"]
    (mark,) = test.pytestmark
    assert mark.args == ("name", testing.PROPERTIES)
    test("init is abstract")
    names["my_optimizer"] = lambda learning_rate: WRONG["init is abstract"]["arithmetic for a shape"].make()
    with pytest.raises(AssertionError, match="violates 'init is abstract'"):
        test("init is abstract")


def test_every_property_has_words():
    for name, function in testing.PROPERTIES.items():
        assert getattr(testing, name.replace(" ", "_")) is function
        assert len(function.__doc__.split()) > 10


def test_a_violation_names_the_transform_and_the_property():
    name = "numbers are kept in single precision or wider"
    words = f"narrow_average() violates {name!r}: float16 weights have bfloat16 in ['state'].slots['average']['bias']"
    with pytest.raises(AssertionError, match=re.escape(words)):
        testing.check(WRONG[name]["a slot in bfloat16"].make(), name)


def test_an_exemption_must_be_needed():
    wide, narrow = optlab.scale_by_ema(0.9), optax.trace(0.9)
    name = "numbers are kept in single precision or wider"
    testing.check(narrow, name, exempt=[name])
    with pytest.raises(AssertionError, match=rf"scale_by_ema\(0.9\) has '{name}', from which it is exempt: drop"):
        testing.check(wide, name, exempt=[name])
    testing.check(wide, "init is abstract", exempt=[name])
    with pytest.raises(ValueError, match="check: no property 'speed'; the properties are jit computes what"):
        testing.check(wide, "init is abstract", exempt=["speed"])


COMPLEX = "complex weights have no direction"


def test_an_inapplicable_property_is_skipped_with_its_reason():
    real_only, reason = optax.clip(0.5), {COMPLEX: "it takes real numbers only"}
    with pytest.raises(AssertionError, match=f"violates '{COMPLEX}'"):
        testing.check(real_only, COMPLEX)
    said = rf"^'{COMPLEX}' does not apply to <optax clip>: it takes real numbers only$"
    with pytest.raises(unittest.SkipTest, match=said):
        testing.check(real_only, COMPLEX, inapplicable=reason)
    with pytest.raises(unittest.SkipTest, match=r"does not apply to sign\(\), which has it here: it takes real"):
        testing.check(optlab.sign(), COMPLEX, inapplicable=reason)


def test_what_is_not_said_to_be_inapplicable_is_asked():
    prop = "init is abstract"
    wrong = WRONG[prop]["arithmetic for a shape"].make()
    with pytest.raises(AssertionError, match=f"violates '{prop}'"):
        testing.check(wrong, prop, inapplicable={COMPLEX: "it takes real numbers only"})
    testing.check(optlab.sign(), prop, inapplicable={COMPLEX: "it takes real numbers only"})


@pytest.mark.parametrize(
    ("inapplicable", "error", "says"),
    [
        ({"speed": "slow"}, ValueError, "check: no property 'speed'; the properties are jit computes what"),
        ({COMPLEX: ""}, ValueError, f"check: say why '{COMPLEX}' is inapplicable, in words, got ''"),
        ({COMPLEX: None}, ValueError, f"check: say why '{COMPLEX}' is inapplicable, in words, got None"),
        ([COMPLEX], TypeError, "check: inapplicable must be a dict from names of properties to reasons, got ['complex"),
    ],
)
def test_what_can_not_be_said_to_be_inapplicable(inapplicable, error, says):
    with pytest.raises(error, match=re.escape(says)):
        testing.check(optlab.sign(), "init is abstract", inapplicable=inapplicable)


def test_a_property_is_exempt_or_inapplicable():
    with pytest.raises(ValueError, match="is exempt, which asks that it fails, and inapplicable: choose one"):
        testing.check(optlab.sign(), "init is abstract", exempt=[COMPLEX], inapplicable={COMPLEX: "real"})


def test_pytest_shows_a_skipped_test(tmp_path):
    """`unittest.SkipTest`, so that `optlab.testing` needs no pytest."""
    file = tmp_path / "test_mine.py"
    file.write_text(
        f"import optax\nfrom optlab import testing\n\nREASONS = {{{COMPLEX!r}: 'real only'}}\n\n"
        f"def test_mine():\n    testing.check(optax.clip(0.5), {COMPLEX!r}, inapplicable=REASONS)\n"
    )
    command = [sys.executable, "-m", "pytest", "-rs", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert f"'{COMPLEX}' does not apply to <optax clip>: real only" in done.stdout
    assert "1 skipped" in done.stdout


def test_an_elementwise_promise_is_only_held_against_those_who_make_it():
    @optlab.atom
    def centred_and_says_so():
        return optlab.Rule(lambda u, slots, w, t: (u - jnp.mean(u), slots), elementwise=False)

    testing.check(centred_and_says_so(), "elementwise rules mix nothing")
    testing.check(optax.clip_by_global_norm(1.0), "elementwise rules mix nothing")


def test_where_optax_adamw_parts_from_ours(peer):
    """The properties tell transforms apart that train alike: it keeps the gradients' dtype and promotes in passing."""
    lacking = [
        "the state keeps its types",
        "numbers are kept in single precision or wider",
        "half precision is computed in single",
        "promotion is strict and nothing warns",
    ]
    with peer():
        for prop in lacking:
            testing.check(optax.adamw(1e-3), prop, exempt=lacking)


# Through hyperparameters --------------------------------------------------------------------------------------------

GRID = {
    "learning_rate": (0.1, 0.4),
    "weight_decay": (0.0, 0.3),
    "decay": (0.9, 0.5),
    "b1": (0.0, 0.9),
    "b2": (0.9, 0.8),
    "eps": (0.01, 0.1),
    "eps_root": (0.05, 0.2),
    "initial": (0.0, 0.5),
}
START = np.array([1.0, -2.0, 0.5])
WITH_NUMBERS = [name for name in public.TRANSFORMS if GRID.keys() & public.parameters(name)]


def descend(name, point):
    """The weights after two steps on the loss `|w|**2 / 2 + sum(sin(w))`, which is flatter by the second."""
    tx = in_place(name, public.build(name, **point))
    w = jnp.asarray(START)
    state = tx.init(w)
    for slope in (1.0, 0.1):
        updates, state = tx.update(slope * (w + jnp.cos(w)), state, w)
        w = w + updates
    return w


def test_who_has_no_hyperparameters():
    assert set(public.TRANSFORMS) - set(WITH_NUMBERS) == {
        "decay_cautiously",
        "decay_toward_init",
        "divide",
        "identity",
        "kahan",
        "keep_dtype",
        "running_max",
        "sign",
        "square",
        "store",
    }


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_a_grid_of_hyperparameters_is_one_vmap(name):
    grid = {key: values for key, values in GRID.items() if key in public.parameters(name)}
    arrays = {key: jnp.array(values) for key, values in grid.items()}
    together = jax.jit(jax.vmap(lambda point: descend(name, point)))(arrays)
    for number in range(2):
        alone = descend(name, {key: values[number] for key, values in grid.items()})
        np.testing.assert_allclose(together[number], alone, rtol=2e-6, atol=5e-7)
    assert np.all(np.ptp(together, axis=0) > 1e-4)


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_gradients_flow_through_hyperparameters(name, x64):
    """Towards all of them at once: the slope between two points close by is the gradient along their difference."""
    point = {key: jnp.float64(np.mean(values)) for key, values in GRID.items() if key in public.parameters(name)}

    def loss(point):
        with jax.disable_jit():
            return jnp.sum(jnp.sin(descend(name, point)))

    h = 1e-5
    ahead, behind = (loss({key: value + side * h for key, value in point.items()}) for side in (1, -1))
    gradient = jax.grad(loss)(point)
    assert all(np.isfinite(slope) for slope in gradient.values())
    np.testing.assert_allclose(sum(gradient.values()), (ahead - behind) / (2 * h), rtol=1e-6)
    assert any(abs(slope) > 1e-3 for slope in gradient.values())


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_gradients_flow_through_hyperparameters_that_are_zero(name, x64):
    """0 is in every range, and at its end: the slope of a parabola through the points at 0, h and 2h is the gradient.

    A weight without a gradient stands beside, whose second moment is 0 with any hyperparameters. `eps` stays above 0,
    and so does the decay that AdaBelief's second moment is around, which would be 0 without it.
    """
    zero = {key: jnp.float64(1e-2 if key == "eps" else 0.0) for key in GRID if key in public.parameters(name)}
    zero |= {"b1": jnp.float64(0.5)} if "belief" in name else {}

    def loss(point, still=0.0):
        tx, w = in_place(name, public.build(name, **point)), jnp.array([1.0, -2.0, 0.5])
        state = tx.init(w)
        with jax.disable_jit():
            for slope in 1.0, 0.1, -0.3:
                updates, state = tx.update(slope * (w + jnp.cos(w)) * jnp.array([1.0, 1.0, still]), state, w)
                w = w + updates
        return jnp.sum(jnp.sin(w))

    assert all(np.isfinite(slope) for slope in jax.grad(loss)(zero).values())
    gradient, h = jax.grad(loss)(zero, 1.0), 1e-5
    assert all(np.isfinite(slope) for slope in gradient.values())
    at = [loss({key: value + steps * h for key, value in zero.items()}, 1.0) for steps in range(3)]
    np.testing.assert_allclose(sum(gradient.values()), (4 * at[1] - 3 * at[0] - at[2]) / (2 * h), rtol=1e-4, atol=1e-7)


# Drawn at random ----------------------------------------------------------------------------------------------------

drawn = settings(derandomize=True, deadline=None, max_examples=15, database=None)

DECAYS = st.just(0.0) | st.floats(2**-120, 0.9999)
SIZES = st.floats(1e-3, 1)
SHAPES = st.sampled_from([(), (3,), (2, 3), (0, 2)])
TREES = st.recursive(
    SHAPES,
    lambda subtrees: (
        st.lists(subtrees | st.none(), max_size=2)
        | st.dictionaries(st.sampled_from("abc"), subtrees | st.none(), max_size=2)
    ),
    max_leaves=4,
)
DTYPES = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16])


@st.composite
def links(draw):
    """Some atoms and a learning rate; whoever corrects a bias has the decay of the average before it."""
    decay, eps = draw(DECAYS), draw(SIZES)
    b1, b2 = draw(DECAYS), draw(DECAYS)
    weight_decay, mask = draw(SIZES), draw(st.none() | st.just(over_one_dimension))
    atoms = [
        optlab.identity(),
        optlab.sign(),
        optlab.square(),
        optlab.absolute(eps),
        optlab.running_max(),
        optlab.running_sum(eps),
        optlab.decayed_max(decay),
        optlab.scale_by_ema(decay),
        optlab.bias_correct(decay),
        optlab.accumulate(decay),
        optlab.accumulate_nesterov(decay),
        optlab.scale_by_nesterov_ema(decay),
        optlab.interpolate_ema(b1, b2),
        optlab.scale_by_rms(b2, eps),
        optlab.divide(optlab.scale_by_ema(b1), optlab.chain(optlab.absolute(eps), optlab.decayed_max(b2))),
        optlab.add_l2_to_grad(weight_decay, mask),
        optlab.add_decayed_weights(weight_decay, mask),
        optlab.decay_cautiously(optlab.add_decayed_weights(weight_decay, mask)),
        optlab.decay_toward_init(optlab.add_decayed_weights(weight_decay, mask)),
    ]
    chosen = draw(st.lists(st.sampled_from(atoms), min_size=1, max_size=5))
    shrink = draw(st.sampled_from([optlab.shrink_weights, optlab.shrink_after_step, optlab.shrink_proximally]))
    after = [optlab.scale_by_learning_rate(draw(SIZES)), shrink(weight_decay, mask)]
    return [*chosen, *draw(st.sampled_from([after[:0], after[:1], after]))]


@st.composite
def regrouped(draw, chosen):
    """The chain of the links with some neighbours in chains of their own, to any depth."""
    if len(chosen) < 2:
        return optlab.chain(*chosen)
    cut = draw(st.integers(1, len(chosen) - 1))
    before, after = draw(regrouped(chosen[:cut])), draw(regrouped(chosen[cut:]))
    return optlab.chain(before, after)


@st.composite
def numbers(draw):
    """Gradients of two steps, and weights, of one drawn tree."""
    shapes, seed = draw(TREES), draw(st.integers(0, 100))
    grads, weights = draw(DTYPES), draw(DTYPES)
    stream = [public.random_tree(shapes, seed + step, grads) for step in (1, 2)]
    return stream, public.random_tree(shapes, seed, weights)


def run(tx, stream, params, how=lambda update: update):
    update, state, outs = how(tx.update), tx.init(params), []
    for grads in stream:
        updates, state = update(grads, state, params)
        outs.append(updates)
    return outs, state


@drawn
@given(st.data(), links(), numbers())
def test_a_drawn_chain_may_be_regrouped_and_read_back(data, chosen, drawn_numbers):
    """One operation after the other, so that the compiler's freedom to fuse does not blur the last bit."""
    flat, grouped = optlab.chain(*chosen), data.draw(regrouped(chosen))
    assert grouped == flat
    assert eval(repr(flat), {**vars(optlab), "test_properties": inspect.getmodule(over_one_dimension)}) == flat
    with jax.disable_jit():
        updates, state = run(flat, *drawn_numbers)
        chex.assert_trees_all_equal(run(grouped, *drawn_numbers), (updates, state), strict=True)
        chex.assert_trees_all_equal(run(optax.chain(*chosen), *drawn_numbers)[0], updates, strict=True)


@drawn
@given(links(), numbers())
def test_a_drawn_chain_computes_in_jit_what_it_does_outside(chosen, drawn_numbers):
    tx = optlab.chain(*chosen)
    inside, outside = run(tx, *drawn_numbers, how=jax.jit), run(tx, *drawn_numbers)
    chex.assert_trees_all_close(inside, outside, rtol=1e-4, atol=1e-6)
    start = tx.init(drawn_numbers[1])
    for _, state in (inside, outside):
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, start)
