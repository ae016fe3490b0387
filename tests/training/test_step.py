"""`train_step` takes the steps of a loop written by hand, in place, in one program, without waiting for the device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from devices import IN_ANOTHER_ORDER

import optlab

SHAPES = {"bias": (2,), "kernel": (3, 2)}
ADAMW = {"b1": 0.8, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.5}
BATCHES = [
    (public.random_tree((8, 3), seed), public.random_tree((8, 2), seed + 100))  # inputs and targets
    for seed in range(1, 9)
]


def linear_loss(params, batch):
    x, y = batch
    kernel, bias = (params[name].astype(x.dtype) for name in ("kernel", "bias"))
    return jnp.mean((x @ kernel + bias[None] - y) ** 2)


def plainly(loss_fn, tx, params, batches, has_aux=False):
    """The loop as people write it: weights and what the loss gave, at every step."""

    @jax.jit
    def step(params, state, *batch):
        value, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, *batch)
        updates, state = tx.update(grads, state, params)
        new = jax.tree.map(
            lambda w, u: (w.astype(jnp.float32) + u.astype(jnp.float32)).astype(w.dtype), params, updates
        )
        return new, state, value

    state, weights, given = tx.init(params), [], []
    for batch in batches:
        params, state, value = step(params, state, *batch)
        weights.append(params)
        given.append(value)
    return weights, given


def stepwise(step, tx, params, batches):
    """The same by `train_step`, on a copy of the weights."""
    params = jax.tree.map(jnp.copy, params)
    state, weights, given = jax.tree.map(jnp.copy, tx.init(params)), [], []
    for batch in batches:
        params, state, value = step(params, state, *batch)
        weights.append(jax.tree.map(jnp.copy, params))
        given.append(value)
    return weights, given


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), **IN_ANOTHER_ORDER)


def assert_steps_match(loss_fn, tx, params, batches, **options):
    ours = stepwise(optlab.train_step(loss_fn, tx, **options), tx, params, batches)
    theirs = plainly(loss_fn, tx, params, batches, **options)
    assert_same(ours, theirs)
    return ours


PAIRS = [(batch,) for batch in BATCHES]
PARAMS = public.random_tree(SHAPES, seed=0)


@pytest.mark.device
@pytest.mark.parametrize(
    "tx",
    [
        optlab.adamw(0.1, **ADAMW),
        optlab.chain(optax.clip_by_global_norm(0.1), optlab.lion(0.1, weight_decay=0.5)),
        optlab.sgd(optax.linear_schedule(0.2, 0.05, 4)),
        optax.MultiSteps(optlab.adamw(0.1, **ADAMW), every_k_schedule=3).gradient_transformation(),
        optax.masked(optlab.adamw(0.1, **ADAMW), {"bias": False, "kernel": True}),
        optax.apply_if_finite(optlab.adamw(0.1, **ADAMW), 3),
    ],
    ids=["adamw", "clipped lion", "scheduled sgd", "MultiSteps", "masked", "apply_if_finite"],
)
def test_every_step_is_that_of_the_loop(tx, peer):
    with peer():
        weights, losses = assert_steps_match(linear_loss, tx, PARAMS, PAIRS)
    assert losses[-1] != losses[0]
    assert np.max(np.abs(weights[-1]["kernel"] - PARAMS["kernel"])) > 0.01


@pytest.mark.device
def test_accumulated_gradients_move_the_weights_at_every_third_step(peer):
    tx = optax.MultiSteps(optlab.adamw(0.1, **ADAMW), every_k_schedule=3)
    with peer():
        weights, _ = stepwise(optlab.train_step(linear_loss, tx), tx, PARAMS, PAIRS[:6])
    moved = [not np.array_equal(a["bias"], b["bias"]) for a, b in zip([PARAMS, *weights], weights, strict=False)]
    assert moved == [False, False, True, False, False, True]


@pytest.mark.device
def test_weights_in_bfloat16_round_once(peer):
    params = public.random_tree(SHAPES, 0, jnp.bfloat16)
    tx = optlab.adamw(0.1, **ADAMW)
    weights, _ = assert_steps_match(linear_loss, tx, params, PAIRS)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(weights)} == {"bfloat16"}
    rounded_twice = params
    state = tx.init(params)
    for (batch,) in PAIRS:  # the update rounded before it is added: another trajectory, which the test above rejects
        updates, state = tx.update(jax.grad(linear_loss)(rounded_twice, batch), state, rounded_twice)
        rounded_twice = jax.tree.map(lambda w, u: w + u.astype(w.dtype), rounded_twice, updates)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (weights[-1], rounded_twice)), strict=True))


@pytest.mark.device
def test_a_key_rounds_weights_in_bfloat16_by_chance():
    """Steps of 2**-11 of the weight: nearest rounding loses all of them, chance none on average."""
    params = {"w": jnp.ones((4096,), jnp.bfloat16)}
    step = optlab.train_step(lambda params: jnp.sum(params["w"].astype(jnp.float32)), optlab.sgd(2**-11))
    keys = jax.random.split(jax.random.key(0), 4)

    def after(keys):
        w, state = jax.tree.map(jnp.copy, params), optlab.sgd(0.1).init(params)
        for key in keys:
            w, state, _ = step(w, state, key=key)
        return w["w"].astype(jnp.float32)

    assert np.all(after([None] * 4) == 1)
    assert np.mean(after(keys)) == pytest.approx(1 - 4 * 2**-11, abs=2e-4)
    np.testing.assert_array_equal(after(keys), after(keys))


@pytest.mark.device
def test_a_small_state_is_trained_in_place_and_goes_on_from_a_checkpoint():
    tx = optlab.store(optlab.adamw(0.1, **ADAMW), optlab.codecs.bfloat16, min_size=0)
    step = optlab.train_step(linear_loss, tx)
    weights, losses = stepwise(step, tx, PARAMS, PAIRS)
    _, plain = plainly(linear_loss, optlab.adamw(0.1, **ADAMW), PARAMS, PAIRS)
    np.testing.assert_allclose(losses, plain, rtol=0.05)
    params, state = jax.tree.map(jnp.copy, (PARAMS, tx.init(PARAMS)))
    for batch in BATCHES:
        saved = jax.tree.map(np.array, (params, state))
        params, state, _ = step(*jax.tree.map(jnp.asarray, saved), batch)
    jax.tree.map(np.testing.assert_array_equal, params, weights[-1])


@pytest.mark.device
def test_optax_links_are_given_what_they_ask_for(peer):
    """`polyak_sgd` wants the value, `lbfgs` value, gradient and the loss as a function."""
    batches = PAIRS[:1] * 4
    with peer():
        for tx in (optax.polyak_sgd(max_learning_rate=1.0), optlab.chain(optax.lbfgs())):
            _, losses = stepwise(optlab.train_step(linear_loss, tx), tx, PARAMS, batches)
            assert losses[-1] < 0.7 * losses[0]


def keeping():
    """A transform as optax writes them, whose state is what it was given last."""

    def update(updates, state, params, *, value, grad, value_fn, **extra_args):
        doubled = jax.tree.map(lambda w: w + w, params)
        return updates, {"value": value, "grad": grad, "doubled": value_fn(doubled), "updates": updates}

    def init(params):
        number = jnp.zeros((), jnp.float32)
        return {"value": number, "grad": params, "doubled": number, "updates": params}

    return optax.GradientTransformationExtraArgs(init, update)


HALVED = optlab.scale_by_ema(0.5)  # so it is at the first step
GIVEN = {
    "alone": (keeping(), lambda state: state, 1.0),
    "behind a link": (optlab.chain(HALVED, keeping(), optlab.sgd(0.1)), lambda state: state[1], 0.5),
    "behind a link of optax": (optlab.chain(optax.scale(0.5), keeping()), lambda state: state[1], 0.5),
    "in a chain of optax": (optax.chain(HALVED, keeping()), lambda state: state[1], 0.5),
    "in a fork": (optlab.divide(optlab.chain(HALVED, keeping()), HALVED), lambda state: state["numerator"][1], 0.5),
    "in its own dtype": (optlab.keep_dtype(optlab.chain(HALVED, keeping())), lambda state: state[1], 0.5),
    "masked": (optax.masked(keeping(), True), lambda state: state.inner_state, 1.0),
}


@pytest.mark.parametrize("has_aux", [False, True], ids=["loss", "aux"])
@pytest.mark.parametrize("where", GIVEN)
def test_value_gradient_and_loss_arrive_wherever_a_transform_stands(where, has_aux, peer):
    tx, found, factor = GIVEN[where]
    batch = BATCHES[0]
    loss_fn = (lambda *given: (linear_loss(*given), jnp.ones(2))) if has_aux else linear_loss
    with peer():
        step = optlab.train_step(loss_fn, tx, has_aux=has_aux)
        _, state, _ = step(jax.tree.map(jnp.copy, PARAMS), jax.tree.map(jnp.copy, tx.init(PARAMS)), batch)
    value, grad = jax.value_and_grad(linear_loss)(PARAMS, batch)
    given = found(state)
    doubled = linear_loss(jax.tree.map(lambda w: w + w, PARAMS), batch)
    assert_same([given["value"], given["grad"], given["doubled"]], [value, grad, doubled])
    assert_same(given["updates"], jax.tree.map(lambda g: jnp.float32(factor) * g, grad))


def test_the_gradient_that_is_given_is_the_steepest_for_complex_weights(peer):
    tx = keeping()
    params = jnp.array([1 + 2j, 3 - 1j], jnp.complex64)
    with peer():
        step = optlab.train_step(lambda w: jnp.sum(jnp.abs(w) ** 2), tx)
        _, state, _ = step(jnp.copy(params), jax.tree.map(jnp.copy, tx.init(params)))
    np.testing.assert_allclose(state["grad"], 2 * params, rtol=1e-6)


# Equinox ------------------------------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_node_class
class Module:
    """What an Equinox module is to JAX: a tree of fields, arrays, functions and numbers alike."""

    def __init__(self, weight, bias, activation, steps):
        self.fields = (weight, bias, activation, steps)

    def tree_flatten(self):
        return self.fields, None

    @classmethod
    def tree_unflatten(cls, _, fields):
        return cls(*fields)

    def __call__(self, x):
        weight, bias, activation, _ = self.fields
        return activation(x @ weight + bias[None])


def partition(model):
    """`eqx.partition(model, eqx.is_inexact_array)`."""
    is_array = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)  # noqa: E731
    return tuple(jax.tree.map(lambda x, keep=keep: x if is_array(x) == keep else None, model) for keep in (True, False))


def test_a_model_filtered_as_equinox_does():
    whole = Module(PARAMS["kernel"], PARAMS["bias"], jnp.tanh, jnp.arange(3))
    params, static = partition(whole)
    assert len(jax.tree.leaves(params)) == 2

    def loss_fn(params, batch):
        model = jax.tree.map(lambda a, b: b if a is None else a, params, static, is_leaf=lambda x: x is None)
        return jnp.mean((model(batch[0]) - batch[1]) ** 2)

    weights, _ = assert_steps_match(loss_fn, optlab.adamw(0.1, **ADAMW), params, PAIRS)
    assert weights[-1].fields[2:] == (None, None)


# One program, in place, without the host -----------------------------------------------------------------------------


@pytest.mark.parametrize("tx", [optlab.sgd(0.1), optax.sgd(0.1)], ids=["optlab", "optax"])
def test_complex_weights_go_down(tx, peer):
    with peer():
        step = optlab.train_step(lambda params: jnp.sum(jnp.abs(params) ** 2), tx)
        params = jnp.array([1 + 1j], jnp.complex64)
        params, _, _ = step(params, tx.init(params))
    np.testing.assert_allclose(params, [0.8 * (1 + 1j)], rtol=1e-6)


def test_it_is_traced_once_for_all_batches_of_one_shape():
    traced = []

    def loss_fn(params, batch):
        traced.append(batch[0].shape)
        return linear_loss(params, batch)

    tx = optlab.adamw(0.1, **ADAMW)
    step = optlab.train_step(loss_fn, tx)
    stepwise(step, tx, PARAMS, PAIRS)
    assert traced == [(8, 3)]
    half = tuple(x[:4] for x in BATCHES[0])
    stepwise(step, tx, PARAMS, [(half,), (half,)])
    assert traced == [(8, 3), (4, 3)]


@pytest.mark.device
def test_params_and_state_are_updated_in_place_and_the_batch_stays():
    tx = optlab.adamw(0.1, **ADAMW)
    params = jax.tree.map(jnp.copy, PARAMS)
    state = tx.init(params)
    places = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state)) if leaf.ndim}
    new_params, new_state, _ = optlab.train_step(linear_loss, tx)(params, state, BATCHES[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(BATCHES))
    new = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((new_params, new_state)) if leaf.ndim}
    assert new == places


@pytest.mark.device
def test_nothing_goes_to_the_host_and_back():
    tx = optlab.adamw(0.1, **ADAMW)
    step = optlab.train_step(linear_loss, tx)
    params = jax.tree.map(jnp.copy, PARAMS)
    state = tx.init(params)
    program = step.lower(params, state, BATCHES[0]).as_text()
    assert "callback" not in program
    assert "infeed" not in program
    with jax.transfer_guard("disallow"):
        for batch in BATCHES:
            params, state, loss = step(params, state, batch)
        assert not np.isnan(jax.device_get(loss))


def test_a_host_callback_would_be_seen():
    def loss_fn(params, batch):
        loss = linear_loss(params, batch)
        jax.debug.callback(lambda x: None, loss)
        return loss

    tx = optlab.sgd(0.1)
    assert "callback" in optlab.train_step(loss_fn, tx).lower(PARAMS, tx.init(PARAMS), BATCHES[0]).as_text()


@pytest.mark.device
def test_it_runs_inside_scan_and_vmap():
    tx = optlab.adamw(0.1, **ADAMW)
    step = optlab.train_step(linear_loss, tx)
    xs = tuple(jnp.stack(column) for column in zip(*BATCHES, strict=True))

    def scanned(params):
        body = lambda carry, batch: (step(*carry, batch)[:2], None)  # noqa: E731
        return jax.lax.scan(body, (params, tx.init(params)), xs)[0][0]

    assert_same(scanned(PARAMS), plainly(linear_loss, tx, PARAMS, PAIRS)[0][-1])
    two = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), PARAMS)
    second = jax.tree.map(lambda w: w[1], jax.vmap(scanned)(two))
    assert_same(second, plainly(linear_loss, tx, jax.tree.map(lambda w: 2 * w, PARAMS), PAIRS)[0][-1])


# Bad input ----------------------------------------------------------------------------------------------------------


TX = optlab.sgd(0.1)
REFUSED = {
    "a loss of many numbers": (
        lambda p, b: p["bias"],
        {},
        PARAMS,
        r"loss_fn must return the loss alone; has_aux=True lets it give \(loss, aux\); "
        r"the loss must be one real number, got float32\[2\]",
    ),
    "aux without has_aux": (lambda p, b: (jnp.sum(p["bias"]), b), {}, PARAMS, "must be one real number, got a tuple"),
    "no loss": (lambda p, b: None, {}, PARAMS, "got a NoneType"),
    "a complex loss": (lambda p, b: jax.lax.complex(jnp.sum(p["bias"]), 0.0), {}, PARAMS, r"got complex64\[\]"),
    "has_aux without aux": (
        linear_loss,
        {"has_aux": True},
        PARAMS,
        r"with has_aux=True loss_fn must return \(loss, aux\), got float32\[\]",
    ),
    "an integer in params": (
        linear_loss,
        {},
        PARAMS | {"steps": jnp.arange(2)},
        r"params at \['steps'\] are int32\[2\], which have no gradient: leave them out with your framework's filter",
    ),
    "a function in params": (
        linear_loss,
        {},
        PARAMS | {"activation": jnp.tanh},
        r"params at \['activation'\] is the function tanh, which is no array of JAX: leave it out with your "
        r"framework's filter \(nnx.split, eqx.partition\), and put it back inside loss_fn",
    ),
    "an object in params": (
        linear_loss,
        {},
        PARAMS | {"module": [object()]},
        r"params at \['module'\]\[0\] is a object, which is no array of JAX: leave it out",
    ),
    "a loss of NumPy": (
        lambda p, b: np.float32(1),
        {},
        PARAMS,
        r"the loss must be one real number, got NumPy's float32\[\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_trained_is_refused_by_name(name):
    loss_fn, options, params, message = REFUSED[name]
    step = optlab.train_step(loss_fn, TX, **options)
    with pytest.raises(TypeError, match=f"^train_step: .*{message}"):
        step(params, TX.init(PARAMS), BATCHES[0])


@pytest.mark.parametrize(
    ("batch", "key", "message"),
    [
        (
            {"text": ["a"]},
            None,
            r"batch at \[0\]\['text'\]\[0\] is a str, which is no array of JAX: leave it out of the batch",
        ),
        (
            np.array([None]),
            None,
            r"batch at \[0\] is NumPy's object\[1\], which is no array of JAX: leave it out of the",
        ),
        (BATCHES[0], "seed", r"key at the root is a str, which is no array of JAX: give a jax.random.key"),
    ],
)
def test_what_is_no_array_is_named(batch, key, message):
    with pytest.raises(TypeError, match=f"^train_step: {message}"):
        optlab.train_step(linear_loss, TX)(PARAMS, TX.init(PARAMS), batch, key=key)


def test_an_error_of_the_loss_passes_though_something_is_a_number():
    def loss_fn(params, batch):
        raise TypeError("not my fault")

    with pytest.raises(TypeError, match=r"^not my fault\b"):
        optlab.train_step(loss_fn, TX)(PARAMS, TX.init(PARAMS), BATCHES[0])


@pytest.mark.parametrize("loss_fn", [TX, None], ids=["a transform", "nothing"])
def test_what_is_no_loss_is_refused(loss_fn):
    with pytest.raises(TypeError, match=r"^train_step: loss_fn must be a function .* call train_step\(loss_fn, tx\)$"):
        optlab.train_step(loss_fn, TX)


def half(tree):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize(
    "make",
    [lambda tx: optax.apply_if_finite(tx, 3), lambda tx: optlab.chain(optax.clip(1.0), optax.apply_if_finite(tx, 3))],
    ids=["alone", "in a chain"],
)
def test_what_wants_updates_of_the_gradients_dtype_is_named_with_what_to_do(make, peer):
    with peer():
        tx = make(optlab.adamw(0.1, **ADAMW))
        with pytest.raises(
            TypeError,
            match=r"^train_step: .*<optax apply_if_finite>.* wants updates in the dtype of the gradients, bfloat16, "
            r"and those of optlab leave in float32: put keep_dtype around what stands inside of it, as in apply_if_",
        ):
            optlab.train_step(linear_loss, tx)(half(PARAMS), tx.init(half(PARAMS)), BATCHES[0])
        tx = make(optlab.keep_dtype(optlab.adamw(0.1, **ADAMW)))
        params, _, _ = optlab.train_step(linear_loss, tx)(half(PARAMS), tx.init(half(PARAMS)), BATCHES[0])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}


def test_errors_of_a_transform_that_are_no_matter_of_dtypes_pass(peer):
    def update(updates, state, params=None):
        raise TypeError("not my dtype")

    tx = optax.GradientTransformation(optax.identity().init, update)
    with peer(), pytest.raises(TypeError, match=r"^not my dtype\b"):
        optlab.train_step(linear_loss, tx)(half(PARAMS), tx.init(PARAMS), BATCHES[0])


def test_what_is_no_transform_is_refused():
    with pytest.raises(
        TypeError, match=r"^train_step: tx is the function adamw, not a transform: call it, adamw\(\.\.\.\)"
    ):
        optlab.train_step(linear_loss, optlab.adamw)


@pytest.mark.device
def test_arrays_that_were_donated_before_are_named():
    step = optlab.train_step(linear_loss, TX)
    params = jax.tree.map(jnp.copy, PARAMS)
    state = TX.init(params)
    _, state, _ = step(params, state, BATCHES[0])
    with pytest.raises(ValueError, match=r"^train_step: params at \['bias'\] were donated to an earlier step; "):
        step(params, state, BATCHES[0])


def test_an_array_that_is_there_twice_is_named():
    one = jnp.ones((3,))
    step = optlab.train_step(lambda params: jnp.sum(params["a"] * params["b"]), TX)
    with pytest.raises(
        ValueError,
        match=r"^train_step: params at \['b'\] is the array of params at \['a'\].*as state = jax.jit\(tx.init\)",
    ):
        step({"a": one, "b": one}, TX.init({"a": one}))
    one, two = jnp.ones((3,)), jnp.ones((3,))
    step = optlab.train_step(lambda params, batch: jnp.sum(params["a"] * params["b"] * batch), TX)
    with pytest.raises(
        ValueError,
        match=r"^train_step: batch at \[0\] is the array of params at \['a'\], which is updated in place: copy",
    ):
        step({"a": one, "b": two}, TX.init({"a": one}), one)


def test_other_errors_pass_as_they_are():
    def loss_fn(params, batch):
        raise ValueError("not my fault")

    with pytest.raises(ValueError, match=r"^not my fault\b"):
        optlab.train_step(loss_fn, TX)(PARAMS, TX.init(PARAMS), BATCHES[0])
