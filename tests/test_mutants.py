"""The oracles can fail: wrong optimizers, each rejected by the comparison that the right ones pass.

They run in the large setting in float64, and have to leave the paper and optax by more than float32 may.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import numpy as np
import optax
import pytest
from cases import CASES, OPTIMIZERS
from trajectories import SETTINGS, TOLERANCES, assert_agree, build, of_loop, of_transform

import optlab

LARGE = SETTINGS["large"]
WIDE = TOLERANCES["float32"]


def _momentum(b1: float) -> optlab.Transform:
    return optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))


def _core(b1: float, b2: float, eps: float, eps_root: float = 0.0) -> optlab.Transform:
    return optlab.scale_by_rms(b2, eps, eps_root, numerator=_momentum(b1))


def _adamw(
    learning_rate: float,
    weight_decay: float,
    core: optlab.Transform,
    decay: Callable[[float], optax.GradientTransformation] = optlab.add_decayed_weights,
) -> optax.GradientTransformation:
    """AdamW with its core, or the link of its decay, exchanged."""
    return optlab.chain(core, decay(weight_decay), optlab.scale_by_learning_rate(learning_rate))


@optlab.atom
def bias_correct_late(decay: float) -> optlab.Rule:
    """`u -> u / (1 - decay**(t + 1))`: the correction of a step count that is one ahead."""
    return optlab.Rule(lambda u, slots, w, t: (u / (1 - decay ** (t + 1).astype(u.dtype)), slots))


# By optimizer and by what is wrong; a factory takes the hyperparameters that it names.
MUTANTS: dict[str, dict[str, Callable[..., optax.GradientTransformation]]] = {
    "adamw": {
        # The eight.
        "L2 for decay": lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            optlab.add_l2_to_grad(weight_decay), _core(b1, b2, eps), optlab.scale_by_learning_rate(learning_rate)
        ),
        "decay's sign flipped": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, -weight_decay, _core(b1, b2, eps), optax.add_decayed_weights
        ),
        "decay dropped": lambda learning_rate, b1, b2, eps: optlab.chain(
            _core(b1, b2, eps), optlab.scale_by_learning_rate(learning_rate)
        ),
        "decay ten times too large": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, 10 * weight_decay, _core(b1, b2, eps)
        ),
        "decay after the rate": lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            _core(b1, b2, eps), optlab.scale_by_learning_rate(learning_rate), optlab.shrink_weights(weight_decay)
        ),
        "eps inside the root": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, _core(b1, b2, 0.0, eps_root=eps)
        ),
        "b2 a hundredth too small": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, _core(b1, 0.99 * b2, eps)
        ),
        "no bias correction": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate,
            weight_decay,
            optlab.divide(
                optlab.scale_by_ema(b1), optlab.chain(optlab.square(), optlab.scale_by_ema(b2), optlab.root(eps))
            ),
        ),
        # More of the decay.
        "decay after the rate, growing": lambda learning_rate, b1, b2, eps, weight_decay: optax.chain(
            _core(b1, b2, eps),
            optlab.scale_by_learning_rate(learning_rate),
            optax.add_decayed_weights(learning_rate * weight_decay),
        ),
        "decay of the weights after the step": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, optlab.chain(_core(b1, b2, eps), optax.scale(1 - learning_rate * weight_decay))
        ),
        "decay divided, not multiplied": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate / (1 + learning_rate * weight_decay), weight_decay, _core(b1, b2, eps)
        ),
        "decay times the rate twice": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, learning_rate * weight_decay, _core(b1, b2, eps)
        ),
        "decay inside the quotient": lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            optlab.divide(optlab.chain(_momentum(b1), optlab.add_decayed_weights(weight_decay)), optlab.rms(b2, eps)),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        "decay in the first moment": lambda learning_rate, b1, b2, eps, weight_decay: optlab.chain(
            optlab.divide(optlab.chain(optlab.add_l2_to_grad(weight_decay), _momentum(b1)), optlab.rms(b2, eps)),
            optlab.scale_by_learning_rate(learning_rate),
        ),
        "decay of matrices only": lambda learning_rate, b1, b2, eps, weight_decay: optlab.adamw(
            learning_rate,
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
        ),
        # More of Adam.
        "eps squared inside the root": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, _core(b1, b2, 0.0, eps_root=eps**2)
        ),
        "eps dropped": lambda learning_rate, b1, b2, weight_decay: _adamw(
            learning_rate, weight_decay, _core(b1, b2, 1e-12)
        ),
        "b1 and b2 exchanged": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, _core(b2, b1, eps)
        ),
        "first moment not corrected": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, optlab.scale_by_rms(b2, eps, numerator=optlab.scale_by_ema(b1))
        ),
        "second moment not corrected": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate,
            weight_decay,
            optlab.divide(_momentum(b1), optlab.chain(optlab.square(), optlab.scale_by_ema(b2), optlab.root(eps))),
        ),
        "correction one step late": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate,
            weight_decay,
            optlab.scale_by_rms(b2, eps, numerator=optlab.chain(optlab.scale_by_ema(b1), bias_correct_late(b1))),
        ),
        "momentum squared for the gradient": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, optlab.chain(_momentum(b1), optlab.scale_by_rms(b2, eps))
        ),
        "quotient before the momentum": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, optlab.chain(optlab.scale_by_rms(b2, eps), _momentum(b1))
        ),
        "looked one step ahead": lambda learning_rate, b1, b2, eps, weight_decay: _adamw(
            learning_rate, weight_decay, optlab.scale_by_rms(b2, eps, numerator=optlab.scale_by_nesterov_ema(b1))
        ),
    },
}


def _hyperparams(name: str) -> set[str]:
    return set(inspect.signature(OPTIMIZERS[name].loop).parameters)


@functools.cache
def _oracles(name: str, peer: Callable[[], AbstractContextManager[None]]) -> dict[str, tuple[np.ndarray, float]]:
    """What a trajectory of the optimizer `name` is compared with, and how far from it float32 may be."""
    case = CASES[name]
    theirs = of_transform(build(case.peer, LARGE), LARGE.steps, "float64", around=peer)
    return {"paper": (of_loop(case.loop, LARGE), WIDE.from_loop), "optax": (theirs, WIDE.from_peer)}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_right_one_is_accepted(name, peer):
    trajectory = of_transform(build(CASES[name].ours, LARGE), LARGE.steps, "float64", around=peer)
    for wanted, tolerance in _oracles(name, peer).values():
        assert_agree(trajectory, wanted, tolerance)


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, mutants in MUTANTS.items() for wrong in mutants])
def test_a_wrong_one_is_rejected(name, wrong, peer):
    trajectory = of_transform(build(MUTANTS[name][wrong], LARGE), LARGE.steps, "float64", around=peer)
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
