"""The properties themselves, and how a transform is driven to show them."""

import copy
import functools
import itertools
import unittest
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optlab.algebra.combinators import require_transform
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import describe
from optlab.outside import jax_internals

__all__ = ["PROPERTIES", "SHAPES", "Property", "check"]

Property = Callable[[optax.GradientTransformation], None]

SHAPES = {"bias": (3,), "kernel": (2, 3)}
PROPERTIES: dict[str, Property] = {}

_PRECISIONS = ("float16", "bfloat16", "float32", "float64")
_MIXTURES = (("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float64"), ("float64", "float32"))

# Fused operations are rounded less often than single ones. The share is of the largest number of a leaf.
_TOLERANCE = 1e-5


@spelled("testing.check")
def check(
    tx: optax.GradientTransformation,
    name: str,
    *,
    exempt: Collection[str] = (),
    inapplicable: Mapping[str, str] | None = None,
) -> None:
    """Raises AssertionError, saying what is violated, if `tx` lacks the property `name`.

    Args:
      tx: a transform of optlab or optax that needs no extra arguments.
      name: a key of `PROPERTIES`; the function behind it says what is asked.
      exempt: names of properties that `tx` does not have, such as `"complex weights have no direction"`. Of these it
        is asked that they fail, so that no exemption outlives its reason.
      inapplicable: properties that make no sense of `tx`, or hold here and not there, such as on one device and not on
        eight; each with the reason. The test is skipped, and shows the reason, and whether it would have passed.

    Raises:
      AssertionError: `tx` lacks the property, or has one from which it is exempt.
      unittest.SkipTest: the property is inapplicable; pytest and unittest show a skipped test.
      ValueError: there is no property of a name, one is exempt and inapplicable, or has no reason.
    """
    require_transform("check: tx", tx)
    if isinstance(exempt, str):
        raise TypeError(f"check: exempt must be a list of names of properties, got {exempt!r}")
    reasons = _reasons(inapplicable)
    if unknown := {name, *exempt, *reasons} - PROPERTIES.keys():
        raise ValueError(f"check: no property {min(unknown)!r}; the properties are {', '.join(PROPERTIES)}")
    if both := reasons.keys() & set(exempt):
        raise ValueError(f"check: {min(both)!r} is exempt, which asks that it fails, and inapplicable: choose one")
    try:
        PROPERTIES[name](tx)
    except AssertionError:
        if name in reasons:
            raise unittest.SkipTest(f"{name!r} does not apply to {describe(tx)}: {reasons[name]}") from None
        if name not in exempt:
            raise
        return
    if name in reasons:
        raise unittest.SkipTest(f"{name!r} does not apply to {describe(tx)}, which has it here: {reasons[name]}")
    if name in exempt:
        raise AssertionError(f"{describe(tx)} has {name!r}, from which it is exempt: drop the exemption")


def _reasons(inapplicable: Mapping[str, str] | None) -> Mapping[str, str]:
    if inapplicable is None:
        return {}
    if not isinstance(inapplicable, Mapping):
        raise TypeError(f"check: inapplicable must be a dict from names of properties to reasons, got {inapplicable!r}")
    for name, reason in inapplicable.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"check: say why {name!r} is inapplicable, in words, got {reason!r}")
    return inapplicable


def _property(function: Property) -> Property:
    """Lists a property, whose name its words are. Whatever is raised inside is a violation."""
    name = function.__name__.replace("_", " ")

    @functools.wraps(function)
    def asserted(tx: optax.GradientTransformation) -> None:
        try:
            function(tx)
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{describe(tx)} violates {name!r}: {said}") from error

    PROPERTIES[name] = asserted
    return asserted


# Compiling ----------------------------------------------------------------------------------------------------------


@_property
def jit_computes_what_eager_does(tx: optax.GradientTransformation) -> None:
    """Called inside `jit`, outside, and operation by operation under `jax.disable_jit`, it gives the same numbers."""
    wanted = _train(tx)
    _assert_close("inside jit", _train(tx, jax.jit), wanted)
    _assert_close("under disable_jit", _train(tx, _one_by_one), wanted)


@_property
def nothing_is_traced_twice(tx: optax.GradientTransformation) -> None:
    """A second call traces nothing, nor does an equal transform built anew (`copy.deepcopy`), in `jit` or outside.

    That asks for states whose types stay, no `jax.jit` made inside `update`, and hyperparameters that compare by value.
    """
    traces = _traces()
    compiled = jax.jit(lambda tx, *arguments: tx.update(*arguments), static_argnums=0)
    grads, params = _random(1), _random(0)
    for where, update in ("outside jit", lambda tx, *arguments: tx.update(*arguments)), ("in jit", compiled.eval_shape):
        state = tx.init(params)
        before = len(traces)
        _, state = update(tx, grads, state, params)
        assert where == "outside jit" or len(traces) > before, "traces can't be counted: jax.monitoring was cleared"
        for which, again in ("the same", tx), ("an equal", copy.deepcopy(tx)):
            before = len(traces)
            update(again, grads, state, params)
            assert len(traces) == before, f"{where}, a second call of {which} transform is traced anew"


@_property
def the_state_is_a_carry_of_scan_and_cond(tx: optax.GradientTransformation) -> None:
    """A `lax.scan` over steps, of which a `lax.cond` leaves one out, goes where a loop does."""
    params, grads, taken = _random(0), _steps(3), [True, False, True]

    @jax.jit
    def scan(state: Any) -> Any:
        def step(state: Any, now: Any) -> Any:
            acts, g = now
            return jax.lax.cond(acts, lambda: tx.update(g, state, params)[1], lambda: state), None

        return jax.lax.scan(step, state, (jnp.array(taken), _stacked(grads)))[0]

    state = tx.init(params)
    _, wanted = _train(tx, jax.jit, grads=itertools.compress(grads, taken))
    after = scan(state)
    _assert_types("state after scan", after, state)
    _assert_close("state after scan", after, wanted)


@_property
def vmap_over_models_is_a_loop(tx: optax.GradientTransformation) -> None:
    """Two models side by side under `vmap`, each with its own state, get what each gets alone."""
    params, grads = [_random(0), _random(1)], [_random(2), _random(3)]
    states = [tx.init(w) for w in params]
    alone = [jax.jit(tx.update)(*arguments) for arguments in zip(grads, states, params, strict=True)]
    _assert_close("init", jax.vmap(tx.init)(_stacked(params)), _stacked(states))
    together = jax.jit(jax.vmap(tx.update))(*map(_stacked, (grads, states, params)))
    _assert_close("update", together, _stacked(alone))


@_property
def elementwise_rules_mix_nothing(tx: optax.GradientTransformation) -> None:
    """Another gradient and value of one weight move no other weight, to the last bit.

    Asked where `tx` promises it: where it has a `rule` that does not say `elementwise=False`.
    """
    rule = getattr(tx, "rule", None)
    if rule is None or not rule.elementwise:
        return

    def of_the_others(factor: float) -> list[Any]:
        def changed(tree: Any) -> Any:
            return tree | {"kernel": tree["kernel"].at[0, 0].multiply(factor)}

        updates, _ = _train(tx, jax.jit, changed(_random(0)), map(changed, _steps(3)))
        return [{**u, "kernel": np.ravel(u["kernel"])[1:]} for u in updates]

    _assert_same("updates of the others", of_the_others(-100.0), of_the_others(1.0))


@_property
def it_lowers_for_cpu_cuda_and_tpu(tx: optax.GradientTransformation) -> None:
    """`jax.export` lowers `init` and `update` for all three, on whatever machine this is; callbacks don't pass."""

    def first_step(grads: Any, params: Any) -> Any:
        return tx.update(grads, tx.init(params), params)

    jax.export.export(jax.jit(first_step), platforms=("cpu", "cuda", "tpu"))(_abstract(), _abstract())


# Types --------------------------------------------------------------------------------------------------------------


@_property
def the_state_keeps_its_types(tx: optax.GradientTransformation) -> None:
    """`jax.typeof` of every leaf of the state is after `update` what it was after `init`.

    For weights in float16, bfloat16, float32 and float64, for gradients of these and of another dtype.
    """
    for grads, weights in (*zip(_PRECISIONS, _PRECISIONS, strict=True), *_MIXTURES):
        with jax.enable_x64(True):
            state, (_, after) = _abstract_step(tx, grads, weights)
            _assert_types(f"state after {grads} gradients on {weights} weights", after, state)
    state = tx.init(_random(0))
    _assert_types("state after a step outside jit", tx.update(_random(1), state, _random(0))[1], state)


@_property
def numbers_are_kept_in_single_precision_or_wider(tx: optax.GradientTransformation) -> None:
    """Statistics and updates are in float32 for narrower weights, and in float64 for float64 weights."""
    for weights in _PRECISIONS:
        with jax.enable_x64(True):
            _, after = _abstract_step(tx, weights, weights)
        bits = max(32, jnp.finfo(weights).bits)
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(zip(("updates", "state"), after, strict=True))):
            narrow = jnp.issubdtype(leaf.dtype, jnp.inexact) and jnp.finfo(leaf.dtype).bits < bits
            assert not narrow, f"{weights} weights have {leaf.dtype} in {_keystr(path)}"


@_property
def half_precision_is_computed_in_single(tx: optax.GradientTransformation) -> None:
    """Gradients and weights in bfloat16 or float16 get the updates of the same numbers in float32."""
    half = ("bfloat16", "bfloat16"), ("float16", "float16")
    for grads, weights in (*half, *_MIXTURES[:2]):
        numbers = _random(0, weights), _steps(2, grads)
        updates, _ = _train(tx, _one_by_one, *numbers)
        wanted, _ = _train(tx, _one_by_one, *_in_single(numbers))
        _assert_close(f"{grads} gradients on {weights} weights", _in_single(updates), wanted)


@_property
def complex_weights_have_no_direction(tx: optax.GradientTransformation) -> None:
    """Complex weights keep the state's types; turned by `i` with their gradients, they get updates as large as before.

    So a second moment is `|u|**2` and not `u**2`, and no imaginary part gets lost.
    """
    state, (_, after) = _abstract_step(tx, "complex64", "complex64")
    _assert_types("state", after, state)

    def sizes(turn: complex) -> Any:
        numbers = _random(0, "complex64"), _steps(2, "complex64")
        updates, _ = _train(tx, _one_by_one, *jax.tree.map(lambda x: jnp.complex64(turn) * x, numbers))
        return jax.tree.map(jnp.abs, updates)

    _assert_close("size of the updates", sizes(1j), sizes(1))


@_property
def promotion_is_strict_and_nothing_warns(tx: optax.GradientTransformation) -> None:
    """Neither dtypes nor ranks are promoted in passing, and no warning is given; in float32 and in bfloat16.

    Asked in a trace and operation by operation, because Python numbers and arrays are promoted differently there.
    """
    for dtype in "float32", "bfloat16":
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), warnings.catch_warnings():
            warnings.simplefilter("error")
            for how in _one_by_one, _traced:
                _train(tx, how, _random(0, dtype), _steps(1, dtype))


# Leaves and trees ---------------------------------------------------------------------------------------------------


@_property
def empty_trees_and_none_leaves_pass(tx: optax.GradientTransformation) -> None:
    """An empty tree comes back as it is, `None` stays where it stands, and the other leaves don't notice."""
    for nothing in {}, [], ():
        with jax.debug_nans(True):
            assert _first_updates(tx, nothing) == nothing, f"{nothing} does not come back"
    beside = _first_updates(tx, {**_random(1), "none": None, "nothing": {}})
    _assert_same("updates beside None", beside, {**_first_updates(tx, _random(1)), "none": None, "nothing": {}})


@_property
def scalars_and_leaves_of_size_zero_pass(tx: optax.GradientTransformation) -> None:
    """A scalar moves like a vector of one, a leaf of size zero keeps its shape, and the others don't notice it."""
    vector = _random(1, shapes={"w": (1,)})
    scalar = jax.tree.map(jnp.ravel, _first_updates(tx, {"w": vector["w"][0]}))
    _assert_close("updates of a scalar", scalar, _first_updates(tx, vector))
    empty = _random(1, shapes={"no rows": (0, 3), "no columns": (2, 0)})
    with jax.debug_nans(True):
        updates = _first_updates(tx, {**_random(1), **empty})
    _assert_close("updates beside nothing", updates, {**_first_updates(tx, _random(1)), **empty})


@_property
def init_is_abstract(tx: optax.GradientTransformation) -> None:
    """`init` gives the same types under `jax.eval_shape`, and when it is given a tree of `jax.ShapeDtypeStruct`s."""
    for dtype in "float32", "bfloat16":
        state = tx.init(_random(0, dtype))
        _assert_types("state under eval_shape", jax.eval_shape(tx.init, _abstract(dtype)), state)
        _assert_types("state of abstract weights", tx.init(_abstract(dtype)), state)


@_property
def shardings_are_kept(tx: optax.GradientTransformation) -> None:
    """Updates and every slot shaped like a weight lie on the devices as that weight does, whichever the mesh's axes.

    Over all devices there are; with one it says little (`--xla_force_host_platform_device_count=8` makes eight).
    """
    shapes = {"bias": (jax.device_count(),), "kernel": (jax.device_count(), 2)}
    for axis, update in (AxisType.Auto, jax.jit(tx.update)), (AxisType.Explicit, _traced(tx.update)):
        sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("x",), axis_types=(axis,)), PartitionSpec("x"))
        params, grads = (jax.device_put(_random(seed, shapes=shapes), sharding) for seed in (0, 1))
        state = tx.init(params) if axis is AxisType.Auto else jax.eval_shape(tx.init, params)
        updates, after = update(grads, state, params)
        for what, tree in ("updates", updates), ("state of init", state), ("state", after):
            _assert_placed(f"{what}, {axis.name} axes", tree, params)


# Trajectories -------------------------------------------------------------------------------------------------------


@_property
def a_saved_state_continues_bit_for_bit(tx: optax.GradientTransformation) -> None:
    """Saved after two steps as NumPy arrays by `keystr`, and restored into what `init` gives, it goes on as if nothing
    had happened.

    So all that a transform remembers is in its state, and the state is arrays.
    """
    stream = _steps(4)
    wanted = _train(tx, grads=stream)
    first, state = _train(tx, grads=stream[:2])
    saved = _saved(state)
    _train(tx)  # somebody else's run in the meantime
    rest, state = _train(tx, grads=stream[2:], state=_restored(saved, tx.init(_random(0))))
    _assert_same("saved and restored", _Run([*first, *rest], state), wanted)


@_property
def what_comes_in_is_not_changed(tx: optax.GradientTransformation) -> None:
    """Gradients, state and weights are after a call what they were, NumPy arrays too, which could be written to."""
    arguments = (_random(1), tx.init(_random(0)), _random(0))
    before = jax.tree.map(np.array, arguments)
    for array in jnp.array, np.array:
        given = jax.tree.map(array, before)
        tx.init(given[2])
        tx.update(*given)
        for what, now, then in zip(("gradients", "state", "params"), given, before, strict=True):
            _assert_same(f"{what} after a call", now, then)


@_property
def ordinary_numbers_make_no_nan(tx: optax.GradientTransformation) -> None:
    """Under `jax.debug_nans`, gradients of either sign and gradients and weights of zero pass."""
    zeros = jax.tree.map(jnp.zeros_like, _random(0))
    with jax.debug_nans(True):
        for params, grads in (_random(0), _steps(3)), (_random(0), [zeros, zeros]), (zeros, [zeros, zeros]):
            updates, _ = _train(tx, params=params, grads=grads)
            assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates)), f"updates are {updates}"


@_property
def gradients_that_are_not_finite_can_be_held_off(tx: optax.GradientTransformation) -> None:
    """NaN and infinity raise nothing, and with `optax.apply_if_finite` around it, it is as if they had not come."""
    params, (first, second) = _random(0), _steps(2)
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=10)
    wanted = _train(tx, _one_by_one, grads=[first, second])
    with jax.debug_nans(False):
        bad = [jax.tree.map(lambda g, x=x: g.at[0].set(x), second) for x in (np.nan, np.inf, -np.inf)]
        _train(tx, grads=bad)
        jax.eval_shape(guarded.update, first, guarded.init(params), params)
        (u, *held_off, v), state = _train(guarded, _one_by_one, grads=[first, *bad, second])
    _assert_same("held off", held_off, [jax.tree.map(jnp.zeros_like, first)] * len(bad))
    _assert_same("beside those held off", _Run([u, v], state.inner_state), wanted)


# Running a transform ------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """The updates of every step, and the last state."""

    updates: list[Any]
    state: Any


def _random(seed: int, dtype: str = "float32", shapes: Any = SHAPES) -> Any:
    """A tree of normal random numbers, complex ones for a complex dtype."""
    draw = np.random.default_rng(seed).normal
    complex_ = jnp.issubdtype(dtype, jnp.complexfloating)
    return {
        name: jnp.asarray(draw(size=shape) + 1j * draw(size=shape) if complex_ else draw(size=shape), dtype)
        for name, shape in shapes.items()
    }


def _steps(count: int, dtype: str = "float32") -> list[Any]:
    """The gradients of some steps."""
    return [_random(seed, dtype) for seed in range(1, count + 1)]


def _abstract(dtype: str = "float32") -> Any:
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}


def _abstract_step(tx: optax.GradientTransformation, grads: str, weights: str) -> tuple[Any, Any]:
    """The types of the first state, and of the updates and the state after one step."""
    state = jax.eval_shape(tx.init, _abstract(weights))
    return state, jax.eval_shape(tx.update, _abstract(grads), state, _abstract(weights))


def _train(
    tx: optax.GradientTransformation,
    how: Callable[..., Any] = lambda update: update,
    params: Any = None,
    grads: Iterable[Any] | None = None,
    state: Any = None,
) -> _Run:
    """What `how(tx.update)` does over some steps; the weights stand still."""
    update = how(tx.update)
    params = _random(0) if params is None else params
    state = tx.init(params) if state is None else state
    outs = []
    for g in _steps(3) if grads is None else grads:
        updates, state = update(g, state, params)
        outs.append(updates)
    return _Run(outs, state)


def _first_updates(tx: optax.GradientTransformation, tree: Any) -> Any:
    return _one_by_one(tx.update)(tree, tx.init(tree), tree)[0]


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with every operation on its own, even where it is compiled."""

    def call(*arguments: Any) -> Any:
        with jax.disable_jit():
            return function(*arguments)

    return call


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function traced anew at every call, for its types only."""
    return lambda *arguments: jax.eval_shape(lambda *inner: function(*inner), *arguments)


def _stacked(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _in_single(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _saved(tree: Any) -> dict[str, np.ndarray]:
    """What `np.savez(file, **saved)` writes: an array for the path of each leaf."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    saved = {_keystr(path): np.array(leaf) for path, leaf in flat}
    assert len(saved) == len(flat), "two leaves of the state have one keystr"
    for key, leaf in saved.items():
        assert leaf.dtype != object, f"the state's {key} is no array"
    return saved


def _restored(saved: dict[str, np.ndarray], like: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(saved[_keystr(path)]), like)


@functools.cache
def _traces() -> list[None]:
    """A list that grows with everything that JAX traces from now on."""
    traced: list[None] = []
    jax_internals.on_every_trace(lambda: traced.append(None))
    return traced


# Comparing trees ----------------------------------------------------------------------------------------------------


def _keystr(path: Any) -> str:
    return jax.tree_util.keystr(path) or " itself"


def _pairs(what: str, actual: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    structures = jax.tree.structure(actual), jax.tree.structure(wanted)
    assert structures[0] == structures[1], f"{what}: the tree is {structures[0]}, not {structures[1]}"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(wanted), strict=True):
        yield f"{what}, at {_keystr(path)}", a, b


def _assert_types(what: str, actual: Any, wanted: Any) -> None:
    for where, a, b in _pairs(what, actual, wanted):
        assert jax.typeof(a) == jax.typeof(b), f"{where}: {jax.typeof(a)!r}, not {jax.typeof(b)!r}"


def _assert_same(what: str, actual: Any, wanted: Any) -> None:
    """The same bits."""
    for where, a, b in _pairs(what, actual, wanted):
        a, b = np.asarray(a), np.asarray(b)
        same = (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
        assert same, f"{where}: {a} ({a.dtype}), not {b} ({b.dtype})"


def _assert_close(what: str, actual: Any, wanted: Any) -> None:
    for where, a, b in _pairs(what, actual, wanted):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{where}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
        scale = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        assert np.allclose(a, b, _TOLERANCE, _TOLERANCE * scale, equal_nan=True), f"{where}: {a}, not {b}"


def _assert_placed(what: str, tree: Any, params: Any) -> None:
    weights = {_keystr(path): w for path, w in jax.tree_util.tree_leaves_with_path(params)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        w = weights.get(_keystr(path[-1:]))
        if w is None or w.shape != leaf.shape:
            continue
        if isinstance(leaf, jax.Array):
            placed, wanted = leaf.sharding, w.sharding
            same = placed.is_equivalent_to(wanted, w.ndim)
        else:
            placed, wanted = (jax.typeof(x).sharding for x in (leaf, w))
            same = placed == wanted
        assert same, f"{what}, at {_keystr(path)}: {placed}, not {wanted}"
