"""The GPU kernel of stored optimizers against the XLA path, to the bit, in Pallas's interpret mode; and its lowering.

The kernel is the function that XLA runs on the whole leaf, run on blocks, so what can go wrong is where a block begins,
what is handed in, and what lies beside it.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import public
import pytest

import optlab
from optlab import codecs
from optlab.algebra import lifting, noise
from optlab.memory import kernel, steps
from optlab.memory.slots import leaf_like

SEED, STEPS = 7, 2
STORED = [
    name
    for name in public.OPTIMIZERS
    if (rule := public.build(name).rule) is not None
    and rule.elementwise
    and jax.eval_shape(rule.init, jnp.zeros((2, 256)))
]
ADAMW = optlab.adamw(0.1, eps=1e-3, weight_decay=0.1)
EXACT = optlab.adamw(2**-3, b1=0.5, b2=0.5, eps=2**-10, weight_decay=2**-3)


def leaf(tx, shape, codec=codecs.int8):
    named = tuple(codec.items()) if isinstance(codec, dict) else (("", codec),)
    return leaf_like(tx.rule, named, 0, jax.ShapeDtypeStruct(shape, jnp.float32))


def numbers(shape, seed):
    return public.random_tree(shape, seed)


def short_numbers(shape, seed):
    """Numbers whose squares are exact."""
    return numbers(shape, seed).astype(jnp.bfloat16).astype(jnp.float32)


def by_xla(stored, u, slots, w, t):
    return steps.whole(stored, t, SEED, u, slots, w)


def by_kernel(stored, u, slots, w, t):
    return steps.in_kernel(stored, t, SEED, u, slots, w, interpret=True)


def trajectory(step, stored, shape, numbers=numbers):
    """Updates and encoded slots of the leaf at every step."""
    w = numbers(shape, 0)
    slots, seen = stored.treedef.flatten_up_to(stored.init(w)), []
    step = jax.jit(functools.partial(step, stored))
    for t in range(1, STEPS + 1):
        u, slots = step(numbers(shape, t), slots, w, jnp.int32(t))
        seen.append((u, slots))
    return jax.tree.map(np.asarray, seen)


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    pairs = zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_every_optimizer_with_slots_is_in_the_table():
    assert {"adamw", "lion", "amsgrad", "adamax", "adagrad", "heavy_ball", "adabelief", "laprop"} <= set(STORED)


@pytest.mark.parametrize("name", STORED)
def test_it_is_the_xla_path_to_the_bit(name):
    stored = leaf(public.build(name), (12, 256), codecs.int8 if name == "adamw" else codecs.Int8(rounding="nearest"))
    assert steps.fits_kernel(stored)
    assert same(trajectory(by_kernel, stored, (12, 256)), trajectory(by_xla, stored, (12, 256)))


@pytest.mark.parametrize("shape", [(7 * 256,), (3, 512), (2, 2, 64, 4)])
def test_blocks_of_any_leaf_that_has_whole_ones(shape):
    stored = leaf(ADAMW, shape, codecs.Int8(rounding="nearest"))
    assert same(trajectory(by_kernel, stored, shape), trajectory(by_xla, stored, shape))


@pytest.mark.parametrize(
    "codec",
    [codecs.float8, codecs.Int8(block=64), {"numerator": codecs.bfloat16, "denominator": codecs.int8}],
    ids=["float8", "int8 of 64", "bfloat16 and int8"],
)
def test_other_codecs(codec):
    """With products that need no rounding: of `b2*v + (1 - b2)*u**2` a CPU fuses one with the sum, either of them."""
    stored = leaf(EXACT, (8, 256), codec)
    kernel_s, xla_s = (trajectory(path, stored, (8, 256), short_numbers) for path in (by_kernel, by_xla))
    assert same(kernel_s, xla_s)


def test_hyperparameters_may_be_traced_inside_it():
    u, w = numbers((4, 256), 1), numbers((4, 256), 0)

    def step(path, rate):
        stored = leaf(optlab.adamw(rate, weight_decay=0.1), (4, 256))
        return path(stored, u, stored.treedef.flatten_up_to(stored.init(w)), w, jnp.int32(1))

    ours, theirs = (jax.jit(functools.partial(step, path))(jnp.float32(0.1)) for path in (by_kernel, by_xla))
    assert same(ours, theirs)


@pytest.mark.parametrize("shape", [(1000,), (33, 77), (16, 3, 3), (64,), ()])
def test_ragged_leaves_stay_with_xla(shape):
    """No block is filled up inside the kernel, so nothing beside a leaf can reach a block's maximum."""
    assert not steps.fits_kernel(leaf(ADAMW, shape))


def test_rules_that_mix_the_weights_of_a_leaf_stay_with_xla():
    @optlab.atom
    def by_norm():
        def update(u, slots, w, t):
            m = slots["average"] + u
            return m / jnp.linalg.norm(m), {"average": m}

        return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)}, elementwise=False)

    assert not steps.fits_kernel(leaf(by_norm(), (4, 256)))


def _offset_by_one_block(stored, u, slots, w, t):
    u, slots = by_kernel(stored, jnp.roll(u, 1, axis=0), slots, w, t)
    return jnp.roll(u, -1, axis=0), slots


def _same_noise_in_every_program(stored, u, slots, w, t):
    positions = jnp.broadcast_to(noise.positions((1, 256)), u.shape)
    return steps.of_part(stored, None, positions, t, SEED, u, slots, w)


def _one_scale_for_the_leaf(stored, u, slots, w, t):
    slots = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.max(x, keepdims=True), x.shape) if x.shape[1] == 1 else x, slots
    )
    return by_kernel(stored, u, slots, w, t)


@functools.cache
def _right():
    return trajectory(by_xla, leaf(ADAMW, (12, 256)), (12, 256))


MUTANTS = {
    "a block further": _offset_by_one_block,
    "positions from the program's own beginning": _same_noise_in_every_program,
    "a step ahead": lambda stored, u, slots, w, t: by_kernel(stored, u, slots, w, t + 1),
    "another seed": lambda stored, u, slots, w, t: steps.in_kernel(stored, t, SEED + 1, u, slots, w, interpret=True),
    "weights left out": lambda stored, u, slots, w, t: by_kernel(stored, u, slots, 0 * w, t),
    "one scale for the leaf": _one_scale_for_the_leaf,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_kernels_are_seen(mutant):
    stored = leaf(ADAMW, (12, 256))
    assert not same(trajectory(MUTANTS[mutant], stored, (12, 256)), _right())


@pytest.mark.skipif(not kernel.has_triton(), reason="this JAX gives up its Triton backend")
@pytest.mark.parametrize("name", ["adamw", "amsgrad", "lion", "adabelief"])
def test_it_lowers_to_triton_and_works_in_place(name):
    """No GPU is needed to make the program; all that is missing is running it."""
    stored, w = leaf(public.build(name), (64, 256)), jax.ShapeDtypeStruct((64, 256), jnp.float32)
    slots = stored.treedef.flatten_up_to(stored.init(w))

    def step(u, slots, w, t):
        return steps.in_kernel(stored, t, SEED, u, slots, w)

    traced = jax.jit(step, donate_argnums=1).trace(w, slots, w, jax.ShapeDtypeStruct((), jnp.int32))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("__gpu$xla.gpu.triton") == 1
    assert program.count("#stablehlo.output_operand_alias<") == len(jax.tree.leaves(slots))


def test_a_kernel_closes_over_scalars_alone():
    table = jnp.arange(3.0)
    step = lambda number, read, updated: (read + table.sum(), updated)  # noqa: E731
    with pytest.raises(kernel.NoKernel, match=r"^a kernel can't close over an array float32\[3\]$"):
        kernel.over_blocks(step, jnp.ones((4, 256)), [], interpret=True)


class ByTable(codecs.Int8):
    def decode(self, stored):
        return super().decode(stored) * jnp.linspace(1, 1, 300)[stored["code"].astype(jnp.int32)]


class ByThreefry(codecs.Int8):
    def encode(self, x, bits):
        return super().encode(x, jax.random.bits(jax.random.key(0), x.shape))


@pytest.mark.parametrize("codec", [ByTable(), ByThreefry()], ids=["table", "threefry"])
def test_what_triton_has_not_stays_with_xla(codec, monkeypatch):
    monkeypatch.setattr(kernel, "runs_here", lambda: True)
    made, can_be_made = [], kernel.can_be_made
    monkeypatch.setattr(kernel, "can_be_made", lambda *given: made.append(can_be_made(*given)) or made[-1])
    lifting._kernel.cache_clear()
    for one in (codec, codecs.int8):
        tx, w = optlab.store(ADAMW, one, min_size=0), jnp.ones((4, 256))
        tx.update(w, tx.init(w), w)
    lifting._kernel.cache_clear()
    assert made == [False, True]


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_uses_it_where_it_is_made_without_a_warning(there, monkeypatch):
    """Whatever the JAX: on a GPU a small state is compiled without one, with a kernel or with XLA's program."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    if not there:
        monkeypatch.setattr(kernel, "has_triton", lambda: False)
    lifting._kernel.cache_clear()
    tx, w = optlab.store(ADAMW, codecs.int8, min_size=0), jax.ShapeDtypeStruct((4, 256), jnp.float32)
    traced = jax.jit(lambda g, state, w: tx.update(g, state, w)).trace(w, jax.eval_shape(tx.init, w), w)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    lifting._kernel.cache_clear()
    assert ("triton" in program) == (there and kernel.has_triton())


def test_a_jax_that_warns_of_its_triton_backend_has_none(monkeypatch):
    def deprecated(*given, **named):
        warnings.warn("the Triton backend will be removed", DeprecationWarning, stacklevel=2)
        return over_blocks(*given, **named)

    over_blocks = kernel.over_blocks
    monkeypatch.setattr(kernel, "over_blocks", deprecated)
    assert not kernel.has_triton.__wrapped__()


def test_a_processor_does_not_use_it():
    assert not kernel.runs_here()


@pytest.mark.device
@pytest.mark.skipif(not kernel.runs_here(), reason="needs one GPU, and a JAX that makes Triton kernels for it")
@pytest.mark.parametrize("name", ["adamw", "lion", "amsgrad"])
def test_on_a_gpu_it_takes_the_steps_of_xla(name):
    """Here and there a code is the next one: Triton and XLA approximate quotients and roots, each its own way."""
    stored = leaf(public.build(name), (12, 256), codecs.Int8(rounding="nearest"))
    compiled = lambda stored, u, slots, w, t: stored.in_blocks(t, SEED, u, slots, w)  # noqa: E731
    ours, theirs = (trajectory(path, stored, (12, 256)) for path in (compiled, by_xla))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        apart = np.abs(a - b) > 1e-4 * np.abs(b) + 1e-7
        assert np.mean(apart) < 0.01
        assert np.all(np.abs(a - b) <= np.maximum(1, 0.1 * np.max(np.abs(b))))
