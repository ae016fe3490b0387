"""What is refused, and the words: who, what came, what to do. Each row is something that users do."""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import public
import pytest

import optlab
from optlab.algebra import hyperparameters

PARAMS = {"dense": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}}
ADAMW = optlab.adamw(1e-3, weight_decay=0.1)
RATE = optlab.scale_by_learning_rate(0.1)
DECAY = optlab.add_decayed_weights(0.1)
STABLE = optlab.adams(1e-3, weight_decay=0.1).parts[0]
TINY = jnp.finfo(jnp.float32).tiny


class Row(NamedTuple):
    """What is done, and the whole message, where `...` stands for anything."""

    error: type[Exception]
    message: str
    do: Callable[[], object]


def dense(bias=None, kernel=None):
    """Parameters, or updates, with other leaves."""
    return {
        "dense": {
            "bias": jnp.ones(3) if bias is None else bias,
            "kernel": jnp.ones((2, 3)) if kernel is None else kernel,
        }
    }


class Update(NamedTuple):
    """An update about to be made, so that what goes into it can be looked at before and after."""

    tx: optax.GradientTransformation
    grads: object
    state: object
    params: object

    def __call__(self):
        return self.tx.update(self.grads, self.state, self.params)


def update(tx, grads=PARAMS, params=PARAMS, of=PARAMS, state=None):
    """One update with the state of the parameters `of`."""
    return Update(tx, grads, tx.init(of) if state is None else state, params)


def restored(tx=ADAMW, **changed):
    """An update from a state some of whose fields were saved otherwise."""
    return update(tx, state=tx.init(PARAMS)._replace(**changed))


def restored_stages(change):
    """An update of a chain of three stages, of whose state a tuple was made otherwise."""
    tx = optlab.chain(optlab.scale_by_ema(0.9), optax.clip(1.0), RATE)
    return update(tx, state=change(tx.init(PARAMS)))


EMA = {"ema": PARAMS}


def masked(mask):
    return optlab.add_decayed_weights(0.1, mask=mask)


@optlab.atom
def forgetful():
    """An atom of a user who forgot to return the slot."""
    return optlab.Rule(lambda u, slots, w, t: (u, {}), init=lambda w: {"average": jnp.zeros_like(w)})


@optlab.atom
def no_rule():
    """An atom of a user who forgot to return."""


@optlab.atom
def alone():
    return optlab.Rule(lambda u, slots, w, t: u)


def many(*sizes):
    return optlab.Rule(lambda u, slots, w, t: (u, slots))


@optlab.atom
def needs_a_tuple(sizes):
    return optlab.Rule(lambda u, slots, w, t: (u, slots))


@optlab.atom
def shapeless(what):
    """An atom of a user who reduces where nothing may be reduced."""

    def update(u, slots, w, t):
        mean = jnp.mean(u)
        return (mean, slots) if what == "updates" else (u, {"average": mean})

    return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)}, elementwise=False)


HYPERPARAMETERS = {
    "out of range": Row(ValueError, "scale_by_ema: decay must be in [0, 1), got 1.5", lambda: optlab.scale_by_ema(1.5)),
    "at the open end": Row(ValueError, "adam: b2 must be in [0, 1), got 1.0", lambda: optlab.adam(1e-3, b2=1)),
    "negative": Row(
        ValueError,
        "adamw: weight_decay must be finite and >= 0, or a schedule, got -0.1",
        lambda: optlab.adamw(1e-3, weight_decay=-0.1),
    ),
    "not a number": Row(
        ValueError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got nan",
        lambda: optlab.sgd(float("nan")),
    ),
    "array that is not a number": Row(
        ValueError, "scale_by_ema: decay must be in [0, 1), got nan", lambda: optlab.scale_by_ema(jnp.float32(jnp.nan))
    ),
    "NumPy's not a number": Row(
        ValueError,
        "adamw: weight_decay must be finite and >= 0, or a schedule, got nan",
        lambda: optlab.adamw(1e-3, weight_decay=np.float32("nan")),
    ),
    "infinite": Row(ValueError, "root: eps must be finite and >= 0, got inf", lambda: optlab.root(np.inf)),
    "concrete array out of range": Row(
        ValueError, "root: eps_root must be finite and >= 0, got -1.0", lambda: optlab.root(0.0, jnp.float32(-1))
    ),
    "bool": Row(TypeError, "bias_correct: decay must be in [0, 1), got True (bool)", lambda: optlab.bias_correct(True)),
    "array of bool": Row(
        ValueError,
        "root: eps must be finite and >= 0, as one real number, got an array bool[]",
        lambda: optlab.root(jnp.asarray(True)),
    ),
    "string": Row(
        TypeError,
        "adam: learning_rate must be finite and >= 0, or a schedule, got '1e-3' (str)",
        lambda: optlab.adam("1e-3"),
    ),
    "None": Row(
        TypeError,
        "lion: weight_decay must be finite and >= 0, or a schedule, got None (NoneType)",
        lambda: optlab.lion(1e-3, weight_decay=None),
    ),
    "complex": Row(
        TypeError, "running_sum: initial must be finite and >= 0, got 1j (complex)", lambda: optlab.running_sum(1j)
    ),
    "array of wrong shape": Row(
        ValueError,
        "adam: learning_rate must be finite and >= 0, or a schedule, as one real number, got an array float32[2]",
        lambda: optlab.adam(jnp.ones(2)),
    ),
    "traced array of wrong shape": Row(
        ValueError,
        "adam: b1 must be in [0, 1), as one real number, got an array float32[2]",
        lambda: jax.eval_shape(lambda b1: optlab.adam(1e-3, b1=b1).init(PARAMS), jnp.ones(2)),
    ),
    "NumPy array of wrong shape": Row(
        TypeError,
        "adam: learning_rate must be finite and >= 0, or a schedule, got array([1., 1.]) (ndarray)",
        lambda: optlab.adam(np.ones(2)),
    ),
    "schedule where none is allowed": Row(
        TypeError,
        "adam: b1 must be in [0, 1), got the function 'schedule'",
        lambda: optlab.adam(1e-3, b1=optax.linear_schedule(0.0, 0.9, 10)),
    ),
    "weight decay forgotten": Row(
        TypeError, "adamw: missing a required argument: 'weight_decay'", lambda: optlab.adamw(1e-3)
    ),
    "list": Row(
        TypeError,
        "needs_a_tuple: sizes must be hashable or a jax array, so that equal transforms can share programs, got list; "
        "a tuple will do",
        lambda: needs_a_tuple([1, 2]),
    ),
    "too small for single precision": Row(
        ValueError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got 1e-38, which is 0 in float32",
        lambda: optlab.sgd(1e-38),
    ),
    "too small for single precision, of an array": Row(
        ValueError, "root: eps must be finite and >= 0, got ..., which is 0 in float32", lambda: optlab.root(TINY / 2)
    ),
    "too large for single precision": Row(
        ValueError,
        "adamw: weight_decay must be finite and >= 0, or a schedule, got 1e+39, which is inf in float32",
        lambda: optlab.adamw(0.1, weight_decay=1e39),
    ),
    "a product too small for single precision": Row(
        ValueError,
        "shrink_weights: weight_decay must be finite and >= 0, or a schedule, got 1e-40, which is 0 in float32",
        lambda: optlab.shrink_weights(optlab.product(1e-20, 1e-20)),
    ),
    "a schedule that begins below 0": Row(
        ValueError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got a schedule that begins at -0.1",
        lambda: optlab.sgd(optax.linear_schedule(-0.1, 0.1, 10)),
    ),
    "a schedule that begins with infinity": Row(
        ValueError,
        "adamw: weight_decay must be finite and >= 0, or a schedule, got a schedule that begins at inf",
        lambda: optlab.adamw(0.1, weight_decay=lambda count: jnp.astype(count, float) ** -0.5),
    ),
    "a factor that begins below 0": Row(
        ValueError,
        "product: factor must be finite and >= 0, or a schedule, got a schedule that begins at -1",
        lambda: optlab.product(0.1, lambda count: -1.0),
    ),
    "a schedule that begins below 0, in a trace": Row(
        ValueError,
        "sgd: learning_rate must be finite and >= 0, or a schedule, got a schedule that begins at -1",
        lambda: jax.eval_shape(lambda w: optlab.sgd(lambda count: count - 1).init(w), jnp.ones(2)),
    ),
    "half precision, rounded to 1": Row(
        ValueError,
        "adam: b2 must be in [0, 1), got 1.0 in bfloat16; give it in float32: optax.inject_hyperparams takes "
        "hyperparam_dtype=jnp.float32",
        lambda: optlab.adam(1e-3, b2=jnp.bfloat16(0.999)),
    ),
    "half precision, traced": Row(
        ValueError,
        "scale_by_ema: decay must be in [0, 1), got a traced one, of which those near 1 are 1 in float16; give ...",
        lambda: jax.eval_shape(lambda decay: optlab.scale_by_ema(decay).init(PARAMS), jnp.float16(0.5)),
    ),
    "array of a dtype in which it is zero": Row(
        ValueError,
        "adam: eps must be finite and >= 0, got 0.0, which is what 1e-8 is in float16; give it in float32: "
        "optax.inject_hyperparams takes hyperparam_dtype=jnp.float32",
        lambda: optlab.adam(1e-3, eps=jnp.float16(1e-8)),
    ),
    "NumPy's scalar of a dtype in which it is zero": Row(
        ValueError,
        "adam: eps must be finite and >= 0, got 0.0, which is what 1e-8 is in float16; give it in float32: ...",
        lambda: optlab.adam(1e-3, eps=np.float16(1e-8)),
    ),
    "NumPy's scalar of a dtype in which it is one": Row(
        ValueError,
        "adam: b2 must be in [0, 1), got 1.0 in bfloat16; give it in float32: ...",
        lambda: optlab.adam(1e-3, b2=np.asarray(0.999, jnp.bfloat16)[()]),
    ),
    "traced array of a dtype in which small numbers are zero": Row(
        ValueError,
        "adagrad: eps must be finite and >= 0, got a traced one, of which 1e-8 is 0 in float16; give it in float32: "
        "optax.inject_hyperparams takes hyperparam_dtype=jnp.float32",
        lambda: jax.eval_shape(optax.inject_hyperparams(optlab.adagrad)(1e-3).init, jnp.ones(3, jnp.float16)),
    ),
    "parameters first": Row(
        TypeError,
        "adam: learning_rate must be finite and >= 0, or a schedule, got {'dense': {'bias': Array([1., 1., 1.], "
        "dtype=float32), 'kern... (dict)",
        lambda: optlab.adam(PARAMS, 1e-3),
    ),
}

CHAINS = {
    "a core that is a function": Row(
        TypeError,
        "Decay.apply_to: the core is the function scale_by_rms, not a transform: call it, scale_by_rms(...)",
        lambda: optlab.Decay("update").apply_to(optlab.scale_by_rms, 0.1, 0.1),
    ),
    "sign trap of the cautious gate": Row(
        ValueError,
        "decay_cautiously (link 2 of 2 in chain) stands after scale_by_learning_rate (link 1 of 2 in chain): the "
        "direction has changed its sign there, so it decays the wrong weights. Put the learning rate on both of its "
        "sides",
        lambda: optlab.chain(RATE, optlab.decay_cautiously(optlab.shrink_weights(0.1))),
    ),
    "a cautious gate with a rate on one side": Row(
        ValueError,
        "decay_cautiously: a learning rate on one side alone; put it on both, or behind",
        lambda: optlab.decay_cautiously(optlab.chain(RATE, optlab.shrink_weights(0.1))),
    ),
    "sign trap inside of the cautious gate": Row(
        ValueError,
        "add_decayed_weights (link 2 of 2 in chain) stands after scale_by_learning_rate (link 1 of 2 in chain): ...",
        lambda: optlab.decay_cautiously(optlab.chain(RATE, DECAY), RATE),
    ),
    "optax in the cautious gate": Row(
        TypeError,
        "decay_cautiously: the link must be made of rules, as optlab's own links are, got <optax add_decayed_weights>",
        lambda: optlab.decay_cautiously(optax.add_decayed_weights(0.1)),
    ),
    "a tree-level transform in the cautious gate": Row(
        TypeError,
        "decay_cautiously: the other side must be made of rules, as optlab's own links are, got "
        "divide_and_decay_stably(...)",
        lambda: optlab.decay_cautiously(DECAY, STABLE),
    ),
    "call forgotten at a target": Row(
        TypeError,
        "decay_toward_init: the link is the function add_l2_to_grad, not a transform: call it, add_l2_to_grad(...)",
        lambda: optlab.decay_toward_init(optlab.add_l2_to_grad),
    ),
    "optax at a target": Row(
        TypeError,
        "decay_toward_init: the link must be made of rules, as optlab's own links are, got <optax add_decayed_weights>",
        lambda: optlab.decay_toward_init(optax.add_decayed_weights(0.1)),
    ),
    "sign trap at a target": Row(
        ValueError,
        "add_decayed_weights (link 2 of 2 in chain) stands after scale_by_learning_rate (link 1 of 2 in chain): ...",
        lambda: optlab.chain(RATE, optlab.decay_toward_init(DECAY)),
    ),
    "shrinking the moved weight before the rate": Row(
        ValueError,
        "shrink_after_step (link 1 of 2 in chain) stands before scale_by_learning_rate (link 2 of 2 in chain): the "
        "sign flips after it, ...",
        lambda: optlab.chain(optlab.shrink_after_step(0.1), RATE),
    ),
    "a proximal step before the rate": Row(
        ValueError,
        "shrink_proximally (link 1 of 2 in chain) stands before scale_by_learning_rate (link 2 of 2 in chain): ...",
        lambda: optlab.chain(optlab.decay_toward_init(optlab.shrink_proximally(0.1)), RATE),
    ),
    "drawing a function": Row(
        TypeError,
        "draw: the argument is the function adam, not a transform: call it, adam(...)",
        lambda: optlab.draw(optlab.adam),
    ),
    "an atom without a rule": Row(
        TypeError, "no_rule: an atom must return an optlab.Rule, got NoneType", lambda: no_rule()
    ),
    "an atom of many": Row(
        TypeError,
        "many: the hyperparameter sizes must be an argument that a keyword can name",
        lambda: optlab.atom(many),
    ),
    "a rule that returns updates alone": Row(
        ValueError,
        "alone: at the root: the rule must return (updates, dict of slots), got ...",
        lambda: alone().update(jnp.ones(2), alone().init(jnp.ones(2))),
    ),
    "sign trap with optax's decay": Row(
        ValueError,
        "add_decayed_weights (link 3 of 3 in chain) stands after scale_by_learning_rate (link 2 of 3 in chain)...",
        lambda: optlab.chain(optlab.adam(1e-3), optax.add_decayed_weights(0.1)),
    ),
    "a forgotten call in a combinator": Row(
        TypeError,
        "divide_and_decay_stably: the numerator is the function identity, not a transform: call it, identity(...)",
        lambda: optlab.divide_and_decay_stably(optlab.identity, optlab.square(), DECAY, 1e-8),
    ),
    "sign trap": Row(
        ValueError,
        "add_decayed_weights (link 3 of 3 in chain) stands after scale_by_learning_rate (link 2 of 3 in chain): "
        "updates are negative there, so adding weights makes them grow. Put it before the learning rate, or use "
        "shrink_weights, which subtracts",
        lambda: optlab.chain(optlab.sign(), RATE, DECAY),
    ),
    "sign trap behind an optimizer": Row(
        ValueError,
        "add_l2_to_grad (link 3 of 3 in chain) stands after scale_by_learning_rate (link 2 of 3 in chain): ...",
        lambda: optlab.chain(optlab.adam(1e-3), optlab.add_l2_to_grad(0.1)),
    ),
    "sign trap behind optax": Row(
        ValueError,
        "add_decayed_weights (link 3 of 3 in chain) stands after scale_by_learning_rate (link 1 of 3 in chain): ...",
        lambda: optlab.chain(RATE, optax.clip(1.0), DECAY),
    ),
    "sign trap inside a fork": Row(
        ValueError,
        "add_decayed_weights (link 2 of 2 in chain) stands after scale_by_learning_rate (link 1 of 2 in chain): ...",
        lambda: optlab.chain(RATE, optlab.divide(DECAY, optlab.absolute(1.0))),
    ),
    "two learning rates": Row(
        ValueError,
        "scale_by_learning_rate (link 3 of 3 in chain) stands after scale_by_learning_rate (link 2 of 3 in chain): "
        "two minus signs climb",
        lambda: optlab.chain(optlab.adam(1e-3), RATE),
    ),
    "shrink before the rate": Row(
        ValueError,
        "shrink_weights (link 1 of 2 in chain) stands before scale_by_learning_rate (link 2 of 2 in chain): the sign "
        "flips after it, so weights grow. Put it after the learning rate, or use add_decayed_weights",
        lambda: optlab.chain(optlab.shrink_weights(0.1), RATE),
    ),
    "correction with another decay": Row(
        ValueError,
        "bias_correct (link 2 of 3 in chain) has decay 0.99, the scale_by_ema right before it 0.9: the correction "
        "must have the average's own decay",
        lambda: optlab.chain(optlab.scale_by_ema(0.9), optlab.bias_correct(0.99), RATE),
    ),
    "rate in the denominator": Row(
        ValueError,
        "divide: the denominator holds scale_by_learning_rate; put that after the quotient",
        lambda: optlab.divide(optlab.identity(), optlab.chain(optlab.square(), RATE)),
    ),
    "call forgotten": Row(
        TypeError,
        "chain: link 2 is the function adam, not a transform: call it, adam(...)",
        lambda: optlab.chain(optax.clip(1.0), optlab.adam),
    ),
    "call of optax forgotten": Row(
        TypeError,
        "chain: link 1 is the function clip, not a transform: call it, clip(...)",
        lambda: optlab.chain(optax.clip),
    ),
    "call forgotten in a fork": Row(
        TypeError,
        "divide: the numerator is the function identity, not a transform: call it, identity(...)",
        lambda: optlab.scale_by_rms(0.9, 1e-8, numerator=optlab.identity),
    ),
    "list of links": Row(
        TypeError,
        "chain: link 1 is a list of transforms: give them one by one, chain(*links)",
        lambda: optlab.chain([optlab.square(), RATE]),
    ),
    "number": Row(
        TypeError, "chain: link 2 is 0.001 (float), not a transform", lambda: optlab.chain(optlab.square(), 1e-3)
    ),
    "None": Row(
        TypeError, "divide: the denominator is None (NoneType), not a transform", lambda: optlab.divide(RATE, None)
    ),
}

NO_GATE = (
    "a gate compares the decay with what comes out of the core, of which it is a part here; behind it, at update, "
)

SPACE = {
    "a site of its own": Row(
        ValueError,
        "Decay: unknown site 'weights'; the sites are none, loss, gradient, first_moment, second_moment, direction, "
        "update, step, after, proximal",
        lambda: optlab.Decay("weights"),
    ),
    "a coupling of its own": Row(
        ValueError,
        "Decay: unknown coupling 'rate'; the couplings are lr, schedule, constant, corrected",
        lambda: optlab.Decay("update", "rate"),
    ),
    "a gate of its own": Row(
        ValueError,
        "Decay: unknown gate True; the gates are none, cautious, stable",
        lambda: optlab.Decay("update", gate=True),
    ),
    "a target of its own": Row(
        ValueError,
        "Decay: unknown target 'start'; the targets are zero, init",
        lambda: optlab.Decay("update", target="start"),
    ),
    "a coupling before the moments": Row(
        ValueError,
        "Decay: no coupling 'constant' at the site 'gradient': the learning rate multiplies all that comes out of the "
        "core, the decay with it; behind it, at update, step, after, proximal, it can be coupled otherwise. Here, give "
        "weight_decay a schedule",
        lambda: optlab.Decay("gradient", "constant"),
    ),
    "a gate inside of the quotient": Row(
        ValueError,
        "Decay: no gate 'cautious' at the site 'direction': " + NO_GATE + "step, after, proximal, it can be gated",
        lambda: optlab.Decay("direction", gate="cautious"),
    ),
    "a gate in the loss": Row(
        ValueError,
        "Decay: no gate 'stable' at the site 'loss': ...",
        lambda: optlab.Decay("loss", gate="stable"),
    ),
    "no decay toward the initial weights": Row(
        ValueError,
        "Decay: the site 'none' has no decay for a coupling, a gate or a target to act on",
        lambda: optlab.Decay("none", target="init"),
    ),
    "a site inside of a core without a quotient": Row(
        ValueError,
        "Decay.apply_to: the site 'direction' needs a core with one quotient, divide(...), alone or as a link of a "
        "chain, got scale_by_ema(0.9)",
        lambda: optlab.Decay("direction").apply_to(optlab.scale_by_ema(0.9), 0.1, 0.1),
    ),
    "a site inside of a core of optax": Row(
        ValueError,
        "Decay.apply_to: the site 'first_moment' needs a core with one quotient, ..., got <optax scale_by_adam>",
        lambda: optlab.Decay("first_moment").apply_to(optax.scale_by_adam(), 0.1, 0.1),
    ),
    "a site inside of one of two quotients": Row(
        ValueError,
        "Decay.apply_to: the site 'second_moment' needs a core with one quotient, ..., got chain(...",
        lambda: optlab.Decay("second_moment").apply_to(
            optlab.chain(optlab.scale_by_rms(0.9, 1e-8), optlab.scale_by_rms(0.9, 1e-8)), 0.1, 0.1
        ),
    ),
    "the stable gate of a core without a second moment": Row(
        ValueError,
        "Decay.apply_to: the gate 'stable' needs a core with one quotient, ..., got identity()",
        lambda: optlab.Decay("update", gate="stable").apply_to(optlab.identity(), 0.1, 0.1),
    ),
    "the stable gate of a maximum": Row(
        ValueError,
        "Decay.apply_to: the gate 'stable' needs a second moment, a denominator that ends in root(eps), got "
        "chain(absolute(eps=1e-08), decayed_max(0.999))",
        lambda: optlab.Decay("update", gate="stable").apply_to(optlab.adamax(0.1).parts[0], 0.1, 0.1),
    ),
    "a core that has a learning rate": Row(
        ValueError,
        "scale_by_learning_rate (link 4 of 4 in chain) stands after scale_by_learning_rate (link 2 of 4 in chain): ...",
        lambda: optlab.Decay("none").apply_to(optlab.chain(optlab.adam(0.1), optlab.identity()), 0.1, 0.1),
    ),
    "a schedule without its base": Row(
        ValueError,
        "Decay.apply_to: the coupling 'corrected' needs the shape of the rate apart from its base: give learning_rate "
        "as a number, and schedule=",
        lambda: optlab.Decay("update", "corrected").apply_to(optlab.identity(), optax.linear_schedule(1, 0, 9), 0.1),
    ),
    "a schedule of a schedule": Row(
        ValueError,
        "Decay.apply_to: learning_rate must be a number beside schedule=, which gives it its shape",
        lambda: optlab.Decay("update").apply_to(optlab.identity(), cases.cosine, 0.1, schedule=cases.cosine),
    ),
    "a number for a schedule": Row(
        TypeError,
        "Decay.apply_to: schedule must be a function of the number of steps taken, from 0, or None, got 0.5 (float)",
        lambda: optlab.Decay("update").apply_to(optlab.identity(), 0.1, 0.1, schedule=0.5),
    ),
    "a schedule of words": Row(
        ValueError,
        "product: its schedule must give one real number at each step, got 'high'",
        lambda: update(optlab.Decay("after").apply_to(optlab.identity(), 0.1, 0.1, schedule=lambda count: "high")),
    ),
    "a negative decay": Row(
        ValueError,
        "Decay.apply_to: weight_decay must be finite and >= 0, or a schedule, got -0.1",
        lambda: optlab.Decay("none").apply_to(optlab.identity(), 0.1, -0.1),
    ),
    "a rate of words": Row(
        TypeError,
        "Decay.apply_to: learning_rate must be finite and >= 0, or a schedule, got 'high' (str)",
        lambda: optlab.Decay("update").apply_to(optlab.identity(), "high", 0.1),
    ),
    "the factor of a product": Row(
        TypeError,
        "product: factor must be finite and >= 0, or a schedule, got 'high' (str)",
        lambda: optlab.product(0.1, "high"),
    ),
    "params missing for a target": Row(
        ValueError,
        "add_decayed_weights (in decay_toward_init) needs params: call update(updates, state, params)",
        lambda: update(optlab.decay_toward_init(DECAY), params=None),
    ),
    "complex weights on real updates": Row(
        ValueError,
        "chain: at ['dense']['bias']: shrink_after_step would add complex weights to real updates",
        lambda: update(
            optlab.chain(optlab.absolute(), optlab.shrink_after_step(0.1)), params=dense(jnp.ones(3, jnp.complex64))
        ),
    ),
    "a schedule in the loss": Row(
        TypeError,
        "Decay.penalize: weight_decay must be a number, because a loss does not know the step; the site 'gradient' is "
        "the same and takes schedules",
        lambda: optlab.Decay("loss").penalize(jnp.sum, cases.cosine),
    ),
    "a negative decay in the loss": Row(
        ValueError,
        "Decay.penalize: weight_decay must be finite and >= 0, or a schedule, got -1.0",
        lambda: optlab.Decay("loss").penalize(jnp.sum, -1),
    ),
    "a target in the loss, not given": Row(
        ValueError,
        "Decay.penalize: the target 'init' needs the initial weights: give init_params=",
        lambda: optlab.Decay("loss", target="init").penalize(jnp.sum, 0.1),
    ),
    "a loss with auxiliary outputs": Row(
        TypeError,
        "Decay.penalize: the loss must be one number, got 2 results; add optlab.l2_penalty to it",
        lambda: optlab.Decay("loss").penalize(lambda w: (jnp.sum(w), {}), 0.1)(jnp.ones(2)),
    ),
    "a loss for every sample": Row(
        TypeError,
        "Decay.penalize: the loss must be one number, got shape (2,); add optlab.l2_penalty to it",
        lambda: optlab.Decay("loss").penalize(jnp.sin, 0.1)(jnp.ones(2)),
    ),
    "a schedule in the penalty": Row(
        TypeError,
        "l2_penalty: weight_decay must be a number, because a loss does not know the step; ...",
        lambda: optlab.l2_penalty({"w": jnp.ones(2)}, cases.cosine),
    ),
    "a penalty around other weights": Row(
        ValueError,
        "l2_penalty: origin must be a tree of arrays shaped like params, got {'w': ()} for {'w': (2,)}",
        lambda: optlab.l2_penalty({"w": jnp.ones(2)}, 0.1, origin={"w": 0.0}),
    ),
    "a penalty with another tree's mask": Row(
        ValueError,
        "l2_penalty: the mask and the params differ first at ['w']: nothing against float32[2]; optlab.masks makes "
        "masks for any params",
        lambda: optlab.l2_penalty({"w": jnp.ones(2)}, 0.1, {"b": True}),
    ),
    "a penalty of integers": Row(
        ValueError,
        "l2_penalty: params at ['w']: dtype int32 is neither floating-point nor complex; ...",
        lambda: optlab.l2_penalty({"w": jnp.arange(2)}, 0.1),
    ),
}

PARAMETERS = {
    "integer params": Row(
        ValueError,
        "chain: params at ['dense']['bias']: dtype int32 is neither floating-point nor complex; leave it out with "
        "optax.masked, optax.partition or your framework's filter",
        lambda: ADAMW.init(dense(bias=jnp.arange(3))),
    ),
    "bool params": Row(
        ValueError,
        "scale_by_learning_rate: params at ['dense']['kernel']: dtype bool is neither floating-point nor complex; ...",
        lambda: optlab.sgd(0.1).init(dense(kernel=jnp.ones((2, 3), bool))),
    ),
    "abstract integer params": Row(
        ValueError,
        "chain: params at ['dense']['bias']: dtype int8 is neither floating-point nor complex; ...",
        lambda: ADAMW.init(dense(bias=jax.ShapeDtypeStruct((3,), jnp.int8))),
    ),
    "a string among the params": Row(
        ValueError,
        "chain: params at ['dense']['bias']: expected an array, got str",
        lambda: ADAMW.init(dense(bias="relu")),
    ),
    "a Python integer for params": Row(
        ValueError,
        "scale_by_learning_rate: params at the root: dtype int32 is neither floating-point nor complex; ...",
        lambda: optlab.sgd(0.1).init(3),
    ),
    "random keys among the params": Row(
        ValueError,
        "chain: params at ['dense']['bias']: dtype key<fry> is neither floating-point nor complex; ...",
        lambda: ADAMW.init(dense(bias=jax.random.key(0))),
    ),
}

UPDATES = {
    "params missing": Row(
        ValueError,
        "add_decayed_weights (link 2 of 3 in chain) needs params: call update(updates, state, params)",
        lambda: update(ADAMW, params=None),
    ),
    "params missing for one link": Row(
        ValueError, "shrink_weights needs params: call ...", lambda: update(optlab.shrink_weights(0.1), params=None)
    ),
    "params missing in a fork": Row(
        ValueError,
        "add_decayed_weights (link 1 of 2 in divide) needs params: call ...",
        lambda: update(optlab.divide(DECAY, optlab.absolute()), params=None),
    ),
    "params missing among optax": Row(
        ValueError,
        "add_decayed_weights (link 2 of 3 in chain) needs params: call ...",
        lambda: update(optlab.chain(optax.clip(1.0), DECAY, RATE), params=None),
    ),
    "params missing for stable decay": Row(
        ValueError,
        "add_decayed_weights (link 3 of 3 in divide_and_decay_stably) needs params: call ...",
        lambda: update(optlab.adams(1e-3, weight_decay=0.1), params=None),
    ),
    "params of another tree": Row(
        ValueError,
        "chain: updates and params differ first at ['dense']['kernel']: float32[2, 3] against nothing",
        lambda: update(ADAMW, params={"dense": {"bias": jnp.ones(3), "weight": jnp.ones((2, 3))}}),
    ),
    "params with more leaves": Row(
        ValueError,
        "chain: updates and params differ first at ['scale']: nothing against float32[]",
        lambda: update(ADAMW, params=PARAMS | {"scale": jnp.float32(1)}),
    ),
    "params with a tree for a leaf": Row(
        ValueError,
        "chain: updates and params differ first at ['dense']['kernel']: float32[2, 3] against nothing",
        lambda: update(ADAMW, params=dense(kernel={"inner": jnp.ones((2, 3))})),
    ),
    "params with None for a leaf": Row(
        ValueError,
        "chain: updates and params differ first at ['dense']['bias']: float32[3] against nothing",
        lambda: update(ADAMW, params={"dense": {"bias": None, "kernel": jnp.ones((2, 3))}}),
    ),
    "params in another container": Row(
        ValueError,
        "chain: updates and params differ in their containers: PyTreeDef([*]) against PyTreeDef((*,))",
        lambda: update(ADAMW, [jnp.ones(3)], (jnp.ones(3),), of=[jnp.ones(3)]),
    ),
    "state of other params": Row(
        ValueError,
        "chain: updates and the state differ first at ['dense']['bias']: float32[3] against nothing",
        lambda: update(ADAMW, of={"dense": {"kernel": jnp.ones((2, 3))}}),
    ),
    "state of deeper params": Row(
        ValueError,
        "chain: updates and the state differ first at ['dense']['bias']: float32[3] against nothing",
        lambda: update(ADAMW, of=dense(bias=[jnp.ones(3)])),
    ),
    "state of other shapes": Row(
        ValueError,
        "chain: at ['dense']['bias']: slot ['denominator']['ema'] is float32[1, 3] where these weights need "
        "float32[3]; is the state of other parameters? call init(params) anew",
        lambda: update(ADAMW, of=dense(bias=jnp.ones((1, 3)))),
    ),
    "state of another optimizer": Row(
        ValueError,
        "chain: the state is another transform's: its slots are ..., expected ... with a tree like the parameters at "
        "every *",
        lambda: update(ADAMW, state=optlab.lion(1e-3, weight_decay=0.1).init(PARAMS)),
    ),
    "state of an optimizer with more slots": Row(
        ValueError,
        "scale_by_learning_rate: the state is another transform's: its slots are ...'ema'..., expected ...({}) ...",
        lambda: update(optlab.sgd(0.1), state=ADAMW.init(PARAMS)),
    ),
    "states of a chain in another order": Row(
        ValueError,
        "scale_by_ema: the state is another transform's: its slots are ...({}), expected ...({'ema': *}) ...",
        lambda: restored_stages(lambda state: state[::-1]),
    ),
    "state forgotten": Row(
        ValueError,
        "chain: state must be what its init returned, got NoneType",
        lambda: Update(ADAMW, PARAMS, None, PARAMS),
    ),
    "params in the place of the state": Row(
        ValueError,
        "chain: state must be what its init returned, got dict",
        lambda: update(optlab.adam(1e-3), state=PARAMS),
    ),
    "saved state without a slot": Row(
        ValueError,
        "chain: the state is another transform's: its slots are PyTreeDef({'numerator': ...}), expected "
        "PyTreeDef({'denominator': {'ema': *}, 'numerator': {'ema': *}}) with a tree like the parameters at every *",
        lambda: restored(slots={"numerator": EMA}),
    ),
    "saved state with a slot of another name": Row(
        ValueError,
        "chain: the state is another transform's: its slots are ...'mu'..., expected ...",
        lambda: restored(slots={"numerator": {"mu": PARAMS}, "denominator": EMA}),
    ),
    "saved state with a slot too many": Row(
        ValueError,
        "chain: the state is another transform's: its slots are ...'third'..., expected ...",
        lambda: restored(slots={"numerator": EMA, "denominator": EMA, "third": EMA}),
    ),
    "saved state in another dtype": Row(
        ValueError,
        "chain: at ['dense']['bias']: slot ['numerator']['ema'] is bfloat16[3] where these weights need float32...",
        lambda: restored(slots={"numerator": {"ema": dense(bias=jnp.ones(3, jnp.bfloat16))}, "denominator": EMA}),
    ),
    "saved state with a count in float32": Row(
        ValueError,
        "chain: the state's count must be an array int32[], got float32[]; restore it as it was saved",
        lambda: restored(count=jnp.float32(3)),
    ),
    "saved state with a count for every device": Row(
        ValueError,
        "chain: the state's count must be an array int32[], got int32[8]; ...",
        lambda: restored(count=jnp.zeros(8, jnp.int32)),
    ),
    "saved state without a count": Row(
        ValueError,
        "chain: the state's count must be an array int32[], got None; ...",
        lambda: restored(count=None),
    ),
    "saved state of stable decay with a count in float32": Row(
        ValueError,
        "add_decayed_weights: the state's count must be an array int32[], got float32[]; ...",
        lambda: restored(STABLE, following=STABLE.init(PARAMS).following._replace(count=jnp.float32(3))),
    ),
    "saved state as a plain tuple": Row(
        ValueError,
        "chain: state must be what its init returned, got tuple",
        lambda: update(ADAMW, state=tuple(ADAMW.init(PARAMS))),
    ),
    "saved state as a dict": Row(
        ValueError,
        "chain: state must be what its init returned, got dict",
        lambda: update(ADAMW, state=ADAMW.init(PARAMS)._asdict()),
    ),
    "saved state with a stage missing": Row(
        ValueError,
        "chain: state must be what its init returned, a tuple of 3, got 2",
        lambda: restored_stages(lambda state: state[:2]),
    ),
    "saved state with stages in a list": Row(
        ValueError,
        "chain: state must be what its init returned, a tuple of 3, got a list",
        lambda: restored_stages(list),
    ),
    "saved state of half a fork": Row(
        ValueError,
        "divide: state must be what its init returned, a dict of numerator and denominator, got ['numerator']",
        lambda: update(optlab.divide(optax.clip(1.0), optlab.absolute()), state={"numerator": optax.EmptyState()}),
    ),
    "state of optax": Row(
        ValueError,
        "chain: state must be what its init returned, got tuple",
        lambda: update(ADAMW, state=optax.adamw(1e-3).init(PARAMS)),
    ),
    "state of a rule for a chain of stages": Row(
        ValueError,
        "chain: state must be what its init returned, a tuple of 2, got a State",
        lambda: update(optlab.adams(1e-3, weight_decay=0.1), state=ADAMW.init(PARAMS)),
    ),
    "state of a rule for stable decay": Row(
        ValueError,
        "divide_and_decay_stably: state must be what its init returned, got State",
        lambda: update(STABLE, state=ADAMW.init(PARAMS)),
    ),
    "state of a rule for a fork of trees": Row(
        ValueError,
        "divide: state must be what its init returned, a dict of numerator and denominator, got a State",
        lambda: update(optlab.divide(optax.clip(1.0), optlab.absolute()), state=ADAMW.init(PARAMS)),
    ),
    "atom that loses its slot": Row(
        ValueError,
        "forgetful: at ['dense']['bias']: the rule returned slots [] where it had ['average']",
        lambda: update(forgetful()),
    ),
    "atom that reduces its updates": Row(
        ValueError,
        "shapeless: at ['dense']['bias']: the rule returned updates of shape () for weights of shape (3,)",
        lambda: update(shapeless("updates")),
    ),
    "atom that reduces its slot": Row(
        ValueError,
        "shapeless: at ['dense']['bias']: the rule returned a slot of shape () where it had one of shape (3,)",
        lambda: update(shapeless("slot")),
    ),
    "updates that would broadcast": Row(
        ValueError,
        "chain: at ['dense']['bias']: updates have shape (), params (3,)",
        lambda: update(ADAMW, grads=dense(bias=jnp.float32(1))),
    ),
    "params that would broadcast": Row(
        ValueError,
        "add_decayed_weights: at ['dense']['kernel']: updates have shape (2, 3), params (1, 3)",
        lambda: update(DECAY, params=dense(kernel=jnp.ones((1, 3)))),
    ),
    "updates that would broadcast, no params": Row(
        ValueError,
        "chain: at ['dense']['bias']: slot ['denominator']['ema'] is float32[3] where these weights need "
        "float32[]; ...",
        lambda: update(optlab.adam(1e-3), grads=dense(bias=jnp.float32(1)), params=None),
    ),
    "gradients forgotten": Row(
        ValueError,
        "chain: updates and params differ first at ['dense']['bias']: nothing against float32[3]",
        lambda: update(ADAMW, grads=None),
    ),
    "no gradient for one leaf": Row(
        ValueError,
        "chain: updates and params differ first at ['dense']['kernel']: nothing against float32[2, 3]",
        lambda: update(ADAMW, grads={"dense": {"bias": jnp.ones(3), "kernel": None}}),
    ),
    "bool gradients": Row(
        ValueError,
        "chain: at ['dense']['bias']: dtype bool is neither floating-point nor complex; ...",
        lambda: update(ADAMW, grads=dense(bias=jnp.ones(3, bool))),
    ),
    "integer gradients": Row(
        ValueError,
        "chain: at ['dense']['bias']: dtype int32 is neither floating-point nor complex; ...",
        lambda: update(ADAMW, grads=dense(bias=jnp.arange(3))),
    ),
    "float0 gradients of integers": Row(
        ValueError,
        "chain: at ['dense']['bias']: dtype ... is neither floating-point nor complex; ...",
        lambda: update(ADAMW, grads=dense(bias=np.zeros(3, jax.dtypes.float0))),
    ),
    "a string among the params of an update": Row(
        ValueError,
        "chain: at ['dense']['bias']: expected an array, got str",
        lambda: update(ADAMW, params=dense(bias="relu")),
    ),
    "complex gradients of real weights": Row(
        ValueError,
        "chain: at ['dense']['bias']: updates are complex (complex64), params are real (float32)",
        lambda: update(ADAMW, grads=dense(bias=jnp.ones(3, jnp.complex64))),
    ),
    "schedule of a vector": Row(
        ValueError,
        "scale_by_learning_rate: its schedule must give one real number at each step, got int32[2]",
        lambda: update(optlab.adam(lambda count: jnp.stack([count, count]))),
    ),
    "schedule of nothing": Row(
        ValueError,
        "scale_by_learning_rate: its schedule must give one real number at each step, got None",
        lambda: update(optlab.sgd(lambda count: None)),
    ),
    "schedule of a complex number": Row(
        ValueError,
        "scale_by_learning_rate: its schedule must give one real number at each step, got complex64[]",
        lambda: update(optlab.sgd(lambda count: jnp.exp(1j * count.astype(jnp.complex64)))),
    ),
    "schedule of a truth": Row(
        ValueError,
        "add_decayed_weights: its schedule must give one real number at each step, got bool[]",
        lambda: update(optlab.add_decayed_weights(lambda count: count > 3)),
    ),
    "schedule of words": Row(
        ValueError,
        "scale_by_learning_rate: its schedule must give one real number at each step, got '1e-3'",
        lambda: update(optlab.sgd(lambda count: "1e-3")),
    ),
    "decay schedule of a vector": Row(
        ValueError,
        "shrink_weights: its schedule must give one real number at each step, got float32[1]",
        lambda: update(optlab.shrink_weights(lambda count: jnp.ones(1))),
    ),
    "stable decay schedule of a vector": Row(
        ValueError,
        "product: its schedule must give one real number at each step, got float32[1]",
        lambda: update(optlab.adams(1e-3, weight_decay=lambda count: jnp.ones(1))),
    ),
}

MASKS = {
    "mask of another tree": Row(
        ValueError,
        "add_decayed_weights: the mask and the params differ first at ['dense']['kernel']: nothing "
        "against float32[2, 3]; optlab.masks makes masks for any params",
        lambda: masked({"dense": {"bias": True, "weight": True}}).init(PARAMS),
    ),
    "mask deeper than the params": Row(
        ValueError,
        "chain: the mask and the params differ first at ['dense']['bias']: a list against float32[3]; "
        "optlab.masks makes masks for any params",
        lambda: optlab.adamw(1e-3, weight_decay=0.1, mask={"dense": {"bias": [True], "kernel": True}}).init(PARAMS),
    ),
    "mask that lacks a leaf": Row(
        ValueError,
        "add_decayed_weights: the mask and the params differ first at ['dense']['kernel']: nothing "
        "against float32[2, 3]; optlab.masks makes masks for any params",
        lambda: masked({"dense": {"bias": True}}).init(PARAMS),
    ),
    "mask of other params at an update": Row(
        ValueError,
        "add_decayed_weights: the mask and the params differ first at ['dense']: nothing against a "
        "dict; optlab.masks makes masks for any params",
        lambda: Update(masked({"scale": True}), PARAMS, DECAY.init(PARAMS), PARAMS),
    ),
    "mask of stable decay of another tree": Row(
        ValueError,
        "add_decayed_weights: the mask and the params differ first at ['dense']: nothing against a "
        "dict; optlab.masks makes masks for any params",
        lambda: update(optlab.adams(1e-3, weight_decay=0.1, mask={"scale": True})),
    ),
    "mask function that gives nothing": Row(
        ValueError,
        "add_decayed_weights: the mask and the params differ first at the root: None against a dict; "
        "optlab.masks makes masks for any params",
        lambda: masked(lambda params: None).init(PARAMS),
    ),
    "mask that is a name": Row(
        TypeError,
        "add_decayed_weights: mask must be a tree of booleans, or a function of the parameters that gives one, got "
        "'kernel'; leaves are named by optlab.masks.path('kernel')",
        lambda: masked("kernel"),
    ),
    "mask of numbers": Row(
        TypeError,
        "add_decayed_weights: the mask at ['dense']['bias'] must be True or False, got 1",
        lambda: masked({"dense": 1}).init(PARAMS),
    ),
    "mask of arrays": Row(
        TypeError,
        "add_decayed_weights: the mask at ['dense']['bias'] must be True or False, got float32[3]",
        lambda: masked(PARAMS).init(PARAMS),
    ),
    "mask that is one array": Row(
        TypeError,
        "add_decayed_weights: the mask at ['dense']['bias'] must be True or False, got bool[]",
        lambda: masked(jnp.asarray(False)).init(PARAMS),
    ),
    "mask function that gives numbers": Row(
        TypeError,
        "add_decayed_weights: the mask at ['dense']['kernel'] must be True or False, got 2",
        lambda: masked(lambda params: jax.tree.map(lambda w: w.ndim > 1 and w.ndim, params)).init(PARAMS),
    ),
}

TABLE = {
    f"{group}: {name}": row
    for group, rows in {
        "hyperparameters": HYPERPARAMETERS,
        "chain": CHAINS,
        "space": SPACE,
        "parameters": PARAMETERS,
        "update": UPDATES,
        "mask": MASKS,
    }.items()
    for name, row in rows.items()
}


def attempt(row):
    done = row.do()
    return done() if isinstance(done, Update) else done


def assert_says(error, message):
    assert re.fullmatch(".*".join(map(re.escape, message.split("..."))), str(error), re.DOTALL), str(error)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_refused_and_how(name):
    row = TABLE[name]
    with pytest.raises(row.error) as info:
        attempt(row)
    assert type(info.value) is row.error
    assert_says(info.value, row.message)


def kept(call):
    """The leaves that go into an update and what they hold, so that a later look shows any change."""
    leaves = jax.tree.leaves_with_path((call.grads, call.state, call.params))
    return [(jax.tree_util.keystr(path), id(leaf), np.asarray(leaf).tobytes()) for path, leaf in leaves]


@pytest.mark.parametrize("name", UPDATES)
def test_a_refused_update_changes_nothing(name):
    call = UPDATES[name].do()
    before = kept(call)
    with pytest.raises(UPDATES[name].error):
        call()
    assert kept(call) == before


def test_a_change_before_a_refusal_would_be_seen():
    def refuse(updates, state, params=None):
        state["count"] += 1
        raise ValueError("refused")

    for count in np.zeros(2), jnp.zeros(2):  # written into, and replaced
        call = Update(optax.GradientTransformation(optax.init_empty_state, refuse), PARAMS, {"count": count}, PARAMS)
        before = kept(call)
        with pytest.raises(ValueError, match="refused"):
            call()
        assert kept(call) != before


@pytest.mark.parametrize(
    "name",
    [
        "params missing",
        "params of another tree",
        "updates that would broadcast",
        "saved state in another dtype",
        "saved state with a count in float32",
        "schedule of a vector",
    ],
)
def test_inside_jit_the_words_are_the_same(name):
    row = UPDATES[name]
    with pytest.raises(row.error) as info:
        jax.jit(lambda: attempt(row))()
    assert_says(info.value, row.message)


CHECKED = [
    (name, argument)
    for name in public.TRANSFORMS
    for argument in public.parameters(name)
    if argument in hyperparameters.RANGES
]


@pytest.mark.parametrize(("name", "argument"), CHECKED, ids=[f"{name} {argument}" for name, argument in CHECKED])
def test_every_hyperparameter_is_checked_by_the_name_of_its_transform(name, argument):
    for value, shown in [(np.nan, "nan"), (jnp.float32(np.nan), "nan"), (np.inf, "inf"), (-1, "-1.0")]:
        with pytest.raises(ValueError, match=rf"^{name}: {argument} must be .*, got {shown}$"):
            public.build(name, **{argument: value})
    with pytest.raises(TypeError, match=rf"^{name}: {argument} must be .*, got '0.9' \(str\)$"):
        public.build(name, **{argument: "0.9"})


def test_what_is_next_to_the_refused_is_allowed():
    """The checks refuse no more than they say."""
    decay = jnp.float32(0.9)

    def only_of_numbers(count):
        return 0.1 if count < 3 else 0.2

    allowed = [
        optlab.sgd(float(TINY)),
        optlab.sgd(3e38),
        optlab.sgd(only_of_numbers),
        optlab.sgd(optax.linear_schedule(0.0, 0.1, 10)),
        optlab.scale_by_ema(float(np.nextafter(np.float32(1), np.float32(0)))),
        optlab.scale_by_ema(jnp.bfloat16(0.5)),
        optlab.root(jnp.float16(1e-3), np.float16(1e-3)),
        optlab.root(jnp.bfloat16(1e-8), np.asarray(1e-8, jnp.bfloat16)),
        optlab.root(0.0, np.float32(0)),
        optlab.sgdw(np.float16(0.1), weight_decay=jnp.float16(0)),
        optlab.scale_by_ema(0),
        optlab.root(0, 0),
        optlab.chain(optlab.scale_by_ema(0.9), optlab.sign(), optlab.bias_correct(0.99)),
        optlab.chain(optlab.scale_by_ema(decay), optlab.bias_correct(decay)),
        optlab.chain(RATE, optlab.shrink_weights(0.1)),
        optlab.chain(DECAY, RATE),
        optlab.chain(optlab.shrink_weights(0.1)),
        optlab.adamw_independent(1e-3, weight_decay=0.1),
    ]
    for tx in allowed:
        updates, _ = update(tx)()
        assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)

    def traced(decay, correction):
        return optlab.chain(optlab.scale_by_ema(decay), optlab.bias_correct(correction)).init(PARAMS)

    assert isinstance(jax.eval_shape(traced, 0.9, 0.8), optlab.State)


def test_in_double_precision_more_is_allowed(x64):
    for tx in optlab.sgd(1e-200), optlab.sgd(1e200), optlab.scale_by_ema(1 - 1e-12):
        assert tx.init(jnp.ones(2)).count == 0


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, jnp.float8_e4m3fn, np.float32, np.int32, jnp.int4])
def test_a_scalar_of_numpy_is_a_number_whatever_its_dtype(dtype):
    for value in np.array(2, dtype), np.array(2, dtype)[()]:
        assert optlab.sgd(value) == optlab.sgd(2.0)


def test_a_schedule_is_looked_at_once_and_leaves_nothing_in_the_program(monkeypatch):
    counts = []

    def schedule(count):
        counts.append(count)
        return 0.5 / (count + 1)

    tx = optlab.adamw(schedule, weight_decay=optlab.product(0.1, schedule))
    assert len(counts) == 1
    state = tx.init(PARAMS)
    assert len(counts) == 1

    def init(rate):
        return optlab.sgd(lambda count: rate * (count + 1)).init({})

    assert [e.primitive.name for e in jax.make_jaxpr(init)(0.1).eqns] == []
    assert len(jax.tree.leaves(state)) == 5


# Not refused --------------------------------------------------------------------------------------------------------

BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
STREAM = [public.random_tree({"bias": (3,), "kernel": (2, 3)}, seed) for seed in range(1, 6)]
WITH_PEER = [name for name, case in cases.OPTIMIZERS.items() if case.peer is not None]


def pair(name):
    """Ours and optax's, with the same hyperparameters."""
    _, _, peer = case = cases.OPTIMIZERS[name]
    point = {argument: public.ARGUMENTS[argument] for argument in inspect.signature(peer).parameters}
    return case.ours(**point), peer(**point)


def with_bad_steps(value, *steps):
    """The stream with `value` among the gradients of one leaf at some steps."""
    return [
        {**grads, "bias": grads["bias"].at[1].set(value)} if number in steps else grads
        for number, grads in enumerate(STREAM)
    ]


def updates_of(tx, stream):
    params, update = STREAM[0], jax.jit(tx.update)
    state, outs = tx.init(params), []
    for grads in stream:
        updates, state = update(grads, state, params)
        outs.append(updates)
    return outs, state


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)  # takes NaN and infinities for equal to themselves


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", WITH_PEER)
def test_what_is_not_finite_passes_through_as_in_optax(name, value, peer):
    """From the second step on one weight's gradient is bad once; all others go on as if nothing had happened."""
    ours, theirs = pair(name)
    stream = with_bad_steps(BAD[value], 1)
    updates, _ = updates_of(ours, stream)
    with peer():
        wanted, _ = updates_of(theirs, stream)
    assert_close(updates, wanted)
    good, _ = updates_of(ours, STREAM)
    for u, v in zip(updates, good, strict=True):
        np.testing.assert_array_equal(u["kernel"], v["kernel"])
        np.testing.assert_array_equal(u["bias"][::2], v["bias"][::2])


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["adamw", "lion", "adabelief"])
def test_apply_if_finite_holds_off_as_many_as_it_is_told(name, value, peer):
    """Two in a row are held off, the third is let through, as with optax's own optimizers."""
    ours, theirs = (optax.apply_if_finite(tx, max_consecutive_errors=2) for tx in pair(name))
    with peer():
        for steps in (1, 2), (1, 2, 3):
            stream = with_bad_steps(BAD[value], *steps)
            updates, state = updates_of(ours, stream)
            wanted, expected = updates_of(theirs, stream)
            assert_close(updates, wanted)
            assert state.total_notfinite == expected.total_notfinite == len(steps)
            let_through = any(not np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.inner_state))
            assert let_through == (len(steps) == 3)


def test_wrappers_with_a_branch_want_gradients_in_the_dtype_of_the_updates(peer):
    """In one branch of `apply_if_finite` updates come back as gradients, in the other as float32: cast before it."""
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = optax.apply_if_finite(ADAMW, max_consecutive_errors=1)
    with peer():
        state = tx.init(params)
        with pytest.raises(TypeError, match=r"has type float32\[3\] but .* has type bfloat16\[3\]"):
            tx.update(params, state, params)
        updates, _ = tx.update({"w": params["w"].astype(jnp.float32)}, state, params)
    assert updates["w"].dtype == jnp.float32


def test_injected_hyperparameters_are_rounded_to_the_weights_dtype_unless_told_otherwise():
    """optax's doing: in bfloat16 the usual `b2` is 1, and we say so where optax's optimizers divide by zero."""
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    rounded = optax.inject_hyperparams(optlab.adamw)(1e-3, weight_decay=0.1)
    for init in rounded.init, jax.jit(rounded.init):
        with pytest.raises(ValueError, match=r"^adamw: b. must be .* in bfloat16; .* hyperparam_dtype=jnp.float32"):
            init(params)
    told = optax.inject_hyperparams(optlab.adamw, hyperparam_dtype=jnp.float32)(1e-3, weight_decay=0.1)
    assert told.init(params).hyperparams["b2"].dtype == jnp.float32
