"""Equality is proved, differences are located, and nothing is claimed that numbers deny."""

import functools
import inspect
import random
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sympy as sp
from conftest import lenient

import optlab
from optlab import compare
from optlab.equations import interpret, symbols
from optlab.equations.comparison import Comparison
from optlab.equations.driving import Run, first_apart, parted
from optlab.equations.zero import Undecided, is_zero

eta, lam, b1, b2, eps = (symbols.hyperparameter(name) for name in ("learning_rate", "weight_decay", "b1", "b2", "eps"))
g1, g2, w0, w1 = (sp.Symbol(name, real=True) for name in ("g_1", "g_2", "w_0", "w_1"))

COSINE = optax.cosine_decay_schedule(0.1, 7)


def _core(b1: Any, b2: Any, eps: Any) -> optlab.Transform:
    return optlab.scale_by_rms(b2, eps, numerator=optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1)))


def _site(site: str, learning_rate, weight_decay, b1=0.9, b2=0.999, eps=1e-8):
    return optlab.Decay(site).apply_to(_core(b1, b2, eps), learning_rate, weight_decay)


def _at(site: str) -> Callable[..., Any]:
    return functools.partial(_site, site)


def _after(learning_rate, weight_decay, b1=0.9, b2=0.999, eps=1e-8):
    """`(w - lr*u)*(1 - lr*wd)`."""
    late = optax.stateless(lambda u, w: u - learning_rate * weight_decay * (w + u))
    return optax.chain(_core(b1, b2, eps), optax.scale(-learning_rate), late)


def _sgd_l2(learning_rate, weight_decay, b1=None):
    l2, rate = optlab.add_l2_to_grad(weight_decay), optlab.scale_by_learning_rate(learning_rate)
    return optlab.chain(l2, rate) if b1 is None else optlab.chain(l2, optlab.accumulate(b1), rate)


def _sgd_decay(learning_rate, weight_decay, b1=None):
    decay, rate = optlab.add_decayed_weights(weight_decay), optlab.scale_by_learning_rate(learning_rate)
    return optlab.chain(decay, rate) if b1 is None else optlab.chain(optlab.accumulate(b1), decay, rate)


def _efficient_adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, *, rescaled):
    """Adam with the corrections gathered in the rate, and its guard beside the raw root."""

    def correction(t):
        return jnp.sqrt(1 - b2**t) if rescaled else 1.0

    @optlab.atom
    def quotient():
        def update(u, slots, w, t):
            m = b1 * slots["m"] + (1 - b1) * u
            v = b2 * slots["v"] + (1 - b2) * u * u
            size = jnp.sqrt(v) + eps * correction(t)
            return jnp.sqrt(1 - b2**t) / (1 - b1**t) * m / size, {"m": m, "v": v}

        return optlab.Rule(update, init=lambda w: {"m": jnp.zeros_like(w), "v": jnp.zeros_like(w)})

    return optlab.chain(quotient(), optlab.scale_by_learning_rate(learning_rate))


# Equal --------------------------------------------------------------------------------------------------------------


def _nesterov(learning_rate, b1):
    return optax.sgd(learning_rate, b1, nesterov=True)


def _heavy_ball(learning_rate, b1):
    return optax.sgd(learning_rate, b1)


def _signum(learning_rate, b1):
    return optax.signum(learning_rate, b1)


def _sgdw(learning_rate, b1, weight_decay):
    links = optax.trace(b1), optax.add_decayed_weights(weight_decay)
    return optax.chain(*links, optax.scale_by_learning_rate(learning_rate))


def _adams(learning_rate, b1, b2, eps, weight_decay):
    return optlab.adams(learning_rate, b1, b2, eps, weight_decay=weight_decay)


EQUAL: dict[str, tuple[Any, Any]] = {
    "adabelief": (optlab.adabelief, optax.adabelief),
    "adam": (optlab.adam, optax.adam),
    "adamax": (optlab.adamax, optax.adamax),
    "adamw": (optlab.adamw, optax.adamw),
    "amsgrad": (optlab.amsgrad, optax.amsgrad),
    "heavy_ball": (optlab.heavy_ball, _heavy_ball),
    "lion": (optlab.lion, optax.lion),
    "nadam": (optlab.nadam, optax.nadam),
    "nesterov": (optlab.nesterov, _nesterov),
    "rmsprop": (optlab.rmsprop, functools.partial(optax.rmsprop, eps_in_sqrt=False)),
    "sgd": (optlab.sgd, optax.sgd),
    "sgdw": (optlab.sgdw, _sgdw),
    "sign_sgd": (optlab.sign_sgd, optax.sign_sgd),
    "signum": (optlab.signum, _signum),
    "SGD with L2 and with decay": (_sgd_l2, _sgd_decay),
    "EMA momentum and the heavy ball, given the factor": (
        optlab.momentum,
        lambda learning_rate, b1: optlab.heavy_ball(learning_rate * (1 - b1), b1),
    ),
    "Adam and its efficient form with a rescaled guard": (
        optlab.adam,
        functools.partial(_efficient_adam, rescaled=True),
    ),
    "L2 at the site gradient": (_at("gradient"), optlab.adam_l2),
    "decay at the site step": (_at("step"), optlab.adamw_independent),
    "adams and itself, written anew": (optlab.adams, _adams),
    "one schedule made twice": (
        optlab.adamw(optax.cosine_decay_schedule(0.1, 7), weight_decay=0.1),
        optax.adamw(COSINE, weight_decay=0.1),
    ),
    "a constant out of a sum over the leaf": (
        lambda learning_rate: optax.chain(optax.stateless(lambda u, _: jnp.sum(2 * u) * u), optax.sgd(learning_rate)),
        lambda learning_rate: optax.chain(optax.stateless(lambda u, _: 2 * u * jnp.sum(u)), optax.sgd(learning_rate)),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_is_proved(name):
    found = compare(*EQUAL[name])
    assert found.equal
    assert (found.method, found.steps, found.first_step, found.difference) == ("proof", 3, None, None)
    assert found.shapes == found.driven.shapes == ALL
    assert found.driven.steps >= 60
    assert found.text.startswith("equal: ")
    assert ", over 3 steps\n  at vectors (3,), matrices (4, 3) and (130, 129), leaves of 4 axes" in found.text


def test_every_optimizer_in_common_with_optax_is_compared():
    common = {name for name in optlab.__all__ if name in dir(optax) and "learning_rate" in _parameters(name)}
    assert common - EQUAL.keys() == {"adagrad", "scale_by_learning_rate"}  # optax's adagrad has eps inside the root


def _parameters(name: str) -> list[str]:
    value = getattr(optlab, name)
    return list(inspect.signature(value).parameters) if inspect.isfunction(value) else []


# At the shapes that are named ---------------------------------------------------------------------------------------


ALL = ((3,), (4, 3), (2, 3, 2, 4), (130, 129))
VECTOR, SMALL, CONV, LARGE = ((shape,) for shape in ALL)


@optlab.atom
def _orthogonal():
    return optlab.Rule(lambda u, slots, w, t: (jnp.linalg.qr(u)[0] if u.ndim == 2 else u, slots), elementwise=False)


def _leaves(function: Callable[[str, Any], Any]) -> Any:
    """A function of the path and the updates of each leaf."""

    def update(u: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, x: function(jax.tree_util.keystr(path), x), u)

    return optax.stateless(update)


def _doubled_from(step: int, test: Callable[[Any], bool]) -> Any:
    def update(u: Any, count: Any, _: Any) -> Any:
        return jax.tree.map(lambda x: jnp.where((count >= step) & test(x), 2, 1) * x, u), count + 1

    return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)


def _sgd_after(*links: Any) -> Any:
    return optax.chain(*links, optax.sgd(0.1))


FALSE_PROOFS: dict[str, tuple[Any, Any, tuple[Any, ...], int]] = {
    "the factor of QR, or SGD": (
        optlab.chain(_orthogonal(), optlab.scale_by_learning_rate(0.1)),
        optlab.sgd(0.1),
        SMALL + LARGE,
        1,
    ),
    "Muon, or Nesterov": (
        _sgd_after(optax.trace(0.9, nesterov=True), _orthogonal()),
        optlab.nesterov(0.1, 0.9),
        SMALL + LARGE,
        1,
    ),
    "factored, or not": (
        optax.adafactor(0.1, min_dim_size_to_factor=1),
        optax.adafactor(0.1),
        SMALL + CONV,
        1,
    ),
    "factored where large, or never": (
        optax.adafactor(0.1),
        optax.adafactor(0.1, min_dim_size_to_factor=1000),
        LARGE,
        1,
    ),
    "convolutions flipped": (
        _sgd_after(_leaves(lambda _, x: jnp.flip(x, 0) if x.ndim > 2 else x)),
        optlab.sgd(0.1),
        CONV,
        1,
    ),
    "matrices decayed": (
        optlab.adamw(0.1, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params)),
        optlab.adam(0.1),
        SMALL + CONV + LARGE,
        1,
    ),
    "one leaf by its name": (
        _sgd_after(_leaves(lambda path, x: 2 * x if "embedding" in path else x)),
        optlab.sgd(0.1),
        LARGE,
        1,
    ),
    "late, matrices": (_sgd_after(_doubled_from(58, lambda x: x.ndim > 1)), optlab.sgd(0.1), SMALL + CONV + LARGE, 59),
    "late, all": (_sgd_after(_doubled_from(40, lambda x: True)), optlab.sgd(0.1), ALL, 41),
    "clipped by the norm of all leaves, or of each": (
        _sgd_after(optax.clip_by_global_norm(0.5)),
        _sgd_after(_leaves(lambda _, x: jnp.where(jnp.linalg.norm(x) < 0.5, x, 0.5 * x / jnp.linalg.norm(x)))),
        ALL,
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_PROOFS)
def test_what_is_equal_on_a_vector_alone_is_not_called_equal(name):
    a, b, apart, step = FALSE_PROOFS[name]
    found = compare(a, b)
    assert (found.equal, found.method, found.first_step) == (False, "numbers", step)
    assert set(found.apart) == set(apart)
    assert set(found.shapes) == set(ALL) - set(apart)
    assert found.text.startswith("different: ")
    assert ("no difference seen at" in found.text) == (set(apart) != set(ALL))


def test_what_can_not_be_read_on_matrices_is_not_proved_of_them():
    tx = _sgd_after(_leaves(lambda _, x: x / jnp.abs(x).sum(-1, keepdims=True) if x.ndim == 2 else x))
    found = compare(tx, tx)
    assert (found.equal, found.method, found.shapes) == (True, "numbers", ALL)
    assert found.notes == ("proved of vectors (3,), leaves of 4 axes (2, 3, 2, 4) alone",)
    assert found.text.startswith("no difference found in numbers, and none excluded: ")


def test_a_wrong_reading_proves_nothing(monkeypatch):
    a, b = _sgd_after(_leaves(lambda _, x: jnp.abs(x))), optlab.sgd(0.1)
    monkeypatch.setitem(interpret._MEANING, "abs", lambda x: x)
    found = compare(a, b)
    assert (found.equal, found.method, set(found.apart)) == (False, "numbers", set(ALL))
    monkeypatch.setitem(interpret._MEANING, "abs", lambda x: 2 * x)
    found = compare(a, _sgd_after(_leaves(lambda _, x: jnp.where(x < 0, -x, x))))
    assert (found.equal, found.method, found.shapes) == (True, "numbers", ALL)
    assert found.notes == ("what was read off a vector does not predict them",)


# Different ----------------------------------------------------------------------------------------------------------


def _assert_different(found: Comparison, step: int, difference: Any) -> None:
    assert (found.equal, found.method, found.first_step) == (False, "proof", step)
    assert sp.simplify(found.difference - difference) == 0


def test_update_and_after_differ_by_the_decayed_step():
    found = compare(_after, _at("update"))
    u = g1 / (sp.Abs(g1) + eps)
    _assert_different(found, 1, eta**2 * lam * u)
    assert found.order == {"η": 2, "λ": 1}


def test_update_and_after_of_sgd():
    def after(learning_rate, weight_decay):
        late = optax.stateless(lambda u, w: u - learning_rate * weight_decay * (w + u))
        return optax.chain(optax.sgd(learning_rate), late)

    _assert_different(compare(after, _sgd_decay), 1, eta**2 * lam * g1)


def test_momentum_parts_at_step_2():
    found = compare(*map(_with_momentum, (_sgd_l2, _sgd_decay)))
    _assert_different(found, 2, -b1 * eta * lam * w0)
    assert found.order == {"η": 1, "λ": 1}


def _with_momentum(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda learning_rate, weight_decay, b1: make(learning_rate, weight_decay, b1)


def test_adam_parts_at_step_1():
    found = compare(optlab.adam_l2, optlab.adamw)
    decayed = g1 + lam * w0
    _assert_different(found, 1, eta * (g1 / (sp.Abs(g1) + eps) + lam * w0 - decayed / (sp.Abs(decayed) + eps)))
    assert found.order == {"η": 1, "λ": 1}
    assert "order 1 in η, order 1 in λ" in found.text


def test_the_text_of_a_difference():
    assert compare(optlab.momentum, optlab.heavy_ball).text == (
        "different: momentum and heavy_ball part at step 1\n"
        "  difference: β₁·η·g₁\n"
        "  order 1 in η\n"
        "  for example 0.99 and 0.9\n"
        "  at η = 0.1, β₁ = 0.9, from weight 1, gradients 1"
    )


def _growing(learning_rate, weight_decay):
    return optax.chain(optax.add_decayed_weights(-weight_decay), optax.sgd(learning_rate))


def _chain(*links: Any) -> Callable[..., Any]:
    return lambda learning_rate: optlab.chain(*links, optlab.scale_by_learning_rate(learning_rate))


def _of(name: str, **fixed: Any) -> Any:
    return functools.partial(getattr(optlab, name), **fixed)


MEAN, SIZE = optlab.scale_by_ema(0.9), optlab.chain(optlab.square(), optlab.scale_by_ema(0.99))
MEAN_HAT = optlab.chain(MEAN, optlab.bias_correct(0.9))
SIZE_HAT = optlab.chain(SIZE, optlab.bias_correct(0.99))
ROOT = optlab.root(1e-3)
DIVISOR = optlab.chain(SIZE_HAT, ROOT)
QUOTIENT = optlab.divide(optlab.identity(), DIVISOR)
ADAM = _chain(optlab.divide(MEAN_HAT, DIVISOR))


@optlab.atom
def _late_correct(decay):
    return optlab.Rule(lambda u, slots, w, t: (u / (1 - decay ** (t.astype(u.dtype) + 1)), slots))


@optlab.atom
def _early_correct(decay):
    return optlab.Rule(lambda u, slots, w, t: (u / jnp.where(t == 1, 1, 1 - decay ** (t.astype(u.dtype) - 1)), slots))


def _rooted(eps: float) -> optlab.Transform:
    return optlab.chain(optlab.divide(MEAN_HAT, optlab.chain(SIZE_HAT, optlab.root(0.0, eps))))


NEAR: dict[str, tuple[Any, Any, int]] = {
    "another b1": (_of("adam", b1=0.9), _of("adam", b1=0.91), 2),
    "another b2": (_of("adam", b2=0.999), _of("adam", b2=0.99), 2),
    "another eps": (_of("adam", eps=1e-8), _of("adam", eps=1e-7), 1),
    "eps inside the root": (ADAM, _chain(_rooted(1e-6)), 1),
    "a correction too late": (ADAM, _chain(optlab.divide(optlab.chain(MEAN, _late_correct(0.9)), DIVISOR)), 1),
    "a correction too early": (ADAM, _chain(optlab.divide(optlab.chain(MEAN, _early_correct(0.9)), DIVISOR)), 1),
    "no correction of m": (ADAM, _chain(optlab.divide(MEAN, DIVISOR)), 1),
    "no correction of v": (ADAM, _chain(optlab.divide(MEAN_HAT, optlab.chain(SIZE, ROOT))), 1),
    "the sign of the decay": (_sgd_decay, _growing, 1),
    "decay before or after the step": (_after, _at("update"), 1),
    "decay in one moment or in both": (_at("first_moment"), _at("gradient"), 1),
    "decay not multiplied by the rate": (_at("update"), _at("step"), 1),
    "max of what is corrected, and corrected max": (
        _chain(optlab.divide(MEAN_HAT, optlab.chain(SIZE_HAT, optlab.running_max(), ROOT))),
        _chain(optlab.divide(MEAN_HAT, optlab.chain(SIZE, optlab.running_max(), optlab.bias_correct(0.99), ROOT))),
        2,
    ),
    "AMSGrad or Adam": (_of("amsgrad"), _of("adam"), 2),
    "Nesterov or heavy ball": (optlab.nesterov, optlab.heavy_ball, 1),
    "Nesterov Adam or Adam": (optlab.nadam, optlab.adam, 1),
    "another initial sum": (_of("adagrad", initial=0.1), _of("adagrad", initial=0.0), 1),
    "clipped": (_chain(optax.clip(10.0)), optlab.sgd, 1),
    "clipped by the norm of the leaf": (_chain(optax.clip_by_global_norm(10.0)), _chain(optax.clip(10.0)), 1),
    "momentum of the quotient": (_chain(QUOTIENT, MEAN_HAT), ADAM, 2),
    "the second moment of the momentum": (_chain(MEAN_HAT, QUOTIENT), ADAM, 2),
    "another schedule": (optlab.sgd(COSINE), optlab.sgd(optax.cosine_decay_schedule(0.1, 8)), 2),
    "a sum of squares and a square of sums": (
        _chain(optax.stateless(lambda u, _: u * jnp.sum(u * u))),
        _chain(optax.stateless(lambda u, _: u * jnp.sum(u) ** 2)),
        1,
    ),
    "from step 4 on": (optlab.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.5})), optlab.sgd(0.1), 4),
}  # fmt: skip


IN_A_LEAF = ("clipped by the norm of the leaf", "a sum of squares and a square of sums")
"""Alike for a leaf of one weight, so that no witness of one weight shows them."""


@pytest.mark.parametrize("name", NEAR)
def test_near_ones_are_told_apart(name):
    a, b, step = NEAR[name]
    found = compare(a, b, steps=4)
    assert (found.equal, found.first_step) == (False, step)
    assert found.difference is not None
    assert compare(a, a, steps=4).equal


@pytest.mark.parametrize("name", [name for name in NEAR if name not in IN_A_LEAF])
def test_a_witness_is_true(name):
    """Both transforms, run at the numbers of the witness, end where it says, and apart."""
    a, b, step = NEAR[name]
    witness = compare(a, b, steps=4).witness
    assert len(witness.gradients) == step
    ends = [_end(x, witness) for x in (a, b)]
    assert ends == pytest.approx([witness.ours, witness.theirs], rel=1e-9)
    assert abs(ends[0] - ends[1]) > 1e-13 * abs(ends[0])


def _end(x: Any, witness: Any) -> float:
    """The last weight of a run in float64."""
    names = {"η": "learning_rate", "λ": "weight_decay", "β₁": "b1", "β₂": "b2", "ε": "eps", "s₀": "initial"}
    with lenient(), jax.enable_x64(True):
        if callable(x):
            takes = inspect.signature(x).parameters
            values = {names[letter]: value for letter, value in witness.values.items()}
            bound = x.keywords if isinstance(x, functools.partial) else {}
            x = x(**{name: value for name, value in values.items() if name in takes and name not in bound})
        w = jnp.asarray(np.float64(witness.weight))
        state = x.init(w)
        for g in witness.gradients:
            updates, state = x.update(jnp.asarray(np.float64(g)), state, w)
            w = optax.apply_updates(w, updates)
        return float(w)


# Numbers where there is no proof ------------------------------------------------------------------------------------


def _odd_identity(learning_rate):
    """`u + |u| - max(u, -u)`, which is `u`, at 0 too."""
    return optax.chain(optax.stateless(lambda u, _: u + jnp.abs(u) - jnp.maximum(u, -u)), optax.sgd(learning_rate))


def test_an_identity_without_a_proof_is_called_one():
    found = compare(_odd_identity, optax.sgd, steps=2)
    assert (found.equal, found.method) == (True, "numbers")
    assert found.notes == tuple(f"step {k}: SymPy finds no proof; equal to 40 digits at 10 points" for k in (1, 2))
    assert found.text.startswith(
        "no difference found in numbers, and none excluded: _odd_identity and sgd, over 2 steps"
    )


def test_out_of_time():
    found = compare(optlab.adam, functools.partial(_efficient_adam, rescaled=True), seconds=1e-9)
    assert (found.equal, found.method) == (True, "numbers")
    assert "no proof (out of time)" in found.notes[-1]


def test_what_has_no_equations_is_run():
    found = compare(optax.noisy_sgd, optax.sgd)
    assert (found.equal, found.method, found.first_step, found.difference) == (False, "numbers", 1, None)
    assert found.notes[0].startswith("without equations, since noisy_sgd can't be written")
    assert set(found.apart) == set(ALL)
    same = compare(functools.partial(optax.noisy_sgd, eta=0.0), functools.partial(optax.sgd, learning_rate=0.1))
    assert (same.equal, same.method) == (True, "numbers")


def test_hyperparameters_of_what_is_run_are_the_usual_ones_and_noted():
    def made(learning_rate, b1, b2, eps):
        noise = optax.add_noise(0.0, 0.0, 0)
        return optax.chain(noise, optax.scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))

    found = compare(made, made)
    usual = {"learning_rate": "0.1", "b1": "0.9", "b2": "0.999", "eps": "1e-8"}
    assert found.notes[1:] == 2 * tuple(f"{name} of made at {value}" for name, value in usual.items())
    assert found.equal


def beside_each_other(ours: list[list[float]], theirs: list[list[float]], tolerance: float) -> list[list[bool]]:
    """Where weights part, of two runs given weight by weight."""
    run = Run(np.transpose(ours), np.zeros((len(ours[0]) - 1, len(ours))))
    return parted(run, np.transpose(theirs), tolerance).T.tolist()


def test_runs_part_by_how_far_a_weight_has_moved_and_rounding():
    ours, still = [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]
    far = [1.0, 2.0 + 1.1e-8, 3.0 + 1.9e-8]
    assert beside_each_other([ours, still], [far, still], 1e-8) == [[False, True, False], [False] * 3]
    rounded = [5.0, 5.0 * (1 + 0.9e-12), 5.0 * (1 + 1.1e-12)]
    assert beside_each_other([ours, still], [far, rounded], 1e-8)[1] == [False, False, True]
    assert first_apart(np.array([[False], [False], [True]]), slice(0, 1)) == 2
    assert first_apart(np.zeros((3, 1), bool), slice(0, 1)) is None


def test_runs_that_overflow_part_only_where_they_do_at_once():
    """Where one overflows a step later than the other, both have before what says that they are equal."""
    assert beside_each_other([[1.0, 2.0, 1e250]], [[1.0, 2.0, np.inf]], 1e-8) == [[False, False, False]]
    assert beside_each_other([[1.0, 1e250, np.inf]], [[1.0, 2.0, 3.0]], 1e-8) == [[False, True, False]]


def test_what_can_not_be_run_either_is_refused():
    def noisy(learning_rate, heat):
        return optax.noisy_sgd(learning_rate, eta=heat)

    message = "noisy: heat has no default; bind it with functools.partial to run the transform"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(noisy, optax.sgd)


def test_what_needs_more_than_gradients_is_refused():
    message = (
        "compare: polyak_sgd does not run on gradients alone (TypeError: scale_by_polyak.<locals>.update_fn() missing "
        "1 required keyword-only argument: 'value'), and there are no equations: polyak_sgd can't be written"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        compare(optlab.sgd, optax.polyak_sgd)


def test_a_difference_among_conditions_is_shown():
    found = compare(optax.lamb, optax.lars)
    assert (found.equal, found.first_step) == (False, 1)
    assert "otherwise}" in found.text


# What is assumed, and bad input -------------------------------------------------------------------------------------


def test_defaults_that_are_held_are_noted():
    assert compare(optlab.adam, optax.adam).notes == ("eps_root of optax.adam at its default, 0",)
    assert compare(optlab.adam, optax.adam).names == ("optlab.adam", "optax.adam")


def test_a_name_that_only_one_has_is_noted():
    found = compare(optlab.heavy_ball, lambda learning_rate, momentum: optax.sgd(learning_rate, momentum))
    assert not found.equal
    assert found.notes == (
        "b1 of heavy_ball at its default, 0.9",
        "momentum only in <lambda>; give both one name to compare them",
    )


def test_long_names_are_numbered():
    found = compare(optlab.adamw(0.1, weight_decay=0.1), optlab.adamw(0.1, weight_decay=0.2))
    assert found.names == ("the first", "the second")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "compare: steps must be a whole number from 1, got 0"),
        ({"steps": 2.0}, "compare: steps must be a whole number from 1, got 2.0"),
        ({"steps": True}, "compare: steps must be a whole number from 1, got True"),
        ({"seconds": 0}, "compare: seconds must be > 0, got 0"),
        ({"seconds": float("nan")}, "compare: seconds must be > 0, got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(optlab.sgd, optlab.sgd, **arguments)


def test_what_is_no_transform_is_refused():
    with pytest.raises(TypeError, match=r"^wanted a transform, or a function that makes one"):
        compare(optlab.sgd, 3)


# Zero ---------------------------------------------------------------------------------------------------------------

x, y = sp.symbols("x y", real=True)
a, c = sp.symbols("alpha c", positive=True)
LEAVES = [x, y, a, c, b1, sp.Integer(2), sp.Rational(1, 3)]


def _random_expression(rng: random.Random, depth: int) -> Any:
    if depth == 0:
        return rng.choice(LEAVES)
    one, other = (_random_expression(rng, depth - 1) for _ in range(2))
    return rng.choice(
        [
            lambda: one + other,
            lambda: one - other,
            lambda: one * other,
            lambda: one / (1 + other**2),
            lambda: sp.sqrt(one**2 + a),
            lambda: sp.Abs(one),
            lambda: sp.sign(one),
            lambda: sp.Max(one, other),
            lambda: one**2,
            lambda: sp.Piecewise((one, one > other), (other, True)),
            lambda: one / (1 - b1**3),
        ]
    )()


def _rewritten(rng: random.Random, expression: Any) -> Any:
    """The same value in another form."""
    return rng.choice(
        [
            lambda: sp.expand(expression),
            lambda: sp.factor_terms(sp.expand(expression)),
            lambda: sp.together(expression),
            lambda: expression * (1 + a) - expression * a,
            lambda: expression * sp.sqrt(a * c) / (sp.sqrt(a) * sp.sqrt(c)),
            lambda: expression * sp.sqrt(x**2 + 1) ** 2 / (x**2 + 1),
            lambda: expression * (1 - b1**2) / ((1 - b1) * (1 + b1)),
            lambda: expression + sp.Abs(x * y) - sp.Abs(x) * sp.Abs(y),
            lambda: expression * sp.sqrt((1 - b1) * a) / (sp.sqrt(1 - b1) * sp.sqrt(a)),
        ]
    )()


def _largest(expression: Any) -> float:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(4):
        point = {
            x: rng.normal() * 3,
            y: rng.normal() * 3,
            a: rng.uniform(0.1, 2),
            c: rng.uniform(0.1, 2),
            b1: rng.uniform(0.1, 0.9),
        }
        values.append(abs(complex(expression.subs(point).evalf(30))))
    return max(values)


def _claims_zero(expression: Any) -> bool:
    try:
        return is_zero(expression, seconds=2.0)
    except Undecided:
        return False


@pytest.mark.parametrize("seed", range(8))
def test_zero_is_never_claimed_of_what_is_not(seed):
    """Sums of random expressions, most of them differences of two that nearly agree."""
    rng = random.Random(seed)
    tried = 0
    while tried < 30:
        expression = _random_expression(rng, 2)
        other = _rewritten(rng, expression) + rng.choice([0, 1, x, a]) * sp.Rational(1, 1000) * _random_expression(
            rng, 1
        )
        if _largest(expression - other) > 1e-9:
            assert not _claims_zero(expression - other)
            tried += 1


def test_what_is_over_minus_one_is_not_taken_for_zero():
    """A numerator of -1 is a number like any other, inside of what has no normal form too."""
    for other in (2 * x, a, a + x):
        assert not _claims_zero(sp.Max(-1 / x, b1) - sp.Max(-1 / other, b1))
    assert _claims_zero(sp.Max(-1 / x, b1) - sp.Max((1 - a) / (a * x - x), b1))


def test_zero_is_proved_of_what_is_rewritten():
    rng = random.Random(0)
    proved = []
    for _ in range(120):
        expression = _random_expression(rng, 2)
        proved.append(_claims_zero(expression - _rewritten(rng, _rewritten(rng, expression))))
    assert np.mean(proved) > 0.95
