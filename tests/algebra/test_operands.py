"""One compiled program serves all Python numbers, with the bits that a program of those numbers has."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import public
import pytest

import optlab
from optlab.algebra import lifting
from optlab.algebra.operands import NotArithmetic, Table, derived, spare_operands, values

PARAMS = {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.linspace(0.5, 2, 4)}
OTHERS = {"decay": 0.75, "b1": 0.625, "b2": 0.875, "eps": 3e-4, "weight_decay": 0.3, "learning_rate": 0.07}


def three_steps(tx):
    state = tx.init(PARAMS)
    outs = []
    for step in range(3):
        grads = jax.tree.map(lambda w, step=step: jnp.cos(7 * w + step), PARAMS)
        updates, state = tx.update(grads, state, PARAMS)
        outs.append(updates)
    return jax.tree.map(np.asarray, (outs, state))


def same_bits(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture
def compiled():
    """How many kinds of leaves have a program for all numbers, how many have none, how many numbers have their own."""
    lifting._kernel.cache_clear()
    kernels = []
    make = lifting._Kernel.__init__

    def init(self, *args):
        make(self, *args)
        kernels.append(self)

    lifting._Kernel.__init__ = init
    yield lambda: [
        (len(of_all) - list(of_all.values()).count(None), list(of_all.values()).count(None), own.cache_info().currsize)
        for of_all, own in ((kernel._programs, kernel._of_these) for kernel in kernels)
    ]
    lifting._Kernel.__init__ = make
    lifting._kernel.cache_clear()


@pytest.mark.parametrize("name", public.OPTIMIZERS)
def test_an_optimizer_with_other_numbers_is_not_compiled_anew_and_has_the_bits_of_its_own_program(
    name, compiled, monkeypatch
):
    three_steps(public.build(name))
    before = compiled()
    assert before
    assert all(without == 0 for _, without, _ in before)
    other = public.build(name, **OTHERS)
    served = three_steps(other)
    assert compiled() == before
    lifting._kernel.cache_clear()
    monkeypatch.setattr(lifting._Kernel, "_of_all", lambda self, numbers, *leaf: None)
    alone = three_steps(other)
    assert same_bits(served, alone)


@optlab.atom
def hesitant(threshold, factor):
    def update(u, slots, w, t):
        return (u if threshold > 0.5 else factor * u), slots

    return optlab.Rule(update)


def test_a_rule_that_asks_more_of_a_number_than_arithmetic_has_a_program_for_each(compiled):
    for threshold, wanted in (0.75, 1.0), (0.25, 3.0), (0.5, 3.0):
        updates, _ = three_steps(hesitant(threshold, 3.0))
        grads = np.cos(7 * np.asarray(PARAMS["bias"]))
        np.testing.assert_allclose(updates[0]["bias"], wanted * grads, rtol=1e-6)
    assert compiled() == [(0, 2, 3)]


def test_numbers_inside_jit_stay_constants():
    tx = optlab.adamw(1e-3, weight_decay=0.1)
    lowered = jax.jit(tx.update).lower(PARAMS, tx.init(PARAMS), PARAMS)
    assert len(lowered.in_avals[0]) == 3
    assert f"{np.float32(1 - 0.999):.7}"[:6] in lowered.as_text()


def test_numbers_are_worked_out_on_the_host_in_double_precision():
    floats = (0.999, 0.1)
    recipes = []
    b2, rate = Table(spare_operands(), recipes).numbers(2)
    u = jnp.ones(3)
    for number in 1 - b2, -rate, 2 * b2, rate / 3, b2**2, 1 / rate, b2 * rate, derived(math.log, b2):
        number * u
    wanted = 1 - 0.999, -0.1, 2 * 0.999, 0.1 / 3, 0.999**2, 10.0, 0.999 * 0.1, math.log(0.999)
    assert [float(value) for value in values(recipes, floats)] == [float(np.float32(x)) for x in wanted]
    assert (b2 * u.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert derived(math.hypot, 3.0, 4.0) == 5


@pytest.mark.parametrize(
    "asked",
    [bool, float, int, abs, lambda b: b > 0, lambda b: b == 0, lambda b: b * jnp.arange(3), math.sqrt, lambda b: b < b],
)
def test_what_is_no_arithmetic_is_refused(asked):
    (number,) = Table(spare_operands(), []).numbers(1)
    with pytest.raises((NotArithmetic, TypeError)):
        asked(number)


def test_an_average_that_would_forget_nothing_is_refused_also_where_the_program_is_there_already(x64):
    """Of float32 weights, where others may be in float64."""
    three_steps(optlab.scale_by_ema(0.5))
    three_steps(optlab.adam(0.1, b2=0.5))
    tx = optlab.adam(0.1, b2=0.99999999999)
    with pytest.raises(ValueError, match=r"decay 0.99999999999 is 1 in float32, so the average would forget nothing"):
        three_steps(tx)


def test_what_python_refuses_to_compute_is_left_to_the_device():
    @optlab.atom
    def inverse(scale):
        return optlab.Rule(lambda u, slots, w, t: ((1 / scale) * u, slots))

    three_steps(inverse(2.0))
    with pytest.raises(ZeroDivisionError):
        three_steps(inverse(0.0))


def test_settings_of_jax_are_traced_anew(x64):
    tx = optlab.adam(0.1)
    assert three_steps(tx)[0][0]["bias"].dtype == np.float32
    wide = jax.tree.map(lambda w: w.astype(jnp.float64), PARAMS)
    assert tx.update(wide, tx.init(wide), wide)[0]["bias"].dtype == np.float64


GROWTH = """
import gc
import jax, jax.numpy as jnp
import optlab

params = {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def run(rate):
    tx = optlab.adamw(rate, weight_decay=0.1)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)

for rate in range(1, 4):
    run(rate / 7)
before = resident()
for step in range(300):
    run(1e-3 * (1 + step / 300))
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc, which Linux has")
def test_resident_memory_does_not_grow_with_every_new_rate():
    result = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, timeout=600)
    assert float(result.stdout) < 20
