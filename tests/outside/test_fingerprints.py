"""The hash of a traced program: it tells apart what computes something else, and nothing else, in every process."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jax.experimental import pallas as pl

from optlab.outside import jax_internals
from optlab.outside.fingerprints import Opaque, fingerprint

X = jax.ShapeDtypeStruct((3,), jnp.float32)


def of(function: Any, *args: Any) -> str:
    return fingerprint(function, *(args or (X,)))


def constant(values: Any) -> Any:
    array = jnp.asarray(values, jnp.float32)
    return lambda x: x + array


def doubled(factor: float) -> Any:
    """2 x, with a derivative of its own."""

    @jax.custom_vjp
    def function(x: jax.Array) -> jax.Array:
        return 2 * x

    function.defvjp(lambda x: (2 * x, None), lambda _, g: (factor * g,))
    return function


def slope(factor: float) -> Any:
    return jax.grad(lambda x: doubled(factor)(x).sum())


def mapped(factor: float) -> Any:
    """2 x, with a rule of its own for many."""

    @jax.custom_batching.custom_vmap
    def function(x: jax.Array) -> jax.Array:
        return 2 * x

    function.def_vmap(lambda _, batched, x: (factor * x, batched[0]))
    return function


def kernel(factor: float) -> Any:
    def write(source: Any, target: Any) -> None:
        target[...] = factor * source[...]

    return pl.pallas_call(write, out_shape=X, interpret=True)


def drawn(seed: int) -> Any:
    key = jax.random.key(seed)
    return lambda x: x + jax.random.normal(key, x.shape)


def looped(times: int) -> Any:
    return lambda x: jax.lax.fori_loop(0, times, lambda _, y: jnp.sin(y), x)


def branched(wrong: bool) -> Any:
    return lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.tan if wrong else jnp.cos, x)


DIFFERENT = {
    "the seventh digit of a number": (lambda x: 0.9999991 * x, lambda x: 0.9999994 * x),
    "the last bit of a constant": (constant([0.1, 1, 2]), constant([np.nextafter(np.float32(0.1), 1), 1, 2])),
    "the sign of a zero": (lambda x: x * 0.0, lambda x: x * -0.0),
    "one of many values": (constant(np.arange(3)), constant([0, 1, 3])),
    "a key": (drawn(0), drawn(1)),
    "a generator": (
        lambda x: jax.random.normal(jax.random.key(0, impl="rbg"), x.shape),
        lambda x: jax.random.normal(jax.random.key(0, impl="unsafe_rbg"), x.shape),
    ),
    "the order of operands": (lambda x: x - x[0], lambda x: x[0] - x),
    "which of two values": (lambda x: (x + 1) * (x + 2) + (x + 1), lambda x: (x + 1) * (x + 2) + (x + 2)),
    "the dtype": (lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.float16)),
    "the precision": (lambda x: jnp.dot(x, x), lambda x: jnp.dot(x, x, precision="highest")),
    "within a loop": (looped(3), looped(4)),
    "within a branch": (branched(False), branched(True)),
    "within jit": (jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)),
    "a derivative of one's own": (slope(2.0), slope(3.0)),
    "a rule for many of one's own": (jax.vmap(mapped(2.0)), jax.vmap(mapped(3.0))),
    "a kernel": (kernel(2.0), kernel(3.0)),
    "a reduction": (
        lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + b, (0,)),
        lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0,)),
    ),
    "what is given back": (lambda x: (x + 1, x + 2), lambda x: (x + 2, x + 1)),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_seen(case: str) -> None:
    one, other = DIFFERENT[case]
    assert of(one) == of(one)
    assert of(one) != of(other)


def with_a_name(x: jax.Array) -> jax.Array:
    halved = x / 2
    return jnp.sin(halved)


def watched(x: jax.Array) -> jax.Array:
    jax.debug.print("{x}", x=x)
    return jnp.sin(x / 2)


SAME = {
    "another name and place": (with_a_name, lambda y: jnp.sin(y / 2)),
    "a print": (with_a_name, watched),
    "a partial": (functools.partial(lambda c, x: c * x, 2.0), lambda x: 2.0 * x),
    "a derivative that nobody takes": (doubled(2.0), doubled(3.0)),
    "a constant elsewhere": (constant([1, 2, 3]), constant(np.array([0, 1, 2, 3])[1:])),
}


@pytest.mark.parametrize("case", SAME)
def test_what_computes_the_same_is_the_same(case: str) -> None:
    one, other = SAME[case]
    assert of(one) == of(other)


def test_shapes_of_arguments_count() -> None:
    assert of(jnp.sin) != of(jnp.sin, jax.ShapeDtypeStruct((4,), jnp.float32))
    assert of(jnp.sin) != of(jnp.sin, jax.ShapeDtypeStruct((3,), jnp.bfloat16))


OPAQUE = {
    "a callback": (lambda x: jax.pure_callback(np.sin, X, x), "runs Python code while it runs (jax.pure_callback)"),
    "one with effects": (lambda x: io_callback(np.sin, X, x), "runs Python code while it runs (io_callback)"),
    "foreign code": (lambda x: jax.ffi.ffi_call("elsewhere", X)(x), "runs compiled code of its own (jax.ffi)"),
    "in a loop": (
        lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jax.pure_callback(np.sin, X, y), x),
        "runs Python code while it runs (jax.pure_callback)",
    ),
    "a rule for many": (mapped(2.0), "runs a rule of its own where it is mapped (custom_vmap), and was not mapped"),
}


@pytest.mark.parametrize("case", OPAQUE)
def test_what_is_not_in_the_program_is_said(case: str) -> None:
    function, reason = OPAQUE[case]
    with pytest.raises(Opaque) as error:
        of(function)
    assert str(error.value) == reason


def test_what_may_change_is_opaque() -> None:
    variable = jax.new_ref(jnp.zeros(3))
    with pytest.raises(Opaque, match=r"^holds a Ref, whose content may change$"):
        of(lambda x: x + variable[...])


def test_an_object_that_jax_knows_nothing_of_is_opaque() -> None:
    own = jax_internals.Primitive("own")
    own.def_abstract_eval(lambda x, *, setting: x)

    class Setting:
        def __repr__(self) -> str:
            return "Setting()"

    with pytest.raises(Opaque, match=r"^holds a Setting, whose content can't be read$"):
        of(lambda x: own.bind(x, setting=Setting()))
    with pytest.raises(Opaque, match=r"^holds the function .*, which is not traced$"):
        of(lambda x: own.bind(x, setting=lambda y: y))
    assert of(lambda x: own.bind(x, setting=1)) != of(lambda x: own.bind(x, setting=2))


IN_ANOTHER = """
import jax
from optlab.lab.tasks import digits, quadratic
from optlab.outside.fingerprints import fingerprint
key = jax.eval_shape(lambda: jax.random.key(0))
for task in (digits(), quadratic()):
    params, data = jax.eval_shape(task.init, key), jax.eval_shape(task.data, key)
    slope = jax.grad(lambda params, data: task.metrics(params, data)["train_loss"])
    print(fingerprint(task.data, key), fingerprint(slope, params, data))
"""


def test_it_is_the_same_in_every_process() -> None:
    def said(seed: str) -> str:
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", IN_ANOTHER]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first = said("1")
    assert len(set(first.split())) == 4
    assert said("2") == first
