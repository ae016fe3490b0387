"""What optimizers do where a formula says it: first steps, constant gradients, limits, scalings, weights left alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import public
import pytest
from descent import along, descend
from hypothesis import given, settings
from hypothesis import strategies as st

import optlab
from optlab import chain
from optlab.atoms.averages import weight_sum

drawn = settings(derandomize=True, deadline=None, database=None, max_examples=25)

# What is nearer to 1, or to 0, may round to it in float32, which is refused.
SHARES = st.just(0.0) | st.floats(2**-120, 1 - 2**-20)
SIZES = st.floats(1e-6, 1e6)
SIGNED_SIZES = st.builds(lambda size, sign: sign * size, SIZES, st.sampled_from([-1.0, 1.0]))
NUMBERS = st.floats(-100, 100)

# A factor, a product and a sum or two round in each step of a float32 recurrence; 16 such roundings are 1e-6.
FEW_ROUNDINGS = 1e-6


def _core(b1, b2, eps):
    return optlab.scale_by_rms(b2, eps, numerator=chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1)))


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def first_update(tx, u):
    u = jnp.asarray(u, jnp.float32)
    return np.asarray(tx.update(u, tx.init(u), u)[0])


# First steps --------------------------------------------------------------------------------------------------------


@drawn
@given(b1=SHARES, b2=SHARES, g=st.lists(SIGNED_SIZES, min_size=8, max_size=8))
def test_adams_first_step_is_the_rate_whatever_the_decays(b1, b2, g):
    exact = first_update(optlab.adam(0.25, b1, b2, eps=0.0), g)
    np.testing.assert_allclose(exact, -0.25 * np.sign(g), rtol=FEW_ROUNDINGS)
    shorter = first_update(optlab.adam(0.25, b1, b2, eps=1e-8), g)
    share = 1 / (1 + 1e-8 / np.abs(g))
    np.testing.assert_allclose(shorter, -0.25 * np.sign(g) * share, rtol=FEW_ROUNDINGS)
    assert share.min() >= 0.99


# The first step in rates, with eps = 0, where the gradient is not zero.
FIRST_STEPS = {
    "adabelief": lambda b1, b2, decay: 1 / b1,
    "adagrad": lambda b1, b2, decay: 1.0,
    "adam": lambda b1, b2, decay: 1.0,
    "adamax": lambda b1, b2, decay: 1.0,
    "amsgrad": lambda b1, b2, decay: 1.0,
    "laprop": lambda b1, b2, decay: 1.0,
    "lion": lambda b1, b2, decay: 1.0,
    "nadam": lambda b1, b2, decay: 1 + b1 / (1 + b1),
    "rmsprop": lambda b1, b2, decay: (1 - decay) ** -0.5,
    "sign_sgd": lambda b1, b2, decay: 1.0,
    "signum": lambda b1, b2, decay: 1.0,
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_steps(name):
    given = {"b1": 0.75, "b2": 0.96875, "decay": 0.9375}
    tx = public.build(name, learning_rate=0.25, eps=0.0, eps_root=0.0, weight_decay=0.0, **given)
    g = np.array([1e-6, -3e-3, 1.0, -1e6])
    np.testing.assert_allclose(first_update(tx, g), -0.25 * FIRST_STEPS[name](**given) * np.sign(g), rtol=1e-5)


@drawn
@given(g=SIGNED_SIZES)
def test_adagrad_on_a_constant_gradient_slows_down_with_the_root_of_time(g):
    t = np.arange(1, 101)
    steps = np.diff(along(optlab.adagrad(0.5, eps=0.0), np.zeros(1), np.full((100, 1), g))[:, 0], prepend=0)
    np.testing.assert_allclose(steps, -0.5 * np.sign(g) / np.sqrt(t), rtol=1e-5)


def test_adagrad_with_a_start_slows_down_from_there(x64):
    t = np.arange(1, 101)
    steps = np.diff(
        along(optlab.adagrad(0.5, eps=1e-2, initial=3.0), np.zeros(1), np.full((100, 1), 2.0))[:, 0], prepend=0
    )
    np.testing.assert_allclose(steps, -0.5 * 2 / (np.sqrt(3 + 4 * t) + 1e-2), rtol=1e-12)


@jax.jit
def _sign_steps(b1, b2, weight_decay, learning_rate, start, grads):
    """Weights of sign SGD, Signum and Lion after each step, and the decay of each."""
    lion = optlab.lion(learning_rate, b1, b2, weight_decay=weight_decay)
    txs = (optlab.sign_sgd(learning_rate), optlab.signum(learning_rate, b1), lion)
    return [along(tx, start, grads) for tx in txs], [0.0, 0.0, weight_decay]


@drawn
@given(b1=SHARES, b2=SHARES, weight_decay=SHARES, learning_rate=st.floats(1e-3, 1))
def test_sign_optimizers_take_steps_of_one_length(b1, b2, weight_decay, learning_rate):
    grads = _normal(20, 6) * 10.0 ** np.arange(-3, 3)
    grads[:, 0] = 0
    start = np.linspace(-1, 1, 6)
    with jax.enable_x64(True):
        for weights, decay in zip(*_sign_steps(b1, b2, weight_decay, learning_rate, start, grads), strict=True):
            w = np.concatenate([start[None], weights])
            steps = np.diff(w, axis=0) + learning_rate * decay * w[:-1]
            np.testing.assert_allclose(np.abs(steps[:, 1:]), learning_rate, rtol=1e-12)
            np.testing.assert_allclose(steps[:, 0], 0, atol=1e-15)


# Averages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99, 0.999, 0.99999])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_corrected_average_of_a_constant_is_that_constant(dtype, decay):
    """At every step, but for rounding: a step rounds by eps at most, and the average remembers 1/(1 - decay) steps.

    In float32 the most seen was 5e-6, at 0.99, where a hundred roundings go the same way.
    """
    average = chain(optlab.scale_by_ema(decay), optlab.bias_correct(decay))
    constants = np.array([1.0, -np.pi, 1e-8, 3e8]).astype(dtype)

    with jax.enable_x64(dtype == "float64"):

        @jax.jit
        def averages(u):
            def step(state, _):
                u_hat, state = average.update(u, state)
                return state, u_hat

            return jax.lax.scan(step, average.init(u), length=5000)[1]

        got = np.asarray(averages(jnp.asarray(constants)))
    assert got.dtype == dtype
    error = np.abs(got.astype(np.float64) / constants - 1).max(axis=1)
    t = np.arange(1, 5001)
    rounding = np.finfo(dtype).eps / 2
    assert np.all(error <= rounding * (4 + np.minimum(t, 1 / (1 - decay))))
    if dtype == "float32":
        assert error[:10].max() <= 1e-6
        if decay <= 0.9 or decay == 0.99999:
            assert error.max() <= 1.1e-6


@pytest.mark.parametrize("decay", [0.0, 1e-3, 0.5, 0.999])
def test_the_sum_of_the_weights_of_an_average_has_the_derivatives_of_a_power(decay, x64):
    """Of `1 - decay**t`, which are -1 and 0 at 0 after one step and after more: as powers, not through a logarithm."""

    def after(t):
        return lambda decay: weight_sum(decay, jnp.int32(t), jnp.float64(1))

    for t in 1, 2, 3, 40:
        first, second = jax.grad(after(t)), jax.grad(jax.grad(after(t)))
        for got, wanted in (first, -t * decay ** (t - 1)), (second, -t * (t - 1) * decay ** max(t - 2, 0)):
            np.testing.assert_allclose(got(jnp.float64(decay)), wanted, rtol=1e-9)
        got = jax.jit(jax.vmap(first))(jnp.full(2, decay))
        np.testing.assert_allclose(got, -t * decay ** (t - 1), rtol=1e-9)


def test_amsgrads_second_moment_never_falls():
    """Adam's does: after a gradient of 100 among small ones it decays to theirs."""
    grads = jnp.asarray(_normal(200, 3) * np.where(np.arange(200) == 20, 100, 1)[:, None], jnp.float32)

    def sizes(tx, slot):
        def step(state, g):
            state = tx.update(g, state)[1]
            return state, state.slots["denominator"][slot]

        return np.asarray(jax.lax.scan(step, tx.init(grads[0]), grads)[1])

    kept = sizes(optlab.amsgrad(1e-3, 0.9, 0.95), "max")
    assert np.all(np.diff(kept, axis=0) >= 0)
    assert np.all(kept[-1] == kept[21])
    assert np.all(np.diff(sizes(optlab.adam(1e-3, 0.9, 0.95), "ema"), axis=0)[21:50] < 0)


@jax.jit
def _with_momentum(b1, learning_rate, start, grads):
    makers = {
        "heavy_ball": optlab.heavy_ball,
        "nesterov": optlab.nesterov,
        "momentum": lambda learning_rate, b1: optlab.momentum(learning_rate / (1 - b1), b1),
    }
    return {name: along(make(learning_rate, b1), start, grads) for name, make in makers.items()}


@drawn
@given(b1=SHARES, learning_rate=st.floats(1e-3, 1))
def test_nesterov_is_the_heavy_ball_a_step_ahead(b1, learning_rate):
    """On one stream of gradients: `n(t) = h(t) + b1*(h(t) - h(t-1))`; and the average is it at another rate."""
    start, grads = _normal(4), _normal(30, 4, seed=1)
    with jax.enable_x64(True):
        weights = _with_momentum(b1, learning_rate, start, grads)
    heavy = np.concatenate([start[None], weights["heavy_ball"]])
    ahead, near = heavy[1:] + b1 * np.diff(heavy, axis=0), 1e-12 * np.abs(heavy).max()
    np.testing.assert_allclose(weights["nesterov"], ahead, rtol=1e-12, atol=near)
    np.testing.assert_allclose(weights["momentum"], heavy[1:], rtol=1e-12, atol=near)


@pytest.mark.parametrize("make", [optlab.heavy_ball, optlab.nesterov, optlab.momentum])
def test_momentum_of_zero_is_none(make):
    start, grads = _normal(4).astype(np.float32), _normal(30, 4, seed=1).astype(np.float32)
    np.testing.assert_array_equal(along(make(0.1, 0.0), start, grads), along(optlab.sgd(0.1), start, grads))


# Scales of the gradient ---------------------------------------------------------------------------------------------

LINEAR = {"sgd", "momentum", "heavy_ball", "nesterov", "sgdw"}


@pytest.mark.parametrize("name", public.OPTIMIZERS)
def test_degree_in_the_gradient(name):
    """Without eps and decay steps don't move with the scale of the gradient, or they move as it does; all are odd.

    Exactly so, where the scale is a power of two.
    """
    tx = public.build(name, eps=0.0, eps_root=0.0, weight_decay=0.0)
    start, grads = np.zeros(5, np.float32), _normal(20, 5).astype(np.float32)
    weights = along(tx, start, grads)
    np.testing.assert_array_equal(along(tx, start, 1024 * grads), (1024 if name in LINEAR else 1) * weights)
    np.testing.assert_array_equal(along(tx, start, -grads), -weights)


def _sites(b1, b2, eps, learning_rate, weight_decay):
    """Adam with decay at every site that a transform can reach."""
    core = _core(b1, b2, eps)
    return {site: optlab.Decay(site).apply_to(core, learning_rate, weight_decay) for site in SITES}


SITES = [site for site in optlab.SITES if site != "loss"]
BEHIND = {"none", "update", "step", "after", "proximal"}


@pytest.mark.parametrize("site", SITES)
def test_decay_behind_the_quotient_does_not_move_with_the_scale_of_the_gradient(site, x64):
    """Before or inside of the quotient it does, unless it is scaled as the gradient is; behind it that moves it."""
    start, grads = _normal(6), _normal(30, 6, seed=1)

    def weights(scale, weight_decay):
        return along(_sites(0.9, 0.95, 0.0, 1e-2, weight_decay)[site], start, scale * grads)

    base, scaled, both = weights(1, 0.3), weights(1000, 0.3), weights(1000, 300.0)
    moved = np.abs(scaled - base).max()
    if site in BEHIND:
        assert moved < 1e-13
    else:
        assert moved > 5e-3
        np.testing.assert_allclose(both, base, rtol=1e-10)
    if site not in {"none", *(set(SITES) - BEHIND)}:
        assert not np.allclose(both, base, rtol=1)


# Decay and L2 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_no_decay_all_sites_coincide(dtype):
    """To the last bit, where the step is added by a program of its own; XLA may fuse it with what the step ends in."""

    def weights(tx):
        w = jnp.asarray(start)
        state, seen = tx.init(w), []
        for g in grads:
            updates, state = tx.update(jnp.asarray(g), state, w)
            w = w + updates
            seen.append(np.asarray(w))
        assert w.dtype == dtype
        return np.stack(seen)

    with jax.enable_x64(dtype == "float64"):
        start, grads = _normal(6).astype(dtype), _normal(30, 6, seed=1).astype(dtype)
        grads[:, 0] = 0
        wanted = weights(optlab.adam(0.1, 0.9, 0.95, 1e-8))
        for site, tx in _sites(0.9, 0.95, 1e-8, 0.1, 0.0).items():
            np.testing.assert_array_equal(weights(tx), wanted, err_msg=site)
        for make in (optlab.adam_l2, optlab.adamw, optlab.adamw_independent, optlab.adams):
            got = weights(make(0.1, 0.9, 0.95, 1e-8, weight_decay=0.0))
            np.testing.assert_array_equal(got, wanted, err_msg=make.__name__)
        heavy = weights(optlab.heavy_ball(0.1, 0.9))
        np.testing.assert_array_equal(weights(optlab.sgdw(0.1, 0.9, weight_decay=0.0)), heavy)


@functools.partial(jax.jit, static_argnums=0)
def _sgd(decay, learning_rate, weight_decay, start, grads):
    return along(chain(decay(weight_decay), optlab.sgd(learning_rate)), start, grads)


@jax.jit
def _penalized_sgd(learning_rate, weight_decay, start, grads):
    def loss(w, t):
        return jnp.sum(grads[t - 1] * w) + weight_decay / 2 * jnp.sum(w * w)

    return descend(optlab.sgd(learning_rate), start, jax.grad(loss), len(grads))


@drawn
@given(learning_rate=st.floats(0, 1, width=32), weight_decay=st.floats(0, 10, width=32))
def test_for_sgd_l2_is_decay_to_the_last_bit(learning_rate, weight_decay):
    given = (learning_rate, weight_decay, _normal(6).astype(np.float32), _normal(10, 6, seed=1).astype(np.float32))
    coupled = _sgd(optlab.add_l2_to_grad, *given)
    np.testing.assert_array_equal(_sgd(optlab.add_decayed_weights, *given), coupled)
    in_the_loss = _penalized_sgd(*given)
    np.testing.assert_allclose(in_the_loss, coupled, rtol=1e-5, atol=1e-5 * np.abs(coupled).max())


# What the weights with L2 have over those with decay after one step and after two, with `c = learning_rate *
# weight_decay * b1`, `s = learning_rate * weight_decay`: the second gradient is in neither.
EXCESS = {
    # The first step decays by the share 1 - b1 alone.
    "scale_by_ema": lambda c, s, b1, learning_rate, w, g1: (
        c * w,
        c * ((1 + b1 - s * (2 - b1)) * w - learning_rate * (1 - b1) * g1),
    ),
    # The first step is the same, the second decays by b1*w once more.
    "accumulate": lambda c, s, b1, learning_rate, w, g1: (0 * w, -c * w),
    # Already the first looks ahead to that.
    "accumulate_nesterov": lambda c, s, b1, learning_rate, w, g1: (
        -c * w,
        -c * ((2 + b1) * (1 - s) * w - learning_rate * (1 + b1) * g1),
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def _excess_of_l2(average, b1, learning_rate, weight_decay, start, grads):
    average, rate = average(b1), optlab.scale_by_learning_rate(learning_rate)
    coupled = along(chain(optlab.add_l2_to_grad(weight_decay), average, rate), start, grads)
    return coupled - along(chain(average, optlab.add_decayed_weights(weight_decay), rate), start, grads)


@pytest.mark.parametrize("name", EXCESS)
@drawn
@given(b1=SHARES, learning_rate=SHARES, weight_decay=SHARES, w=NUMBERS, g=st.tuples(NUMBERS, NUMBERS))
def test_with_momentum_l2_and_decay_part_by_what_the_formula_says(name, b1, learning_rate, weight_decay, w, g):
    start, grads = np.full(1, w), np.array(g)[:, None]
    with jax.enable_x64(True):
        got = _excess_of_l2(getattr(optlab, name), b1, learning_rate, weight_decay, start, grads)
    share = learning_rate * weight_decay
    wanted = EXCESS[name](share * b1, share, b1, learning_rate, start, grads[0])
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-13 * (1 + abs(w) + np.abs(g).sum()))


@pytest.mark.parametrize("name", EXCESS)
def test_the_excess_is_no_rounding(name):
    given = (0.9, 0.1, 0.1, np.ones(1, np.float32), np.zeros((2, 1), np.float32))
    assert abs(_excess_of_l2(getattr(optlab, name), *given)[1, 0]) > 8e-3


# The limit of AdamW -------------------------------------------------------------------------------------------------

TARGET = np.array([5.0, -3.0, 0.5, -1.0])
MIX = _normal(6, 4)
LOSSES = {
    "linear": lambda w: jnp.sum(np.array([-1.0, 3.0, -1e-2, 100.0]) * w),
    "quadratic": lambda w: jnp.sum(np.array([1.0, 0.1, 3.0, 10.0]) * (w - TARGET) ** 2) / 2,
    "quadratic, mixed": lambda w: jnp.sum((MIX @ (w - TARGET)) ** 2) / 2,
    "quartic": lambda w: jnp.sum((w - TARGET) ** 4),
    "log cosh": lambda w: jnp.sum(jnp.logaddexp(w - TARGET, TARGET - w)),
    "logistic, separable": lambda w: jnp.sum(
        jnp.logaddexp(0.0, -jnp.abs(MIX) @ (w * np.array([1.0, -1.0, 1.0, -1.0])))
    ),
}
FAR = np.array([6.0, -6.0, 0.0, 3.0])


@functools.cache
def limit(loss, b1, b2, steps, last):
    """The last weights of AdamW at a rate of 0.01 and a decay of 1/2, from beyond the box of 2."""
    with jax.enable_x64(True):
        tx = optlab.adamw(1e-2, b1, b2, 1e-12, weight_decay=0.5)
        return np.asarray(descend(tx, FAR, lambda w, t: jax.grad(LOSSES[loss])(w), steps)[-last:])


def smallest_in_the_box(loss):
    """Where the loss is smallest among `|w| <= 2`: by projected gradient descent where it mixes coordinates."""
    if loss in ("linear", "logistic, separable"):
        return np.array([2.0, -2.0, 2.0, -2.0])
    w = np.clip(TARGET, -2, 2)
    if loss == "quadratic, mixed":
        for _ in range(2000):
            w = np.clip(w - 0.05 * MIX.T @ MIX @ (w - TARGET), -2, 2)
    return w


@pytest.mark.parametrize(("b1", "b2"), [(0.0, 0.95), (0.9, 0.9), (0.9, 0.95)])
@pytest.mark.parametrize("loss", LOSSES)
def test_adamw_ends_where_the_loss_is_smallest_in_a_box_of_one_by_the_decay(loss, b1, b2):
    """Xie & Li 2024, theorem 1.1: gradients without noise, `b1 <= b2`, iterates that converge."""
    w = limit(loss, b1, b2, 12_000, 1000)
    assert np.abs(w).max() <= 2 * (1 + 1e-5)
    np.testing.assert_allclose(w[-1], smallest_in_the_box(loss), atol=0.02)


def test_a_long_memory_only_delays_the_box():
    """At b2 of 0.999, where early and large gradients are remembered for long."""
    late = np.abs(limit("quartic", 0.9, 0.999, 60_000, 60_000)).max(axis=1) / 2
    assert late[4000] > 1.1
    assert np.all(late[20_000:] < 1.001)
    assert np.all(late[50_000:] < 1 + 1e-6)


def test_with_b1_above_b2_the_box_does_not_hold():
    """The condition is needed: here AdamW goes round in circles, out to twice the bound, and never converges."""
    assert np.abs(limit("quartic", 0.99, 0.9, 12_000, 1000)).max() / 2 == pytest.approx(1.96, abs=0.01)
    assert np.abs(limit("quadratic, mixed", 0.99, 0.9, 12_000, 1000)).max() / 2 > 1.3


def test_on_a_linear_loss_adamw_goes_to_the_bound_geometrically(x64):
    """`w(t) = keep**t * w0 - (1 - keep**t) * sign(c) / weight_decay` with `keep = 1 - rate * weight_decay`."""
    slope, keep = np.array([-1e-3, 1.0, 1e6]), 1 - 0.1 * 0.5
    start = np.array([3.0, -1.0, 0.0])
    w = descend(optlab.adamw(0.1, 0.9, 0.999, 0.0, weight_decay=0.5), start, lambda w, t: jnp.asarray(slope), 500)
    kept = keep ** np.arange(1, 501)[:, None]
    np.testing.assert_allclose(w, kept * start - (1 - kept) * np.sign(slope) / 0.5, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.abs(w[-1]), 2, rtol=1e-10)


def test_gradients_that_keep_growing_lead_out_of_the_box(x64):
    """They double at each step: m_hat/sqrt(v_hat) tends to 2.6 at b1 0.5, b2 0.95, and so does |w|*weight_decay."""
    b1, b2, r = 0.5, 0.95, 2.0
    length = (1 - b1) / (1 - b1 / r) / np.sqrt((1 - b2) / (1 - b2 / r**2))
    w = along(optlab.adamw(0.1, b1, b2, 0.0, weight_decay=0.5), np.zeros(1), -(r ** np.arange(450.0))[:, None])
    assert length == pytest.approx(2.6, abs=0.01)
    np.testing.assert_allclose(w[-1], length / 0.5, rtol=1e-6)


@jax.jit
def _lion(b1, b2, weight_decay, start, grads):
    return along(optlab.lion(0.2, b1, b2, weight_decay=weight_decay), start, grads)


@drawn
@given(b1=SHARES, b2=SHARES, weight_decay=st.floats(0.1, 5))
def test_lion_never_leaves_the_box(b1, b2, weight_decay):
    """Its steps have the length of the rate: `|w(t)| <= max(|w0|, 1/weight_decay)`, whatever the gradients."""
    start, grads = np.linspace(-1, 1, 5) / weight_decay, _normal(100, 5) * 10.0 ** np.arange(-2, 3)
    with jax.enable_x64(True):
        w = _lion(b1, b2, weight_decay, start, grads)
    assert np.abs(w).max() * weight_decay <= 1 + 1e-12


# Weights without a gradient -----------------------------------------------------------------------------------------


def left_alone(site, learning_rate, weight_decay, eps, steps=100, b1=0.9, b2=0.999):
    """What becomes of 1 and -0.3 when their gradients are always zero."""
    tx = _sites(b1, b2, eps, learning_rate, weight_decay)[site]
    return np.asarray(along(tx, np.array([1.0, -0.3]), np.zeros((steps, 2))))


KEPT = {
    "none": lambda rate, decay, eps: 1.0,
    "second_moment": lambda rate, decay, eps: 1.0,
    "direction": lambda rate, decay, eps: 1 - rate * decay / eps,
    "update": lambda rate, decay, eps: 1 - rate * decay,
    "step": lambda rate, decay, eps: 1 - decay,
    "after": lambda rate, decay, eps: 1 - rate * decay,
    "proximal": lambda rate, decay, eps: 1 / (1 + rate * decay),
}


@pytest.mark.parametrize(("rate", "decay", "eps"), [(0.1, 0.5, 1e-1), (1e-3, 1e-2, 1e-2)])
@pytest.mark.parametrize("site", KEPT)
def test_a_weight_left_alone_decays_geometrically(site, rate, decay, eps, x64):
    kept = KEPT[site](rate, decay, eps) ** np.arange(1, 101)[:, None]
    np.testing.assert_allclose(left_alone(site, rate, decay, eps), kept * [1, -0.3], rtol=1e-12)


def test_under_direction_a_weight_left_alone_explodes_where_eps_is_small(x64):
    """It is multiplied by `1 - rate*decay/eps` at each step: beyond 2 that is an explosion, from 1 to 0 a decay."""
    assert np.all(np.isfinite(left_alone("direction", 1e-3, 1e-2, 1e-5 / 1.99, steps=5000)))
    assert np.abs(left_alone("direction", 1e-3, 1e-2, 1e-5 / 1.99, steps=5000))[-1, 0] < 1e-20
    assert np.abs(left_alone("direction", 1e-3, 1e-2, 1e-5 / 2.01, steps=5000))[-1, 0] > 1e20
    usual = left_alone("direction", 1e-3, 1e-2, 1e-8)
    np.testing.assert_allclose(usual[:3, 0], [-999, 999**2, -(999**3)], rtol=1e-12)


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9])
def test_under_first_moment_it_takes_more_for_an_explosion(b1, x64):
    """`w` is a heavy ball of rate `k = rate*decay/eps`, stable up to `2*(1 + b1)/(1 - b1)`, 38 at b1 = 0.9.

    Late in time, the correction gone, `w(t+1) = (1 + b1 - k*(1 - b1))*w(t) - b1*w(t-1)`: it grows by the larger root.
    """
    bound = 2 * (1 + b1) / (1 - b1)
    for k, grows in ((0.5 * bound, False), (0.99 * bound, False), (1.01 * bound, True), (1.2 * bound, True)):
        w = np.abs(left_alone("first_moment", 0.1, 0.1 * k, 1e-2, steps=600, b1=b1)[:, 0])
        root = np.abs(np.roots([1, k * (1 - b1) - (1 + b1), b1])).max()
        assert (root > 1) == grows
        if grows:
            np.testing.assert_allclose(w[-1] / w[-101], root**100, rtol=1e-6)
        else:
            assert w[-1] < 1e-4 * w.max()


@pytest.mark.parametrize(("site", "step"), [("direction", 12), ("first_moment", 16)])
def test_at_usual_settings_the_explosion_overflows_float32_within_steps(site, step):
    """Rate 1e-3, decay 1e-2, eps 1e-8: `rate*decay/eps` is 1000."""
    tx = _sites(0.9, 0.999, 1e-8, 1e-3, 1e-2)[site]
    w = np.asarray(along(tx, np.ones(1, np.float32), np.zeros((30, 1), np.float32)))
    assert int(np.argmax(~np.isfinite(w))) + 1 == step


def test_under_gradient_a_weight_left_alone_takes_sign_steps_whatever_the_decay(x64):
    """Its decay is all its gradient, and Adam divides by it: for eps = 0 the strength cancels.

    The first step is the rate, less what eps takes; later ones are shorter, as `v` remembers larger weights.
    """
    rate = 1e-2
    weights = {decay: left_alone("gradient", rate, decay, 0.0, steps=300) for decay in (2.0**-13, 0.5)}
    np.testing.assert_allclose(weights[2.0**-13], weights[0.5], rtol=1e-9)
    steps = -np.diff(weights[0.5][:, 0], prepend=1) / rate
    np.testing.assert_allclose(steps[[0, 10, 50, 80]], [1, 0.9888, 0.7939, 0.5859], atol=1e-4)
    assert np.all(np.abs(steps) <= 1 + 1e-12)
    assert np.abs(weights[0.5][200:]).max() < 0.02
    assert left_alone("update", rate, 2.0**-13, 1e-8, steps=300)[-1, 0] > 0.999
    eps, decay = 1e-2, 0.1
    first = left_alone("gradient", rate, decay, eps, steps=1)[0] - [1, -0.3]
    pull = decay * np.array([1, -0.3])
    np.testing.assert_allclose(first, -rate * pull / (np.abs(pull) + eps), rtol=1e-12)


@pytest.mark.parametrize("site", ["none", "first_moment", "direction", "update", "step"])
def test_without_eps_a_weight_left_alone_is_divided_by_zero(site):
    """Zero by zero, or decay by zero: with eps = 0 only the sites that the second moment sees stay finite."""
    tx = _sites(0.9, 0.999, 0.0, 1e-2, 0.1)[site]
    assert not np.isfinite(along(tx, np.ones(1, np.float32), np.zeros((1, 1), np.float32))).any()
    for other in ("gradient", "second_moment"):
        tx = _sites(0.9, 0.999, 0.0, 1e-2, 0.1)[other]
        assert np.isfinite(along(tx, np.ones(1, np.float32), np.zeros((10, 1), np.float32))).all()


def test_adams_shrinks_a_weight_left_alone_by_the_size_of_the_others(x64):
    """By `rate * decay / (sqrt(mean v) + eps)`: with three of four gradients ±2, a mean of 3."""
    grads = np.tile([0.0, 2.0, -2.0, 2.0], (50, 1))
    w = along(optlab.adams(0.1, 0.9, 0.999, 1e-2, weight_decay=0.5), np.array([1.0, 5.0, 5.0, 5.0]), grads)
    kept = (1 - 0.1 * 0.5 / (np.sqrt(3) + 1e-2)) ** np.arange(1, 51)
    np.testing.assert_allclose(w[:, 0], kept, rtol=1e-12)
