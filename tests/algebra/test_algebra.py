"""Transforms are values, and chaining and dividing them is an algebra: what may be regrouped computes the same bits."""

import copy
import gc
import pickle
import re
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest

import optlab

SHAPES = {"dense": {"bias": (3,), "kernel": (2, 3)}, "scale": ()}
PARAMS = public.random_tree(SHAPES, seed=0)
STREAM = [public.random_tree(SHAPES, seed) for seed in (1, 2, 3)]


def run(tx, params=PARAMS, stream=STREAM, **extra_args):
    """The updates of every step, the weights standing still, and the last state."""
    state = tx.init(params)
    outs = []
    for grads in stream:
        updates, state = tx.update(grads, state, params, **extra_args)
        outs.append(updates)
    return outs, state


def one(tx, u, w=None):
    """The first update of one leaf, as NumPy has it."""
    u = jnp.asarray(u, jnp.float32)
    w = u if w is None else jnp.asarray(w, jnp.float32)
    return np.asarray(tx.update(u, tx.init(w), w)[0])


def assert_same_bits(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


# Chains -------------------------------------------------------------------------------------------------------------


def _links(middle):
    return (
        optlab.add_l2_to_grad(0.1),
        optlab.scale_by_ema(0.9),
        middle,
        optlab.scale_by_ema(0.8),
        optlab.scale_by_learning_rate(0.01),
    )


@pytest.mark.parametrize(
    "middle", [optlab.scale_by_rms(0.95, 1e-3), optax.clip_by_global_norm(1.0)], ids=["of rules", "around optax"]
)
def test_chain_is_associative(middle):
    chain = optlab.chain
    a, b, c, d, e = _links(middle)
    flat = chain(a, b, c, d, e)
    groupings = [
        chain(chain(a, b), c, chain(d, e)),
        chain(a, chain(b, chain(c, chain(d, e)))),
        chain(chain(chain(chain(a, b), c), d), e),
        chain(chain(flat)),
    ]
    wanted = run(flat)
    for grouped in groupings:
        assert grouped == flat
        assert repr(grouped) == repr(flat)
        assert_same_bits(run(grouped), wanted)
    reordered = chain(a, d, c, b, e)
    assert reordered != flat
    with pytest.raises(AssertionError):
        assert_same_bits(run(reordered), wanted)


def test_chain_of_one_is_that_one_and_of_nothing_the_identity():
    tx = optlab.scale_by_ema(0.9)
    assert optlab.chain(tx) is tx
    assert optlab.chain() == optlab.identity()
    updates, state = run(optlab.identity())
    assert_same_bits(updates, STREAM)
    assert jax.tree.leaves(state) == [3]
    padded = optlab.chain(optlab.identity(), tx, optlab.identity())
    assert_same_bits(run(padded), run(tx))


def test_chain_of_one_optax_transform_is_a_transform():
    tx = optlab.chain(optax.clip(0.5))
    assert isinstance(tx, optlab.Transform)
    assert_same_bits(run(tx)[0], run(optax.clip(0.5))[0])


def test_optax_chain_of_the_same_links_gives_the_same_updates():
    links = _links(optlab.scale_by_rms(0.95, 1e-3))
    ours, theirs = run(optlab.chain(*links))[0], run(optax.chain(*links))[0]
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_shorthands_are_their_expressions():
    numerator = optlab.chain(optlab.scale_by_ema(0.9), optlab.bias_correct(0.9))
    size = optlab.chain(
        optlab.square(), optlab.scale_by_ema(0.99), optlab.bias_correct(0.99), optlab.root(1e-3, eps_root=1e-4)
    )
    assert optlab.rms(0.99, 1e-3, 1e-4) == size
    assert optlab.scale_by_rms(0.99, 1e-3, 1e-4) == optlab.divide(optlab.identity(), size)
    assert optlab.scale_by_rms(0.99, 1e-3, 1e-4, numerator=numerator) == optlab.divide(numerator, size)
    adamw = optlab.chain(
        optlab.scale_by_rms(0.99, 1e-3, numerator=numerator),
        optlab.add_decayed_weights(0.1),
        optlab.scale_by_learning_rate(0.01),
    )
    assert optlab.adamw(0.01, 0.9, 0.99, 1e-3, weight_decay=0.1) == adamw


# Values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", public.TRANSFORMS)
def test_transforms_are_values(name):
    tx, again = public.build(name), public.build(name)
    assert tx == again
    assert hash(tx) == hash(again)
    for other in (copy.copy(tx), copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert other == tx
        assert hash(other) == hash(tx)


@pytest.mark.parametrize("name", public.TRANSFORMS)
def test_repr_evaluates_to_an_equal_transform(name):
    tx = public.build(name)
    assert eval(repr(tx), vars(optlab)) == tx


def test_repr_holds_arrays_masks_and_optax():
    tx = optlab.adamw(jnp.float32(0.25), weight_decay=0.5, mask={"bias": False, "kernel": True})
    assert eval(repr(tx), {**vars(optlab), "jnp": jnp}) == tx
    assert repr(optlab.chain(optax.clip_by_global_norm(1.0), optlab.sgd(0.5))) == (
        "chain(<optax clip_by_global_norm>, scale_by_learning_rate(0.5))"
    )


def _decay_all(params):
    return jax.tree.map(lambda _: True, params)


def test_transforms_that_differ_are_not_equal():
    def adamw(learning_rate=1e-3, **changed):
        return optlab.adamw(learning_rate, **{"weight_decay": 0.1, **changed})

    different = [
        adamw(),
        adamw(2e-3),
        adamw(optax.constant_schedule(1e-3)),
        adamw(b1=0.8),
        adamw(b2=0.99),
        adamw(eps=1e-6),
        adamw(weight_decay=0.2),
        adamw(mask=True),
        adamw(mask={"bias": False}),
        adamw(mask={"bias": True}),
        adamw(mask=_decay_all),
        optlab.adam(1e-3),
        optlab.adam_l2(1e-3, weight_decay=0.1),
        optlab.adamw_independent(1e-3, weight_decay=0.1),
        optlab.chain(optlab.square(), optlab.sign()),
        optlab.chain(optlab.sign(), optlab.square()),
        optlab.divide(optlab.square(), optlab.sign()),
        optlab.divide(optlab.sign(), optlab.square()),
        optax.adamw(1e-3, weight_decay=0.1),
        "adamw",
    ]
    for i, a in enumerate(different):
        for j, b in enumerate(different):
            assert (a == b) == (i == j), (a, b)
            assert (a != b) == (i != j), (a, b)
    assert len(set(different)) == len(different)


def test_numbers_of_any_type_are_one_value():
    assert optlab.sgd(1) == optlab.sgd(1.0) == optlab.sgd(np.float64(1)) == optlab.sgd(np.array(1))
    assert optlab.sgd(jnp.float32(0.5)) == optlab.sgd(jnp.float32(0.5))
    assert optlab.sgd(jnp.float32(0.5)) != optlab.sgd(jnp.float32(0.25))
    assert optlab.sgd(jnp.float32(0)) != optlab.sgd(jnp.int32(0))  # of the same bytes


def test_equal_transforms_are_the_same_static_argument():
    traced = []

    def update(tx, grads, state):
        traced.append(tx)
        return tx.update(grads, state)

    update = jax.jit(update, static_argnums=0)
    grads, state = jnp.ones(2), optlab.adam(1e-3).init(jnp.ones(2))
    for learning_rate in (1e-3, 1e-3, 2e-3, 1e-3):
        update(optlab.adam(learning_rate), grads, state)
    assert traced == [optlab.adam(1e-3), optlab.adam(2e-3)]


def test_transforms_do_not_change():
    tx = optlab.scale_by_ema(0.9)
    with pytest.raises(AttributeError, match=r"scale_by_ema is immutable: build another transform .* 'rule'"):
        tx.rule = None
    with pytest.raises(AttributeError):
        tx.update = tx.init
    with pytest.raises(TypeError):
        tx.hyperparams["decay"] = 0.5
    assert tx == optlab.scale_by_ema(0.9)


def test_a_transform_knows_what_it_is_made_of():
    tx = optlab.add_decayed_weights(0.1, mask={"bias": False})
    assert (tx.name, dict(tx.hyperparams), tx.parts) == (
        "add_decayed_weights",
        {"weight_decay": 0.1, "mask": {"bias": False}},
        (),
    )
    clip = optax.clip(1.0)
    chained = optlab.chain(tx, clip)
    assert (chained.name, dict(chained.hyperparams), chained.parts, chained.rule) == ("chain", {}, (tx, clip), None)
    assert isinstance(chained, optax.GradientTransformationExtraArgs)


# Pictures -----------------------------------------------------------------------------------------------------------


def test_draw_shows_the_fork():
    assert optlab.draw(optlab.adamw(1e-3, weight_decay=0.1)) == (
        """\
updates
│
├───────────────────┐
scale_by_ema(0.9)   square()
│                   │
bias_correct(0.9)   scale_by_ema(0.999)
│                   │
│                   bias_correct(0.999)
│                   │
│                   root(1e-08)
│                   │
├ ÷ ────────────────┘
│
add_decayed_weights(0.1)  ← params
│
scale_by_learning_rate(0.001)
│
▼"""
    )


def test_draw_nests_forks_and_names_optax():
    inner = optlab.divide(optlab.sign(), optlab.square())
    tx = optlab.chain(optax.clip(1.0), optlab.divide(inner, optlab.absolute()))
    assert optlab.draw(tx) == (
        """\
updates
│
<optax clip>
│
├───────────────────┐
├────────┐          absolute()
sign()   square()   │
│        │          │
├ ÷ ─────┘          │
│                   │
├ ÷ ────────────────┘
│
▼"""
    )


def test_draw_names_a_join_that_is_no_plain_quotient():
    mean, square = optlab.chain(optlab.scale_by_ema(0.9), optlab.bias_correct(0.9)), optlab.square()
    decay = optlab.add_decayed_weights(0.1)
    assert optlab.draw(optlab.divide_and_decay_stably(mean, square, decay, 1e-3)) == (
        """\
updates
│
├───────────────────┐
scale_by_ema(0.9)   square()
│                   │
bias_correct(0.9)   │
│                   │
├───────────────────┘
divide_and_decay_stably(eps=0.001, eps_root=0.0)
│
add_decayed_weights(0.1)  ← params
│
▼"""
    )


def test_draw_shows_a_combinator_of_one_as_a_link():
    decay = optlab.decay_toward_init(optlab.shrink_weights(0.1))
    assert optlab.draw(decay) == "updates\n│\ndecay_toward_init(shrink_weights(0.1))  ← params\n│\n▼"


# State --------------------------------------------------------------------------------------------------------------

EMA_EMA = ["slots['denominator']['ema']", "slots['numerator']['ema']"]
SLOTS = {
    "adabelief": ["slots['deviation']", "slots['ema']"],
    "adagrad": ["slots['denominator']['sum']"],
    "adam": EMA_EMA,
    "adam_l2": EMA_EMA,
    "adamax": ["slots['denominator']['max']", "slots['numerator']['ema']"],
    "adams": ["numerator.slots['ema']", "second_moment.slots['ema']"],
    "adamw": EMA_EMA,
    "adamw_independent": EMA_EMA,
    "amsgrad": ["slots['denominator']['ema']", "slots['denominator']['max']", "slots['numerator']['ema']"],
    "heavy_ball": ["slots['trace']"],
    "laprop": ["slots['denominator']['ema']", "slots['ema']"],
    "lion": ["slots['ema']"],
    "momentum": ["slots['ema']"],
    "nadam": EMA_EMA,
    "nesterov": ["slots['trace']"],
    "rmsprop": ["slots['denominator']['ema']"],
    "sgd": [],
    "sgdw": ["slots['trace']"],
    "sign_sgd": [],
    "signum": ["slots['ema']"],
}


@pytest.mark.parametrize("name", public.OPTIMIZERS)
def test_slots_are_trees_like_the_parameters_under_telling_names(name):
    state = jax.eval_shape(public.build(name).init, PARAMS)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    counts = [key for key in leaves if key.endswith(".count")]
    shapes = {key: leaf.shape for key, leaf in leaves.items() if key not in counts}
    weights = {jax.tree_util.keystr(path): w.shape for path, w in jax.tree_util.tree_flatten_with_path(PARAMS)[0]}
    prefix = "[0]." if name == "adams" else "."
    assert shapes == {prefix + slot + key: shape for slot in SLOTS[name] for key, shape in weights.items()}
    assert counts == (
        ["[0].numerator.count", "[0].second_moment.count", "[0].following.count", "[1].count"]
        if name == "adams"
        else [".count"]
    )


def test_slots_of_one_name_are_numbered():
    tx = optlab.chain(optlab.scale_by_ema(0.5), optlab.scale_by_ema(0.25), optlab.scale_by_ema(0.0))
    state = tx.update(jnp.ones(()), tx.init(jnp.ones(())))[1]
    assert state.slots == {"ema": 0.5, "ema_2": 0.375, "ema_3": 0.375}


# Atoms of one's own -------------------------------------------------------------------------------------------------


@optlab.atom
def sign_of_average(decay):
    def update(u, slots, w, t):
        m = decay * slots["average"] + (1 - decay) * u
        return jnp.sign(m), {"average": m}

    return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)})


def test_an_atom_of_ones_own():
    tx = optlab.chain(sign_of_average(0.5), optlab.scale_by_learning_rate(0.25))
    (updates, state) = run(tx, jnp.zeros(2), [jnp.array(g) for g in ([1.0, -8.0], [-4.0, 2.0], [1.0, 8.0])])
    np.testing.assert_array_equal(updates, [[-0.25, 0.25], [0.25, 0.25], [0.25, -0.25]])
    np.testing.assert_array_equal(state.slots["average"], [-0.375, 3.5])
    assert eval(repr(tx), {**vars(optlab), "sign_of_average": sign_of_average}) == tx
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert "sign_of_average(0.5)\n│\nscale_by_learning_rate(0.25)" in optlab.draw(tx)
    with pytest.raises(ValueError, match=re.escape("sign_of_average: decay must be in [0, 1), got 2.0")):
        sign_of_average(2)


@optlab.atom
def centred():
    return optlab.Rule(lambda u, slots, w, t: (u - jnp.mean(u), slots), elementwise=False)


def test_an_atom_may_mix_the_values_of_a_leaf_and_says_so():
    tx = optlab.chain(optlab.scale_by_learning_rate(1.0), centred())
    assert optlab.sgd(1.0).rule.elementwise
    assert not tx.rule.elementwise
    assert not optlab.divide(optlab.square(), centred()).rule.elementwise
    np.testing.assert_array_equal(one(tx, [1.0, 3.0]), [1.0, -1.0])


def counting(traced):
    """An atom that passes updates through and notes what it is traced with."""

    @optlab.atom
    def count(factor=1.0):
        def update(u, slots, w, t):
            traced.append((u.shape, u.dtype.name))
            assert t.shape == ()
            assert t.dtype == jnp.int32
            return u, slots

        return optlab.Rule(update)

    return count


def test_a_run_traces_once_per_shape_and_dtype():
    traced = []
    count = counting(traced)

    def make():
        return optlab.chain(optlab.scale_by_ema(0.9), count(), optlab.bias_correct(0.9))

    params = {f"a{i}": jnp.ones((2, 3)) for i in range(20)} | {f"b{i}": jnp.ones(3) for i in range(20)}
    params["c"] = jnp.ones(3, jnp.bfloat16)
    wanted = [((2, 3), "float32"), ((3,), "float32"), ((3,), "float32")]
    tx = make()
    _, state = tx.update(params, tx.init(params), params)
    assert traced == wanted
    for again in (tx, make()):
        _, state = again.update(params, state, params)
    assert traced == wanted
    assert state.count == 3
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32] == [()]


def test_a_run_inside_jit_traces_once_per_shape_and_dtype():
    traced = []
    tx = optlab.chain(counting(traced)(), optlab.sgd(0.1))
    params = {f"a{i}": jnp.ones((2, 3)) for i in range(20)} | {"b": jnp.ones(3)}
    jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))
    assert traced == [((2, 3), "float32"), ((3,), "float32")]


# Masks --------------------------------------------------------------------------------------------------------------

TREE = {"dense": {"bias": False, "kernel": True}, "scale": False}
MASKS = {
    "tree": (TREE, TREE),
    "prefix": ({"dense": True, "scale": False}, {"dense": {"bias": True, "kernel": True}, "scale": False}),
    "all": (True, jax.tree.map(lambda _: True, PARAMS)),
    "none": (False, jax.tree.map(lambda _: False, PARAMS)),
    "numpy": ({"dense": np.True_, "scale": np.False_}, {"dense": {"bias": True, "kernel": True}, "scale": False}),
    "function": (lambda params: jax.tree.map(lambda w: w.ndim > 1, params), TREE),
    "function to prefix": (
        lambda params: {"dense": len(params) == 2, "scale": False},
        {"dense": {"bias": True, "kernel": True}, "scale": False},
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("make", [optlab.add_l2_to_grad, optlab.add_decayed_weights, optlab.shrink_weights])
def test_a_mask_says_where_a_link_acts(make, mask):
    mask, resolved = MASKS[mask]
    sign = -1 if make is optlab.shrink_weights else 1
    (updates, *_), _ = run(make(0.5, mask=mask))
    grads = STREAM[0]
    for u, g, w, acts in zip(*map(jax.tree.leaves, (updates, grads, PARAMS, resolved)), strict=True):
        np.testing.assert_allclose(u, g + sign * 0.5 * np.asarray(w) * acts, rtol=1e-6)


def test_a_mask_agrees_with_optax_masked(peer):
    ours = run(optlab.adamw(0.1, b2=0.9, eps=1e-3, weight_decay=1.0, mask=TREE))[0]
    unmasked = run(optlab.adamw(0.1, b2=0.9, eps=1e-3, weight_decay=1.0))[0]
    with peer():
        theirs = run(optax.adamw(0.1, b2=0.9, eps=1e-3, weight_decay=1.0, mask=TREE))[0]
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(unmasked, theirs, rtol=1e-5)


@optlab.atom
def averaged(decay, mask=None):
    def update(u, slots, w, t):
        m = decay * slots["average"] + (1 - decay) * u
        return m, {"average": m}

    return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)})


def test_a_masked_link_keeps_no_slots_where_it_does_not_act():
    tx = optlab.chain(averaged(0.5, mask=TREE), optlab.scale_by_learning_rate(1.0))
    (updates, *_), state = run(tx)
    keys = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    assert keys == [".count", ".slots['average']['dense']['kernel']"]
    assert state.slots["average"]["scale"] == optax.MaskedNode()
    np.testing.assert_array_equal(updates["dense"]["kernel"], -0.5 * STREAM[0]["dense"]["kernel"])
    np.testing.assert_array_equal(updates["dense"]["bias"], -STREAM[0]["dense"]["bias"])
    _, jitted = jax.jit(tx.update)(STREAM[0], state, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(jitted, state)


def test_a_mask_is_resolved_from_the_updates_when_there_are_no_params():
    tx = averaged(0.5, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))
    updates, _ = tx.update(STREAM[0], tx.init(PARAMS))
    np.testing.assert_array_equal(updates["dense"]["kernel"], 0.5 * STREAM[0]["dense"]["kernel"])
    np.testing.assert_array_equal(updates["dense"]["bias"], STREAM[0]["dense"]["bias"])


def test_masks_nest_in_a_fork_and_each_is_its_own():
    numerator = optlab.chain(optlab.add_l2_to_grad(0.5, mask={"a": True, "b": False}), optlab.scale_by_ema(0.5))
    denominator = optlab.chain(averaged(0.75, mask={"a": False, "b": True}), optlab.absolute(1.0))
    tx = optlab.chain(
        optlab.divide(numerator, denominator), optlab.add_decayed_weights(2.0, mask={"a": 1 > 2, "b": True})
    )
    params, grads = {"a": jnp.array([4.0]), "b": jnp.array([8.0])}, {"a": jnp.array([1.0]), "b": jnp.array([-4.0])}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [0.5 * (1 + 0.5 * 4) / (1 + 1)])
    np.testing.assert_allclose(updates["b"], [0.5 * -4 / (0.25 * 4 + 1) + 2 * 8])


def test_a_run_traces_once_per_pattern_of_masks():
    traced = []
    tx = optlab.chain(
        averaged(0.5, mask=lambda tree: {name: name < "c" for name in tree}),
        counting(traced)(),
        optlab.add_decayed_weights(0.1, mask=lambda tree: {name: name < "b" for name in tree}),
    )
    params = {f"{pattern}{i}": jnp.ones(3) for pattern in "abc" for i in range(5)}
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    assert traced == 3 * [((3,), "float32")]


# Links that are not rules -------------------------------------------------------------------------------------------


def test_a_global_norm_stands_between_two_runs():
    tx = optlab.chain(optlab.add_l2_to_grad(0.5), optax.clip_by_global_norm(1.0), optlab.scale_by_learning_rate(2.0))
    updates, state = tx.update(STREAM[0], tx.init(PARAMS), PARAMS)
    decayed = jax.tree.map(lambda g, w: g + 0.5 * w, STREAM[0], PARAMS)
    norm = float(np.sqrt(sum(np.sum(np.square(u)) for u in jax.tree.leaves(decayed))))
    assert norm > 1
    chex.assert_trees_all_close(updates, jax.tree.map(lambda u: -2 * u / norm, decayed), rtol=1e-6)
    assert [type(part) for part in state] == [optlab.State, optax.EmptyState, optlab.State]


def test_extra_arguments_reach_the_link_that_needs_them():
    polyak = optax.scale_by_polyak(max_learning_rate=10.0)
    tx = optlab.chain(optlab.identity(), polyak, optlab.scale_by_learning_rate(1.0))
    g = np.array([3.0, 4.0], np.float32)
    updates, _ = tx.update(jnp.array(g), tx.init(jnp.zeros(2)), jnp.zeros(2), value=jnp.float32(50.0))
    np.testing.assert_allclose(updates, -g * 50 / 25, rtol=1e-6)
    fork = optlab.divide(polyak, optlab.absolute())
    updates, _ = fork.update(jnp.array(g), fork.init(jnp.zeros(2)), jnp.zeros(2), value=jnp.float32(50.0))
    np.testing.assert_allclose(updates, [2, 2], rtol=1e-6)
    with pytest.raises(TypeError, match="value"):
        tx.update(jnp.array(g), tx.init(jnp.zeros(2)), jnp.zeros(2))


def test_divide_joins_tree_level_transforms():
    tx = optlab.divide(optax.clip_by_global_norm(1.0), optlab.rms(0.9, 1e-3))
    assert tx.rule is None
    (first, *_), state = run(tx)
    norm = optax.tree.norm(STREAM[0])
    wanted = jax.tree.map(lambda g: g / norm / (jnp.abs(g) + 1e-3), STREAM[0])
    chex.assert_trees_all_close(first, wanted, rtol=1e-5)
    assert set(state) == {"numerator", "denominator"}
    assert state["denominator"].count == 3


def test_divide_computes_the_same_with_and_without_a_rule():
    mean = optlab.chain(optlab.scale_by_ema(0.8), optlab.bias_correct(0.8))
    lifted = optlab.divide(mean, optlab.rms(0.9, 1e-3))
    joined = optlab.divide(optlab.chain(optax.identity(), mean), optlab.rms(0.9, 1e-3))
    assert lifted.rule is not None
    assert joined.rule is None
    chex.assert_trees_all_close(run(joined)[0], run(lifted)[0], rtol=1e-6)


def test_a_link_may_be_moved_amsgrad_with_the_maximum_of_the_raw_average():
    """torch's AMSGrad takes the maximum before the correction, optax's after; moving one link tells them apart."""
    b2, eps = 0.9, 1e-3
    before = optlab.chain(
        optlab.square(), optlab.scale_by_ema(b2), optlab.running_max(), optlab.bias_correct(b2), optlab.root(eps)
    )
    after = optlab.chain(
        optlab.square(), optlab.scale_by_ema(b2), optlab.bias_correct(b2), optlab.running_max(), optlab.root(eps)
    )
    stream = [np.array([g], np.float32) for g in (1.0, 2.0, 0.1, 0.1, 0.1)]
    v = s_before = s_after = 0.0
    wanted = {"before": [], "after": []}
    for t, g in enumerate(stream, start=1):
        v = b2 * v + (1 - b2) * g.astype(np.float64) ** 2
        s_before, s_after = np.maximum(s_before, v), np.maximum(s_after, v / (1 - b2**t))
        wanted["before"].append(np.sqrt(s_before / (1 - b2**t)) + eps)
        wanted["after"].append(np.sqrt(s_after) + eps)
    stream = [jnp.asarray(g) for g in stream]
    np.testing.assert_allclose(run(before, jnp.zeros(1), stream)[0], wanted["before"], rtol=1e-6)
    np.testing.assert_allclose(run(after, jnp.zeros(1), stream)[0], wanted["after"], rtol=1e-6)
    assert wanted["after"][-1] / wanted["before"][-1] > 1.4


def test_an_atom_may_keep_a_statistic_of_another_shape():
    @optlab.atom
    def scale_by_row_size():
        def update(u, slots, w, t):
            size = jnp.maximum(slots["size"], jnp.max(jnp.abs(u), axis=1))
            return u / size[:, None], {"size": size}

        return optlab.Rule(update, init=lambda w: {"size": jnp.zeros(w.shape[0], w.dtype)}, elementwise=False)

    w = jnp.asarray([[1.0, -4.0], [0.5, 0.25]])
    updates, state = scale_by_row_size().update(w, scale_by_row_size().init(w))
    np.testing.assert_allclose(updates, [[0.25, -1.0], [1.0, 0.5]])
    assert state.slots["size"].shape == (2,)


def test_replacing_a_function_gives_a_plain_transformation():
    frozen = optlab.sgd(1.0)._replace(update=lambda updates, state, params=None: (updates, state))
    assert type(frozen) is optax.GradientTransformationExtraArgs
    assert frozen.update(2.0, None) == (2.0, None)


def test_a_correction_may_have_the_decay_of_its_average_in_another_type():
    numbers = (0.9, np.float32(0.9), jnp.float32(0.9))
    for average in numbers:
        for correction in numbers:
            optlab.chain(optlab.scale_by_ema(average), optlab.bias_correct(correction))


# What is cached must not go stale ------------------------------------------------------------------------------------


class Trainer:
    """Holds a rate that its schedule reads."""

    def __init__(self, base):
        self.base = base

    def rate(self, count):
        return self.base * 0.5 ** count.astype(jnp.float32)


def first_step(tx):
    return float(jax.jit(lambda g: tx.update(g, tx.init(g))[0])(jnp.float32(1)))


def test_a_schedule_that_changes_is_followed():
    trainer = Trainer(0.5)
    assert first_step(optlab.sgd(trainer.rate)) == -0.5
    trainer.base = 0.25
    assert first_step(optlab.sgd(trainer.rate)) == -0.25
    tx = optlab.sgd(trainer.rate)
    assert float(tx.update(jnp.float32(1), tx.init(jnp.float32(1)))[0]) == -0.25
    trainer.base = 0.125
    assert float(tx.update(jnp.float32(1), tx.init(jnp.float32(1)))[0]) == -0.125


def test_a_schedule_may_close_over_a_traced_value_without_a_leak():
    def step(rate):
        tx = optlab.adam(lambda count: rate * 0.5 ** count.astype(jnp.float32))
        return tx.update(jnp.float32(1), tx.init(jnp.float32(1)))[0]

    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(step)(0.5), -0.5, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(step)(jnp.asarray([0.5, 0.25])), [-0.5, -0.25], rtol=1e-6)


def test_a_schedule_is_let_go_and_its_optimizer_compiles_once():
    traces = []

    @optlab.atom
    def counted():
        return optlab.Rule(lambda u, slots, w, t: (traces.append(1) or u, slots))

    gone = []
    for number in range(3):
        schedule = optax.constant_schedule(0.5 + number)
        gone.append(weakref.ref(schedule))
        tx = optlab.chain(counted(), optlab.scale_by_learning_rate(schedule))
        tx.update(jnp.float32(1), tx.init(jnp.float32(1)))
        del schedule, tx
    gc.collect()
    assert len(traces) == 1
    assert [ref() for ref in gone] == [None] * 3


def test_outside_jit_a_schedule_may_branch_on_the_count():
    tx = optlab.sgd(lambda count: 0.5 if count < 1 else 0.25)
    u, state = tx.update(jnp.float32(1), tx.init(jnp.float32(1)))
    assert (u, tx.update(jnp.float32(1), state)[0]) == (-0.5, -0.25)


def test_hyperparameters_of_another_type_are_another_transform():
    @optlab.atom
    def power(n):
        return optlab.Rule(lambda u, slots, w, t: (u**n if isinstance(n, int) else jnp.exp(n * jnp.log(u)), slots))

    assert power(2) != power(2.0)
    assert power(1) != power(True)
    assert one(power(2.0), -2.0) != one(power(2.0), -2.0)  # nan
    assert one(power(2), -2.0) == 4


def test_a_transform_survives_as_a_leaf_less_tree():
    tx = optlab.sgd(0.5)
    mapped = jax.tree.map(lambda function: function, {"tx": tx})["tx"]
    assert mapped.update(jnp.float32(1), mapped.init(jnp.float32(1)))[0] == -0.5


def test_optax_behind_a_run_keeps_its_types_on_bfloat16_weights():
    w = jnp.ones(2, jnp.bfloat16)
    tx = optlab.chain(optlab.scale_by_rms(0.9, 1e-3), optax.trace(0.9), optlab.scale_by_learning_rate(0.1))
    state = tx.init(w)
    _, after = tx.update(w, state, w)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)


def test_an_atom_may_call_its_hyperparameter_function():
    @optlab.atom
    def through(function):
        return optlab.Rule(lambda u, slots, w, t: (function(u), slots))

    tx = through(function=jnp.negative)
    assert tx.update(jnp.ones(()), tx.init(jnp.ones(())))[0] == -1
