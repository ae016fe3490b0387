"""The oracles can fail: wrong optimizers, each rejected by the comparison that the right ones pass.

They run in the large setting in float64, and have to leave the paper and optax by more than float32 may.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, OPTIMIZERS
from trajectories import SETTINGS, TOLERANCES, assert_agree, build, of_loop, of_transform, unflatten
from wrong_optimizers import WRONG

LARGE = SETTINGS["large"]
WIDE = TOLERANCES["float32"]


def _hyperparams(name: str) -> set[str]:
    return set(inspect.signature(OPTIMIZERS[name].loop).parameters)


def _trajectory(make: Callable[..., Any], name: str, peer: Callable[[], AbstractContextManager[None]]) -> np.ndarray:
    """What `make` makes, under the settings of peers; in a tree only where the leaves of the tree matter."""
    as_params = unflatten if name in ("adams", "adamw_masked") else jnp.asarray
    return of_transform(build(make, LARGE), LARGE.steps, "float64", around=peer, as_params=as_params)


@functools.cache
def _oracles(name: str, peer: Callable[[], AbstractContextManager[None]]) -> dict[str, tuple[np.ndarray, float]]:
    """What a trajectory of the optimizer `name` is compared with, and how far from it float32 may be."""
    case, oracles = CASES[name], {}
    if case.loop:
        oracles["paper"] = of_loop(case.loop, LARGE), WIDE.from_loop
    if case.peer:
        oracles["optax"] = _trajectory(case.peer, name, peer), WIDE.from_peer
    return oracles


def test_every_optimizer_has_wrong_ones():
    assert OPTIMIZERS.keys() <= WRONG.keys() <= CASES.keys()
    assert all(WRONG.values())


@pytest.mark.parametrize("name", WRONG)
def test_the_right_one_is_accepted(name, peer):
    trajectory = _trajectory(CASES[name].ours, name, peer)
    for wanted, tolerance in _oracles(name, peer).values():
        assert_agree(trajectory, wanted, tolerance)


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, all_wrong in WRONG.items() for wrong in all_wrong])
def test_a_wrong_one_is_rejected(name, wrong, peer):
    trajectory = _trajectory(WRONG[name][wrong], name, peer)
    assert np.isfinite(trajectory).all(), "not a number is no test of a tolerance"
    for wanted, tolerance in _oracles(name, peer).values():
        with pytest.raises(AssertionError, match="differ first"):
            assert_agree(trajectory, wanted, tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_passes_for_another(name):
    wanted = of_loop(OPTIMIZERS[name].loop, LARGE)
    for other in OPTIMIZERS.keys() - {name}:
        with pytest.raises(AssertionError, match="differ first"):
            assert_agree(of_loop(OPTIMIZERS[other].loop, LARGE), wanted, WIDE.from_loop)


@pytest.mark.parametrize(
    ("name", "hyperparam"),
    [(name, key) for name in OPTIMIZERS for key in LARGE.hyperparams if key in _hyperparams(name)],
)
def test_a_hyperparameter_off_by_a_twentieth_is_rejected(name, hyperparam):
    """A hyperparameter that did not show here could be connected wrongly without a test that fails."""
    loop = OPTIMIZERS[name].loop
    off = LARGE._replace(hyperparams=LARGE.hyperparams | {hyperparam: 0.95 * LARGE.hyperparams[hyperparam]})
    with pytest.raises(AssertionError, match="differ first"):
        assert_agree(of_loop(loop, off), of_loop(loop, LARGE), WIDE.from_loop)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.001])
def test_one_wrong_number_at_the_last_step_is_enough(wrong):
    wanted = of_loop(OPTIMIZERS["adamw"].loop, LARGE)
    got = wanted.copy()
    got[-1, -1] *= wrong
    with pytest.raises(AssertionError, match=r"differ first at step 20, most in \['scale'\]"):
        assert_agree(got, wanted, WIDE.from_loop)


def test_a_trajectory_of_another_shape_is_rejected():
    wanted = of_loop(OPTIMIZERS["adamw"].loop, LARGE)
    with pytest.raises(AssertionError, match="differ in shape"):
        assert_agree(wanted[:1], wanted, WIDE.from_loop)
