"""Decay at every site where it can act: chains of atoms against the loop of the site.

At a rate of 0.1 and a decay of 1 even `after`, `proximal` and `update`, which part by (rate * decay)**2, are far apart.
In float64 only: where no gradient comes, two of the sites divide the decay by eps, which multiplies roundings.
"""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest
from reference import optimizers, sites
from trajectories import SETTINGS, TOLERANCES, Problem, Setting, assert_agree, build, of_loop, of_transform

import optlab

LARGE = SETTINGS["large"]
NARROW = TOLERANCES["float64"].from_loop
LOOPS = {
    "loss": sites.loss,
    "gradient": sites.gradient,
    "first_moment": sites.first_moment,
    "second_moment": sites.second_moment,
    "direction": sites.direction,
    "update": sites.update,
    "step": sites.step,
    "after": sites.after,
    "proximal": sites.proximal,
}


def chains(learning_rate, b1, b2, eps, weight_decay):
    """Adam from atoms; where the decay stands is the site."""
    momentum = optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))
    size = optlab.rms(b2, eps)
    adam = optlab.divide(momentum, size)
    l2 = optlab.add_l2_to_grad(weight_decay)
    decay = optlab.add_decayed_weights(weight_decay)
    shrink = optlab.shrink_weights(weight_decay)
    rate = optlab.scale_by_learning_rate(learning_rate)
    share = learning_rate * weight_decay
    return {
        "loss": optlab.chain(adam, rate),
        "gradient": optlab.chain(l2, adam, rate),
        "first_moment": optlab.chain(optlab.divide(optlab.chain(l2, momentum), size), rate),
        "second_moment": optlab.chain(optlab.divide(momentum, optlab.chain(l2, size)), rate),
        "direction": optlab.chain(optlab.divide(optlab.chain(momentum, decay), size), rate),
        "update": optlab.chain(adam, decay, rate),
        "step": optlab.chain(adam, rate, shrink),
        # (w - rate*u) * (1 - share) and (w - rate*u) / (1 + share), less w.
        "after": optlab.chain(adam, optax.scale(1 - share), decay, rate),
        "proximal": optlab.chain(adam, decay, optlab.scale_by_learning_rate(learning_rate / (1 + share))),
    }


def gradient_of_penalized_loss(problem: Problem, w: jax.Array, t: jax.Array) -> jax.Array:
    weight_decay = LARGE.hyperparams["weight_decay"]
    return jax.grad(lambda w: problem.loss(w, t) + weight_decay / 2 * jnp.sum(w**2))(w)


@pytest.mark.parametrize("site", LOOPS)
def test_chain_agrees_with_its_site_at_every_step(site):
    gradient = gradient_of_penalized_loss if site == "loss" else Problem.gradient
    got = of_transform(build(chains, LARGE)[site], LARGE.steps, "float64", gradient=gradient)
    assert_agree(got, of_loop(LOOPS[site], LARGE), NARROW, of=f"the chain and the loop of {site}")


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LOOPS, 2)))
def test_sites_differ_in_more_than_the_tolerance(one, other):
    trajectories = of_loop(LOOPS[one], LARGE), of_loop(LOOPS[other], LARGE)
    if (one, other) == ("loss", "gradient"):
        assert_agree(*trajectories, NARROW)
        return
    with pytest.raises(AssertionError, match="differ first"):
        assert_agree(*trajectories, 100 * TOLERANCES["float32"].from_loop)


@pytest.mark.parametrize("site", LOOPS)
def test_without_decay_every_site_is_adam(site):
    setting = Setting(LARGE.steps, LARGE.hyperparams | {"weight_decay": 0.0})
    assert_agree(of_loop(LOOPS[site], setting), of_loop(optimizers.adam, setting), NARROW)


def test_every_loop_of_a_site_is_compared():
    public = {name for name, value in vars(sites).items() if getattr(value, "__module__", None) == sites.__name__}
    assert public == LOOPS.keys()
