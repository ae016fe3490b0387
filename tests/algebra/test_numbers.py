"""What dtype, sharding and precision numbers have, where `test_properties` does not ask for every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from devices import needs_two
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optlab

SHAPES = {"kernel": (2, 3)}
INT32_MAX = np.iinfo(np.int32).max


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def abstract(dtype, shape=(2, 3)):
    return {"kernel": jax.ShapeDtypeStruct(shape, dtype)}


def slot_dtypes(state):
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {leaf.dtype.name for path, leaf in flat if not jax.tree_util.keystr(path).endswith("count")}


def reads_weights(tx):
    """Whether `tx` refuses an update without params."""
    u = abstract("float32")
    state = jax.eval_shape(tx.init, u)
    try:
        jax.eval_shape(tx.update, u, state)
    except ValueError as error:
        return "needs params" in str(error)
    return False


# Types --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", ["complex64", "complex128"])
@pytest.mark.parametrize("name", public.OPTIMIZERS)
def test_second_moments_of_complex_weights_are_real(name, wide, x64):
    tx = public.build(name)
    updates, state = jax.eval_shape(lambda w: tx.update(w, tx.init(w), w), abstract(wide))
    assert dtypes(updates) == {wide}
    real = {"complex64": "float32", "complex128": "float64"}[wide]
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        key = jax.tree_util.keystr(path)
        second_moment = any(part in key for part in ("denominator", "second_moment", "deviation"))
        assert key.endswith("count") or leaf.dtype == (real if second_moment else wide), key


MIXTURES = [
    ("float32", "bfloat16"),
    ("bfloat16", "float32"),
    ("float16", "float16"),
    ("float64", "float32"),
    ("float32", "float64"),
    ("complex64", "complex64"),
]


@pytest.mark.parametrize(("grads", "weights"), MIXTURES, ids=[f"{g} on {w}" for g, w in MIXTURES])
@pytest.mark.parametrize("name", [name for name in public.TRANSFORMS if not reads_weights(public.build(name))])
def test_state_keeps_its_types_without_params(name, grads, weights, x64):
    tx = public.build(name)
    state = jax.eval_shape(tx.init, abstract(weights))
    _, after = jax.eval_shape(tx.update, abstract(grads), state)
    assert types(after) == types(state)


@pytest.mark.parametrize("name", ["adamw", "adams"])
def test_types_are_kept_in_fact_and_not_only_in_the_abstract(name):
    tx = public.build(name)
    params, grads = public.random_tree(SHAPES, 0, jnp.bfloat16), public.random_tree(SHAPES, 1)
    state = tx.init(params)
    for update in (tx.update, jax.jit(tx.update)):
        updates, after = update(grads, state, params)
        assert types(after) == types(state)
        assert dtypes(updates) == {"float32"}


@optlab.atom
def _with_every_kind_of_slot():
    def init(w):
        ones = jnp.ones_like(w, dtype=jnp.bfloat16)
        return {
            "made": -0.0 * jnp.zeros_like(w),
            "ones": ones,
            "truths": w > 0,
            "start": jnp.copy(w),
            "one": jnp.ones(()),
        }

    return optlab.Rule(lambda u, slots, w, t: (u, slots), init)


@needs_two
@pytest.mark.device
@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", [P("x"), P()], ids=["split", "replicated"])
@pytest.mark.parametrize(
    "tx",
    [
        optlab.adamw(0.1, weight_decay=0.1),
        _with_every_kind_of_slot(),
        optlab.chain(optax.clip(1.0), optlab.scale_by_ema(0.9)),
        optlab.store(optlab.heavy_ball(0.1, 0.9), optlab.codecs.bfloat16, min_size=0),
        optlab.kahan(),
    ],
    ids=["adamw", "every kind of slot", "beside optax's", "bfloat16", "kahan"],
)
def test_a_compiled_init_puts_slots_where_the_weights_lie(tx, spec, axis):
    """Constants of a trace lie nowhere; left alone, the compiler puts them on one device."""
    mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(axis,))
    w = jnp.tile(jnp.array([0.0, -0.0, 1.0, jnp.nan, jnp.inf, -jnp.inf, 1e-38, 2.0]), jax.device_count())
    wanted = tx.init(w)
    placed = jax.device_put(w, NamedSharding(mesh, spec))
    state = jax.jit(tx.init)(placed)
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    slots = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == w.shape]
    assert slots
    assert all(leaf.sharding.is_equivalent_to(placed.sharding, 1) for leaf in slots)
    for leaf, alone in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert (leaf.dtype, np.asarray(leaf).tobytes()) == (alone.dtype, np.asarray(alone).tobytes())


def test_a_slot_keeps_the_type_that_its_init_gave_it():
    @optlab.atom
    def coarse_average(decay):
        def update(u, slots, w, t):
            m = decay * slots["average"].astype(u.dtype) + (1 - decay) * u
            return m, {"average": m}

        return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w, dtype=jnp.bfloat16)})

    tx, g = coarse_average(0.5), jnp.array([1.0, 2.0 + 2**-10])
    state = tx.init(g)
    updates, after = tx.update(g, state)
    assert types(after) == types(state)
    np.testing.assert_array_equal(updates, g / 2)
    np.testing.assert_array_equal(after.slots["average"], jnp.array([0.5, 1.0], jnp.bfloat16))


# Precision ----------------------------------------------------------------------------------------------------------


def test_the_second_moment_of_bfloat16_weights_moves():
    params = grads = jnp.ones(1, jnp.bfloat16)
    tx = optlab.chain(optlab.square(), optlab.scale_by_ema(0.999))
    state = tx.init(params)
    for _ in range(100):
        _, state = tx.update(grads, state, params)
    np.testing.assert_allclose(state.slots["ema"], 1 - 0.999**100, rtol=1e-5)

    plain = jnp.bfloat16(0.5)
    plain = jnp.bfloat16(0.999) * plain + jnp.bfloat16(1 - 0.999) * jnp.bfloat16(0)
    assert plain == 0.5  # what the statistics would do in the weights' own dtype: 0.999 rounds to 1


def test_float64_weights_get_float64_arithmetic(x64):
    tx = optlab.adam(1.0, 0.9, 0.999, 1e-8)
    w = jnp.zeros(1, jnp.float64)
    updates, _ = tx.update(jnp.full(1, 1e-3, jnp.float64), tx.init(w), w)
    np.testing.assert_allclose(updates, -1e-3 / (1e-3 + 1e-8), rtol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999, 0.99999])
def test_bias_correction_keeps_its_relative_precision(decay):
    tx = optlab.bias_correct(decay)
    for t in (1, 2, 10, 1000):
        state = optlab.State(jnp.int32(t - 1), {})
        updates, state = tx.update(jnp.ones(1), state)
        assert updates.dtype == jnp.float32
        assert state.count == t
        exact = 1 / (1 - np.float64(decay) ** t)
        np.testing.assert_allclose(updates, [exact], rtol=1e-6 if t <= 10 else 1e-5)
        kept = np.float64(np.float32(decay))
        weights = (1 - decay) * np.sum(kept ** np.arange(t))
        np.testing.assert_allclose(updates, [1 / weights], rtol=3e-7)


def test_the_plain_form_of_bias_correction_does_not():
    for t in (1, 2, 10, 1000):
        plain = 1 / (1 - jnp.float32(0.99999) ** t)
        exact = 1 / (1 - np.float64(0.99999) ** t)
        assert 5e-4 < abs(plain / exact - 1) < 5e-3


def test_a_correction_that_float32_takes_for_none_is_refused(x64):
    tx = optlab.bias_correct(1 - 1e-8)
    with pytest.raises(ValueError, match=r"decay 0\.99999999 is 1 in float32, so the average would forget nothing"):
        tx.update(jnp.ones(1, jnp.float32), tx.init(jnp.ones(1, jnp.float32)))
    np.testing.assert_allclose(tx.update(jnp.ones(1), tx.init(jnp.ones(1)))[0], [1e8], rtol=1e-7)


def test_nesterov_correction_keeps_its_relative_precision():
    decay, t = 0.99999, 10
    state = optlab.State(jnp.int32(t - 1), {"ema": jnp.ones(1)})
    updates, _ = optlab.scale_by_nesterov_ema(decay).update(jnp.ones(1), state)
    d = np.float64(decay)
    np.testing.assert_allclose(updates, [d / (1 - d ** (t + 1)) + (1 - d) / (1 - d**t)], rtol=1e-6)


@pytest.mark.parametrize("name", public.OPTIMIZERS)
def test_the_count_stays_at_its_maximum(name):
    """`nadam` looks one step ahead of the count, where int32 wraps."""
    tx = public.build(name)
    w = jnp.array([1.0, -2.0])
    start = tx.init(w)

    def update_at(count):
        at = jax.tree.map(lambda leaf: jnp.int32(count) if leaf.dtype == jnp.int32 else leaf, start)
        return tx.update(w, at, w)

    updates, state = update_at(INT32_MAX)
    assert [int(leaf) for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32] == [
        INT32_MAX for leaf in jax.tree.leaves(start) if leaf.dtype == jnp.int32
    ]
    np.testing.assert_array_equal(updates, update_at(2**30)[0])


# Leaves of every kind -----------------------------------------------------------------------------------------------


def test_python_numbers_pass_as_scalar_weights():
    tx = optlab.adamw(0.5, eps=1.0, weight_decay=0.25)
    updates, state = tx.update(3.0, tx.init(2.0), 2.0)
    np.testing.assert_allclose(updates, -0.5 * (3 / (3 + 1) + 0.25 * 2), rtol=1e-6)
    assert slot_dtypes(state) == {"float32"}


# Complex weights ----------------------------------------------------------------------------------------------------


def _adamw(g, w, t, m, v, *, lr, b1, b2, eps, wd):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * abs(g) ** 2
    return -lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + wd * w), m, v


def _adamax(g, w, t, m, s, *, lr, b1, b2, eps, wd):
    m, s = b1 * m + (1 - b1) * g, np.maximum(b2 * s, abs(g) + eps)
    return -lr * m / (1 - b1**t) / s, m, s


def _adabelief(g, w, t, m, s, *, lr, b1, b2, eps, wd):
    m = b1 * m + (1 - b1) * g
    s = b2 * s + (1 - b2) * abs(g - m) ** 2 + eps
    return -lr * m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps), m, s


def _signum(g, w, t, m, s, *, lr, b1, b2, eps, wd):
    m = b1 * m + (1 - b1) * g
    return -lr * m / abs(m), m, s


COMPLEX = {
    "adamw": (_adamw, optlab.adamw(0.1, 0.8, 0.9, 1e-2, weight_decay=0.5)),
    "adamax": (_adamax, optlab.adamax(0.1, 0.8, 0.9, 1e-2)),
    "adabelief": (_adabelief, optlab.adabelief(0.1, 0.8, 0.9, 1e-2, 1e-2)),
    "signum": (_signum, optlab.signum(0.1, 0.8)),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_weights_meet_numpy(name):
    loop, tx = COMPLEX[name]
    rng = np.random.default_rng(0)
    w = rng.normal(size=4) + 1j * rng.normal(size=4)
    params = jnp.asarray(w, jnp.complex64)
    state = tx.init(params)
    m, v = np.zeros_like(w), np.zeros_like(w.real)
    for t in range(1, 6):
        g = rng.normal(size=4) + 1j * rng.normal(size=4)
        wanted, m, v = loop(g, w, t, m, v, lr=0.1, b1=0.8, b2=0.9, eps=1e-2, wd=0.5)
        updates, state = tx.update(jnp.asarray(g, jnp.complex64), state, params)
        np.testing.assert_allclose(updates, wanted, rtol=2e-6, atol=1e-7)
        w = w + wanted
        params = params + updates


# Shardings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_shardings_over_two_axes_are_kept_outside_jit_too(axis):
    tx = public.build("adamw")
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis, axis))
    specs = {"kernel": P("data", "model"), "bias": P("model"), "scale": P()}
    shardings = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    shapes = {"kernel": (8, 4), "bias": (4,), "scale": ()}
    params, grads = (public.random_tree(shapes, seed) for seed in (0, 1))
    wanted, _ = tx.update(grads, tx.init(params), params)
    params, grads = (jax.device_put(tree, shardings) for tree in (params, grads))
    state = tx.init(params)
    abstract_state = tx.init(
        {key: jax.ShapeDtypeStruct(shapes[key], jnp.float32, sharding=sharding) for key, sharding in shardings.items()}
    )

    def assert_placed(tree):
        found = 0
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if (key := getattr(path[-1], "key", None)) in shardings:
                assert leaf.sharding.is_equivalent_to(shardings[key], leaf.ndim), jax.tree_util.keystr(path)
                assert leaf.sharding.shard_shape(leaf.shape) == shardings[key].shard_shape(shapes[key])
                found += 1
        assert found >= 3

    assert_placed(state)
    assert_placed(abstract_state)
    for update in (tx.update, jax.jit(tx.update)):
        updates, after = update(grads, state, params)
        assert_placed(updates)
        assert_placed(after)
        for key in shapes:
            np.testing.assert_allclose(updates[key], wanted[key], rtol=1e-6)


# Traced hyperparameters ---------------------------------------------------------------------------------------------


def test_arrays_of_other_values_do_not_retrace():
    traced = []

    @optlab.atom
    def count(factor):
        def update(u, slots, w, t):
            traced.append(factor)
            return factor * u, slots

        return optlab.Rule(update)

    for value in (0.5, 2.0, 3.0):
        tx = optlab.chain(
            count(jnp.float32(value)), optlab.scale_by_rms(jnp.float32(value / 4), 1e-3), optlab.sgd(jnp.float32(value))
        )
        updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
        np.testing.assert_allclose(updates, np.full(2, -value * value / (value + 1e-3)), rtol=1e-6)
    assert len(traced) == 1
    for value in (0.5, 2.0):
        tx = count(value)
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert len(traced) == 2  # a Python number is no part of the program, but of another kind than an array


def test_real_gradients_on_complex_weights_without_params():
    tx = optlab.momentum(1.0)
    updates, state = tx.update(jnp.float32(2.0), tx.init(jnp.complex64(1 + 1j)))
    assert updates.dtype == state.slots["ema"].dtype == jnp.complex64
    np.testing.assert_allclose(updates, -0.2, rtol=1e-6)
