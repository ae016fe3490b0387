"""Every optimizer against the paper's loop and against optax, at every step."""

import inspect

import numpy as np
import pytest
from cases import CASES, OPTIMIZERS
from devices import ON_CPU, needs_double
from reference import optimizers as loops
from trajectories import EXTREMES, SETTINGS, TOLERANCES, assert_agree, build, of_loop, of_transform

import optlab
from optlab import optimizers

RUNS = [
    pytest.param("long", "float32", marks=pytest.mark.device),
    ("long", "float64"),
    pytest.param("large", "float64", marks=[pytest.mark.device, needs_double]),
    pytest.param("extreme", "float32", marks=pytest.mark.device),
    ("extreme", "float64"),
]


@pytest.mark.parametrize(("setting", "dtype"), RUNS)
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_the_paper_and_with_optax_at_every_step(name, setting, dtype, peer):
    case, setting, tolerance = CASES[name], SETTINGS[setting], TOLERANCES[dtype]
    ours = of_transform(build(case.ours, setting), setting.steps, dtype, problem=setting.problem)
    assert case.loop or case.peer
    if case.loop:
        assert_agree(ours, of_loop(case.loop, setting), tolerance.from_loop, of="optlab and the paper")
    if case.peer and (ON_CPU or not case.loop):  # elsewhere compiling takes long, and the paper says as much
        theirs = of_transform(build(case.peer, setting), setting.steps, dtype, around=peer, problem=setting.problem)
        assert_agree(ours, theirs, tolerance.from_peer, of="optlab and optax")


def test_extreme_gradients_come_alone_and_mixed():
    """Each is its size times a number from 0.5 to 2; of a weight with one size only, all are of that size."""
    sizes = np.array(EXTREMES)[:, None, None]
    gradients = np.abs(SETTINGS["extreme"].problem.noise)
    comes = ((sizes / 2 <= gradients) & (gradients <= 2 * sizes)).any(axis=1)
    assert comes.any(axis=0).all()
    assert (comes & (comes.sum(axis=0) == 1)).any(axis=1).all()
    assert comes.all(axis=0).any()


def test_every_optimizer_is_in_the_table():
    assert set(optimizers.__all__) == OPTIMIZERS.keys()
    for name, case in OPTIMIZERS.items():
        assert case.ours is getattr(optlab, name)
        assert case.loop is getattr(loops, name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_default_decides(name):
    taken = inspect.signature(OPTIMIZERS[name].ours).parameters.keys() - {"mask"}
    assert taken <= SETTINGS["long"].hyperparams.keys()
    assert taken == inspect.signature(OPTIMIZERS[name].loop).parameters.keys() - {"w", "grad", "schedule"}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["sign_sgd", "signum", "lion"])
def test_no_sign_hangs_on_rounding(name, setting):
    """With another seed a gradient or an average might come so near zero that float32 and float64 part there.

    This one leaves room for five times the float32 tolerance: the trajectories of the loops do not move at all.
    """
    loop, setting = CASES[name].loop, SETTINGS[setting]
    problem = setting.problem
    shift = np.random.default_rng(1).uniform(-1e-5, 1e-5, problem.noise.shape)
    nearby = problem._replace(noise=problem.noise * (1 + shift) + problem.curvature * shift)
    np.testing.assert_array_equal(of_loop(loop, setting, nearby), of_loop(loop, setting))


def test_at_b2_of_0_999_it_is_optax_that_leaves_the_paper(peer):
    """Why the long setting has another b2: optax's float32 `1 - b2**t` begins with a relative error of 1.3e-5."""
    long = SETTINGS["long"]
    setting = long._replace(hyperparams=long.hyperparams | {"b2": 0.999})
    case, tolerance = CASES["adamw"], TOLERANCES["float32"]
    paper = of_loop(case.loop, setting)
    assert_agree(of_transform(build(case.ours, setting), setting.steps, "float32"), paper, tolerance.from_loop)
    theirs = of_transform(build(case.peer, setting), setting.steps, "float32", around=peer)
    assert_agree(theirs, paper, 1e-5)
    with pytest.raises(AssertionError, match="differ first"):
        assert_agree(theirs, paper, tolerance.from_loop)
