"""Decay at every site where it can act: chains of atoms against the loop of the site.

At a rate of 0.1 and a decay of 1 even `after`, `proximal` and `update`, which part by (rate * decay)**2, are far apart.
In float64 only: where no gradient comes, two of the sites divide the decay by eps, which multiplies roundings.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import is_matrix, triangle, triangle_of_step
from reference import optimizers, sites, space
from trajectories import (
    PROBLEM,
    SETTINGS,
    TOLERANCES,
    WEIGHTS,
    Problem,
    Setting,
    assert_agree,
    build,
    flatten,
    of_loop,
    of_transform,
)
from wrong_optimizers import (
    WRONG_DECAYS,
    add_away_from,
    add_where,
    added,
    behind,
    in_fork,
    root_mean,
    scheduled,
    stably,
)

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
        "after": optlab.chain(adam, rate, optlab.shrink_after_step(share)),
        "proximal": optlab.chain(adam, rate, optlab.shrink_proximally(share)),
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


# The space ----------------------------------------------------------------------------------------------------------

# A decay of 1 would leave nothing of a weight at the constant coupling.
LARGER = Setting(12, LARGE.hyperparams | {"learning_rate": 0.2, "weight_decay": 0.5})
WITHIN = ("loss", "gradient", "first_moment", "second_moment", "direction")
BEHIND = ("update", "step", "after", "proximal")
POINTS = [
    ("none", "lr", "none", "zero"),
    *itertools.product(WITHIN, ["lr"], ["none"], ["zero", "init"]),
    *itertools.product(
        BEHIND, ["lr", "schedule", "constant", "corrected"], ["none", "cautious", "stable"], ["zero", "init"]
    ),
]


def momentum(b1):
    return optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))


def amsgrad(b1, b2, eps):
    largest = optlab.chain(optlab.square(), optlab.scale_by_ema(b2), optlab.bias_correct(b2), optlab.running_max())
    return optlab.divide(momentum(b1), optlab.chain(largest, optlab.root(eps)))


# What makes the direction, by the name of its loop.
CORES = {
    "adam": lambda b1, b2, eps: optlab.scale_by_rms(b2, eps, numerator=momentum(b1)),
    "sgd": optlab.identity,
    "momentum": lambda b1: optlab.scale_by_ema(b1),
    "lion": lambda b1, b2: optlab.chain(optlab.interpolate_ema(b1, b2), optlab.sign()),
    "rmsprop": lambda decay, eps: optlab.divide(
        optlab.identity(), optlab.chain(optlab.square(), optlab.scale_by_ema(decay), optlab.root(eps))
    ),
    "amsgrad": amsgrad,
    "laprop": lambda b1, b2, eps: optlab.chain(optlab.scale_by_rms(b2, eps), momentum(b1)),
}
FORKED = ("adam", "rmsprop", "amsgrad", "laprop")


def two_leaves(weights):
    """A matrix and a vector; one of the weights without a gradient is in either."""
    return {"matrix": weights[:16].reshape(4, 4), "vector": weights[16:]}


# 1 for the weights of the matrix, 0 for those of the vector.
OF_THE_MATRIX = np.arange(len(WEIGHTS)) < 16


def loop(point, core="adam", mask=OF_THE_MATRIX, schedule=triangle_of_step, **changed):
    """The weights after each step at a point of the space."""
    hyperparams = LARGER.hyperparams | changed
    setting = LARGER._replace(hyperparams=hyperparams)
    weights = space.descend(
        PROBLEM.start,
        PROBLEM.gradient,
        build(getattr(space, core), setting),
        *point,
        **{name: hyperparams[name] for name in ("learning_rate", "weight_decay", "eps")},
        schedule=schedule,
        mask=mask,
    )
    return np.stack(list(itertools.islice(weights, LARGER.steps)))


def make(point, core="adam", mask=is_matrix, schedule=triangle, **changed):
    """The transform at a point of the space."""
    hyperparams = LARGER.hyperparams | changed
    return optlab.Decay(*point).apply_to(
        build(CORES[core], LARGER),
        hyperparams["learning_rate"],
        hyperparams["weight_decay"],
        mask,
        schedule=schedule,
    )


def walk(tx, grad=PROBLEM.gradient):
    """The weights after each step; called outside `jit`, transforms that differ in numbers alone share programs."""
    w, seen = PROBLEM.start, []
    with jax.enable_x64(True):
        state = tx.init(two_leaves(w))
        for t in range(1, LARGER.steps + 1):
            updates, state = tx.update(two_leaves(grad(w, t)), state, two_leaves(w))
            w = w + np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)])
            seen.append(w)
    return np.stack(seen)


def gradient_at(point):
    """The gradient of the loss that the point asks for."""
    if point[0] != "loss":
        return PROBLEM.gradient
    penalized = optlab.Decay(*point).penalize(
        lambda params, t: PROBLEM.loss(flatten(params), t),
        LARGER.hyperparams["weight_decay"],
        is_matrix,
        init_params=two_leaves(PROBLEM.start),
    )
    return lambda w, t: np.asarray(flatten(jax.grad(penalized)(two_leaves(w), t)))


def spell(point):
    return "-".join(point)


def test_the_points_with_a_meaning_are_those_that_are_made():
    for point in itertools.product(optlab.SITES, optlab.COUPLINGS, optlab.GATES, optlab.TARGETS):
        if point in POINTS:
            assert optlab.Decay(*point) == optlab.Decay(*point)
        else:
            with pytest.raises(ValueError, match=r"^Decay: (no|the site 'none' has no) "):
                optlab.Decay(*point)
    assert len(POINTS) == 1 + 10 + 96


# `step` is tested by its being `update`.
@pytest.mark.parametrize("point", [point for point in POINTS if point[0] != "step"], ids=spell)
def test_a_point_agrees_with_its_loop_at_every_step(point):
    got = walk(make(point), gradient_at(point))
    assert_agree(got, loop(point), NARROW, of=f"the chain and the loop of {spell(point)}")


def test_update_and_step_are_one_site_with_two_defaults():
    for coupling, gate, target in {point[1:] for point in POINTS if point[0] == "step"}:
        assert make(("step", coupling, gate, target)) == make(("update", coupling, gate, target))
    assert optlab.Decay("step") == optlab.Decay("step", "constant") != optlab.Decay("step", "lr")
    assert optlab.Decay("update") == optlab.Decay("update", "lr", "none", "zero")


# The sites that a core has, at the other axes' defaults; a decoupled point; and a stable one where there is a second
# moment.
OF_CORES = [
    (core, point)
    for core in CORES
    if core != "adam"
    for point in [
        *[(site, "lr", "none", "zero") for site in ("gradient", *(WITHIN[2:] if core in FORKED else ()), "update")],
        ("proximal", "schedule", "cautious", "init"),
        *([("after", "constant", "stable", "init")] if core in FORKED else []),
    ]
]


@pytest.mark.parametrize(("core", "point"), OF_CORES, ids=[f"{core}-{spell(point)}" for core, point in OF_CORES])
def test_another_core_takes_the_same_points(core, point):
    got = walk(make(point, core))
    assert_agree(got, loop(point, core), NARROW, of=f"{core} and its loop at {spell(point)}")


def test_no_two_points_are_one():
    """But those of `loss` and `gradient`, and those of `update` and `step`."""
    weights = {spell(point): loop(point) for point in POINTS}
    for (one, at_one), (other, at_other) in itertools.combinations(weights.items(), 2):
        if re.sub("^loss", "gradient", one) == other or re.sub("^update", "step", one) == other:
            assert_agree(at_one, at_other, NARROW)
        else:
            with pytest.raises(AssertionError, match="differ first"):
                assert_agree(at_one, at_other, 100 * TOLERANCES["float32"].from_loop)


@pytest.mark.parametrize("site", LOOPS)
def test_the_loop_of_the_space_is_the_loop_of_its_site(site):
    """Two writings of one thing, by conditions and by cases."""
    point = (site, optlab.Decay(site).coupling, "none", "zero")
    mine = loop(point, mask=1.0, schedule=lambda t: 1.0, **LARGE.hyperparams)
    assert_agree(mine, of_loop(LOOPS[site], LARGE)[: LARGER.steps], NARROW)


@pytest.mark.parametrize("point", POINTS, ids=spell)
def test_without_decay_every_point_is_adam(point):
    wanted = loop(("none", "lr", "none", "zero"))
    assert_agree(loop(point, weight_decay=0.0), wanted, NARROW)


def test_without_decay_every_link_passes_its_updates_on():
    """To the last bit, at each gate and target."""
    wanted = walk(make(("none", "lr", "none", "zero")))
    for site, gate, target in itertools.product(("update", "after", "proximal"), optlab.GATES, optlab.TARGETS):
        got = walk(make((site, "lr", gate, target), weight_decay=0.0))
        np.testing.assert_array_equal(got, wanted, err_msg=spell((site, gate, target)))


def test_after_and_update_part_by_the_rate_squared(x64):
    """`(w - r*u)*(1 - r*wd)` has `r*r*wd*u` more than `w - r*(u + wd*w)`; and `proximal` has it divided."""
    rate, weight_decay = 0.2, 0.5
    w, u = jnp.asarray(PROBLEM.start), jnp.asarray(PROBLEM.noise[0])

    def step(site):
        tx = optlab.Decay(site).apply_to(optlab.identity(), rate, weight_decay)
        return tx.update(u, tx.init(w), w)[0]

    np.testing.assert_allclose(step("after") - step("update"), rate**2 * weight_decay * u, rtol=0, atol=1e-15)
    inverse = 1 / (1 + rate * weight_decay)
    np.testing.assert_allclose(w + step("proximal"), (w - rate * u) * inverse, rtol=0, atol=1e-15)
    assert np.abs(step("after") - step("update")).max() > 0.01


WRONG = [(point, wrong) for point in WRONG_DECAYS for wrong in WRONG_DECAYS[point]]


@pytest.mark.parametrize(("point", "wrong"), WRONG, ids=[f"{spell(point)}: {wrong}" for point, wrong in WRONG])
def test_a_wrong_decay_is_rejected(point, wrong):
    got = walk(build(WRONG_DECAYS[point][wrong], LARGER))
    assert np.isfinite(got).all(), "not a number is no test of a tolerance"
    with pytest.raises(AssertionError, match="differ first"):
        assert_agree(got, loop(point), TOLERANCES["float32"].from_loop)


def test_the_scaffold_of_the_wrong_ones_is_right():
    """They are wrong in what they are said to be wrong in, and nowhere else."""
    right = {
        ("update", "lr", "stable", "zero"): stably(root_mean),
        ("update", "lr", "none", "zero"): behind(lambda rate, wd: added(wd), scheduled),
        ("update", "lr", "none", "init"): behind(lambda rate, wd: add_away_from(wd, 0.0, 1.0, is_matrix), scheduled),
        ("update", "lr", "cautious", "zero"): behind(
            lambda rate, wd: add_where(wd, lambda x: x >= 0, is_matrix), scheduled
        ),
        ("first_moment", "lr", "none", "zero"): in_fork(True, lambda wd: optlab.add_l2_to_grad(wd, is_matrix)),
    }
    for point, factory in right.items():
        assert_agree(walk(build(factory, LARGER)), loop(point), NARROW, of=spell(point))
