"""What is refused, and the words: who, what came, what to do. Each row is something that users do."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab

PARAMS = {"dense": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}}
ADAMW = optlab.adamw(1e-3, weight_decay=0.1)
RATE = optlab.scale_by_learning_rate(0.1)
DECAY = optlab.add_decayed_weights(0.1)


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


def update(tx, grads=PARAMS, params=PARAMS, of=PARAMS, state=None):
    """One update with the state of the parameters `of`."""
    return tx.update(grads, tx.init(of) if state is None else state, params)


def masked(mask):
    return optlab.add_decayed_weights(0.1, mask=mask)


@optlab.atom
def forgetful():
    """An atom of a user who forgot to return the slot."""
    return optlab.Rule(lambda u, slots, w, t: (u, {}), init=lambda w: {"average": jnp.zeros_like(w)})


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
    "another library's name": Row(
        TypeError, "adam: no argument 'wd'; it takes learning_rate, b1, b2, eps", lambda: optlab.adam(1e-3, wd=0.1)
    ),
}

CHAINS = {
    "sign trap with optax's decay": Row(
        ValueError,
        "add_decayed_weights (link 3 of 3 in chain) stands after scale_by_learning_rate (link 2 of 3 in chain)...",
        lambda: optlab.chain(optlab.adam(1e-3), optax.add_decayed_weights(0.1)),
    ),
    "a forgotten call in a combinator": Row(
        TypeError,
        "divide_and_decay_stably: the numerator is the function identity, not a transform: call it, identity(...)",
        lambda: optlab.divide_and_decay_stably(optlab.identity, optlab.square(), 1e-8, 0.1),
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
        "add_decayed_weights (in divide) needs params: call ...",
        lambda: update(optlab.divide(DECAY, optlab.absolute()), params=None),
    ),
    "params missing among optax": Row(
        ValueError,
        "add_decayed_weights (link 2 of 3 in chain) needs params: call ...",
        lambda: update(optlab.chain(optax.clip(1.0), DECAY, RATE), params=None),
    ),
    "params missing for stable decay": Row(
        ValueError,
        "divide_and_decay_stably needs params: call ...",
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
    "state of optax": Row(
        ValueError,
        "chain: state must be what its init returned, got tuple",
        lambda: update(ADAMW, state=optax.adamw(1e-3).init(PARAMS)),
    ),
    "state of a rule for a chain of stages": Row(
        ValueError,
        "chain: state must be what its init returned, got State",
        lambda: update(optlab.adams(1e-3, weight_decay=0.1), state=ADAMW.init(PARAMS)),
    ),
    "state of a rule for stable decay": Row(
        ValueError,
        "divide_and_decay_stably: state must be what its init returned, got State",
        lambda: update(optlab.adams(1e-3, weight_decay=0.1).parts[0], state=ADAMW.init(PARAMS)),
    ),
    "state of a rule for a fork of trees": Row(
        ValueError,
        "divide: state must be what its init returned, got State",
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
    "a string among the params": Row(
        ValueError,
        "chain: params at ['dense']['bias']: expected an array, got str",
        lambda: ADAMW.init(dense(bias="relu")),
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
        "scale_by_learning_rate: its schedule must give one number at each step, got shape (2,)",
        lambda: update(optlab.adam(lambda count: jnp.stack([count, count]))),
    ),
    "decay schedule of a vector": Row(
        ValueError,
        "shrink_weights: its schedule must give one number at each step, got shape (1,)",
        lambda: update(optlab.shrink_weights(lambda count: jnp.ones(1))),
    ),
    "stable decay schedule of a vector": Row(
        ValueError,
        "divide_and_decay_stably: its schedule must give one number at each step, got shape (1,)",
        lambda: update(optlab.adams(1e-3, weight_decay=lambda count: jnp.ones(1))),
    ),
}

MASKS = {
    "mask of another tree": Row(
        ValueError,
        "add_decayed_weights: the mask is no prefix of the parameters' tree: ...",
        lambda: masked({"dense": {"bias": True, "weight": True}}).init(PARAMS),
    ),
    "mask deeper than the params": Row(
        ValueError,
        "chain: the mask is no prefix of the parameters' tree: ...",
        lambda: optlab.adamw(1e-3, weight_decay=0.1, mask={"dense": {"bias": [True], "kernel": True}}).init(PARAMS),
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
        "update": UPDATES,
        "mask": MASKS,
    }.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_refused_and_how(name):
    error, message, do = TABLE[name]
    pattern = ".*".join(map(re.escape, message.split("...")))
    with pytest.raises(error) as info:
        do()
    assert type(info.value) is error
    assert re.fullmatch(pattern, str(info.value), re.DOTALL), str(info.value)


@pytest.mark.parametrize("name", ["params missing", "params of another tree", "updates that would broadcast"])
def test_inside_jit_the_words_are_the_same(name):
    _, message, do = UPDATES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.jit(do)()


def test_what_is_next_to_the_refused_is_allowed():
    """The checks refuse no more than they say."""
    decay = jnp.float32(0.9)
    allowed = [
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
        updates, _ = update(tx)
        assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)

    def traced(decay, correction):
        return optlab.chain(optlab.scale_by_ema(decay), optlab.bias_correct(correction)).init(PARAMS)

    assert isinstance(jax.eval_shape(traced, 0.9, 0.8), optlab.State)
