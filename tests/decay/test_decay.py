"""The links of decay and `Decay`, apart from their trajectories: gates, targets, products, slots, masks, penalties."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import cosine, is_matrix, triangle

import optlab

PARAMS = {
    "dense": {"bias": jnp.array([0.5, -1.0, 2.0]), "kernel": jnp.array([[1.0, -2.0], [3.0, -4.0]])},
    "head": {"kernel": jnp.array([[-1.0, 0.5], [0.25, 2.0]])},
}
GRADS = jax.tree.map(jnp.cos, PARAMS)
EVERYWHERE = ("after", "corrected", "cautious", "init")


def adam_core():
    core, *_ = optlab.adam(0.1, eps=1e-3).parts
    return core


def update(tx, grads=GRADS, params=PARAMS, state=None):
    updates, _ = tx.update(grads, tx.init(params) if state is None else state, params)
    return updates


def assert_trees_close(got, wanted, rtol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


def keys(state):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]


# The gate -----------------------------------------------------------------------------------------------------------


def test_the_cautious_gate_decays_where_the_step_shrinks_the_weight():
    """As Chen et al. 2025 have it: `u` is subtracted, so that one sign of both means toward zero."""
    u, w = jnp.array([3.0, -3.0, 3.0, -3.0, 0.0, 3.0]), jnp.array([2.0, 2.0, -2.0, -2.0, 2.0, 0.0])
    decayed = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    gated = optlab.decay_cautiously(optlab.add_decayed_weights(0.5))
    np.testing.assert_array_equal(update(gated, u, w), u + 0.5 * w * decayed)
    rate = optlab.scale_by_learning_rate(0.25)
    behind = optlab.decay_cautiously(optlab.chain(rate, optlab.shrink_weights(0.5)), rate)
    np.testing.assert_array_equal(update(behind, u, w), -0.25 * u - 0.5 * w * decayed)


def test_the_gate_stays_where_it_was_when_the_rate_is_zero():
    """The sign of the direction counts, which the step has lost."""
    u, w = jnp.array([3.0, -3.0]), jnp.array([2.0, 2.0])
    for site in "step", "after", "proximal":
        tx = optlab.Decay(site, "constant", "cautious").apply_to(optlab.identity(), 0.0, 0.5)
        moved = np.asarray(w + update(tx, u, w))
        assert moved[0] < 2.0
        assert moved[1] == 2.0


def test_the_gate_of_complex_weights_is_that_of_the_plane():
    """Decay where the step has a part along the weight, whichever way both are turned."""
    w = np.exp(1j * np.linspace(0, 6, 7)).astype(np.complex64)
    for angle, decays in (1.5, True), (1.6, False), (-1.5, True), (3.0, False):
        u = w * np.complex64(np.exp(1j * angle))
        gated = update(optlab.decay_cautiously(optlab.add_decayed_weights(0.5)), u, w)
        np.testing.assert_allclose(gated, u + 0.5 * w if decays else u, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-37, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_gate_compares_signs_where_the_product_is_no_number_any_more(size, dtype):
    """1e-30 times -1e-30 is -0.0 in float32, which is >= 0; a rate of 0 keeps the result from overflowing."""
    u = jnp.array([1.0, -1.0, 1.0, -1.0, 0.0, 1.0], dtype) * jnp.asarray(size, dtype)
    w = jnp.array([1.0, 1.0, -1.0, -1.0, 1.0, 0.0], dtype) * jnp.asarray(size, dtype)
    decayed = np.array([True, False, False, True, True, True])
    gated = optlab.decay_cautiously(optlab.chain(marked(), optlab.add_decayed_weights(0.0)))
    np.testing.assert_array_equal(update(gated, u, w), np.where(decayed, 7, u))


@optlab.atom
def marked():
    return optlab.Rule(lambda u, slots, w, t: (jnp.full_like(u, 7), slots))


def test_the_gate_takes_its_sides_in_either_order():
    u, w = jnp.array([3.0, -3.0]), jnp.array([2.0, 2.0])
    rate, shrink = optlab.scale_by_learning_rate(0.25), optlab.shrink_weights(0.5, mask=is_matrix)
    for link in optlab.chain(rate, shrink), optlab.chain(rate, optlab.shrink_weights(0.5)):
        for params, grads in (w, u), (w[None], u[None]):
            turned = update(optlab.decay_cautiously(rate, link), grads, params)
            np.testing.assert_array_equal(turned, update(optlab.decay_cautiously(link, rate), grads, params))
            masked = "is_matrix" in repr(link) and params.ndim == 1
            np.testing.assert_array_equal(np.ravel(turned), [-0.75 if masked else -1.75, 0.75])


def test_adams_is_adam_behind_the_stable_gate():
    decay = optlab.Decay("update", gate="stable")
    mine = decay.apply_to(adam_core(), 0.1, 0.5, is_matrix)
    assert mine == optlab.adams(0.1, eps=1e-3, weight_decay=0.5, mask=is_matrix)


def test_the_mean_of_the_stable_gate_is_in_the_widest_dtype_of_the_leaves(x64):
    """Where there are float64 weights, they decay as exactly as float64 says, whatever leaf comes first."""
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64), "c": jnp.ones(2, jnp.float32)}
    grads = {name: w * size for (name, w), size in zip(params.items(), (0.5, 1 / 3, 0.25), strict=True)}
    tx = optlab.divide_and_decay_stably(optlab.identity(), optlab.square(), optlab.add_decayed_weights(0.5), 1e-3)
    updates, _ = tx.update(grads, tx.init(params), params)
    mean = np.mean([0.5**2, (1 / 3) ** 2, 0.25**2])
    wanted = (1 / 3) / (1 / 3 + 1e-3) + 0.5 / (np.sqrt(mean) + 1e-3)
    np.testing.assert_allclose(updates["b"], np.full(2, wanted), rtol=1e-14)


def test_the_stable_gate_takes_the_eps_of_the_root():
    """`eps_root` too, under the decay as in the quotient."""
    core = optlab.divide(optlab.identity(), optlab.chain(optlab.square(), optlab.root(0.5, eps_root=2.0)))
    w, g = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    got = update(optlab.Decay("update", gate="stable").apply_to(core, 1.0, 0.25), g, w)
    typical = np.sqrt(2.5 + 2.0) + 0.5
    np.testing.assert_allclose(got, -(g / (np.sqrt(g**2 + 2.0) + 0.5) + 0.25 * w / typical), rtol=1e-6)


def test_what_is_not_finite_passes_the_stable_gate():
    """Outside `jit` too, where a decay given by a user would be refused."""
    tx = optlab.adams(0.1, weight_decay=0.5)
    updates = update(tx, jax.tree.map(lambda g: g * jnp.nan, GRADS))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(updates))


# The target ---------------------------------------------------------------------------------------------------------


def test_the_initial_weights_are_kept_where_decay_acts_and_nowhere_else():
    mask = {"dense": {"bias": False, "kernel": True}, "head": False}
    for gate in "none", "cautious":
        tx = optlab.Decay("step", "lr", gate, "init").apply_to(optlab.identity(), 0.1, 0.5, mask)
        state = tx.init(PARAMS)
        assert keys(state) == [".count", ".slots['initial_weights']['dense']['kernel']"]
        assert state.slots["initial_weights"]["head"]["kernel"] == optax.MaskedNode()
        np.testing.assert_array_equal(state.slots["initial_weights"]["dense"]["kernel"], PARAMS["dense"]["kernel"])


def test_the_initial_weights_stay_what_they_were():
    tx = optlab.Decay("update", target="init").apply_to(optlab.identity(), 0.1, 0.5)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_close(state.slots["initial_weights"], PARAMS, rtol=0)


def test_weights_and_state_can_be_donated_together():
    """The slot is no alias of the weights that it was made of."""
    tx = optlab.Decay("update", target="init").apply_to(adam_core(), 0.1, 0.5)
    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    assert pointers.isdisjoint(leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state))
    params, state = step(params, state)
    params, state = step(params, state)
    assert_trees_close(state.slots["initial_weights"], PARAMS, rtol=0)


def test_the_initial_weights_of_bfloat16_weights_are_float32():
    tx = optlab.decay_toward_init(optlab.add_decayed_weights(0.5))
    state = tx.init(jnp.ones(3, jnp.bfloat16))
    assert state.slots["initial_weights"].dtype == jnp.float32


def test_a_target_of_a_target_is_where_its_weights_began():
    """Distances from the start begin at zero, and zero is what they are drawn to."""
    once = optlab.decay_toward_init(optlab.add_decayed_weights(0.5))
    twice = optlab.decay_toward_init(once)
    params = jax.tree.map(jnp.sin, PARAMS)
    assert_trees_close(
        update(twice, params=params, state=twice.init(PARAMS)), update(once, params=params, state=once.init(PARAMS))
    )


# One pass, masks and grids ------------------------------------------------------------------------------------------

POINTS = [
    ("gradient", "lr", "none", "zero"),
    ("first_moment", "lr", "none", "init"),
    ("second_moment", "lr", "none", "zero"),
    ("direction", "lr", "none", "init"),
    ("update", "corrected", "none", "zero"),
    ("step", "schedule", "stable", "init"),
    ("proximal", "lr", "cautious", "zero"),
    EVERYWHERE,
]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_point_is_one_rule_of_one_weight(point):
    """But behind the stable gate, which asks the whole tree."""
    tx = optlab.Decay(*point).apply_to(adam_core(), 0.1, 0.5, is_matrix, schedule=cosine)
    if "stable" in point:
        assert tx.rule is None
    else:
        assert tx.rule is not None
        assert tx.rule.elementwise


@pytest.mark.parametrize("point", POINTS[1::2], ids="-".join)
def test_a_mask_by_path_acts_at_every_point(point):
    """Where it is False the updates are those without decay, where it is True those without a mask."""
    mask = {"dense": {"bias": False, "kernel": True}, "head": {"kernel": False}}
    core, moved = adam_core(), jax.tree.map(lambda w: 1.5 * w, PARAMS)

    def updates(decay, mask):
        tx = decay.apply_to(core, 0.1, 0.5, mask, schedule=cosine)
        return update(tx, params=moved, state=tx.init(PARAMS))

    decay = optlab.Decay(*point)
    masked, everywhere, nowhere = updates(decay, mask), updates(decay, None), updates(optlab.Decay("none"), None)
    for got, acts, decayed, plain in zip(*map(jax.tree.leaves, (masked, mask, everywhere, nowhere)), strict=True):
        np.testing.assert_allclose(got, decayed if acts else plain, rtol=1e-6)
    assert not np.allclose(everywhere["dense"]["kernel"], nowhere["dense"]["kernel"], rtol=1e-3)


@pytest.mark.parametrize("point", POINTS[4:], ids="-".join)
def test_a_grid_of_rates_and_decays_is_one_vmap(point):
    def moved(learning_rate, weight_decay):
        tx = optlab.Decay(*point).apply_to(adam_core(), learning_rate, weight_decay, is_matrix, schedule=cosine)
        state = tx.init(PARAMS)
        params = PARAMS
        for _ in range(2):
            updates, state = tx.update(GRADS, state, params)
            params = optax.apply_updates(params, updates)
        return params

    rates, decays = jnp.array([0.1, 0.3]), jnp.array([0.2, 0.0])
    grid = jax.jit(jax.vmap(moved))(rates, decays)
    for number, (rate, decay) in enumerate([(0.1, 0.2), (0.3, 0.0)]):
        assert_trees_close(jax.tree.map(lambda leaf, number=number: leaf[number], grid), moved(rate, decay), rtol=1e-5)


# Rates and decays that are schedules --------------------------------------------------------------------------------


def test_a_rate_with_its_schedule_inside_is_the_same_where_the_base_is_not_asked_for():
    for site, coupling in ("gradient", "lr"), ("update", "lr"), ("after", "lr"), ("proximal", "constant"):
        decay = optlab.Decay(site, coupling)
        apart = decay.apply_to(adam_core(), 0.1, 0.5, schedule=cosine)
        assert decay.apply_to(adam_core(), optlab.product(0.1, cosine), 0.5) == apart
        inside = decay.apply_to(adam_core(), lambda count: 0.1 * cosine(count), 0.5)
        assert_trees_close(update(inside), update(apart))


def test_the_coupling_multiplies_a_decay_that_is_a_schedule():
    falling = optax.linear_schedule(0.5, 0.1, 4)
    tx = optlab.Decay("step", "schedule").apply_to(optlab.identity(), 0.1, falling, schedule=cosine)
    params, state = jnp.ones(2), tx.init(jnp.ones(2))
    for count in range(3):
        updates, state = tx.update(jnp.zeros(2), state, params)
        np.testing.assert_allclose(updates, -params * falling(count) * cosine(jnp.int32(count)), rtol=1e-6)


def test_products_compare_hash_copy_and_read_by_value():
    one, other = optlab.product(0.1, cosine), optlab.product(0.1, cosine)
    assert one == other
    assert hash(one) == hash(other)
    assert one not in (optlab.product(0.2, cosine), optlab.product(0.1, triangle), 0.1)
    assert one == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))
    assert repr(one) == "product(0.1, cases.cosine)"
    of_arrays = optlab.product(jnp.float32(0.1), cosine)
    assert of_arrays == optlab.product(jnp.float32(0.1), cosine) != one
    tx = optlab.Decay(*EVERYWHERE).apply_to(adam_core(), 0.1, jnp.float32(0.5), schedule=cosine)
    again = optlab.Decay(*EVERYWHERE).apply_to(adam_core(), 0.1, jnp.float32(0.5), schedule=cosine)
    assert tx == again == copy.deepcopy(tx)
    assert hash(tx) == hash(again)


def test_a_chain_of_products_is_read_back_from_its_repr():
    tx = optlab.Decay(*EVERYWHERE).apply_to(adam_core(), 0.1, 0.5, schedule=cosine)
    assert "product(0.5, 0.1, cases.cosine, cases.cosine)" in repr(tx)
    assert eval(repr(tx), {**vars(optlab), "cases": __import__("cases")}) == tx


def test_products_multiply():
    assert optlab.product(0.5, 3) == 1.5
    assert optlab.product(cosine) is cosine
    half = optlab.product(jnp.float32(0.5), 3.0, lambda count: count)
    assert half(4) == 6.0
    assert half(jnp.int32(4)).dtype == jnp.float32


# The site in the loss -----------------------------------------------------------------------------------------------


def loss_fn(params, scale):
    return scale * sum(jnp.sum(jnp.sin(w)) for w in jax.tree.leaves(params))


def test_the_penalty_is_half_the_decay_times_the_squares():
    mask = {"dense": {"bias": False, "kernel": True}, "head": False}
    decay = optlab.Decay("loss")
    got = decay.penalize(loss_fn, 0.5, mask)(PARAMS, scale=2.0)
    np.testing.assert_allclose(got, loss_fn(PARAMS, 2.0) + 0.25 * 30.0, rtol=1e-6)
    moved = jax.tree.map(lambda w: w + 1.0, PARAMS)
    around = optlab.Decay("loss", target="init").penalize(loss_fn, 0.5, mask, init_params=PARAMS)
    np.testing.assert_allclose(around(moved, 2.0), loss_fn(moved, 2.0) + 0.25 * 4.0, rtol=1e-6)
    np.testing.assert_allclose(optlab.l2_penalty(PARAMS, 0.5), 0.25 * (5.25 + 30.0 + 5.3125), rtol=1e-6)


def test_every_other_site_leaves_the_loss_alone():
    for site in optlab.SITES:
        assert (optlab.Decay(site).penalize(loss_fn, 0.5) is loss_fn) == (site != "loss")


def test_the_gradient_of_the_penalty_is_what_l2_adds():
    """Zero weights, complex ones, narrow ones and traced decays included."""
    params = {
        "narrow": jnp.array([1.0, -3.0], jnp.bfloat16),
        "plane": jnp.array([0.0, 1 + 2j]),
        "zero": jnp.zeros(2),
    }
    grads = jax.jit(jax.grad(optlab.l2_penalty))(params, jnp.float32(0.5))
    nothing = jax.tree.map(jnp.zeros_like, params)
    added = update(optlab.add_l2_to_grad(0.5), nothing, params)
    for name, grad in grads.items():  # the gradient of a complex weight is conjugate to its descent
        np.testing.assert_array_equal(np.conj(grad).astype(np.complex64), added[name])
    assert optlab.l2_penalty(params, 0.5).dtype == jnp.float32
    assert optlab.l2_penalty({}, 0.5) == 0.0


def test_the_penalty_of_float64_weights_is_float64(x64):
    params = {"double": jnp.ones(2, jnp.float64), "single": jnp.ones(2, jnp.float32)}
    assert optlab.l2_penalty(params, 0.1) == 0.2
    assert optlab.l2_penalty(params, 0.1).dtype == jnp.float64


# The sign trap ------------------------------------------------------------------------------------------------------


def test_the_new_links_stand_behind_the_rate():
    rate, wd = optlab.scale_by_learning_rate(0.1), 0.5
    for shrink in optlab.shrink_weights, optlab.shrink_after_step, optlab.shrink_proximally:
        for link in shrink(wd), optlab.decay_toward_init(shrink(wd)):
            moved = update(optlab.chain(rate, link), jax.tree.map(jnp.zeros_like, GRADS))
            for u, w in zip(jax.tree.leaves(moved), jax.tree.leaves(PARAMS), strict=True):
                assert np.all(np.abs(w + u) <= np.abs(w))
