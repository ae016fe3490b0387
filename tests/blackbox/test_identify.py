"""`identify` and `check` name what a box does; acceptance in full is `python acceptance_identify.py`."""

import functools
from typing import Any

import acceptance_identify as acceptance
import identified
import numpy as np
import optax
import pytest
from black_boxes import KINDS, OUTSIDERS, TORCH_OUTSIDERS, draw, in_single, needs_torch, of_torch, torch_kinds

import optlab
from optlab import blackbox
from optlab.blackbox import Card, Value

DRAWS = range(1000, 1016)
SINGLE = range(1100, 1104)


@functools.cache
def report(name: str) -> blackbox.Conformance:
    return blackbox.check(named_adamw() if name == "named AdamW" else BOXES[name], says="adamw")


def card(name: str) -> Card:
    return report(name).card


# Boxes of our own, with the bugs that the field had ------------------------------------------------------------------


def adam(apply, *, corrected=True, eps_inside=False):
    """Adam in NumPy; `apply(w, u, lr, wd)` gives the new weights."""

    def make(lr, wd):
        m = v = 0.0
        t = 0

        def step(w, g):
            nonlocal m, v, t
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            m_hat, v_hat = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if corrected else (m, v)
            size = np.sqrt(v_hat + 1e-8) if eps_inside else np.sqrt(v_hat) + 1e-8
            return apply(w, m_hat / size, lr, wd)

        return step

    return make


def decoupled(w, u, lr, wd):
    return w - lr * (u + wd * w)


def after(w, u, lr, wd):
    return (w - lr * u) * (1 - lr * wd)


def named_adamw() -> type:
    """A class that is not what its name says."""
    return type("AdamW", (of_torch("SGD"),), {})


BOXES = {
    "decay after the step": adam(after),
    "L2 under AdamW's name": lambda lr, wd: optlab.adam_l2(lr, weight_decay=wd),
    "decay not multiplied by the rate": adam(lambda w, u, lr, wd: w - lr * u - wd * w),
    "eps inside the root": adam(decoupled, eps_inside=True),
    "missing bias correction": adam(decoupled, corrected=False),
    "sign trap": lambda lr, wd: optax.chain(optax.adam(lr), optax.add_decayed_weights(wd)),
    "proximal": adam(lambda w, u, lr, wd: (w - lr * u) / (1 + lr * wd)),
    "exponential": adam(lambda w, u, lr, wd: w * np.exp(-lr * wd) - lr * u),
    "cautious": adam(lambda w, u, lr, wd: w - lr * u - lr * wd * w * (u * w >= 0)),
    "quadratic": adam(lambda w, u, lr, wd: w - lr * u - lr**2 * wd * w),
    "square root of the decay": adam(lambda w, u, lr, wd: w - lr * (u + np.sqrt(wd) * w)),
    "correct": adam(decoupled),
    "other values": lambda lr, wd: optax.adamw(2 * lr, weight_decay=wd / 3),
    "no decay": lambda lr, wd: optax.adam(lr),
    "takes none": optax.adam,
    "always decays": lambda lr: optax.adamw(lr, weight_decay=0.3),
    "always decays after": lambda lr: adam(after)(lr, 0.3),
    "always L2": lambda lr: optlab.adam_l2(lr, weight_decay=0.3),
    "fixed": functools.partial(optax.adamw, b1=0.8),
    "mixes": OUTSIDERS["clipped by global norm"],
    "momentum": optlab.momentum,
    "squared rate": lambda lr, wd: optax.adamw(lr**2, weight_decay=wd),
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "decay after the step",
            "decay acts after the step, (w − ηu)(1 − ηλ); AdamW decays before, w − η(u + λw)",
        ),
        (
            "L2 under AdamW's name",
            "decay goes into the gradient, g + λw, and through the moments (L2); AdamW decays before, w − η(u + λw)",
        ),
        (
            "decay not multiplied by the rate",
            "decay is not multiplied by the learning rate, w − ηu − λw; AdamW multiplies it by the learning rate",
        ),
        ("eps inside the root", "eps stands inside the root; AdamW has it outside the root"),
        ("missing bias correction", "it corrects the bias of neither moment; AdamW of both moments"),
        ("sign trap", "sign trap: weights grow by the decay, w − ηu + λw; AdamW shrinks them"),
        (
            "proximal",
            "decay is the proximal step after the update, (w − ηu)/(1 + ηλ); AdamW decays before, w − η(u + λw)",
        ),
        ("exponential", "decay shrinks weights by exp(-decay); AdamW by 1 - decay"),
        ("cautious", "decay is cautious, acting only where u·w ≥ 0; AdamW decays every weight"),
        ("quadratic", "decay is multiplied by lr^2; AdamW multiplies it by lr"),
        ("no decay", "no decay acts; AdamW decays before, w − η(u + λw)"),
        pytest.param("named AdamW", "it computes SGD, not AdamW", marks=pytest.mark.torch),
    ],
)
def test_check_says_what_differs(name: str, words: str) -> None:
    assert not report(name)
    assert report(name).differences == (words,)
    assert str(report(name)) == f"adamw: differs\n- {words}"


def test_check_passes_what_is_right() -> None:
    assert report("correct")
    assert report("correct").passes
    assert str(report("correct")) == "adamw: passes"


def test_check_compares_what_is_asked_for() -> None:
    assert report("other values").differences == (
        "the effective learning rate is 2 times what is asked for",
        "the effective decay is 0.3333 times what is asked for",
    )


def test_check_of_no_known_family_names_the_nearest() -> None:
    (difference,) = report("mixes").differences
    assert difference.startswith("it is none of the known families; the nearest is ")
    assert difference.endswith("it mixes the weights of an array")


def test_check_knows_its_names() -> None:
    with pytest.raises(ValueError, match=r"^check: unknown name 'adamx'; the names are sgd, sgdw, momentum, "):
        blackbox.check(optax.adam, says="adamx")


# Single facts --------------------------------------------------------------------------------------------------------


def test_laws_and_powers() -> None:
    assert (card("proximal").site, card("proximal").law) == ("proximal", "1/(1 + decay)")
    assert (card("exponential").site, card("exponential").law) == ("update", "exp(-decay)")
    assert (card("quadratic").site, card("quadratic").coupling) == ("update", "lr^2")
    assert "the decay goes as weight_decay^0.50" in card("square root of the decay").notes
    assert "the effective rate goes as learning_rate^2" in card("squared rate").notes
    assert card("squared rate").coupling == "lr"


def test_effective_values() -> None:
    values = card("other values").values
    assert values["learning_rate"].value == pytest.approx(0.02, rel=1e-9)
    assert values["learning_rate"].given == 0.01
    assert values["weight_decay"].value == pytest.approx(0.1 / 3, rel=1e-9)
    assert values["weight_decay"].given == 0.1
    assert card("fixed").values["b1"].value == pytest.approx(0.8, rel=1e-9)
    assert card("fixed").values["b1"].given is None


@pytest.mark.torch
def test_names_are_not_looked_at() -> None:
    assert card("named AdamW").family == "sgd"
    assert card("named AdamW").site == "update"
    assert set(card("named AdamW").same_as) == {"gradient", "direction"}


def test_decay_that_no_argument_moves() -> None:
    for name, site in {"always decays": "update", "always decays after": "after", "always L2": "gradient"}.items():
        assert (card(name).family, card(name).site, card(name).coupling) == ("adam", site, "lr"), name
        assert card(name).values["weight_decay"].value == pytest.approx(0.3, rel=1e-6)
        assert "make takes no weight_decay" in card(name).notes
    assert card("takes none").site == "none"
    assert "make takes no weight_decay" in card("takes none").notes
    assert "weight_decay has no effect" in card("no decay").notes


def test_what_leaves_no_trace_is_said() -> None:
    found = blackbox.identify(lambda lr: optax.adam(lr, eps=0.0))
    assert found.family == "adam"
    assert "eps" not in found.values
    assert found.unidentifiable == {"eps": "0, or too small for gradients of 1e-16 in float64"}
    assert "not identifiable: 0, or too small" in str(found)


def test_two_names_of_one_optimizer() -> None:
    assert card("momentum").family == "momentum"
    assert "the same as heavy_ball at rate 0.001" in card("momentum").notes
    assert "the same as momentum (EMA) at rate 0.1" in blackbox.identify(optlab.heavy_ball).notes


def test_weights_that_mix() -> None:
    assert card("mixes").mixes
    assert card("mixes").family is None


def test_what_gradients_scale() -> None:
    assert card("correct").gradient == "scale-free"
    assert card("momentum").gradient == "proportional"
    assert blackbox.identify(OUTSIDERS["cubic decay"]).gradient == "scale-free"


@pytest.mark.parametrize("name", ["correct", "cautious", "sign trap", "no decay", "mixes", "momentum"])
def test_a_card_is_one_screen(name: str) -> None:
    lines = str(card(name)).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_a_card() -> None:
    assert str(card("correct")).splitlines()[:9] == [
        "family          adam",
        "decay           update: w - lr*(u + wd*w)",
        "coupling        lr, shrinks by 1 - decay",
        "correction      both moments",
        "eps             outside the root",
        *str(card("correct")).splitlines()[5:9],
    ]
    assert str(Value(0.1, 2e-6, 0.1)) == "0.1 ± 2e-06  (given 0.1)"
    assert str(Value(0.123456, 1e-3)) == "0.12 ± 1e-03"


# Claims and what they were driven on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("matrices orthogonal", "adam on vectors and kernels of four axes; matrices go another way"),
        (
            "projected by rows",
            "adam on vectors and kernels of four axes; matrices go another way where gradients are orthogonal to the"
            " weights",
        ),
        ("decay of matrices", "adam on vectors; matrices and kernels of four axes go another way"),
        ("kernels another way", "adam on vectors and matrices; kernels of four axes go another way"),
        ("D-adapted", "adam while the weights stay where they are; its steps grow with the distance travelled, from"),
        ("decay of a constant", "sgd on vectors for 40 steps while weight_decay is 0"),
    ],
)
def test_what_is_known_is_said_where_no_family_is_claimed(name: str, known: str) -> None:
    assert acceptance.outsider(name).family is None
    (said,) = acceptance.outsider(name).known
    assert said.startswith(known)
    assert f"known {said}" in " ".join(str(acceptance.outsider(name)).split())


def test_check_says_what_is_known() -> None:
    (difference,) = blackbox.check(OUTSIDERS["kernels another way"], says="adamw").differences
    assert difference == (
        "it is none of the known families: adam on vectors and matrices; kernels of four axes go another way"
    )


def test_a_card_says_what_was_driven() -> None:
    found = card("correct")
    assert {len(shape) for shape in found.shapes} == {1, 2, 4}
    assert max(map(max, (shape for shape in found.shapes if len(shape) == 2))) > 128
    assert (found.horizon, found.rates, found.version) == (120, (0.01, 1.0), optlab.__version__)
    said = " ".join(str(found).split())
    assert "shapes (184,), (144,), (132, 130), (3, 2, 5, 4), (24,), (8, 6), (3, 2, 4, 5)" in said
    assert "horizon 120 steps at learning_rate=0.01 and 1, gradients given and answering to the weights" in said
    assert f"version optlab {optlab.__version__}" in said
    assert "gradients given version" in " ".join(str(acceptance.outsider("kernels another way")).split())


def _of_arrays_of(axes):
    def make(lr, wd):
        def step(w, g):
            if w.ndim not in axes:
                raise ValueError(f"no arrays of {w.ndim} axes here")
            return w - lr * (g + wd * w)

        return step

    return make


def test_a_box_that_takes_no_matrices_is_known_on_vectors() -> None:
    found = blackbox.identify(_of_arrays_of((1,)))
    assert found.family is None
    assert found.known == (
        "sgd on vectors; beside a matrix, step 1 of the box raised ValueError: no arrays of 2 axes here",
    )
    assert all(len(shape) == 1 for shape in found.shapes)


def test_a_box_that_takes_no_kernels_is_claimed_on_what_it_takes() -> None:
    found = blackbox.identify(_of_arrays_of((1, 2)))
    assert found.family == "sgd"
    assert {len(shape) for shape in found.shapes} == {1, 2}
    (note,) = found.notes
    assert note == (
        "kernels of four axes can't be driven: step 1 of the box raised ValueError: no arrays of 4 axes here"
    )


def test_a_rate_that_is_cut_is_said() -> None:
    found = blackbox.identify(lambda lr, wd: optax.adamw(min(lr, 0.1), weight_decay=wd))
    assert found.family == "adam"
    assert "at learning_rate=1 the effective rate is 0.1" in found.notes


def test_no_effect_is_said_of_equal_runs_alone() -> None:
    for name in ("decay of a constant", "decay of a constant, Adam", "decay that speeds up"):
        assert "no effect" not in str(acceptance.outsider(name)), name
        assert "weight_decay moves every weight alike, which is no decay" in acceptance.outsider(name).notes
        assert acceptance.outsider(name).site == "unknown"
    for name in ("decay of matrices", "decay of kernels"):
        assert "no effect" not in str(acceptance.outsider(name)), name
    quiet = blackbox.identify(lambda lr, wd: optax.adam(lr), weight_decay=1e-20)
    assert "weight_decay has no effect" in quiet.notes


@pytest.mark.parametrize(("rate", "decay"), [(1e-16, 0.1), (1e-3, 1e-20), (1e-12, 1e-9)])
def test_what_rounding_hides_is_not_read_from_it(rate: float, decay: float) -> None:
    said = blackbox.check(optax.adamw, says="adamw", learning_rate=rate, weight_decay=decay)
    assert said.differences == ()
    assert any(note.startswith("decay watched at weight_decay=") for note in said.card.notes)


def test_only_scalars_in_float32_are_said_to_be() -> None:
    for name, precision in {
        "LaProp, corrections in float32": "float64, with scalars in float32",
        "NAdam, its product in float64": "float64",
    }.items():
        assert acceptance.identified(KINDS[name]).precision == precision


# Acceptance, in part -------------------------------------------------------------------------------------------------


def seeds(numbers: range) -> list[Any]:
    return [pytest.param(seed, marks=[pytest.mark.torch] if needs_torch(seed) else []) for seed in numbers]


@pytest.mark.parametrize("seed", seeds(DRAWS))
def test_known_optimizers(seed: int) -> None:
    drawn = draw(seed)
    assert acceptance.judge(drawn, acceptance.identified(drawn), 1e-4).wrong == (), drawn.name


@pytest.mark.parametrize("seed", seeds(SINGLE))
def test_known_optimizers_in_float32(seed: int) -> None:
    drawn = in_single(draw(seed))
    found = acceptance.identified(drawn)
    assert found.precision == "float32"
    assert acceptance.judge(drawn, found, 1e-2).wrong == (), drawn.name


@pytest.mark.parametrize("name", KINDS)
def test_known_optimizers_written_in_other_ways(name: str) -> None:
    assert acceptance.judge(KINDS[name], acceptance.identified(KINDS[name]), 1e-4).wrong == ()


@pytest.mark.torch
def test_a_known_optimizer_of_torch_written_in_another_way() -> None:
    for drawn in torch_kinds().values():
        assert acceptance.judge(drawn, acceptance.identified(drawn), 1e-4).wrong == ()


@pytest.mark.parametrize(
    "name", [*OUTSIDERS, *(pytest.param(name, marks=pytest.mark.torch) for name in TORCH_OUTSIDERS)]
)
def test_outsiders_are_never_claimed(name: str) -> None:
    answer = acceptance.claimed(name)
    assert answer is None or answer.startswith("refused: "), answer


def test_a_wrong_card_is_judged_wrong() -> None:
    drawn = draw(next(seed for seed in range(100) if not needs_torch(seed) and draw(seed).name == "optax adamw"))
    right = acceptance.identified(drawn)
    assert acceptance.judge(drawn, right, 1e-4).wrong == ()
    off = {**right.values, "b2": Value(right.values["b2"].value * 1.01, 0.0)}
    wrong = {
        "family": {"family": "amsgrad"},
        "site": {"site": "after"},
        "coupling": {"coupling": "constant"},
        "b2 off": {"values": off},
        "b1 not identified": {"values": {name: v for name, v in right.values.items() if name != "b1"}},
    }
    for said, changed in wrong.items():
        (found,) = acceptance.judge(drawn, Card(**{**vars(right), **changed}), 1e-4).wrong
        assert found.startswith(said)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.torch] if row.name.startswith("torch.") else [])
        for row in identified.ROWS
    ],
)
def test_the_readme_says_what_identify_says(row) -> None:
    assert identified.line(row) in identified.README.read_text().splitlines()


# Bad input -----------------------------------------------------------------------------------------------------------


class NotAnOptimizer:
    pass


def _raises(w, g):
    raise RuntimeError("no memory")


def _with_shared_state():
    steps = 0

    def make(lr, wd):
        def step(w, g):
            nonlocal steps
            steps += 1
            return w - lr * g * steps

        return step

    return make


ERRORS = {
    "not callable": (3, TypeError, r"make must be callable as make\(learning_rate, weight_decay\), got 3"),
    "takes nothing": (
        lambda: None,
        TypeError,
        r"make must take \(learning_rate, weight_decay\), or learning_rate alone, got a callable that takes \(\); wrap",
    ),
    "takes three": (lambda a, b, c: None, TypeError, r"got a callable that takes \(a, b, c\); wrap it: lambda lr, wd:"),
    "needs more": (
        optlab.rmsprop,
        ValueError,
        r"make\(learning_rate=0.01\) raised TypeError: .*'decay'.*; a maker takes these two and fixes the rest",
    ),
    "gives nothing": (
        lambda lr, wd: NotAnOptimizer(),
        TypeError,
        r"make must give an optax-like transform \(init and update\), a step .*; it gave NotAnOptimizer",
    ),
    "a wrong keyword": (
        functools.partial(optax.adam, decouple=True),
        ValueError,
        r"make\(learning_rate=0.01\) raised TypeError: .*unexpected keyword argument 'decouple'",
    ),
    "a wrong keyword for optax": (
        functools.partial(optax.adamw, decouple=True),
        ValueError,
        r"make\(learning_rate=0.01, weight_decay=0\) raised TypeError: .*unexpected keyword argument 'decouple'",
    ),
    "step raises": (lambda lr, wd: _raises, ValueError, r"step 1 of the box raised RuntimeError: no memory"),
    "another shape": (
        lambda lr, wd: lambda w, g: w[:-1],
        ValueError,
        r"step 1 of the box turned weights of shape \(184,\) into \(183,\)",
    ),
    "returns nothing": (
        lambda lr, wd: lambda w, g: None,
        TypeError,
        r"the box must give real floating-point weights, step 1 gave object",
    ),
    "integers": (lambda lr, wd: lambda w, g: w.astype(int), TypeError, r"step 1 gave int64"),
    "complex": (lambda lr, wd: lambda w, g: w + 0j, TypeError, r"step 1 gave complex128"),
    "not finite": (
        lambda lr, wd: lambda w, g: w - lr * np.sqrt(g),
        ValueError,
        r"step 1 of the box gave a weight that is not finite, at the gradient -.* and learning_rate=0.01",
    ),
    "stochastic": (
        OUTSIDERS["Lion with noise"],
        ValueError,
        r"the box is stochastic: two runs on the same gradients part at step 1; make must give a fresh optimizer",
    ),
    "shared state": (
        _with_shared_state(),
        ValueError,
        r"the box is stochastic: .* make must give a fresh optimizer at every call",
    ),
    "ignores the rate": (
        lambda lr, wd: lambda w, g: w - 0.1 * g,
        ValueError,
        r"the box ignores its learning rate: it does the same at 0.01 and at 0.005; hand the rate on",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_boxes(name: str) -> None:
    make, kind, words = ERRORS[name]
    with pytest.raises(kind, match=f"^identify: .*{words}|^identify: {words}"):
        blackbox.identify(make)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "a", None])
def test_bad_values(name: str, value) -> None:
    with pytest.raises(ValueError, match=rf"^identify: {name} must be a finite number > 0, got {value!r}$"):
        blackbox.identify(optax.adamw, **{name: value})
