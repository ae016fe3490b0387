"""optlab's transforms go where optax's go: inside its wrappers and Flax's, and around its own transforms.

Every wrapper holds two optimizers that optax also has; what is asked is that the wrapped pair takes the same steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import optlab

SHAPES = {"bias": (3,), "kernel": (2, 3)}
PARAMS = public.random_tree(SHAPES, seed=0)
STREAM = [public.random_tree(SHAPES, seed) for seed in range(1, 7)]

ADAMW = {"b1": 0.8, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.5}
PAIRS = {
    "adamw": (
        functools.partial(optlab.adamw, 0.1, **ADAMW),
        functools.partial(optax.adamw, 0.1, **ADAMW),
    ),
    "lion": (
        functools.partial(optlab.lion, 0.1, b1=0.8, b2=0.9, weight_decay=0.5),
        functools.partial(optax.lion, 0.1, b1=0.8, b2=0.9, weight_decay=0.5),
    ),
}
SCHEDULE = optax.linear_schedule(0.2, 0.05, 4)


def train(tx, peer, stream=STREAM, params=PARAMS):
    """The weights after every step, and the last state; the step is compiled."""
    with peer():
        state = tx.init(params)

        @jax.jit
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        weights = []
        for grads in stream:
            params, state = step(params, state, grads)
            weights.append(params)
    return weights, state


def assert_close(ours, theirs, rtol=2e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def assert_differ(ours, theirs):
    assert max(np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)) > 0.01


WRAPPERS = {
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make()),
    "chain with a schedule": lambda make: optax.chain(
        make(), optax.scale_by_schedule(optax.linear_schedule(1.0, 0.25, 4))
    ),
    "named_chain": lambda make: optax.named_chain(("clip", optax.clip(0.5)), ("optimizer", make())),
    "masked": lambda make: optax.masked(make(), {"bias": False, "kernel": True}),
    "partition": lambda make: optax.partition(
        {"slow": make(), "none": optax.set_to_zero()}, {"bias": "none", "kernel": "slow"}
    ),
    "multi_transform": lambda make: optax.multi_transform(
        {"a": make(), "b": optax.chain(make(), optax.scale(0.5))}, lambda params: {"bias": "a", "kernel": "b"}
    ),
    "MultiSteps": lambda make: optax.MultiSteps(make(), every_k_schedule=2).gradient_transformation(),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(), max_consecutive_errors=3),
    "flatten": lambda make: optax.chain(optax.flatten(make()), optax.scale(0.5)),
    "conditionally_transform": lambda make: optax.conditionally_transform(make(), lambda step, **_: step < 3),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_inside_optax(wrapper, pair, peer):
    """The third gradients are no numbers where that is what the wrapper is for."""
    stream = STREAM
    if wrapper == "apply_if_finite":
        stream = [*STREAM[:2], jax.tree.map(lambda g: g * jnp.nan, STREAM[2]), *STREAM[3:]]
    ours, theirs = (train(WRAPPERS[wrapper](make), peer, stream)[0] for make in PAIRS[pair])
    assert_close(ours, theirs)
    assert_differ(ours, _bare(pair, peer))


@functools.cache
def _bare(pair, peer):
    return train(PAIRS[pair][0](), peer)[0]


def test_masked_weights_keep_no_statistics(peer):
    mask = {"bias": False, "kernel": True}
    _, state = train(optax.masked(optlab.adamw(0.1, weight_decay=0.5), mask), peer)
    keys = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    assert keys == [
        ".inner_state.count",
        ".inner_state.slots['denominator']['ema']['kernel']",
        ".inner_state.slots['numerator']['ema']['kernel']",
    ]


def test_wrappers_of_bfloat16_weights_get_float32_updates(peer):
    params = public.random_tree(SHAPES, 0, jnp.bfloat16)
    tx = optax.MultiSteps(optlab.adamw(0.1, **ADAMW), every_k_schedule=2).gradient_transformation()
    with peer():
        updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}
    weights, _ = train(tx, peer, params=params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(weights)} == {"bfloat16"}
    assert_differ([jax.tree.map(lambda w: w.astype(jnp.float32), weights[-1])], [PARAMS])


# Injected hyperparameters -------------------------------------------------------------------------------------------


def _injected(make):
    return optax.inject_hyperparams(make)(learning_rate=SCHEDULE, **ADAMW)


def test_inject_hyperparams_with_a_schedule(peer):
    ours, theirs = _injected(optlab.adamw), _injected(optax.adamw)
    (weights, state), (wanted, _) = (train(tx, peer) for tx in (ours, theirs))
    assert_close(weights, wanted)
    assert_close(weights, train(optlab.adamw(SCHEDULE, **ADAMW), peer)[0])
    assert_differ(weights, train(optlab.adamw(0.2, **ADAMW), peer)[0])
    np.testing.assert_allclose(state.hyperparams["learning_rate"], SCHEDULE(len(STREAM) - 1))


def test_inject_hyperparams_outside_jit(peer):
    """Every step makes the transform anew, from new arrays; it is traced once."""
    traced = []

    @optlab.atom
    def count(factor):
        def update(u, slots, w, t):
            traced.append(factor)
            return factor * u, slots

        return optlab.Rule(update)

    def make(learning_rate, factor, b2):
        return optlab.chain(count(factor), optlab.scale_by_rms(b2, 1e-2), optlab.scale_by_learning_rate(learning_rate))

    params = jnp.array([1.0, -2.0])
    with peer():
        tx = optax.inject_hyperparams(make)(SCHEDULE, 0.5, 0.9)
        state, steps = tx.init(params), []
        for _ in range(3):
            updates, state = tx.update(params, state, params)
            steps.append(updates)
    expected = [-SCHEDULE(t) * np.array([0.5, -1]) / (np.array([0.5, 1]) + 1e-2) for t in range(3)]
    np.testing.assert_allclose(steps, expected, rtol=1e-5)
    assert len(traced) == 1


def test_injected_hyperparams_can_be_set_between_steps(peer):
    tx = optax.inject_hyperparams(optlab.adamw)(learning_rate=0.1, **ADAMW)
    weights, state = train(tx, peer)
    assert set(state.hyperparams) == {"learning_rate", *ADAMW}
    state.hyperparams["learning_rate"] = jnp.float32(0)
    with peer():
        updates, _ = jax.jit(tx.update)(STREAM[0], state, weights[-1])
    assert all(not np.any(u) for u in jax.tree.leaves(updates))


# optax inside optlab ------------------------------------------------------------------------------------------------

MIXTURES = {
    "its preconditioner, our decay and rate": (
        lambda: optlab.chain(
            optax.scale_by_adam(0.8, 0.9, 1e-2),
            optlab.add_decayed_weights(0.5),
            optlab.scale_by_learning_rate(0.1),
        ),
        lambda: optax.adamw(0.1, **ADAMW),
    ),
    "our preconditioner, its decay and rate": (
        lambda: optlab.chain(
            optlab.scale_by_rms(0.9, 1e-2, numerator=optax.ema(0.8)),
            optax.add_decayed_weights(0.5),
            optax.scale_by_learning_rate(0.1),
        ),
        lambda: optax.adamw(0.1, **ADAMW),
    ),
    "clipping before": (
        lambda: optlab.chain(optax.clip_by_global_norm(1.0), optlab.adamw(0.1, **ADAMW)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, **ADAMW)),
    ),
    "a schedule behind": (
        lambda: optlab.chain(optlab.adamw(1.0, **ADAMW), optax.scale_by_schedule(SCHEDULE)),
        lambda: optax.adamw(SCHEDULE, **ADAMW),
    ),
    "a masked decay between": (
        lambda: optlab.chain(
            optax.scale_by_adam(0.8, 0.9, 1e-2),
            optax.masked(optlab.add_decayed_weights(0.5), {"bias": False, "kernel": True}),
            optlab.scale_by_learning_rate(SCHEDULE),
        ),
        lambda: optax.adamw(SCHEDULE, **ADAMW, mask={"bias": False, "kernel": True}),
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_optax_inside_our_chain(name, peer):
    ours, theirs = (train(make(), peer)[0] for make in MIXTURES[name])
    assert_close(ours, theirs)
    assert_differ(ours, [PARAMS] * len(ours))


# Flax ---------------------------------------------------------------------------------------------------------------

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
Y = jnp.sin(X @ jnp.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -0.2]]))


def _forward(params, x):
    return x @ params["kernel"] + params["bias"]


def _loss(params):
    return jnp.mean((_forward(params, X) - Y) ** 2)


def _by_hand(tx, params, steps):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(_loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_flax_nnx_optimizer(peer):
    with peer():
        for make in PAIRS["adamw"]:
            model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            params = {"bias": model.bias[...], "kernel": model.kernel[...]}
            optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)

            @nnx.jit
            def step(model, optimizer):
                loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
                optimizer.update(model, grads)
                return loss

            losses = [float(step(model, optimizer)) for _ in range(8)]
            assert losses[-1] < 0.5 * losses[0]
            wanted = _by_hand(optlab.adamw(0.1, **ADAMW), params, 8)
            assert_close({"bias": model.bias[...], "kernel": model.kernel[...]}, wanted)


def test_flax_linen_train_state(peer):
    module = linen.Dense(2)
    with peer():
        params = module.init(jax.random.key(0), X)["params"]
        for make in PAIRS["adamw"]:
            state = TrainState.create(apply_fn=module.apply, params=params, tx=make())

            @jax.jit
            def step(state):
                def loss(params):
                    return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

                value, grads = jax.value_and_grad(loss)(state.params)
                return state.apply_gradients(grads=grads), value

            losses = []
            for _ in range(8):
                state, value = step(state)
                losses.append(float(value))
            assert losses[-1] < 0.5 * losses[0]
            assert_close(state.params, _by_hand(optlab.adamw(0.1, **ADAMW), params, 8))
