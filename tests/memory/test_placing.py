"""Steps are the same numbers however weights, gradients and state lie on a mesh, and each stays where it lies."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optlab
from optlab import codecs

SHAPE = (16, 64)
ADAMW = optlab.adamw(1e-2, weight_decay=0.1)
INT8 = codecs.Int8(block=8)
FORMS = {
    "float32": ADAMW,
    "bfloat16": optlab.store(ADAMW, codecs.bfloat16, min_size=0),
    "int8": optlab.store(ADAMW, INT8, min_size=0),
    "int8, the leaf one row": optlab.store(ADAMW, codecs.Int8(block=128), min_size=0),
    "float8": optlab.store(ADAMW, codecs.Float8(block=8), min_size=0),
    "by slot": optlab.store(ADAMW, {"numerator": codecs.bfloat16, "denominator": INT8}, min_size=0),
}
WHOLE, ROWS, COLUMNS = PartitionSpec(), PartitionSpec("x"), PartitionSpec(None, "x")
LIE = {  # gradients and weights, state
    "as the weights": (ROWS, ROWS),
    "weights whole, state in rows": (WHOLE, ROWS),
    "weights whole, state in columns": (WHOLE, COLUMNS),
    "weights in rows, state whole": (ROWS, WHOLE),
    "weights in columns, state in rows": (COLUMNS, ROWS),
}


def mesh_of(axes):
    return jax.make_mesh((8,), ("x",), axis_types=(axes,))


def placed(tree, mesh, spec):
    """What is shaped like the weights by `spec`, all else whole."""
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.shape == SHAPE else WHOLE)), tree)


def types(tree):
    return jax.tree.map(jax.typeof, tree)


ZERO_1, ACROSS = "weights whole, state in rows", "weights in columns, state in rows"


@pytest.mark.parametrize(
    ("form", "lie"),
    [(form, lie) for form in FORMS for lie in LIE if lie in (ZERO_1, ACROSS) or form == "int8, the leaf one row"],
)
def test_explicit_axes_take_any_and_types_stay(form, lie):
    tx, mesh = FORMS[form], mesh_of(AxisType.Explicit)
    of_weights, of_state = LIE[lie]
    w, state = placed(jnp.ones(SHAPE), mesh, of_weights), placed(tx.init(jnp.ones(SHAPE)), mesh, of_state)
    for context in contextlib.nullcontext(), jax.set_mesh(mesh):
        with context:
            u, after = jax.eval_shape(tx.update, w, state, w)
            assert types((u, after)) == types((w, state))


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_state_begins_where_its_weights_lie(form, axes):
    tx, mesh = FORMS[form], mesh_of(axes)
    w = placed(jnp.ones(SHAPE), mesh, ROWS)
    with jax.set_mesh(mesh):
        in_jit = jax.jit(tx.init)(w)
    alone = jax.jit(lambda w: tx.init(w))(w)
    for slot in jax.tree.leaves((tx.init(w).slots, in_jit.slots, alone.slots)):
        assert slot.sharding.shard_shape(slot.shape) == (slot.shape[0] // 8, *slot.shape[1:])
    if axes == AxisType.Explicit:  # others are no part of a type
        assert types(jax.eval_shape(tx.update, w, tx.init(w), w)[1].slots) == types(tx.init(w).slots)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    ("form", "lie"),
    [
        ("float32", ACROSS),
        ("int8", ACROSS),
        ("int8, the leaf one row", "weights whole, state in columns"),
        ("bfloat16", ZERO_1),
    ],
)
def test_steps_are_those_of_one_device(form, lie, axes):
    tx, mesh = FORMS[form], mesh_of(axes)
    w, g = (public.random_tree(SHAPE, seed) for seed in range(2))
    state = tx.init(w)
    of_weights, of_state = LIE[lie]
    (ws, gs), states = placed((w, g), mesh, of_weights), placed(state, mesh, of_state)
    update = jax.jit(tx.update)
    for _ in range(2):
        u, state = update(g, state, w)
        us, states = update(gs, states, ws)
    chex.assert_trees_all_close(jax.device_get(us), jax.device_get(u), rtol=1e-6)
    chex.assert_trees_all_equal(jax.device_get(states), jax.device_get(state), strict=True)


def test_an_optimizer_of_numbers_and_seeds_that_are_traced():
    mesh = mesh_of(AxisType.Explicit)
    w = placed(jnp.ones(SHAPE), mesh, ROWS)

    def step(rate, seed, w):
        tx = optlab.store(optlab.adamw(rate, weight_decay=rate), INT8, min_size=0, seed=seed)
        return tx.update(w, tx.init(w), w)[0]

    with jax.set_mesh(mesh):
        assert jax.typeof(jax.eval_shape(step, jnp.float32(0.1), jnp.uint32(3), w)) == jax.typeof(w)


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_models_side_by_side_lie_as_one_does(form):
    tx, mesh = FORMS[form], mesh_of(AxisType.Explicit)
    w = jax.device_put(jnp.ones((3, *SHAPE)), NamedSharding(mesh, PartitionSpec(None, "x")))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), tx.init(jnp.ones(SHAPE)))
    assert jax.typeof(jax.eval_shape(jax.vmap(tx.update), w, state, w)[0]) == jax.typeof(w)


def test_an_axis_that_shard_map_takes_leaves_the_other_explicit():
    tx, mesh = FORMS["int8"], jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    w = jax.device_put(jnp.ones(SHAPE), NamedSharding(mesh, PartitionSpec("x", "y")))
    step = jax.shard_map(
        lambda w: tx.update(w, tx.init(w), w)[0], mesh=mesh, in_specs=ROWS, out_specs=ROWS, axis_names={"x"}
    )
    assert jax.typeof(jax.eval_shape(step, w)) == jax.typeof(w)


def test_what_reaches_across_leaves_takes_any_too():
    tx, mesh = optlab.adams(1e-2, weight_decay=0.1), mesh_of(AxisType.Explicit)
    w, state = placed(jnp.ones(SHAPE), mesh, ROWS), placed(tx.init(jnp.ones(SHAPE)), mesh, COLUMNS)
    assert types(jax.eval_shape(tx.update, w, state, w)) == types((w, state))


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_training_leaves_weights_and_state_where_they_lie(form):
    """ZeRO-1: every device has the weights, and its share of the state."""
    tx, mesh = FORMS[form], mesh_of(AxisType.Explicit)
    w, state = placed(jnp.ones(SHAPE), mesh, WHOLE), placed(tx.init(jnp.ones(SHAPE)), mesh, ROWS)
    before = types((w, state))
    step = optlab.train_step(lambda w: jnp.sum(w**2), tx)
    for _ in range(2):
        w, state, _ = step(w, state)
        assert types((w, state)) == before
    np.testing.assert_allclose(w, (1 - 1e-2 * 1.1) ** 2, rtol=1e-2)


def test_kahan_leaves_weights_and_error_where_they_lie():
    tx, mesh = optlab.kahan(), mesh_of(AxisType.Explicit)
    w, u = placed(jnp.ones(SHAPE, jnp.bfloat16), mesh, WHOLE), placed(jnp.ones(SHAPE), mesh, ROWS)
    state = placed(tx.init(w), mesh, COLUMNS)
    assert types(jax.eval_shape(tx.update, u, state, w)) == types((u, state))
    for rounding in {"rounding": "nearest"}, {"rounding": "stochastic", "key": jax.random.key(0)}:
        assert jax.typeof(jax.eval_shape(lambda w, u, how=rounding: optlab.apply_updates(w, u, **how), w, u)) == (
            jax.typeof(w)
        )


# A state placed by the specifications of its weights, as optax does it -----------------------------------------------


@pytest.mark.parametrize("spec", [ROWS, COLUMNS, WHOLE], ids=str)
@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_numbers_of_weights_are_placed_as_they_are(axes, spec):
    """`optax.tree.map_params`: codes lie as the weights, scales, which are no numbers of weights, where they were."""
    mesh = mesh_of(axes)
    w = {"w": jnp.ones((256, 48)), "scalar": jnp.ones(())}
    specs = {"w": spec, "scalar": WHOLE}
    tx = optlab.store(ADAMW, codecs.int8)
    state, seen = tx.init(w), []

    def put(leaf, spec):
        seen.append(leaf.shape)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    there = optax.tree.map_params(tx, put, state, specs)
    assert sorted(seen) == [(), (), (256, 48), (256, 48)]
    assert jax.tree.structure(there) == jax.tree.structure(state)
    assert there.slots["numerator"]["ema"]["code"]["w"].sharding.spec == spec
    params = jax.tree.map(put, w, specs)
    u, after = jax.eval_shape(tx.update, params, there, params)
    assert jax.tree.map(jnp.shape, (u, after)) == jax.tree.map(jnp.shape, (w, state))


@optlab.atom
def by_column():
    """Slots that have not a number for each weight, and such as only matrices have."""

    def init(w):
        slots = {"ema": jnp.zeros_like(w), "norm": jnp.zeros(())}
        return slots | ({"columns": jnp.zeros(w.shape[1:])} if w.ndim == 2 else {})

    return optlab.Rule(lambda u, slots, w, t: (u, slots), init, elementwise=False)


def test_which_slots_have_a_number_for_each_weight():
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((3, 4))}
    tx = optlab.chain(by_column(), optax.trace(0.9), optlab.kahan())
    state = tx.init(params)
    marked = optax.tree.map_params(tx, lambda _, name: name, state, {"bias": "b", "kernel": "k"})
    slots = marked[0].slots
    assert slots["ema"] == {"bias": "b", "kernel": "k"} == marked[1].trace == marked[2].error
    chex.assert_trees_all_equal(slots["norm"], state[0].slots["norm"])
    chex.assert_trees_all_equal(slots["columns"], state[0].slots["columns"])
    rest = optax.tree.map_params(tx, lambda _: 0, state, transform_non_params=lambda _: "rest")
    assert rest[0].slots["norm"] == rest[0].slots["columns"] == rest[0].count == "rest"


@pytest.mark.parametrize("name", public.TRANSFORMS)
def test_every_state_is_mapped_leaf_by_leaf(name):
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((3, 4))}
    state = public.build(name).init(params)
    shapes = []
    optax.tree.map_params(public.build(name), lambda leaf, w: shapes.append((leaf.shape, w.shape)), state, params)
    assert all(slot == w for slot, w in shapes)
    assert len(shapes) == sum(leaf.shape in ((3,), (3, 4)) for leaf in jax.tree.leaves(state))
