"""Compact state: codecs within their bounds, runs that repeat, few bytes, and the naive forms shown to fail."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optlab
from optlab import codecs
from optlab.algebra import lifting, noise
from optlab.memory import blocks

ADAMW = optlab.adamw(1e-2, weight_decay=0.1)
CODECS = [
    codecs.bfloat16,
    codecs.BFloat16("nearest"),
    codecs.int8,
    codecs.Int8(64, rounding="nearest"),
    codecs.float8,
    codecs.Float8(rounding="nearest"),
]
SHAPES = {"many": (16, 512), "ragged": (20, 300), "small": (10,)}


def run(tx, steps=3, shapes=SHAPES, how=jax.jit, state=None, first=0):
    params = public.random_tree(shapes, 0)
    state = tx.init(params) if state is None else state
    update, outs = how(tx.update), []
    for step in range(first, first + steps):
        updates, state = update(public.random_tree(shapes, 1 + step), state, params)
        outs.append(updates)
    return outs, state


def anew(update):
    """Traced again where it was traced before, since something below it is another."""
    return lambda *given: update(*given)


def relative_error(ours, exact):
    return float(jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact))


# Codecs -------------------------------------------------------------------------------------------------------------

ADVERSARIAL = {
    "zeros": np.zeros(256),
    "all equal": np.full(256, 0.3),
    "all equal and negative": np.full(256, -0.3),
    "one spike": np.eye(1, 256, 7)[0] * 1e30 + 1e-30,
    "denormal": np.full(256, 1e-41),
    "denormal beside one": np.r_[1.0, np.full(255, 1e-41)],
    "from smallest to largest": np.geomspace(1.2e-38, 3e38, 256),
    "of both signs": np.r_[np.geomspace(1e-20, 1, 128), -np.geomspace(1e-20, 1, 128)],
}


@functools.partial(jax.jit, static_argnums=0)
def _coded(codec, x):
    return codec.decode(codec.encode(x, noise.bits_at(noise.positions(x.shape), 0))), codec.error_bound(x)


def coded(codec, x):
    return _coded(codec, jnp.asarray(x, jnp.float32))[0]


def assert_within_bound(codec, x):
    decoded, bound = _coded(codec, x)
    error = jnp.abs(decoded - x)
    assert jnp.all(error <= bound), jnp.max(error / bound)


@pytest.mark.device
@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_errors_keep_within_the_bound_of_the_codec(codec, name):
    x = jnp.asarray(ADVERSARIAL[name], jnp.float32)
    assert_within_bound(codec, x)
    decoded = coded(codec, x)
    assert jnp.all(jnp.where(x == 0, decoded == 0, True))
    if codec.rounding == "nearest":
        np.testing.assert_array_equal(coded(codec, decoded), decoded)


@settings(derandomize=True, deadline=None, max_examples=24, database=None)
@given(st.sampled_from(CODECS), st.integers(0, 1000), st.floats(0, 12), st.floats(-30, 30), st.booleans())
def test_errors_of_drawn_blocks_keep_within_the_bound(codec, seed, spread, size, signed):
    rng = np.random.default_rng(seed)
    x = np.exp(spread * rng.normal(size=(3, 256)).clip(-3, 3) + size)
    assert_within_bound(codec, jnp.asarray(x * rng.choice([-1, 1], x.shape) if signed else x, jnp.float32))


@pytest.mark.parametrize("bits", [0, 2**32 - 1])
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_the_bound_holds_right_beside_a_code_whatever_the_bits(codec, bits):
    """The unluckiest bits take a number that is all but on a code a whole step away."""
    x = coded(codec, np.r_[1.0, np.geomspace(1e-3, 0.9, 255)])
    for factor in 1 + 2.0**-20, 1 - 2.0**-20:
        beside = (x * factor).at[0].set(x[0])
        decoded = codec.decode(codec.encode(beside, jnp.full(beside.shape, bits, jnp.uint32)))
        assert jnp.all(jnp.abs(decoded - beside) <= codec.error_bound(beside))


@pytest.mark.parametrize(
    ("codec", "smallest"),
    [(codecs.int8, 255.0**-4), (codecs.float8, 2.0**-31), (codecs.Float8(rounding="nearest"), 2.0**-31)],
    ids=repr,
)
def test_the_bound_of_what_is_next_to_nothing_is_the_smallest_step(codec, smallest):
    x = jnp.asarray(np.r_[3.0, np.full(255, 1e-20)], jnp.float32)
    np.testing.assert_allclose(codec.error_bound(x)[1:], 3 * smallest, rtol=1e-3)


def test_nothing_is_nan_on_the_way():
    """So that `jax_debug_nans` shows nobody a NaN but their own."""
    with jax.debug_nans(True):
        for codec in CODECS:
            x, bits = jnp.zeros((2, 256)).at[1, 0].set(1.0), jnp.zeros((2, 256), jnp.uint32)
            np.testing.assert_array_equal(codec.decode(codec.encode(x, bits)), x)


@pytest.mark.device
@pytest.mark.parametrize("codec", [c for c in CODECS if c.rounding == "stochastic"], ids=repr)
def test_stochastic_rounding_is_right_on_average(codec):
    x = jnp.asarray(np.r_[1.0, np.geomspace(1e-3, 0.9, 31)], jnp.float32)
    for sign in 1.0, -1.0:
        seeds = jnp.arange(4000)
        y = sign * x
        draws = jax.vmap(lambda s, y=y: codec.decode(codec.encode(y, noise.bits_at(noise.positions(y.shape), s))))(
            seeds
        )
        off = jnp.abs(jnp.mean(draws, 0) - y)
        assert jnp.all(off <= 4 * jnp.std(draws, 0) / np.sqrt(4000) + 1e-6)
        assert jnp.any(jnp.std(draws, 0) > 1e-4)


@pytest.mark.device
@pytest.mark.parametrize("codec", [codecs.int8, codecs.float8], ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_in_its_whole_block(codec, bad):
    x = np.ones((2, 256), np.float32)
    x[0, 3] = bad
    decoded = coded(codec, x)
    assert jnp.all(jnp.isnan(decoded[0]))
    np.testing.assert_array_equal(decoded[1], x[1])


@pytest.mark.device
def test_second_moments_never_round_to_zero():
    v = np.r_[1.0, np.geomspace(1e-37, 1e-9, 255)]
    assert all(jnp.all(coded(codec, v) > 0) for codec in CODECS)


# What the naive forms do --------------------------------------------------------------------------------------------


class Linear(codecs.Int8):
    """int8 as most people write it first: mutant."""

    def encode(self, x, bits):
        scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
        return {"code": jnp.round(x / jnp.where(scale > 0, scale, 1) * 127).astype(jnp.int8), "scale": scale}

    def decode(self, stored):
        return stored["code"].astype(jnp.float32) / 127 * stored["scale"]


def test_bfloat16_second_moments_stop_moving_unless_rounded_by_chance():
    """The average of ones after a thousand steps is 1 - 0.999**1000 = 0.632; nearest rounding holds it where a
    thousandth of what is missing is less than half a step."""

    def average(codec):
        tx = optlab.store(optlab.scale_by_ema(0.999), codec)
        u = jnp.ones(4096)

        @jax.jit
        def train(state):
            return jax.lax.scan(lambda state, _: (tx.update(u, state)[1], None), state, length=1000)[0]

        return float(jnp.mean(train(tx.init(u)).slots["ema"].astype(jnp.float32)))

    assert average(codecs.BFloat16("nearest")) < 0.3
    assert abs(average(codecs.bfloat16) - 0.632) < 0.01


def regression(tx, steps=60):
    """The first and last loss of a regression whose features differ in size by a hundred, as gradients do."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(256, 64)) * np.geomspace(1e-2, 1, 64), jnp.float32)
    target = x @ jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)

    def loss(w):
        return jnp.mean((x @ w - target) ** 2)

    @jax.jit
    def train(w, state):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return (optlab.apply_updates(w, updates), state), loss(w)

        return jax.lax.scan(step, (w, state), length=steps)[1]

    w = jnp.zeros((64, 64))
    losses = train(w, tx.init(w))
    return float(losses[0]), float(losses[-1])


def test_linear_second_moments_diverge_where_companded_ones_do_not():
    tx = optlab.adam(1e-2)
    first, last = regression(tx)
    assert last < 0.9 * first
    assert abs(regression(optlab.store(tx, codecs.int8))[1] / last - 1) < 0.05
    assert regression(optlab.store(tx, {"denominator": Linear()}))[1] > 1.5 * first


def moments_error(codec, steps=20):
    """Of the updates that second and first moments make whose rows differ in size by 1e4."""
    sizes = jnp.geomspace(1e-4, 1, 16)[:, None]
    grads = [sizes * jax.random.normal(jax.random.key(step), (16, 256)) for step in range(steps)]
    tx = optlab.adam(1e-2)

    def last(tx):
        state = tx.init(grads[0])
        for g in grads:
            u, state = jax.jit(tx.update)(g, state)
        return u

    return relative_error(last(optlab.store(tx, codec)), last(tx))


def test_a_scale_per_leaf_would_be_seen():
    assert moments_error(codecs.Int8(rounding="nearest")) < 0.08 < moments_error(codecs.Int8(4096, "nearest"))


# Runs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.device
@pytest.mark.parametrize("codec", [codecs.bfloat16, codecs.Int8(rounding="nearest")], ids=repr)
def test_state_keeps_its_types_through_jit_scan_and_vmap(codec):
    tx = optlab.store(ADAMW, codec)
    params = public.random_tree(SHAPES, 0)
    state = tx.init(params)
    assert jax.tree.map(jax.typeof, jax.eval_shape(tx.init, params)) == jax.tree.map(jax.typeof, state)
    outs, after = run(tx)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)

    @jax.jit
    def scan(state, grads):
        return jax.lax.scan(lambda state, g: tx.update(g, state, params)[::-1], state, grads)

    grads = jax.tree.map(lambda *g: jnp.stack(g), *[public.random_tree(SHAPES, 1 + step) for step in range(3)])
    chex.assert_trees_all_close(jax.tree.map(lambda u: u[-1], scan(state, grads)[1]), outs[-1], rtol=1e-4, atol=1e-6)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), (public.random_tree(SHAPES, 1), state, params))
    together, _ = jax.jit(jax.vmap(tx.update))(*two)
    chex.assert_trees_all_close(jax.tree.map(lambda u: u[1], together), outs[0], rtol=1e-4, atol=1e-6)


@pytest.mark.device
@pytest.mark.parametrize("codec", [codecs.bfloat16, codecs.int8], ids=repr)
def test_a_checkpoint_goes_on_bit_for_bit(codec):
    tx = optlab.store(ADAMW, codec)
    outs, end = run(tx, steps=4)
    _, half = run(tx, steps=2)
    saved = jax.tree.map(lambda x: np.array(x), half)
    rest, again = run(tx, steps=2, state=jax.tree.map(jnp.asarray, saved), first=2)
    chex.assert_trees_all_equal((rest, again), (outs[2:], end), strict=True)


def draws(tx, steps=2):
    """Where bits of two equal leaves' slots went up, for equal numbers at every step."""
    g = {name: jnp.full(4096, 1.003) for name in "ab"}
    state, seen = tx.init(g), []
    for _ in range(steps):
        _, state = tx.update(g, state)
        seen += [np.asarray(state.slots["held"][name] > 1.001) for name in "ab"]
    return seen


@optlab.atom
def hold():
    return optlab.Rule(lambda u, slots, w, t: (u, {"held": u}), init=lambda w: {"held": jnp.zeros_like(w)})


def different(seen):
    return all(np.mean(a != b) > 0.3 for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.device
def test_rounding_draws_from_seed_step_leaf_and_link():
    tx = optlab.store(hold(), codecs.bfloat16)
    assert different([*draws(tx), *draws(optlab.store(hold(), codecs.bfloat16, seed=1))])
    chex.assert_trees_all_equal(draws(tx), draws(tx))
    twice = optlab.chain(tx, tx)
    _, state = twice.update({"a": jnp.full(4096, 1.003)}, twice.init({"a": jnp.ones(4096)}))
    assert different([np.asarray(state.slots[name]["a"] > 1.001) for name in ("held", "held_2")])


@pytest.mark.parametrize("forgotten", ["step", "leaf", "chance"])
def test_a_key_without_step_or_leaf_would_be_seen(forgotten, monkeypatch):
    bits_at, mixed = noise.bits_at, noise.mixed
    if forgotten == "step":
        monkeypatch.setattr(noise, "bits_at", lambda p, seed, t, n: bits_at(p, seed, 0, n))
    elif forgotten == "leaf":
        monkeypatch.setattr(noise, "mixed", lambda seed, *words: mixed(seed, *words[:1]))
    else:
        monkeypatch.setattr(noise, "bits_at", lambda p, *words: jnp.full(p.shape, jnp.uint32(1 << 31)))
    lifting._kernel.cache_clear()
    seen = draws(optlab.store(hold(), codecs.bfloat16, seed=7))
    lifting._kernel.cache_clear()
    assert not different(seen)


def test_leaves_of_one_shape_share_one_trace():
    traced = []

    @optlab.atom
    def counted(seed):
        def update(u, slots, w, t):
            traced.append(u.shape)
            return u + noise.unit(noise.bits_at(noise.positions(u.shape), seed, t)), slots

        return optlab.Rule(update)

    g = {name: jnp.zeros((8, 4)) for name in "abc"}
    tx = counted(3)
    u, _ = tx.update(g, tx.init(g))
    assert traced == [(8, 4)]
    assert different([np.asarray(u[name] > 0.5) for name in "abc"])


def test_pieces_compute_what_the_whole_does(monkeypatch):
    shapes = {"rows": (64, 512), "ragged": (6100,), "stacked": (2, 16, 512), "merged": (2, 20, 300)}
    tx = optlab.store(ADAMW, codecs.int8)
    assert all(blocks.pieces(blocks.cut(shape, 256)).count > 1 for shape in shapes.values())
    in_pieces = run(tx, 2, shapes)
    lifting._kernel.cache_clear()
    monkeypatch.setattr(blocks, "pieces", lambda whole: blocks.Pieces(whole, 1, 1, 1))
    whole = run(tx, 2, shapes, how=lambda update: jax.jit(anew(update)))
    lifting._kernel.cache_clear()
    chex.assert_trees_all_close(in_pieces[0], whole[0], rtol=1e-5, atol=1e-7)
    for a, b in zip(jax.tree.leaves(in_pieces[1]), jax.tree.leaves(whole[1]), strict=True):
        assert np.mean(np.asarray(a) != np.asarray(b)) < 1e-3  # fused otherwise, so now and then the other neighbour


# Bytes --------------------------------------------------------------------------------------------------------------

USUAL = [(512, 768), (512, 12, 64), (3, 3, 64, 64), (1000, 64), (300, 300), (65536,)]


def state_bytes(codec, shape):
    state = jax.eval_shape(optlab.store(ADAMW, codec).init, jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.slots)) / np.prod(shape)


@pytest.mark.parametrize("shape", USUAL)
def test_bytes_of_state_per_parameter(shape):
    assert state_bytes(codecs.int8, shape) <= 2.1
    assert state_bytes(codecs.float8, shape) <= 2.1
    assert state_bytes(codecs.bfloat16, shape) == 4.0


@pytest.mark.device
def test_where_int8_takes_more():
    assert 2.1 < state_bytes(codecs.int8, (50257, 64)) < 2.13


def temporary_bytes(tx, shapes):
    """Per parameter, of a step whose updates may take the place of the gradients, as in `train_step`."""
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    update = jax.jit(anew(tx.update), donate_argnums=(0, 1))
    compiled = update.lower(params, jax.eval_shape(tx.init, params), params).compile()
    return compiled.memory_analysis().temp_size_in_bytes / sum(np.prod(shape) for shape in shapes)


def test_a_step_needs_little_temporary_memory(monkeypatch):
    tx, shapes = optlab.store(ADAMW, codecs.int8), [(1024, 1024), (1024, 1024), (500_000,)]
    assert temporary_bytes(tx, shapes) <= 1
    assert temporary_bytes(tx, [(3, 3, 512, 512), (4, 512, 1024), (1, 1 << 20), (2, 9, 300, 320)]) <= 1
    lifting._kernel.cache_clear()
    monkeypatch.setattr(blocks, "pieces", lambda whole: blocks.Pieces(whole, 1, 1, 1))
    assert temporary_bytes(tx, shapes) > 9
    lifting._kernel.cache_clear()


# Shards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "spec", "axes"),
    [
        (codecs.int8, PartitionSpec("x"), AxisType.Auto),
        (codecs.int8, PartitionSpec("x"), AxisType.Explicit),
        (codecs.Int8(64, "nearest"), PartitionSpec(None, "x"), AxisType.Auto),
        (codecs.bfloat16, PartitionSpec(None, "x"), AxisType.Auto),
    ],
    ids=str,
)
def test_sharded_state_steps_to_the_bits_of_the_unsharded_and_nothing_is_gathered(codec, spec, axes):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axes,))
    shape = (256, 2048)
    tx = optlab.store(ADAMW, codec)
    g, w = public.random_tree(shape, 1), public.random_tree(shape, 0)
    gs, ws = (jax.device_put(x, NamedSharding(mesh, spec)) for x in (g, w))
    state, sharded = tx.init(w), tx.init(ws)
    compiled = jax.jit(tx.update).lower(gs, sharded, ws).compile()
    assert not re.search(r"all-gather|all-to-all|collective-permute|all-reduce", compiled.as_text())
    for _ in range(2):
        u, state = jax.jit(tx.update)(g, state, w)
        us, sharded = compiled(gs, sharded, ws)
    chex.assert_trees_all_close(us, u, rtol=1e-6)
    chex.assert_trees_all_equal(jax.device_get(sharded), jax.device_get(state), strict=True)
    for leaf in jax.tree.leaves(sharded.slots):
        assert leaf.sharding.is_equivalent_to(ws.sharding, 2)


@pytest.mark.parametrize(
    ("shape", "shard", "across"),
    [
        ((64, 512), (8, 512), False),
        ((64, 512), (64, 256), False),
        ((64, 512), (64, 64), True),
        ((64, 4, 64), (64, 2, 64), True),
        ((64, 8, 64), (64, 4, 64), False),
        ((64, 8, 64), (64, 8, 8), True),
        ((4096,), (512,), False),
        ((20, 300), (10, 300), False),
        ((20, 300), (20, 150), True),
    ],
)
def test_which_blocks_straddle_shards(shape, shard, across):
    assert blocks.straddles(blocks.cut(shape, 256), shard) is across


def test_blocks_across_shards_are_refused():
    mesh = jax.make_mesh((8,), ("x",))
    w = {"kernel": jax.device_put(jnp.ones((64, 512)), NamedSharding(mesh, PartitionSpec(None, "x")))}
    says = (
        "store: params at ['kernel']: blocks of 256 numbers along the last axes of [64, 512] would lie across its "
        "shards of [64, 64]; give the codec a block that divides the rows of a shard, as in codecs.Int8(block=64)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        optlab.store(ADAMW, codecs.int8).init(w)
    optlab.store(ADAMW, codecs.Int8(block=64)).init(w)


@pytest.mark.parametrize(
    ("codec", "columns", "remedy"),
    [
        (codecs.Float8(rounding="nearest"), 600, "as in codecs.Float8(block=75, rounding='nearest')"),
        (codecs.int8, 8 * 38, "as in codecs.Int8(block=38)"),
        (codecs.int8, 8 * 31, "; keep it in codecs.bfloat16, whose numbers share nothing, or shard another axis"),
    ],
)
def test_the_remedy_against_blocks_across_shards_is_one(codec, columns, remedy):
    mesh = jax.make_mesh((8,), ("x",))
    w = jax.device_put(jnp.ones((50, columns)), NamedSharding(mesh, PartitionSpec(None, "x")))
    with pytest.raises(ValueError, match=rf"{re.escape(remedy)}$"):
        optlab.store(ADAMW, codec).init(w)
    if "as in " in remedy:
        optlab.store(ADAMW, eval(remedy.removeprefix("as in "))).init(w)
    optlab.store(ADAMW, codecs.bfloat16).init(w)


# Parts, kinds and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [codecs.int8, codecs.bfloat16], ids=repr)
def test_inside_shard_map_each_shard_is_a_leaf_of_its_own(codec):
    tx = optlab.store(ADAMW, codec)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    w, g = (public.random_tree((32, 512), seed) for seed in range(2))

    def step(w, g):
        return tx.update(g, tx.init(w), w)[0]

    rows = PartitionSpec("x")
    sharded = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(rows, rows), out_specs=rows))(w, g)
    chex.assert_trees_all_close(sharded[16:], step(w[16:], g[16:]), rtol=1e-5, atol=1e-7)


def test_a_part_is_stored_like_the_whole():
    codec = codecs.Int8(rounding="nearest")
    ema = functools.partial(optlab.store, codec=codec)
    momentum = optlab.chain(ema(optlab.scale_by_ema(0.9)), optlab.bias_correct(0.9))
    size = [optlab.square(), ema(optlab.scale_by_ema(0.999)), optlab.bias_correct(0.999), optlab.root(1e-8)]
    parts = optlab.chain(optlab.divide(momentum, optlab.chain(*size)), optlab.scale_by_learning_rate(1e-2))
    assert parts.rule is not None
    exact, _ = run(optlab.adam(1e-2))
    for tx in parts, optlab.store(optlab.adam(1e-2), codec):
        outs, state = run(tx)
        assert state.slots["denominator"]["ema"]["code"]["many"].dtype == jnp.uint8
        assert all(relative_error(outs[-1][name], exact[-1][name]) < 0.05 for name in SHAPES)
        np.testing.assert_allclose(outs[-1]["small"], exact[-1]["small"], rtol=1e-6)


def test_a_codec_for_each_kind_of_slot():
    tx = optlab.store(ADAMW, {"denominator.ema": codecs.int8, "numerator": codecs.bfloat16})
    slots = tx.init(public.random_tree(SHAPES, 0)).slots
    assert slots["numerator"]["ema"]["many"].dtype == jnp.bfloat16
    assert slots["denominator"]["ema"]["code"]["many"].dtype == jnp.uint8
    alone = optlab.store(ADAMW, {"numerator": codecs.bfloat16}).init(jnp.ones(5000)).slots
    assert alone["denominator"]["ema"].dtype == jnp.float32
    assert eval(repr(tx), vars(optlab)) == tx


@pytest.mark.parametrize("name", ["bfloat16", "float8", "int8"])
def test_a_codec_by_its_name(name):
    codec = getattr(codecs, name)
    assert optlab.store(ADAMW, name) == optlab.store(ADAMW, codec)
    assert optlab.store(ADAMW, {"ema": name}) == optlab.store(ADAMW, {"ema": codec})
    assert codecs.BY_NAME[name] is codec


def test_keystr_names_the_codes():
    state = optlab.store(ADAMW, codecs.int8).init({"dense": {"kernel": jnp.ones((16, 512))}})
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert ".slots['numerator']['ema']['code']['dense']['kernel']" in names


def test_complex_none_empty_and_double_leaves(x64):
    params = {
        "complex": jnp.ones(5000, jnp.complex64),
        "none": None,
        "empty": jnp.ones((0, 3)),
        "double": jnp.ones(5000, jnp.float64),
        "scalar": jnp.float32(1),
    }
    tx = optlab.store(ADAMW, codecs.Int8(rounding="nearest"), min_size=0)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert state.slots["numerator"]["ema"]["code"]["complex"].dtype == jnp.complex64
    assert state.slots["denominator"]["ema"]["code"]["complex"].dtype == jnp.uint8
    assert updates["double"].dtype == jnp.float64
    assert updates["none"] is None


class Halves:
    """A user's codec: two numbers in one byte, 15 linear steps, no blocks of its own to care for."""

    block = 32

    def encode(self, x, bits):
        top = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
        q = (jnp.round(x / jnp.where(top > 0, top, 1) * 7) + 8).astype(jnp.uint8)
        return {"pair": q[..., ::2] * 16 + q[..., 1::2], "top": top}

    def decode(self, stored):
        q = jnp.stack([stored["pair"] // 16, stored["pair"] % 16], -1).reshape(*stored["top"].shape[:-1], -1)
        return (q.astype(jnp.float32) - 8) / 7 * stored["top"]

    def error_bound(self, x):
        return jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 13 + jnp.zeros_like(x)


def test_leaves_of_fewer_than_4096_numbers_stay_as_they_are():
    state = optlab.store(optlab.momentum(0.1), codecs.bfloat16).init({"small": jnp.ones(4095), "large": jnp.ones(4096)})
    assert [x.dtype for x in map(state.slots["ema"].get, ("small", "large"))] == [jnp.float32, jnp.bfloat16]


def test_a_rule_whose_blocks_share_a_scale_mixes_weights():
    assert optlab.store(ADAMW, codecs.bfloat16).rule.elementwise
    assert not optlab.store(ADAMW, codecs.int8).rule.elementwise
    assert not optlab.store(ADAMW, {"numerator": codecs.bfloat16, "denominator": codecs.float8}).rule.elementwise


def test_a_codec_of_ones_own():
    tx = optlab.store(optlab.momentum(0.1), Halves())
    outs, state = run(tx, shapes={"w": (128, 64)})
    assert state.slots["ema"]["pair"]["w"].size == 128 * 32
    exact, _ = run(optlab.momentum(0.1), shapes={"w": (128, 64)})
    assert relative_error(outs[-1]["w"], exact[-1]["w"]) < 0.2


@pytest.mark.parametrize("codec", [codecs.int8, codecs.bfloat16], ids=repr)
def test_equations_are_those_of_what_is_stored(codec):
    """Rounding is left out: they are the recurrence that is rounded."""

    def stored(lr, wd):
        return optlab.store(optlab.adamw(lr, weight_decay=wd), codec)

    def plain(lr, wd):
        return optlab.adamw(lr, weight_decay=wd)

    def in_part(lr, wd):
        return optlab.chain(optlab.store(optlab.scale_by_ema(0.9), codec), optlab.sgd(lr))

    wanted, *read = (str(optlab.explain(make)).splitlines()[1:] for make in (plain, stored))
    assert read == [wanted]
    assert optlab.compare(stored, plain).equal
    assert not optlab.compare(in_part, plain).equal


# Applying updates ---------------------------------------------------------------------------------------------------


def walked(steps, **how):
    """The mean of bfloat16 weights of one after steps of a thousandth."""
    w, u = jnp.ones((64, 64), jnp.bfloat16), jnp.full((64, 64), 1e-3)
    for step in range(steps):
        key = {"key": jax.random.fold_in(jax.random.key(0), step)} if how else {}
        w = optlab.apply_updates(w, u, **how, **key)
    return float(jnp.mean(w.astype(jnp.float32)))


def test_bfloat16_weights_ignore_small_steps_unless_rounded_by_chance():
    assert walked(50) == 1
    assert abs(walked(50, rounding="stochastic") - 1.05) < 1e-3


# 2**-8 is half a step of bfloat16 at one, and rounds to the even neighbour, which is one; a little more rounds up.
MORE_THAN_HALF = {"bfloat16": (2**-8 * (1 + 2**-9), 1 + 2**-7), "float16": (2**-11 * (1 + 2**-11), 1 + 2**-10)}


@pytest.mark.parametrize("dtype", MORE_THAN_HALF)
def test_what_is_added_is_not_rounded_before(dtype):
    """Summed in the dtype of the weights, the update would be rounded first, to half a step, and the sum to one."""
    update, moved = MORE_THAN_HALF[dtype]
    w, u = {"w": jnp.ones(3, dtype)}, {"w": jnp.full(3, update, jnp.float32)}
    once = optlab.apply_updates(w, u)["w"]
    assert once.dtype == dtype
    np.testing.assert_array_equal(once, np.full(3, moved, once.dtype))
    twice = w["w"] + u["w"].astype(dtype)
    np.testing.assert_array_equal(twice, w["w"])


def test_stochastic_rounding_is_of_the_whole_sum():
    """Three quarters of a step go up three times of four; summed in the dtype of the weights, always."""
    w, u = jnp.ones(1 << 12, jnp.bfloat16), jnp.full(1 << 12, 0.75 * 2**-7, jnp.float32)
    up = optlab.apply_updates(w, u, rounding="stochastic", key=jax.random.key(0)) > 1
    assert np.mean(up) == pytest.approx(0.75, abs=0.03)
    assert np.all(w + u.astype(w.dtype) > 1)


def test_double_updates_move_single_weights_once(x64):
    w, u = jnp.float32(1), jnp.float64(2**-24 * (1 + 2**-26))
    assert optlab.apply_updates(w, u) == np.float32(1 + 2**-23)
    assert w + u.astype(jnp.float32) == w


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_updates_in_the_dtype_of_the_gradients(dtype):
    w = {"w": public.random_tree((3, 4), 0, dtype), "nothing": None}
    g, tx = jax.tree.map(lambda w: w + jnp.ones_like(w), w), optlab.keep_dtype(ADAMW)
    u, state = jax.jit(tx.update)(g, tx.init(w), w)
    wanted, same_state = jax.jit(ADAMW.update)(g, ADAMW.init(w), w)
    assert u["w"].dtype == dtype
    chex.assert_trees_all_equal(u["w"], wanted["w"].astype(dtype))
    chex.assert_trees_all_equal(state, same_state)
    assert optlab.keep_dtype(optlab.square()).update(jnp.ones(3, jnp.complex64), optlab.square().init(w))[0].dtype == (
        jnp.float32
    )


WANT_ONE_DTYPE = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step >= 0),
}


@pytest.mark.parametrize("around", WANT_ONE_DTYPE)
def test_optax_chooses_between_updates_of_one_dtype(around, peer):
    w = {"w": jnp.ones(4, jnp.bfloat16)}
    with peer():
        tx = WANT_ONE_DTYPE[around](optlab.keep_dtype(ADAMW))
        u, _ = jax.jit(tx.update)(w, tx.init(w), w)
        wanted = ADAMW.update(w, ADAMW.init(w), w)[0]["w"].astype(jnp.bfloat16)
        np.testing.assert_array_equal(u["w"], wanted)
        without = WANT_ONE_DTYPE[around](ADAMW)
        with pytest.raises(TypeError, match="must have equal"):
            without.update(w, without.init(w), w)


def test_links_of_optax_behind_keep_the_types_of_their_states(peer):
    w = {"w": jnp.ones(4, jnp.bfloat16)}

    def types(tx):
        with peer():
            state = jax.eval_shape(tx.init, w)
            return state, jax.eval_shape(tx.update, w, state, w)[1]

    before, after = types(optax.chain(optlab.keep_dtype(ADAMW), optax.ema(0.9)))
    assert after == before
    before, after = types(optax.chain(ADAMW, optax.ema(0.9)))
    assert after != before


@pytest.mark.device
def test_kahan_keeps_what_rounding_takes():
    w = {"half": jnp.ones(100, jnp.bfloat16), "single": jnp.ones(100)}
    tx = optlab.chain(optlab.sgd(1e-3), optlab.kahan())
    state, grads = tx.init(w), jax.tree.map(lambda w: -jnp.ones(w.shape), w)
    for _ in range(50):
        updates, state = tx.update(grads, state, w)
        w = optlab.apply_updates(w, updates)
    np.testing.assert_allclose(w["half"].astype(jnp.float32), 1.05, atol=2**-7)
    np.testing.assert_allclose(w["single"], 1.05, rtol=1e-5)
    assert not np.any(state[1].error["single"])


# Refused ------------------------------------------------------------------------------------------------------------


class Unhashable(codecs.BFloat16):
    __hash__ = None


class NoBlock(Halves):
    block = 0


class OneOfABlock(codecs.Int8):
    def decode(self, stored):
        return super().decode(stored)[..., :1]


class Sum(codecs.BFloat16):
    def encode(self, x, bits):
        return jnp.sum(x)


class Forgets(codecs.BFloat16):
    def encode(self, x, bits):
        return {}


OURS = (
    "must have block, encode, decode and error_bound, as those of optlab.codecs do, or be one of "
    '"bfloat16", "float8", "int8"'
)
REFUSED = {
    "store: the codec must hash by value, as a frozen dataclass does, got codecs.Unhashable()": lambda: optlab.store(
        ADAMW, Unhashable()
    ),
    'apply_updates: a key is for rounding="stochastic"; rounding to nearest draws nothing': lambda: (
        optlab.apply_updates(jnp.ones(3), jnp.ones(3), key=jax.random.key(0))
    ),
    "store: the transform must be made of rules, as optlab's own links are, got <optax scale_by_adam>; if it holds "
    "links of optlab, put store inside of it, around them": lambda: optlab.store(optax.scale_by_adam(), codecs.int8),
    "store: <optax clip_by_global_norm> (link 1 of 4 in chain) is not made of rules: put it outside, "
    "chain(<optax clip_by_global_norm>, store(...))": lambda: optlab.store(
        optlab.chain(optax.clip_by_global_norm(1.0), ADAMW), codecs.int8
    ),
    "store: kahan() (link 4 of 4 in chain) is not made of rules: put it outside, chain(store(...), kahan())": lambda: (
        optlab.store(optlab.chain(ADAMW, optlab.kahan()), codecs.int8)
    ),
    "store: <optax zero_nans> (link 2 of 4 in chain) is not made of rules: put it outside, "
    "chain(store(...), <optax zero_nans>, store(...))": lambda: optlab.store(
        optlab.chain(optlab.sign(), optax.zero_nans(), optlab.momentum(0.1)), codecs.int8
    ),
    "store: the transform is a MultiSteps: put store inside of it, MultiSteps(store(tx, codec), ...)": lambda: (
        optlab.store(optax.MultiSteps(ADAMW, 2), codecs.int8)
    ),
    "store: the transform is the function adamw, not a transform: call it, adamw(...)": lambda: optlab.store(
        optlab.adamw, codecs.int8
    ),
    f"store: the codec {OURS}, got 'int4'": lambda: optlab.store(ADAMW, "int4"),
    f"store: the codec of 'ema' {OURS}, got 8": lambda: optlab.store(ADAMW, {"ema": 8}),
    f"store: the codec {OURS}, got <class 'jax.numpy.bfloat16'>": lambda: optlab.store(ADAMW, jnp.bfloat16),
    f"store: the codec {OURS}, got None": lambda: optlab.store(ADAMW, None),
    "store: the codec is the class Int8: call it, Int8()": lambda: optlab.store(ADAMW, codecs.Int8),
    "store: the codec of 'ema' is the class Float8: call it, Float8()": lambda: optlab.store(
        ADAMW, {"ema": codecs.Float8}
    ),
    "store: the block of the codec must be a whole number >= 1, got 0": lambda: optlab.store(ADAMW, NoBlock()),
    **{
        f"store: codec must be a codec, or a mapping from names of slots to codecs, got {said}": (
            lambda codec=codec: optlab.store(ADAMW, codec)
        )
        for said, codec in {"(1, 2)": (1, 2), "{}": {}, "{0: codecs.Int8()}": {0: codecs.int8}}.items()
    },
    "store: the codec must decode to floating-point numbers shaped as they were, [2, 256], got float32[2, 1]: "
    "codecs.OneOfABlock()": lambda: optlab.store(ADAMW, OneOfABlock()),
    "store: the codec of 'ema' must encode [2, 3] as arrays of 2 rows, got float32[]: codecs.Sum()": lambda: (
        optlab.store(ADAMW, {"ema": Sum()})
    ),
    "store: the codec must encode [2, 3] as arrays of 2 rows, got nothing: codecs.Forgets()": lambda: optlab.store(
        ADAMW, Forgets()
    ),
    "codecs.Float8: block must be a whole number >= 1, got True": lambda: codecs.Float8(True),
    "apply_updates: key must be one jax.random.key, another one at each step, got 0": lambda: optlab.apply_updates(
        jnp.ones(3), jnp.ones(3), rounding="stochastic", key=0
    ),
    "apply_updates: key must be one jax.random.key, another one at each step, got key<fry>[3]": lambda: (
        optlab.apply_updates(
            jnp.ones(3), jnp.ones(3), rounding="stochastic", key=jax.random.split(jax.random.key(0), 3)
        )
    ),
    "apply_updates: updates and params differ first at ['b']: nothing against float32[3]": lambda: optlab.apply_updates(
        {"a": jnp.ones(2), "b": jnp.ones(3)}, {"a": jnp.ones(2)}
    ),
    "apply_updates: at ['b']: updates have shape (3, 1), params (3,)": lambda: optlab.apply_updates(
        {"a": None, "b": jnp.ones(3)}, {"a": None, "b": jnp.ones((3, 1))}
    ),
    "apply_updates: at ['b']: updates are complex (complex64), params are real (float32)": lambda: optlab.apply_updates(
        {"b": jnp.ones(3)}, {"b": jnp.ones(3, jnp.complex64)}
    ),
    "apply_updates: at ['b']: expected an array, got None": lambda: optlab.apply_updates(
        {"b": jnp.ones(3)}, {"b": None}
    ),
    "apply_updates: at ['n']: dtype int32 is neither floating-point nor complex; leave it out with optax.masked, "
    "optax.partition or your framework's filter": lambda: optlab.apply_updates(
        {"n": jnp.arange(3)}, {"n": jnp.ones(3)}
    ),
    "kahan: updates and params differ first at ['b']: nothing against float32[3]": lambda: optlab.kahan().update(
        {}, optlab.kahan().init({"b": jnp.ones(3)}), {"b": jnp.ones(3)}
    ),
    "kahan: at the root: the state's error has shape (2,), params (3,); call init(params) anew": lambda: (
        optlab.kahan().update(jnp.ones(3), optlab.kahan().init(jnp.ones(2)), jnp.ones(3))
    ),
    "keep_dtype: tx is the function sgd, not a transform: call it, sgd(...)": lambda: optlab.keep_dtype(optlab.sgd),
    "add_decayed_weights (link 2 of 3 in chain) needs params: call update(updates, state, params)": lambda: (
        optlab.keep_dtype(ADAMW).update(jnp.ones(3), ADAMW.init(jnp.ones(3)))
    ),
    "store: no slot is called 'emma'; the slots are denominator.ema, numerator.ema": lambda: optlab.store(
        ADAMW, {"emma": codecs.int8}
    ),
    "store: a part of it is stored already, give each slot its codec by name instead, got "
    "store(scale_by_ema(0.9), codecs.Int8())": lambda: optlab.store(
        optlab.store(optlab.scale_by_ema(0.9), codecs.int8), codecs.bfloat16
    ),
    "store: min_size must be a whole number >= 0, got -1": lambda: optlab.store(ADAMW, codecs.int8, min_size=-1),
    "store: seed must be an integer from 0 to 2**32 - 1, got -1": lambda: optlab.store(ADAMW, codecs.int8, seed=-1),
    "codecs.Int8: rounding must be 'nearest' or 'stochastic', got 'up'": lambda: codecs.Int8(rounding="up"),
    "codecs.Int8: block must be a whole number >= 1, got 0": lambda: codecs.Int8(0),
    "apply_updates: rounding must be 'nearest' or 'stochastic', got 'up'": lambda: optlab.apply_updates(
        jnp.ones(3), jnp.ones(3), rounding="up"
    ),
    "apply_updates: stochastic rounding needs a key, another one at each step: key=fold_in(key, step)": lambda: (
        optlab.apply_updates(jnp.ones(3), jnp.ones(3), rounding="stochastic")
    ),
    "apply_updates: at the root: stochastic rounding is there for bfloat16 weights, got float16": lambda: (
        optlab.apply_updates(jnp.ones(3, jnp.float16), jnp.ones(3), rounding="stochastic", key=jax.random.key(0))
    ),
    "kahan needs params: call update(updates, state, params)": lambda: optlab.kahan().update(
        jnp.ones(3), optlab.kahan().init(jnp.ones(3))
    ),
    "kahan: state must be what its init returned, got tuple": lambda: optlab.kahan().update(
        jnp.ones(3), (), jnp.ones(3)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_and_how(message):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        REFUSED[message]()


def test_a_state_of_another_form_is_refused():
    w = jnp.ones(5000)
    state = optlab.store(ADAMW, codecs.int8).init(w)
    with pytest.raises(ValueError, match="these weights need"):
        optlab.store(ADAMW, codecs.int8, min_size=10_000).update(w, state, w)
