"""The equations are what the optimizers compute: run beside them, against the papers, and misread on purpose."""

import contextlib
import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sympy as sp
from conftest import lenient
from readings import FACTORIES, Numbers, differ, draw

import optlab
from optlab import explain
from optlab.equations import explanation as explanation_module
from optlab.equations import interpret, recurrences
from optlab.equations.arrays import Program
from optlab.equations.claims import Claim, Driven, kinds
from optlab.equations.numeric import run as run_in_numbers

README = Path(__file__).parents[2] / "README.md"
EXACT = 1e-12
IN_FLOAT32 = "multiplies by a power of the step that it rounds to float32"
TOLERANCES = {
    "optax.adafactor": (1e-6, IN_FLOAT32),
    "optax.contrib.madgrad": (1e-6, IN_FLOAT32),
    "optax.contrib.scale_by_madgrad": (1e-6, IN_FLOAT32),
}
NOT_EXPLAINED = {
    "optax.noisy_sgd": "random_seed: draws random numbers",
    "optax.lbfgs": "required keyword-only arguments: 'value', 'grad', and 'value_fn'",
    "optax.polyak_sgd": "required keyword-only argument: 'value'",
    "optax.contrib.dpsgd": "random_seed: draws random numbers",
    "optax.contrib.galore": "broadcast_in_dim: makes an array of shape (0, 0) of a leaf of N weights",
    "optax.contrib.momo": "required keyword-only argument: 'value'",
    "optax.contrib.momo_adam": "required keyword-only argument: 'value'",
    "optax.contrib.muon": "a constant array: its entries differ",
    "optax.contrib.schedule_free": "has no attribute init",
    "optax.contrib.sophia": "obj_fn must be provided",
}

EXPLAINED = [name for name in FACTORIES if name not in NOT_EXPLAINED]

explained = functools.cache(explain)


def _error(explanation: Any, factory: Callable[..., Any], seed: int = 1) -> float:
    """How far the equations of a factory are from what it makes, at numbers drawn for its hyperparameters."""
    drawn = draw(factory, seed)
    drawn = {name: value for name, value in drawn.items() if name in explanation.recurrence.hyperparameters}
    with lenient():
        tx = factory(**drawn)
    return differ(explanation, tx, Numbers(drawn), seed)


# The oracle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPLAINED)
def test_equations_are_what_is_run(name):
    tolerance, _ = TOLERANCES.get(name, (EXACT, ""))
    assert _error(explained(FACTORIES[name]), FACTORIES[name]) < tolerance


@pytest.mark.parametrize("name", NOT_EXPLAINED)
def test_what_is_not_explained_has_its_reason(name):
    with pytest.raises(interpret.Inexpressible, match=re.escape(NOT_EXPLAINED[name])):
        explain(FACTORIES[name])


def test_the_readme_names_every_alias_without_equations():
    section = README.read_text().partition("Of optlab's optimizers")[2].partition("A norm or a mean")[0]
    aliases = {name for name in NOT_EXPLAINED if not name.startswith("optax.contrib.")}
    assert {f"optax.{name}" for name in re.findall(r"`(\w+)`", section)} == aliases
    assert "all but three" in " ".join(section.split())


def test_every_alias_of_optax_is_discovered():
    aliases = {"adabelief", "adafactor", "adamw", "lion", "nadamw", "noisy_sgd", "polyak_sgd", "rprop", "sgd", "yogi"}
    assert {f"optax.{name}" for name in aliases} < FACTORIES.keys()
    assert {"optlab.adamw", "optlab.sgd", "optax.contrib.prodigy"} < FACTORIES.keys()
    assert len(FACTORIES) >= 70


def test_recurrence_in_numbers_is_the_equations_in_numbers(peer):
    found = explained(optax.adamw).recurrence
    drawn = draw(optax.adamw, 3)
    values = {found.hyperparameters[name]: value for name, value in drawn.items()}
    steps = run_in_numbers(found, values, [1.0, -2.0, 0.0, 0.5], weight=0.7)
    w, tx = jnp.float32(0.7), optax.adamw(**drawn)
    state = tx.init(w)
    for step, g in zip(steps, [1.0, -2.0, 0.0, 0.5], strict=True):
        with peer():
            updates, state = tx.update(jnp.float32(g), state, w)
        w = optax.apply_updates(w, updates)
        assert step.weight == pytest.approx(float(w), rel=1e-5)
        assert step.slots[sp.Symbol("m_t", real=True)] == pytest.approx(float(state[0].mu), rel=1e-5)


# The papers ---------------------------------------------------------------------------------------------------------

t = interpret.t
eta, lam, b1, b2, b, eps = sp.symbols("eta lambda beta_1 beta_2 beta epsilon", positive=True)
w, g, m0, v0, s0 = sp.symbols("w g m_{t-1} v_{t-1} s_{t-1}", real=True)
m1, v1, s1 = sp.symbols("m_t v_t s_t", real=True)
mh, vh = (sp.Symbol(rf"\hat{{{letter}}}_t", real=True) for letter in "mv")

MEAN, SIZE = b1 * m0 + (1 - b1) * g, b2 * v0 + (1 - b2) * g**2
HATS = {mh: m1 / (1 - b1**t), vh: v1 / (1 - b2**t)}
PAPERS = {
    "adamw": {m1: MEAN, v1: SIZE, **HATS, "w": w - eta * (mh / (sp.sqrt(vh) + eps) + lam * w)},
    "adamw_independent": {m1: MEAN, v1: SIZE, **HATS, "w": w - eta * mh / (sp.sqrt(vh) + eps) - lam * w},
    "adam_l2": {
        m1: b1 * m0 + (1 - b1) * (g + lam * w),
        v1: b2 * v0 + (1 - b2) * (g + lam * w) ** 2,
        **HATS,
        "w": w - eta * mh / (sp.sqrt(vh) + eps),
    },
    "rmsprop": {v1: b * v0 + (1 - b) * g**2, "w": w - eta * g / (sp.sqrt(v1) + eps)},
    "lion": {
        m1: b2 * m0 + (1 - b2) * g,
        "w": w - eta * (sp.sign(b1 * m0 + (1 - b1) * g) + lam * w),
    },
    "amsgrad": {
        m1: MEAN,
        v1: SIZE,
        mh: HATS[mh],
        vh: HATS[vh],
        s1: sp.Max(s0, vh),
        "w": w - eta * mh / (sp.sqrt(s1) + eps),
    },
    "laprop": {
        m1: b1 * m0 + (1 - b1) * g / (sp.sqrt(vh) + eps),
        v1: SIZE,
        **HATS,
        "w": w - eta * mh,
    },
    "nadam": {
        m1: MEAN,
        v1: SIZE,
        vh: HATS[vh],
        "w": w - eta * (b1 * m1 / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)) / (sp.sqrt(vh) + eps),
    },
    "heavy_ball": {m1: b1 * m0 + g, "w": w - eta * m1},
}


@pytest.mark.parametrize("name", PAPERS)
def test_equations_are_the_papers(name):
    paper = PAPERS[name]
    read = {equation.lhs: equation.rhs for equation in explained(getattr(optlab, name)).equations}
    read["w"] = read.pop(sp.Symbol("w_t", real=True))
    assert read.keys() == paper.keys()
    assert all(sp.simplify(read[letter] - paper[letter]) == 0 for letter in paper)


@pytest.mark.parametrize("name", PAPERS)
def test_another_paper_is_not_taken_for_it(name):
    texts = [explained(getattr(optlab, other)).equations for other in PAPERS]
    assert texts.count(explained(getattr(optlab, name)).equations) == 1


# How it is shown ----------------------------------------------------------------------------------------------------

ADAMW_TEXT = """\
adamw(η, β₁ = 0.9, β₂ = 0.999, ε = 1e-8, λ)

  mₜ = β₁·mₜ₋₁ + gₜ·(1 − β₁)
  m̂ₜ = mₜ/(1 − β₁ᵗ)
  vₜ = β₂·vₜ₋₁ + gₜ²·(1 − β₂)
  v̂ₜ = vₜ/(1 − β₂ᵗ)
  wₜ = wₜ₋₁ − η·(m̂ₜ/(√v̂ₜ + ε) + λ·wₜ₋₁)

  from m₀ = v₀ = 0

  decay:      update: decoupled, beside the update, w − η·u − κ·w
  coupling:   multiplied by the learning rate: κ = η·λ
  scale:      scale-free: gradients a thousand times as large give the same step
  correction: divides mₜ by 1 − β₁ᵗ, vₜ by 1 − β₂ᵗ
  ε:          ε outside the root, √v̂ₜ + ε
  order:      momentum mₜ and normalization vₜ of the same gradient, then their quotient (the order of Adam)
  holds for:  vectors (3,), matrices (4, 3) and (130, 129), leaves of 4 axes (2, 3, 2, 4)
  driven:     64 steps in one tree, gradients given and those of a quadratic"""

ADAMW_LATEX = r"""\begin{aligned}
m_t &= \beta_{1}\,m_{t-1} + g_t\,\left(1 - \beta_{1}\right) \\
\hat{m}_t &= \frac{m_t}{1 - \beta_{1}^{t}} \\
v_t &= \beta_{2}\,v_{t-1} + g_t^{2}\,\left(1 - \beta_{2}\right) \\
\hat{v}_t &= \frac{v_t}{1 - \beta_{2}^{t}} \\
w_t &= w_{t-1} - \eta\,\left(\frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \varepsilon} + \lambda\,w_{t-1}\right)
\end{aligned}"""


def test_adamw_in_full():
    explanation = explained(optlab.adamw)
    assert explanation.text == str(explanation) == ADAMW_TEXT
    assert explanation.latex == ADAMW_LATEX
    assert explanation._repr_latex_() == f"$\\displaystyle {ADAMW_LATEX}$"
    assert repr(explanation) == "<explanation of adamw>"


@pytest.mark.parametrize("name", EXPLAINED)
def test_latex_is_balanced_and_plain(name):
    latex = explained(FACTORIES[name]).latex
    assert latex.isascii()
    assert latex.count("&=") == len(explained(FACTORIES[name]).equations)
    assert latex.count(r"\left") == latex.count(r"\right")
    depth = 0
    for bracket in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if bracket == "{" else -1
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("name", EXPLAINED)
def test_text_has_one_letter_per_thing(name):
    explanation = explained(FACTORIES[name])
    letters = [equation.lhs.name for equation in explanation.equations]
    letters += [letter.name for letter in explanation.recurrence.hyperparameters.values()]
    assert len(set(letters)) == len(letters)
    assert not re.search(r"\\|zoo|ITE|Dummy|_\{", explanation.text)


def test_a_concrete_transform_shows_numbers():
    explanation = explain(optlab.adamw(1e-3, weight_decay=0.1))
    assert "wₜ = 0.9999·wₜ₋₁ − 0.001·m̂ₜ/(√v̂ₜ + 1e-8)" in explanation.text
    assert explanation.regime.site == "update: decoupled, beside the update, w − η·u − κ·w"
    assert explanation.regime.coupling == "multiplied by the learning rate: κ = η·λ"


def test_a_concrete_transform_of_optax_hides_its_decay():
    regime = explain(optax.adamw(1e-3, weight_decay=0.1)).regime
    assert regime.site == "decoupled; from numbers alone update, step, after and proximal can't be told apart"
    assert regime.coupling == "the weight loses 0.0001 of itself per step"
    assert explain(optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-3))).regime.site.startswith(
        "gradient: every average sees g + 0.1·w"
    )


# What is seen through -----------------------------------------------------------------------------------------------


@optlab.atom
def _of_step(of):
    """Multiplies by a function of the step."""
    return optlab.Rule(lambda u, slots, w, t: (u * of(t).astype(u.dtype), slots))


@optlab.atom
def _signed_root(power):
    def update(u, slots, w, t):
        m = jnp.where(t == 1, u, slots["average"] / 2 + u / 2)
        kept = jax.lax.cond(t > 3, lambda x: x * 2.0, lambda x: -x, m)
        return jnp.sign(kept) * jnp.abs(kept) ** power, {"average": m}

    return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)})


@optlab.atom
def _in_bfloat16_and_back():
    return optlab.Rule(lambda u, slots, w, t: (u.astype(jnp.bfloat16).astype(u.dtype), slots))


@optlab.atom
def _mean_by_matrices():
    def update(u, slots, w, t):
        row = u.reshape(1, -1)
        mean = (row @ jnp.ones_like(row).T).reshape(()) / u.size
        return u - mean + row.sum(axis=0), slots

    return optlab.Rule(update, elementwise=False)


def _many_functions(t):
    x = t.astype(float)
    steep = jnp.tanh(x) * jnp.exp2(-x) + jnp.log1p(x) * jnp.square(x) / jnp.cbrt(x)
    return steep + jax.nn.sigmoid(x) * jnp.sin(x) + jax.lax.rsqrt(x) - jnp.ceil(x / 2) + jnp.floor(x / 3) + jnp.cos(x)


def _descent(*links: Any) -> Callable[..., Any]:
    return lambda lr: optax.chain(*links, optax.sgd(lr))


def _injected(lr):
    return optax.inject_hyperparams(optax.adamw)(learning_rate=lr, weight_decay=0.1, b1=0.8)


SEEN_THROUGH = {
    "clip": _descent(optax.clip(0.7)),
    "clip_by_global_norm": _descent(optax.clip_by_global_norm(0.5)),
    "adaptive_grad_clip": _descent(optax.zero_nans(), optax.clip(5.0)),
    "own_atom_with_where_and_cond": _descent(_signed_root(0.7)),
    "whole_division": _descent(_of_step(lambda t: t // 3 + 1)),
    "remainder": _descent(_of_step(lambda t: t % 3 + 1)),
    "truncation": _descent(_of_step(lambda t: (t / 2).astype(jnp.int32) + 1)),
    "truncation_below_zero": _descent(_of_step(lambda t: (-t / 2).astype(jnp.int32) + 1)),
    "lax_division": _descent(_of_step(lambda t: jax.lax.div(t, jnp.int32(2)) + 1)),
    "any_of_conditions": _descent(_of_step(lambda t: jnp.where((t < 2) | (t > 4), 1.0, 3.0))),
    "truth_as_number": _descent(_of_step(lambda t: 1 + (t > 3).astype(jnp.int32))),
    "clamp": _descent(_of_step(lambda t: jax.lax.clamp(jnp.int32(2), t, jnp.int32(4)))),
    "functions": _descent(_of_step(_many_functions)),
    "jit_in_jit": _descent(_of_step(jax.jit(lambda t: jax.jit(lambda x: x * x)(t)))),
    "leaf_mean": _descent(_mean_by_matrices()),
    "inject_hyperparams": _injected,
    "apply_if_finite": lambda lr: optax.apply_if_finite(optlab.adamw(lr, weight_decay=0.1), 3),
    "mask_on": lambda lr: optlab.adamw(lr, weight_decay=0.1, mask=True),
    "mask_off": lambda lr: optlab.adamw(lr, weight_decay=0.1, mask=False),
    "masked": lambda lr: optax.masked(optax.adam(lr), True),
    "mixed_chain": lambda lr: optax.chain(optax.scale_by_adam(), optlab.add_decayed_weights(0.1), optax.scale(-lr)),
    "multi_transform": lambda lr: optax.multi_transform({"a": optax.adam(lr), "b": optax.sgd(lr)}, "a"),
    "lookahead_free": lambda lr: optax.chain(optax.ema(0.9), optax.ema(0.8, debias=False), optax.sgd(lr)),
    "centralize": lambda lr: optax.chain(optax.normalize_by_update_norm(), optax.sgd(lr)),
    "schedule_free": lambda lr: optax.contrib.schedule_free_sgd(lr),
}


@pytest.mark.parametrize("name", SEEN_THROUGH)
def test_is_seen_through(name):
    assert _error(explain(SEEN_THROUGH[name]), SEEN_THROUGH[name]) < EXACT


def test_casts_are_seen_through():
    explanation = explain(lambda lr: optlab.chain(_in_bfloat16_and_back(), optlab.sgd(lr)))
    assert explanation.equations == explained(optlab.sgd).equations


@pytest.mark.parametrize(
    ("made", "equation"),
    [
        (_descent(optax.clip(0.7)), "wₜ = wₜ₋₁ − η·min(0.7, max(gₜ, −0.7))"),
        (_descent(optax.clip_by_global_norm(10.0)), "{gₜ if √(Σ(gₜ²)) < 10; 10·gₜ/√(Σ(gₜ²)) otherwise}"),
        (_descent(_of_step(lambda t: jnp.where(t > 3, 1.0, 2.0))), "wₜ = wₜ₋₁ − η·gₜ·{1 if t > 3; 2 otherwise}"),
        (_descent(_of_step(lambda t: t // 3)), "wₜ = wₜ₋₁ − η·gₜ·⌊0.333333333333·t⌋"),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), "wₜ = wₜ₋₁ − 0.1·gₜ"),
        (optax.apply_if_finite(optax.sgd(0.1), 3), "wₜ = wₜ₋₁ − 0.1·gₜ"),
        (lambda lr: optlab.adamw(lr, weight_decay=0.1, mask=False), "wₜ = wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + 1e-8)"),
        (optax.optimistic_gradient_descent, "β·{gₜ if t = 1; previous_gradientₜ₋₁ otherwise}"),
    ],
)
def test_what_is_seen_through_reads(made, equation):
    assert equation in explain(made).text


@pytest.mark.parametrize(
    ("beta", "decay"), [("beta", "decay"), ("momentum", "mu"), ("lr", "learning_rate"), ("g", "w"), ("t", "m")]
)
def test_hyperparameters_of_one_letter_are_told_apart(beta, decay):
    namespace: dict[str, Any] = {"optax": optax}
    exec(f"def make({beta}, {decay}): return optax.chain(optax.trace({beta}), optax.trace({decay}))", namespace)
    explanation = explain(namespace["make"])
    letters = explanation.recurrence.hyperparameters
    assert len({letters[beta].name, letters[decay].name, "g", "w", "t", "m_t"}) == 6
    numbers = Numbers({beta: 0.3, decay: 0.8})
    assert differ(explanation, namespace["make"](0.3, 0.8), numbers, 1) < EXACT


def test_a_letter_that_is_taken_is_numbered_from_two():
    letters = explain(lambda g, w: optax.chain(optax.trace(g), optax.trace(w))).recurrence.hyperparameters
    assert [letters[name].name for name in "gw"] == ["g2", "w2"]


def test_a_number_that_nobody_knows_is_a_half_where_it_is_run():
    driven = explain(lambda lr, shrunk: optax.chain(optax.scale(shrunk), optax.sgd(lr))).claim.driven
    assert driven.values == {"lr": 0.1, "shrunk": 0.5}


def test_runs_in_which_nothing_is_seen_say_so():
    driven = functools.partial(Driven, {"bias": (3,)}, 64, (1.0,), {})
    assert str(driven(moved=0.0)).endswith(" of a quadratic, in which no weight moves")
    assert str(driven(moved=1e-10)).endswith(" of a quadratic, in which weights move too little to see")
    assert str(driven(moved=1e-8)) == str(driven()) == "64 steps in one tree, gradients given and those of a quadratic"


def test_a_negative_default_may_have_either_sign():
    def make(learning_rate, shift=-1.0):
        return optax.chain(optax.stateless(lambda u, _: jnp.sqrt(shift * shift) * u), optax.sgd(learning_rate))

    explanation = explain(make)
    assert "|shift|" in explanation.text
    assert differ(explanation, make(0.1, -0.7), Numbers({"learning_rate": 0.1, "shift": -0.7}), 1) < EXACT


# Schedules ----------------------------------------------------------------------------------------------------------

COSINE = optax.cosine_decay_schedule(0.1, 7)
LINEAR = optax.linear_schedule(0.3, 0.05, 5)


@pytest.mark.parametrize(
    ("made", "tx", "schedules", "equation"),
    [
        (
            optlab.adamw(COSINE, weight_decay=LINEAR),
            None,
            {"eta": COSINE, "lambda": LINEAR},
            "wₜ = wₜ₋₁ − η(t)·(m̂ₜ/(√v̂ₜ + 1e-8) + λ(t)·wₜ₋₁)",
        ),
        (
            functools.partial(optax.adamw, COSINE, weight_decay=0.1),
            optax.adamw(COSINE, weight_decay=0.1),
            {"eta": COSINE},
            "− η(t)·(",
        ),
        (optax.sgd(COSINE), None, {}, "wₜ = wₜ₋₁ + gₜ·(−0.05·cos(0.142857142857·π·min(7, t − 1)) − 0.05)"),
        (optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(LINEAR)), None, {}, "min(5, t − 1)"),
        (
            optlab.chain(
                optlab.add_decayed_weights(COSINE),
                optlab.add_decayed_weights(LINEAR),
                optlab.scale_by_learning_rate(COSINE),
            ),
            None,
            {"eta": COSINE, "lambda": COSINE, "lambda_2": LINEAR},
            "wₜ = wₜ₋₁ − η(t)·(gₜ + λ(t)·wₜ₋₁ + λ₂(t)·wₜ₋₁)",
        ),
    ],
)
def test_schedules(made, tx, schedules, equation):
    explanation = explain(made)
    defaults = explanation.recurrence.defaults
    assert equation in explanation.text
    assert differ(explanation, tx or made, Numbers(defaults, schedules), 1) < 1e-6  # optax computes them in float32


def test_schedules_in_latex():
    assert r"w_{t-1} - g_t\,\eta\left(t\right)" in explain(optlab.sgd(COSINE)).latex


# Regimes ------------------------------------------------------------------------------------------------------------

UPDATE = "update: decoupled, beside the update, w − η·u − κ·w"
STEP = "step: decoupled, beside the update, w − η·u − κ·w"
GRADIENT = "gradient: every average sees g + λ·w (L2, coupled)"
BY_RATE = "multiplied by the learning rate: κ = η·λ"
GATED = "; only where m̂ₜ·wₜ₋₁/(√v̂ₜ + 1e-8) ≥ 0"
FREE, PROPORTIONAL = "scale-free: gradients", "proportional to the gradient"
BOTH = "divides mₜ by 1 − β₁ᵗ, vₜ by 1 − β₂ᵗ"
OUTSIDE = "ε outside the root, √v̂ₜ + ε"
NO_AVERAGE = "none: there is no average"

REGIMES = {
    "adabelief": (
        "none",
        "no decay",
        FREE,
        "divides mₜ by 1 − β₁ᵗ, sₜ by 1 − β₂ᵗ",
        "εᵣ is added to sₜ at every step; ε outside the root, √s\N{COMBINING CIRCUMFLEX ACCENT}ₜ + ε",
        "AdaBelief",
    ),
    "adagrad": ("none", "no decay", FREE, "none", "ε outside the root, √sₜ + ε", "normalization by sₜ, no momentum"),
    "adam": ("none", "no decay", FREE, BOTH, OUTSIDE, "the order of Adam"),
    "adam_l2": (GRADIENT, "through what is averaged", FREE, BOTH, OUTSIDE, "the order of Adam"),
    "adamax": ("none", "no decay", FREE, "divides mₜ by 1 − β₁ᵗ", "ε is added, |gₜ| + ε", "the order of Adam"),
    "adams": (
        UPDATE,
        "multiplied by the learning rate, and by sums over weights: κ = η·λ·√N/(ε·√N + √(Σ(v̂ₜ)))",
        FREE,
        BOTH,
        "ε outside the root, √v̂ₜ + ε; ε outside the root, √(Σ(v̂ₜ))/√N + ε",
        "the order of Adam); with sums over weights",
    ),
    "adamw": (UPDATE, BY_RATE, FREE, BOTH, OUTSIDE, "the order of Adam"),
    "adamw_independent": (STEP, "not multiplied by the learning rate: κ = λ", FREE, BOTH, OUTSIDE, "the order of Adam"),
    "amsgrad": ("none", "no decay", FREE, BOTH, "ε outside the root, √sₜ + ε", "the order of Adam"),
    "heavy_ball": ("none", "no decay", PROPORTIONAL, "none", "none", "momentum mₜ, no normalization"),
    "laprop": ("none", "no decay", FREE, "divides vₜ by 1 − β₂ᵗ, mₜ by 1 − β₁ᵗ", OUTSIDE, "the order of LaProp"),
    "lion": (UPDATE, BY_RATE, FREE, "none", "none", "then its sign (the order of Signum and Lion)"),
    "momentum": ("none", "no decay", PROPORTIONAL, "none", "none", "momentum mₜ, no normalization"),
    "nadam": (
        "none",
        "no decay",
        FREE,
        "divides vₜ by 1 − β₂ᵗ, a term of the step by 1 − β₁ᵗ, a term of the step by 1 − β₁ᵗ⁺¹",
        OUTSIDE,
        "looked ahead by the gradient (Nesterov)",
    ),
    "nesterov": ("none", "no decay", PROPORTIONAL, "none", "none", "looked ahead by the gradient (Nesterov)"),
    "rmsprop": ("none", "no decay", FREE, "none", "ε outside the root, √vₜ + ε", "normalization by vₜ, no momentum"),
    "sgd": ("none", "no decay", PROPORTIONAL, NO_AVERAGE, "none", "the gradient as it is"),
    "sgdw": (UPDATE, BY_RATE, PROPORTIONAL, "none", "none", "momentum mₜ, no normalization"),
    "sign_sgd": ("none", "no decay", FREE, NO_AVERAGE, "none", "the sign of the gradient"),
    "signum": ("none", "no decay", FREE, "none", "none", "then its sign (the order of Signum and Lion)"),
}


def test_every_optimizer_has_its_regime():
    assert {f"optlab.{name}" for name in REGIMES} == {name for name in FACTORIES if name.startswith("optlab.")}


@pytest.mark.parametrize("name", REGIMES)
def test_regime(name):
    found = explained(getattr(optlab, name)).regime
    site, coupling, scale, correction, epsilon, order = REGIMES[name]
    assert (found.site, found.correction, found.epsilon) == (site, correction, epsilon)
    assert found.coupling.startswith(coupling)
    assert found.scale.startswith(scale)
    assert order in found.order


def _core(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> optlab.Transform:
    return optlab.scale_by_rms(b2, eps, numerator=optlab.chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1)))


def _site(site: str) -> Callable[..., Any]:
    return lambda lr, wd: optlab.Decay(site).apply_to(_core(), lr, wd)


def _adam_then(last: Callable[[Any, Any, Any, Any], Any], *, before_rate: bool = False) -> Callable[..., Any]:
    """Adam, and a last link that makes another update of `(u, w, lr, wd)`."""

    def make(lr: Any, wd: Any) -> Any:
        link = optax.stateless(lambda u, w: last(u, w, lr, wd))
        links = [link, optax.scale(-lr)] if before_rate else [optax.scale(-lr), link]
        return optax.chain(optax.scale_by_adam(), *links)

    return make


def _toward_start(lr: Any, wd: Any) -> Any:
    def update(u: Any, start: Any, w: Any) -> Any:
        return u + wd * (w - start), start

    return optax.chain(optax.scale_by_adam(), optax.GradientTransformation(lambda w: w, update), optax.scale(-lr))


SITES = {
    "none": (_site("none"), "none", "no decay"),
    "gradient": (_site("gradient"), GRADIENT, "through what is averaged"),
    "first_moment": (_site("first_moment"), "first_moment: only mₜ sees the weight", "through what is averaged"),
    "second_moment": (_site("second_moment"), "second_moment: only vₜ sees the weight", "through what is averaged"),
    "direction": (
        _site("direction"),
        "direction: beside the momentum, under the same divisor, (m + λ·w)/P",
        "the weight loses η·λ/(√v̂ₜ + 1e-8) of itself per step",
    ),
    "update": (_site("update"), UPDATE, BY_RATE),
    "step": (_site("step"), STEP, "not multiplied by the learning rate: κ = λ"),
    "after": (
        _adam_then(lambda u, w, lr, wd: u - lr * wd * (w + u)),
        "after: decoupled, after the step, (w − η·u)·(1 − κ)",
        BY_RATE,
    ),
    "after, not by the rate": (
        _adam_then(lambda u, w, lr, wd: u - wd * (w + u)),
        "after: decoupled, after the step, (w − η·u)·(1 − κ)",
        "not multiplied by the learning rate: κ = λ",
    ),
    "proximal": (
        _adam_then(lambda u, w, lr, wd: (u - lr * wd * w) / (1 + lr * wd)),
        "proximal: decoupled, after the step, (w − η·u)/(1 + κ)",
        BY_RATE,
    ),
    "cautious": (
        _adam_then(lambda u, w, lr, wd: u + wd * jnp.where(u * w >= 0, w, 0), before_rate=True),
        f"{UPDATE}{GATED}",
        BY_RATE,
    ),
    "sign trap": (
        _adam_then(lambda u, w, lr, wd: u + wd * w),
        "after the learning rate with the wrong sign: weights grow (the sign trap)",
        "not multiplied by the learning rate: κ = −λ",
    ),
    "by the square of the rate": (
        _adam_then(lambda u, w, lr, wd: u - lr * lr * wd * w),
        UPDATE,
        "multiplied by the learning rate: κ = λ·η²",
    ),
    "toward the start": (_toward_start, f"{UPDATE}; toward the initial weight", BY_RATE),
    "exponential": (
        _adam_then(lambda u, w, lr, wd: u * jnp.exp(-lr * wd) + w * jnp.expm1(-lr * wd)),
        "after: decoupled, the step and the weight by one factor, (w − η·u)·(1 − κ)",
        "multiplied by the learning rate: κ = 1 − exp(−η·λ)",
    ),
    "other law": (
        _adam_then(lambda u, w, lr, wd: u * jnp.exp(-wd) - lr * wd * w),
        "decoupled, by a law of its own",
        BY_RATE,
    ),
    "sgd": (
        lambda lr, wd: optax.chain(optax.add_decayed_weights(wd), optax.sgd(lr)),
        "gradient or update, the same without averages: g + λ·w",
        BY_RATE,
    ),
    "sign of the sum": (
        lambda lr, wd: optax.chain(optax.add_decayed_weights(wd), optax.sign_sgd(lr)),
        "gradient: the step sees g + λ·w (L2, coupled)",
        "through what is averaged",
    ),
    "a number for λ": (
        lambda lr: optlab.adamw(lr, weight_decay=0.1),
        UPDATE,
        "multiplied by the learning rate: κ = 0.1·η",
    ),
    "a number for λ, after": (
        lambda lr: _adam_then(lambda u, w, lr, wd: u - lr * wd * (w + u))(lr, 0.1),
        "after: decoupled, after the step, (w − η·u)·(1 − κ)",
        "multiplied by the learning rate: κ = 0.1·η",
    ),
    "fromage": (
        optax.fromage,
        "after: decoupled, the step and the weight by one factor, (w − η·u)·(1 − κ)",
        "multiplied by the learning rate: κ = 1 − 1/√(1 + η²)",
    ),
    "novograd": (optax.novograd, "first_moment: only mₜ sees the weight", "through what is averaged"),
    "adadelta": (optax.adadelta, GRADIENT, "through what is averaged"),
    "scheduled": (
        optlab.adamw(COSINE, weight_decay=LINEAR),
        UPDATE,
        "multiplied by the learning rate: κ = λ·η(t)",
    ),
    "two decays": (
        lambda lr, wd: optlab.chain(
            optlab.add_l2_to_grad(wd), _core(), optlab.add_decayed_weights(wd), optlab.scale_by_learning_rate(lr)
        ),
        "in mₜ and vₜ and beside the update",
        "through what is averaged",
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_site_of_decay(name):
    made, site, coupling = SITES[name]
    found = explain(made).regime
    assert found.site == site
    assert found.coupling.startswith(coupling)


IN_THE_LOSS = "loss"  # the optimizer has nothing of it


@pytest.mark.parametrize("site", optlab.SITES)
def test_site_of_a_concrete_transform(site):
    found = explain(optlab.Decay(site).apply_to(_core(), 0.1, 0.2)).regime
    assert found.site == ("none" if site == IN_THE_LOSS else SITES[site][1])


def test_every_site_of_optlab_is_told():
    assert set(optlab.SITES) - {IN_THE_LOSS} < SITES.keys()


def _decays() -> list[optlab.Decay]:
    """Every site, with one axis off its default, and with all of them."""
    default = {"coupling": None, "gate": "none", "target": "zero"}
    off = [{}, {"coupling": "corrected", "gate": "stable", "target": "init"}]
    off += [{"coupling": coupling} for coupling in optlab.COUPLINGS]
    off += [{"gate": gate} for gate in optlab.GATES] + [{"target": target} for target in optlab.TARGETS]
    decays = []
    for site, changed in itertools.product(optlab.SITES, off):
        with contextlib.suppress(ValueError):
            decays.append(optlab.Decay(site, **{**default, **changed}))
    return list(dict.fromkeys(decays))


@pytest.mark.parametrize("decay", _decays(), ids=str)
def test_every_point_of_the_space_of_decay_is_told(decay):
    shape = COSINE if decay.coupling in ("schedule", "corrected") else None
    found = explain(lambda lr, wd: decay.apply_to(_core(), lr, wd, schedule=shape)).regime
    is_by_rate = decay.coupling in ("lr", "corrected")
    custom = {"update": "update" if is_by_rate else "step", "step": "update" if is_by_rate else "step"}
    expected = SITES[custom.get(decay.site, decay.site)][1] if decay.site != IN_THE_LOSS else "none"
    if decay.target == "init" and decay.site != IN_THE_LOSS:
        expected += "; toward the initial weight"
    if decay.gate == "cautious":
        expected += GATED
    assert found.site == expected
    if decay.site in ("update", "step", "after", "proximal"):
        assert found.coupling.startswith("multiplied" if is_by_rate else "not multiplied")
        assert ("cos(" in found.coupling) == (shape is not None)
        assert ("by sums over weights" in found.coupling) == (decay.gate == "stable")


def test_corrections_gathered_in_the_rate():
    def make(learning_rate, b1, b2):
        def late(count):
            t = count + 1
            return -learning_rate * jnp.sqrt(1 - b2**t) / (1 - b1**t)

        moments = optlab.chain(optlab.square(), optlab.scale_by_ema(b2), optlab.root(0.0))
        return optax.chain(optlab.divide(optlab.scale_by_ema(b1), moments), optax.scale_by_schedule(late))

    assert explain(make).regime.correction == "divides mₜ by 1 − β₁ᵗ; multiplies a term of the step by √(1 − β₂ᵗ)"


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        (optax.rmsprop, "epsilon", "ε inside the root, √(vₜ + ε)"),
        (optax.adam, "epsilon", "εᵣ inside the root, √(v̂ₜ + εᵣ); ε outside the root, √(v̂ₜ + εᵣ) + ε"),
        (optax.rmsprop, "correction", "none"),
        (lambda lr: optlab.chain(_core(), optlab.sgd(lr)), "epsilon", "1e-8 outside the root, √v̂ₜ + 1e-8"),
        (
            lambda lr: optlab.chain(optlab.scale_by_ema(0.9), optlab.scale_by_rms(0.99, 1e-8), optlab.sgd(lr)),
            "order",
            "momentum mₜ, normalized by its own size vₜ (the order of AdaMomentum)",
        ),
        (optax.lars, "order", "momentum mₜ, no normalization of single weights; with sums over weights"),
        (optax.fromage, "order", "the gradient, times a number for all weights; with sums over weights"),
        (optax.rprop, "order", "no average of gradients or of their sizes"),
        (
            optax.optimistic_adam,
            "order",
            "averages mₜ of gradients and vₜ of their sizes, in an order without a name here",
        ),
        (lambda lr: optax.chain(optax.scale_by_adam(), optax.scale(lr)), "scale", "scale-free"),
        (
            lambda lr: optax.chain(optax.stateless(lambda u, _: u * jnp.abs(u)), optax.sgd(lr)),
            "scale",
            "neither scale-free nor proportional: a thousand times the gradient gives 1e+06 times the step",
        ),
        (optax.set_to_zero(), "scale", "not measured: the equations at default hyperparameters don't move the weight"),
    ],
)
def test_words(made, field, words):
    assert getattr(explain(made).regime, field).startswith(words)


# What a claim was checked on ----------------------------------------------------------------------------------------


@optlab.atom
def _orthogonal():
    return optlab.Rule(lambda u, slots, w, t: (jnp.linalg.qr(u)[0] if u.ndim == 2 else u, slots), elementwise=False)


def _of_shape(test: Callable[[Any], bool], then: Callable[[Any], Any]) -> Any:
    """Another function of the updates of leaves that pass a test of their shape."""
    return optax.stateless(lambda u, _: jax.tree.map(lambda x: then(x) if test(x) else x, u))


def _named(test: Callable[[str], bool], then: Callable[[Any], Any]) -> Any:
    """Another function of the updates of leaves whose path passes a test."""

    def update(u: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda k, x: then(x) if test(jax.tree_util.keystr(k)) else x, u)

    return optax.stateless(update)


def _late_on_matrices(from_step: int) -> Any:
    """Doubles updates of matrices from a step on."""

    def update(u: Any, count: Any, _: Any) -> Any:
        return jax.tree.map(lambda x: jnp.where((count >= from_step) & (x.ndim > 1), 2, 1) * x, u), count + 1

    return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)


VECTOR, MATRICES, CONV = ((3,),), ((4, 3), (130, 129)), ((2, 3, 2, 4),)
ALL = ((3,), (4, 3), (2, 3, 2, 4), (130, 129))
ELSEWHERE: dict[str, tuple[Any, Any, str]] = {
    "the factor of QR": (optlab.chain(_orthogonal(), optlab.scale_by_learning_rate(0.1)), MATRICES, "qr: "),
    "momentum orthogonalized": (_descent(optax.trace(0.9), _orthogonal()), MATRICES, "qr: "),
    "rows normalized": (
        _descent(_of_shape(lambda x: x.ndim > 1, lambda x: x / jnp.abs(x).sum(-1, keepdims=True))),
        (*MATRICES, *CONV),
        "makes an array of shape",
    ),
    "a convolution's axes": (
        _descent(_of_shape(lambda x: x.ndim > 2, lambda x: jnp.flip(x, 0))),
        CONV,
        "rev: has no formula",
    ),
    "transposed twice over": (
        _descent(_of_shape(lambda x: x.ndim == 2, lambda x: jnp.cumsum(x.T, 0).T)),
        MATRICES,
        "transpose: puts the weights of a leaf in another order",
    ),
    "by size": (optax.adafactor, ((130, 129),), "depends on the number of weights"),
    "by a small size": (functools.partial(optax.adafactor, min_dim_size_to_factor=1), (*MATRICES, *CONV), "depends on"),
    "SM3": (optax.sm3, (*MATRICES, *CONV), "makes an array of shape"),
    "by path": (_descent(_named(lambda path: "embedding" in path, jnp.sign)), ((130, 129),), "don't predict it"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_leaves_that_go_another_way_are_named(name):
    made, shapes, reason = ELSEWHERE[name]
    found = explain(made)
    assert set(found.elsewhere) == set(found.claim.differs) == set(shapes)
    assert set(found.claim.holds) == set(ALL) - set(shapes)
    assert all(known.startswith("not read: ") and reason in known for known in found.elsewhere.values())
    assert f", of {kinds(found.claim.holds)} alone\n" in found.text
    assert " go another way, not read: " in found.text


def test_what_reads_otherwise_on_matrices_is_shown_beside():
    found = explain(functools.partial(optlab.adamw, mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params)))
    other = found.elsewhere[4, 3]
    assert found.claim.holds == VECTOR
    assert set(found.elsewhere) == {*MATRICES, *CONV}
    assert set(other.claim.holds) == {*MATRICES, *CONV}
    assert other.equations == explained(optlab.adamw).equations
    assert found.regime.site == "none"
    assert other.regime.site == UPDATE
    assert found.text.count("wₜ = ") == found.text.count("decay: ") == 2
    shapes = "matrices (4, 3) and (130, 129), leaves of 4 axes (2, 3, 2, 4)"
    assert f"  {shapes} go another way\n\n  mₜ = β₁·mₜ₋₁" in found.text


def test_what_changes_late_on_matrices_is_seen():
    assert set(explain(_descent(_late_on_matrices(59))).elsewhere) == {*MATRICES, *CONV}


def test_what_is_read_off_a_vector_alone_is_no_claim():
    alone = optax.stateless(lambda u, _: jax.tree.map(lambda x: x if len(jax.tree.leaves(u)) == 1 else jnp.sign(x), u))
    message = (
        "<lambda> can't be written as the recurrence of one weight: what was read off a vector does not predict it"
    )
    with pytest.raises(interpret.Inexpressible, match=f"^{message}, from step 1 of a leaf of shape"):
        explain(_descent(alone))


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_equation_holds_where_it_says(name):
    claim = explained(FACTORIES[name]).claim
    assert claim.driven.steps >= 60
    assert claim.driven.together
    assert set(claim.holds) == set(ALL) - set({"optax.adafactor": ((130, 129),), "optax.sm3": ALL[1:]}.get(name, ()))
    assert bool(claim.sums) == bool(re.search(r"Σ|N\b", explained(FACTORIES[name]).text.partition("decay:")[0]))


@pytest.mark.parametrize(
    ("made", "sums"),
    [
        (optax.lamb, "each leaf"),
        (_descent(optax.clip_by_global_norm(0.5)), "all leaves"),
        (_descent(optax.clip_by_block_rms(0.5)), "each leaf"),
        (optlab.adams, "all leaves"),
        (
            lambda lr: optax.chain(optax.scale_by_trust_ratio(), optax.clip_by_global_norm(0.5), optax.scale(-lr)),
            "√",
        ),
        (optax.sgd, ""),
    ],
)
def test_what_sums_are_of(made, sums):
    claim = explain(made).claim
    assert claim.holds == ALL
    assert claim.sums == sums or (sums == "√" and "all leaves" in claim.sums and "each leaf" in claim.sums)


def test_a_tree_that_is_refused_is_run_leaf_by_leaf():
    def alone(u: Any, _: Any) -> Any:
        return u * jnp.ones_like(u)  # of a dict there is no product

    found = explain(_descent(optax.stateless(alone)))
    assert not found.claim.driven.together
    assert found.claim.holds == ALL
    assert "64 steps one by one" in found.text


def test_leaves_that_are_refused_are_named():
    def vectors(u: Any, _: Any) -> Any:
        assert u.ndim < 3, "no convolutions here"
        return u

    found = explain(_descent(optax.stateless(vectors)))
    assert found.elsewhere == {CONV[0]: "AssertionError: no convolutions here"}
    assert "leaves of 4 axes (2, 3, 2, 4) go another way, AssertionError: no convolutions here" in found.text


@pytest.mark.parametrize(
    ("function", "equation"),
    [
        (lambda u: u * 7919.0, "7919·gₜ"),
        (lambda u: u * 7907, "7907·gₜ"),
        (lambda u: u / u.size, "gₜ/N"),
        (lambda u: u * np.sqrt(u.size), "gₜ·√N"),
        (lambda u: 3 * u / (u.size - 1), "3·gₜ/(N − 1)"),
        (lambda u: u / (u.size + 1) ** 2, "gₜ/((N + 1)²)"),
        (lambda u: u * (u.size + 1) ** -2, "gₜ/((N + 1)²)"),
        (lambda u: u * (u.size + 1) ** 2, "gₜ·(N + 1)²"),
        (lambda u: u * 7919 + 7907 * u.size, "7919·gₜ"),
        (lambda u: u / jnp.std(u), "gₜ·√N/√(Σ((gₜ − Σ(gₜ)/N)²))"),
    ],
)
def test_a_number_is_a_number_and_a_size_a_size(function, equation):
    def per_leaf(u: Any, _: Any) -> Any:
        return jax.tree.map(function, u)

    assert equation in explain(optax.stateless(per_leaf)).text


def test_what_is_no_simple_function_of_the_size_is_refused():
    with pytest.raises(interpret.Inexpressible, match="a constant depends on the number of weights: 8"):
        explain(_descent(optax.stateless(lambda u, _: jax.tree.map(lambda x: x * np.log(x.size), u))))


def _holding_the_norm(learning_rate):
    def late(u: Any, w: Any) -> Any:
        return jax.tree.map(lambda u, w: (w + u) * jnp.linalg.norm(w) / jnp.linalg.norm(w + u) - w, u, w)

    return optax.chain(optax.sgd(learning_rate), optax.stateless(late))


def _tangent(learning_rate):
    def across(u: Any, w: Any) -> Any:
        return jax.tree.map(lambda u, w: u - w * jnp.sum(u * w) / jnp.sum(w * w), u, w)

    return optax.chain(optax.stateless(across), optax.sgd(learning_rate))


@pytest.mark.parametrize("made", [_holding_the_norm, _tangent])
def test_what_holds_the_norm_is_no_sign_trap(made):
    regime = explain(made).regime
    assert regime.site == "beside the update, by a factor of either sign that depends on sums over weights"
    assert "grow" not in str(regime)


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        (
            _descent(optax.clip(0.7)),
            "scale",
            "scale-free from gradients around 1 on; from 0.001 on a thousand times the gradient gives",
        ),
        (optax.radam, "scale", "scale-free from step 6 on; before, a thousand times the gradient gives 1e+03 times"),
        (optax.contrib.adopt, "order", "normalization by vₜ, then momentum mₜ (the order of LaProp)"),
        (optax.contrib.adopt, "epsilon", "ε is the least that a divisor can be, max(ε, √vₜ₋₁)"),
        (optax.contrib.acprop, "order", "averages mₜ of gradients and vₜ of their sizes, in an order without a name"),
        (optax.contrib.prodigy, "epsilon", "ε·estim_lrₜ outside the root, ε·estim_lrₜ + √exp_avg_sqₜ"),
        (optax.contrib.cocob, "epsilon", "ε is where scale₀ starts"),
        (optax.contrib.madgrad, "order", "momentum sₜ and normalization grad_sum_sqₜ, then their quotient"),
        (optax.contrib.schedule_free_sgd, "order", "no average of gradients or of their sizes"),
        (optax.contrib.schedule_free_sgd, "site", "beside the update, by a factor that changes with the steps"),
    ],
)
def test_what_only_some_steps_do_is_not_said_of_all(made, field, words):
    assert getattr(explain(made).regime, field).startswith(words)


def test_a_user_s_atom_is_drawn_whatever_its_name():
    @optlab.atom
    def chain(by):
        return optlab.Rule(lambda u, slots, w, t: (u * by, slots))

    @optlab.atom
    def divide(by):
        return optlab.Rule(lambda u, slots, w, t: (u / by, slots))

    for tx in (chain(2.0), divide(2.0)):
        assert optlab.draw(tx).split("\n") == ["updates", "│", repr(tx), "│", "▼"]


# Arrays -------------------------------------------------------------------------------------------------------------


def _programs() -> dict[str, Callable[..., Any]]:
    def quotient(u: Any, w: Any) -> Any:
        return jnp.where(u > w, u / w, jnp.sqrt(jnp.abs(u))) + jnp.sum(u * w, 0) - w.max(), jnp.argsort(u[:, 0])

    def loops(u: Any, w: Any) -> Any:
        x = jax.lax.fori_loop(0, 3, lambda _, x: x @ u.T @ u / 9, w)
        return jax.lax.cond(x.sum() > 0, lambda x: x, lambda x: -x, x), jax.lax.scan(lambda c, x: (c + x, c), w[0], u)

    def whole(u: Any, w: Any) -> Any:
        k = jnp.asarray(3.7 * u, jnp.int32)
        return k // 2, k % 3, k / 4, (k > 0) & ~(k > 2), jnp.sign(k), jnp.clip(w, -0.5, 0.5), u**3, jnp.round(w)

    return {"quotient": quotient, "loops": loops, "whole": whole, "qr": lambda u, w: jnp.linalg.qr(u)[0] @ w.T}


@pytest.mark.parametrize("name", _programs())
def test_a_program_on_arrays_is_what_jax_computes(name):
    rng = np.random.default_rng(0)
    u, w = rng.normal(size=(2, 4, 3))
    with lenient(), jax.enable_x64(True):
        function = _programs()[name]
        wanted = jax.tree.leaves(jax.jit(function)(u, w))
        got = Program(jax.make_jaxpr(function)(u, w))(u, w)
        for x, y in zip(got, wanted, strict=True):
            assert np.shape(x) == y.shape
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_a_program_does_not_round_where_a_cast_does():
    def cast(u: Any) -> Any:
        return (u.astype(jnp.bfloat16) * jnp.float32(0.1)).astype(jnp.float64)

    u = np.array([1.23456789, -1e-5])
    with lenient(), jax.enable_x64(True):
        (got,) = Program(jax.make_jaxpr(cast)(u))(u)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, 0.1 * u, rtol=1e-15)


# Bad input ----------------------------------------------------------------------------------------------------------

WANTED = "wanted a transform, or a function that makes one of its hyperparameters; got "
NOT_ONE_WEIGHT = " can't be written as the recurrence of one weight: "


def _primitive(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def primitive(lr):
        return optax.chain(optax.stateless(lambda u, _: function(u)), optax.sgd(lr))

    return primitive


def _branching(lr, width):
    return optax.sgd(lr) if width > 3 else optax.adam(lr)


def _makes_number(lr):
    return lr


def _positional(lr, /):
    return optax.sgd(lr)


def _broken(lr):
    raise RuntimeError("out of milk\nand of bread")


def _picky(lr):
    def update(u, state, params):
        raise ValueError(f"no leaf of shape {u.shape}, nor 3 of them")

    return optax.GradientTransformation(lambda params: (), update)


def _grown(state: Any) -> optax.GradientTransformation:
    return optax.GradientTransformation(lambda params: (), lambda u, _, params: (u, state))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (3, TypeError, f"{WANTED}3 (int)"),
        (None, TypeError, f"{WANTED}None (NoneType)"),
        (
            optax.GradientTransformation,
            TypeError,
            f"{WANTED}the class GradientTransformation; what is no JAX computation, optlab.identify can drive",
        ),
        (_makes_number, TypeError, f"{WANTED}_makes_number, which returns DynamicJaxprTracer"),
        (lambda: 3, TypeError, f"{WANTED}<lambda>, which returns int"),
        (_positional, TypeError, f"{WANTED}_positional, whose argument lr can't be given by keyword"),
        (getattr, TypeError, f"{WANTED}getattr, which has no signature to read them from"),
        (
            _branching,
            ValueError,
            f"_branching{NOT_ONE_WEIGHT}Python code branches on a hyperparameter that has no default; "
            "bind it to a number with functools.partial",
        ),
        (_broken, ValueError, f"_broken{NOT_ONE_WEIGHT}tracing it raises RuntimeError: out of milk"),
        (
            _picky,
            ValueError,
            f"_picky{NOT_ONE_WEIGHT}tracing it raises ValueError: no leaf of shape (N,), nor 3 of them",
        ),
        (
            optax.MultiSteps(optax.sgd(0.1), 2),
            ValueError,
            f"<optax MultiSteps>{NOT_ONE_WEIGHT}its state holds a whole number that is no count of the steps, "
            "at .mini_step",
        ),
        (
            optax.add_noise(0.1, 0.5, jax.random.key(0)),
            ValueError,
            f"<optax add_noise>{NOT_ONE_WEIGHT}a constant random key: draws random numbers",
        ),
        (
            _grown(jnp.zeros(())),
            ValueError,
            f"<optax _grown>{NOT_ONE_WEIGHT}its state changes its structure from one step to the next",
        ),
        (
            lambda: _primitive(lambda u: jnp.broadcast_to(u, (3, *u.shape)))(0.1),
            ValueError,
            "<lambda> can't be written",
        ),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error) as caught:
        explain(x)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.torch
def test_a_class_of_torch_is_for_identify():
    import torch

    with pytest.raises(TypeError, match=r"the class Adam; what is no JAX computation, optlab.identify can drive"):
        explain(torch.optim.Adam)


LOOPS = "loops, which no closed formula stands for"
NOT_ALIKE = "a constant array: its entries differ, so the weights of a leaf are not treated alike"
MIXES = "mixes the weights of a leaf in a way that has no sign here"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda u: jax.lax.scan(lambda c, _: (c * 0.5, None), u, length=3)[0], f"scan: {LOOPS}"),
        (lambda u: jax.lax.fori_loop(0, u.size, lambda _, x: x * 0.5, u), f"scan: {LOOPS}"),
        (lambda u: jax.lax.while_loop(lambda x: x.sum() > 3, lambda x: x * 0.5, u), f"while: {LOOPS}"),
        (lambda u: u * jax.random.normal(jax.random.key(0), u.shape), "random_seed: draws random numbers"),
        (jnp.sort, f"sort: {MIXES}"),
        (jnp.cumsum, f"cumsum: {MIXES}"),
        (lambda u: u[jnp.argsort(u)], "iota: has no formula for one weight here"),
        (lambda u: u * jnp.argmax(u), f"argmax: {MIXES}"),
        (lambda u: u * u.prod(), f"reduce_prod: {MIXES}"),
        (lambda u: u * (u > 0).all(), f"reduce_and: {MIXES}"),
        (lambda u: u[::-1], "rev: has no formula for one weight here"),
        (lambda u: jnp.roll(u, 1), "slice: "),
        (lambda u: jnp.outer(u, u).sum(axis=0), "mul: makes an array of shape (N, N) of a leaf of N weights"),
        (jax.lax.erf_inv, "erf_inv: has no formula for one weight here"),
        (lambda u: u * jnp.arange(u.size), "iota: has no formula"),
        (lambda u: u * np.arange(u.size), NOT_ALIKE),
        (lambda u: jax.lax.switch(jnp.int32(u.sum()), [jnp.abs, jnp.sign, jnp.square], u), "cond: chooses among more"),
        (lambda u: jax.lax.select_n(jnp.int32(jnp.abs(u)), u, u, 2 * u), "select_n: chooses among more than two cases"),
        (lambda u: u * (jnp.int32(u) & 1), "and, or, not: of the bits of integers"),
    ],
)  # fmt: skip
def test_a_primitive_without_a_meaning_is_named(function, reason):
    with pytest.raises(interpret.Inexpressible) as caught:
        explain(_primitive(function))
    assert str(caught.value).startswith(f"primitive{NOT_ONE_WEIGHT}{reason}")


# Wrong readings -----------------------------------------------------------------------------------------------------

_meaning = interpret._MEANING


def _no_start(slots: Callable[..., Any]) -> Callable[..., Any]:
    return lambda leaves, firsts: slots(leaves, [interpret.number(0) for _ in firsts])


def _late(slots: Callable[..., Any]) -> Callable[..., Any]:
    def late(leaves: Any, firsts: Any) -> Any:
        whole = [np.issubdtype(leaf.dtype, np.integer) for _, leaf in leaves]
        return slots(leaves, [first + flag for first, flag in zip(firsts, whole, strict=True)])

    return late


def _as_they_start(found: Any) -> Any:
    return {slot.after: slot.first for slot in found.slots}


def _swapped(condition: Any, otherwise: Any, then: Any) -> Any:
    return interpret.where(condition, then, otherwise)


def _rounded(value: Any) -> Any:
    return sp.Integer(round(float(value)))


def _hats_alone(expression: Any, found: Any) -> Any:
    return expression.xreplace({slot: hat for slot, (hat, _) in found.items()})


MISREAD: dict[str, tuple[str, Any, Any, Any]] = {
    "a - b as b - a": ("optlab.adam", _meaning, "sub", lambda a, b: b - a),
    "a + b as a": ("optlab.momentum", _meaning, "add", lambda a, b: a),
    "a / b as a": ("optlab.adam", _meaning, "div", lambda a, b: a),
    "-a as a": ("optlab.sgd", _meaning, "neg", lambda a: a),
    "expm1 without its - 1": ("optlab.adam", _meaning, "expm1", interpret._exp),
    "the branches of where swapped": ("clip_by_global_norm", _meaning, "select_n", _swapped),
    "max as min": ("optlab.amsgrad", _meaning, "max", sp.Min),
    "min as max": ("clip", _meaning, "min", sp.Max),
    "x**n as x**(n + 1)": ("optax.adam", _meaning, "pow", lambda x, y: x ** (y + 1)),
    "square as its argument": ("functions", _meaning, "square", lambda x: x),
    "sqrt as its argument": ("optlab.adam", _meaning, "sqrt", lambda x: x),
    "rsqrt as sqrt": ("optax.rmsprop", _meaning, "rsqrt", sp.sqrt),
    "sign as its argument": ("optlab.lion", _meaning, "sign", lambda x: x),
    "|x| as x": ("optlab.adamax", _meaning, "abs", lambda x: x),
    "> as <": ("own_atom_with_where_and_cond", _meaning, "gt", _meaning["lt"]),
    "= as <=": ("optax.rprop", _meaning, "eq", _meaning["le"]),
    "or as and": ("any_of_conditions", _meaning, "or", _meaning["and"]),
    "clamp from above only": ("clamp", _meaning, "clamp", lambda low, x, high: sp.Min(x, high)),
    "remainder as quotient": ("remainder", _meaning, "rem", lambda a, b: a / b),
    "a sum over the leaf as its term": ("clip_by_global_norm", interpret, "_reduced", lambda p, e, inputs: inputs[0]),
    "whole numbers with their fractions": ("truncation", interpret, "_whole", lambda x: x),
    "whole numbers toward -oo": ("truncation_below_zero", interpret, "_whole", sp.floor),
    "the step counted from 2": ("optlab.adam", recurrences, "_blank_slots", _late(recurrences._blank_slots)),
    "slots that start at zero": ("optax.adagrad", recurrences, "_blank_slots", _no_start(recurrences._blank_slots)),
    "slots that never change": ("optlab.momentum", recurrences, "_known", _as_they_start),
    "constants as whole numbers": ("own_atom_with_where_and_cond", interpret, "number", _rounded),
    "hats over what is divided again": ("optlab.adam", explanation_module, "with_hats", _hats_alone),
}  # fmt: skip


HOLDS = Claim(Driven({"bias": (3,)}, 0, (), {}), ((3,),), {})
"""Of what nobody has checked."""


@pytest.mark.parametrize("name", MISREAD)
def test_a_wrong_reading_is_seen(name, monkeypatch):
    optimizer, owner, what, wrong = MISREAD[name]
    factory = {**FACTORIES, **SEEN_THROUGH}[optimizer]
    assert _error(explain(factory), factory) < EXACT
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, what, wrong)
    else:
        monkeypatch.setattr(owner, what, wrong)
    with pytest.raises(interpret.Inexpressible, match="what was read off a vector does not predict it, from step"):
        explain(factory)
    monkeypatch.setattr(explanation_module, "check", lambda *_: HOLDS)
    assert not _error(explain(factory), factory) < 1e-4
