"""What is typed by mistake at a public function: one line that says what is wanted, and nothing is taken in silence."""

import re

import jax.numpy as jnp
import pytest

import optlab
from optlab import lab, testing
from optlab.lab import StudyError

W = jnp.ones(3)
ADAM = optlab.adam(1e-3)
DECAY = "finite and >= 0"


def loss(w):
    return jnp.sum(w**2)


TYPED = {
    "a text for a mask": (
        lambda: optlab.adamw(1e-3, weight_decay=0.1, mask="bias"),
        TypeError,
        "add_decayed_weights: mask must be a tree of booleans, or a function of the parameters that gives one, got "
        "'bias'; leaves are named by optlab.masks.path('bias')",
    ),
    "names for a mask": (
        lambda: optlab.Decay("update").apply_to(optlab.identity(), 0.1, 0.1, mask=["bias", "scale"]),
        TypeError,
        "add_decayed_weights: mask must be a tree of booleans, or a function of the parameters that gives one, got "
        "['bias', 'scale']; leaves are named by optlab.masks.path('bias', 'scale')",
    ),
    "a text for a decay, at a site that gives the loss back": (
        lambda: optlab.Decay("update").penalize(loss, "0.1"),
        TypeError,
        f"Decay.penalize: weight_decay must be {DECAY}, or a schedule, got '0.1' (str)",
    ),
    "a negative decay, at a site that gives the loss back": (
        lambda: optlab.Decay("update").penalize(loss, -0.1),
        ValueError,
        f"Decay.penalize: weight_decay must be {DECAY}, or a schedule, got -0.1",
    ),
    "a text for a loss": (
        lambda: optlab.Decay("loss").penalize("loss", 0.1),
        TypeError,
        "Decay.penalize: loss_fn must be a function of params, got 'loss'",
    ),
    "a transform for a loss": (
        lambda: optlab.Decay("loss").penalize(optlab.sign(), 0.1),
        TypeError,
        "Decay.penalize: loss_fn must be a function of params, got sign()",
    ),
    "a penalty that takes no schedule": (
        lambda: optlab.l2_penalty(W, -0.1),
        ValueError,
        f"l2_penalty: weight_decay must be {DECAY}, got -0.1",
    ),
    "a text for a flag": (
        lambda: optlab.train_step(loss, ADAM, has_aux="yes"),
        TypeError,
        "train_step: has_aux must be True or False, got 'yes'",
    ),
    "a number for an atom": (
        lambda: optlab.atom(3),
        TypeError,
        "atom: make must be a function that returns a Rule, got 3 (int)",
    ),
    "a text for a number of seconds": (
        lambda: optlab.compare(ADAM, ADAM, seconds="20"),
        ValueError,
        "compare: seconds must be > 0, got '20'",
    ),
    "a text for a seed": (
        lambda: optlab.identify(optlab.adam, seed="x"),
        ValueError,
        "identify: seed must be an integer from 0 to 2**32 - 1, got 'x'",
    ),
    "a seed below zero": (
        lambda: optlab.check(optlab.adam, "adam", seed=-1),
        ValueError,
        "identify: seed must be an integer from 0 to 2**32 - 1, got -1",
    ),
    "a truth for a rate": (
        lambda: optlab.identify(optlab.adam, learning_rate=True),
        ValueError,
        "identify: learning_rate must be a finite number > 0, got True",
    ),
    "a list for a name": (
        lambda: optlab.check(optlab.adam, ["adam"]),
        ValueError,
        "check: unknown name ['adam']; the names are ...",
    ),
    "a name for a study": (
        lambda: lab.run("decay"),
        StudyError,
        "lab.run: study must be a Study, such as lab.read('decay.toml') gives, got 'decay'",
    ),
    "a number for a folder": (
        lambda: lab.run(lab.Study(), 3),
        StudyError,
        "lab.run: folder must be the name of one, or None, got 3",
    ),
    "a truth for a function": (
        lambda: lab.run(lab.Study(), progress=True),
        StudyError,
        "lab.run: progress must be a function, called with each measurement, got True",
    ),
    "a table for a path": (
        lambda: lab.read({"task": "digits"}),
        StudyError,
        "lab.read: path must be that of a TOML file, got {'task': 'digits'}; Study(...) is made of values",
    ),
    "a text for a transform": (
        lambda: testing.check("adam", "init is abstract"),
        TypeError,
        "check: tx is 'adam' (str), not a transform",
    ),
    "a function for a transform": (
        lambda: testing.check(optlab.adam, "init is abstract"),
        TypeError,
        "check: tx is the function adam, not a transform: call it, adam(...)",
    ),
    "a text for a list": (
        lambda: testing.check(ADAM, "init is abstract", exempt="init is abstract"),
        TypeError,
        "check: exempt must be a list of names of properties, got 'init is abstract'",
    ),
}


@pytest.mark.parametrize("mistake", TYPED)
def test_what_is_typed_by_mistake_is_refused_in_one_line(mistake):
    do, error, message = TYPED[mistake]
    with pytest.raises(error, match=f"^{re.escape(message)}$".replace(r"\.\.\.", ".*")) as caught:
        do()
    assert type(caught.value) is error
