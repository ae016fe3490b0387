"""A link is what its rule says it is, whatever its name; and a rule that was written otherwise hears what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.algebra.combinators import descends

PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}
RATE = optlab.scale_by_learning_rate(0.1)


def step(tx, grads=PARAMS, params=PARAMS):
    return tx.update(grads, tx.init(PARAMS), params)


# Names say nothing ----------------------------------------------------------------------------------------------------

NAMES = ("chain", "divide", "add_decayed_weights", "scale_by_learning_rate", "shrink_weights", "decay_cautiously")


def halving(name):
    def make(by):
        return optlab.Rule(lambda u, slots, w, t: (u / by, slots))

    make.__name__ = name
    return optlab.atom(make)(2.0)


@pytest.mark.parametrize("name", [*NAMES, "scale_by_ema", "bias_correct", "root", "identity", "store"])
def test_an_atom_may_have_the_name_of_another_link(name):
    for tx in optlab.chain(halving(name), RATE), optlab.chain(RATE, halving(name)):
        updates, _ = step(tx)
        np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)
        assert not descends(halving(name))
        assert name in repr(tx)
    assert optlab.chain(optlab.scale_by_ema(0.5), halving("bias_correct"))


@optlab.atom
def downhill(rate):
    return optlab.Rule(lambda u, slots, w, t: (-rate * u, slots), descends=True)


@optlab.atom
def drift(strength):
    return optlab.Rule(lambda u, slots, w, t: (u + strength * w, slots), needs_params=True, pulls="up")


@optlab.atom
def drag(strength):
    return optlab.Rule(lambda u, slots, w, t: (u - strength * w, slots), needs_params=True, pulls="down")


@optlab.atom
def mean(decay):
    def update(u, slots, w, t):
        m = decay * slots["mean"] + (1 - decay) * u
        return m, {"mean": m}

    return optlab.Rule(update, lambda w: {"mean": jnp.zeros_like(w)}, averages=decay)


RATES = {
    "downhill": downhill(0.1),
    "optax's scale_by_learning_rate": optax.scale_by_learning_rate(lambda count: 0.1),
    "optax's scale": optax.scale(-0.1),
    "optax's scale in optax.adam": optax.adam(1e-3),
}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize("adder", [drift(0.1), optlab.add_decayed_weights(0.1), optax.add_decayed_weights(0.1)])
def test_weights_added_behind_any_rate_grow(rate, adder):
    with pytest.raises(ValueError, match=r"\(link 2 of 2 in chain\) stands after .* \(link 1 of 2 in chain\): .* grow"):
        optlab.chain(rate, adder)
    optlab.chain(adder, rate)


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_weights_taken_away_before_any_rate_grow(rate):
    with pytest.raises(ValueError, match=r"drag \(link 1 of 2 in chain\) stands before .* the sign flips after it"):
        optlab.chain(drag(0.1), rate)
    optlab.chain(rate, drag(0.1))


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_two_rates_climb_whoever_they_are(rate):
    with pytest.raises(ValueError, match="two minus signs climb"):
        optlab.chain(rate, optlab.sgd(0.1))


def test_what_does_not_turn_the_sign_is_no_rate():
    for scale in (
        optax.scale(0.1),
        optax.scale_by_schedule(lambda count: 0.1),
        optax.scale_by_learning_rate(0.1, flip_sign=False),
    ):
        optlab.chain(scale, optlab.add_decayed_weights(0.1), RATE)


def test_an_average_says_its_own_decay():
    with pytest.raises(ValueError, match=r"bias_correct \(link 2 of 2 in chain\) has decay 0.5, the mean right before"):
        optlab.chain(mean(0.9), optlab.bias_correct(0.5))
    optlab.chain(mean(0.9), optlab.bias_correct(0.9))


# Rules that were written otherwise ------------------------------------------------------------------------------------


def of(update, init=lambda w: {}, **fields):
    @optlab.atom
    def mine():
        return optlab.Rule(update, init, **fields)

    return mine()


def test_an_update_of_three_arguments_is_refused_where_the_atom_is_built():
    with pytest.raises(
        TypeError, match=r"^mine: update must be called as update\(u, slots, w, t\), got update\(u, slots, w\)$"
    ):
        of(lambda u, slots, w: (u, slots))
    with pytest.raises(TypeError, match=r"^mine: init must be called as init\(w\), got init\(\)$"):
        of(lambda u, slots, w, t: (u, slots), lambda: {"m": 0})


WRITTEN_OTHERWISE = {
    "a Python if": (
        of(lambda u, slots, w, t: (u if t > 3 else -u, slots)),
        r"mine: its update asks for the value of a traced array, as a Python `if` does; write jnp.where",
    ),
    "slots that are a list": (
        of(lambda u, slots, w, t: (u, slots), lambda w: [jnp.zeros_like(w)]),
        r"mine: init must return a dict of slots, got list",
    ),
    "updates alone": (of(lambda u, slots, w, t: u), r"mine: the rule must return \(updates, dict of slots\)"),
    "another slot": (
        of(lambda u, slots, w, t: (u, {"other": u}), lambda w: {"one": w * 0}),
        r"mine: the rule returned slots \['other'\] where it had \['one'\]",
    ),
    "a fraction for a whole number": (
        of(lambda u, slots, w, t: (u, {"n": slots["n"] / jnp.int32(2)}), lambda w: {"n": jnp.zeros(w.shape, int)}),
        r"mine: the rule returned float32 for the slot \['n'\], which began as int32 and would lose",
    ),
}


@pytest.mark.parametrize(("tx", "said"), WRITTEN_OTHERWISE.values(), ids=WRITTEN_OTHERWISE)
def test_the_error_names_the_atom_the_leaf_and_the_remedy(tx, said):
    with pytest.raises(ValueError, match=rf"^chain: (params )?at \['bias'\]: {said}"):
        step(optlab.chain(optlab.scale_by_ema(0.9), tx, RATE))
    with pytest.raises(ValueError, match=rf"^mine: (params )?at \['bias'\]: {said.removeprefix('mine: ')}"):
        step(tx)


def test_weights_that_are_read_without_saying_so():
    tx = optlab.chain(of(lambda u, slots, w, t: (u + 0.1 * w, slots)), RATE)
    with pytest.raises(ValueError, match=r"mine: its update reads the weights, which are None .* needs_params=True"):
        step(tx, params=None)
    step(tx)


def test_a_whole_number_may_be_counted():
    tx = of(lambda u, slots, w, t: (u, {"n": slots["n"] + 1}), lambda w: {"n": jnp.zeros(w.shape, jnp.int32)})
    _, state = step(tx)
    assert state.slots["n"]["bias"].dtype == jnp.int32


# Slots that depend on the leaf ----------------------------------------------------------------------------------------


@optlab.atom
def factored(decay):
    """The second moment of a matrix by its rows and columns, of all else by entry."""

    def init(w):
        if w.ndim == 2:
            return {"rows": jnp.zeros(w.shape[0]), "columns": jnp.zeros(w.shape[1])}
        return {"square": jnp.zeros(w.shape)}

    def update(u, slots, w, t):
        if u.ndim == 2:
            rows = decay * slots["rows"] + (1 - decay) * jnp.mean(u * u, 1)
            columns = decay * slots["columns"] + (1 - decay) * jnp.mean(u * u, 0)
            return u / jnp.sqrt(rows[:, None] * columns[None] / jnp.mean(rows)), {"rows": rows, "columns": columns}
        square = decay * slots["square"] + (1 - decay) * u * u
        return u / jnp.sqrt(square), {"square": square}

    return optlab.Rule(update, init, elementwise=False)


def test_slots_may_depend_on_the_number_of_axes():
    tx = optlab.chain(factored(0.5), optlab.scale_by_ema(0.5), RATE)
    state = tx.init(PARAMS)
    assert state.slots["rows"]["kernel"].shape == (2,)
    assert state.slots["rows"]["bias"] == optax.MaskedNode()
    assert state.slots["square"]["kernel"] == optax.MaskedNode()
    for update in tx.update, jax.jit(tx.update):
        after = state
        for _ in range(3):
            updates, after = update(PARAMS, after, PARAMS)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        np.testing.assert_allclose(updates["kernel"], updates["kernel"][0, 0] * np.ones((2, 3)), rtol=1e-6)
    alone = tx.init({"bias": PARAMS["bias"]})
    assert set(alone.slots) == {"ema", "square"}


def test_slots_of_other_leaves_are_refused_by_path():
    tx = factored(0.5)
    state = tx.init(PARAMS)
    turned = {"kernel": jnp.ones(3), "bias": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"factored: at \['bias'\]: the slots are .* where these weights need"):
        tx.update(turned, state, turned)


# Equality and hashes --------------------------------------------------------------------------------------------------


def test_a_mask_that_is_changed_afterwards_changes_nothing():
    mask = {"kernel": True, "bias": False}
    tx, same = (optlab.adamw(0.1, weight_decay=0.5, mask=dict(mask)) for _ in range(2))
    given = optlab.adamw(0.1, weight_decay=0.5, mask=mask)
    mask["bias"] = True
    assert hash(given) == hash(tx) == hash(same)
    assert given == tx
    assert given != optlab.adamw(0.1, weight_decay=0.5, mask=mask)
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    assert np.all(step(given, grads)[0]["bias"] == 0)


def test_a_transform_is_hashed_once_and_compared_by_identity_first(monkeypatch):
    frozen = optlab.algebra.transform.frozen
    seen = []
    monkeypatch.setattr(optlab.algebra.transform, "frozen", lambda value: seen.append(value) or frozen(value))
    mask = {f"layer{number}": number % 2 == 0 for number in range(50)}
    tx = optlab.adamw(1e-3, weight_decay=0.1, mask=mask)
    call = jax.jit(lambda x, tx: x + 1, static_argnums=1)
    call(1.0, tx)
    once = len(seen)
    for _ in range(5):
        call(1.0, tx)
        assert tx == optlab.chain(*tx.parts)
    assert len(seen) < 2 * once + 20
