"""Masks by path, regular expression and number of axes: on every kind of tree, in optlab and in optax, as values."""

import copy
import dataclasses
import importlib
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optlab
from optlab import masks

KERNEL, BIAS, TABLE = jnp.ones((2, 3)), jnp.ones(3), jnp.ones((5, 2))


@jax.tree_util.register_pytree_with_keys_class
class Layer:
    """A module as Equinox makes them: a tree that can be called."""

    def __init__(self, kernel, bias, width=3):
        self.kernel, self.bias, self.width = kernel, bias, width

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey
        return ((key("kernel"), self.kernel), (key("bias"), self.bias)), self.width

    @classmethod
    def tree_unflatten(cls, width, fields):
        return cls(*fields, width)

    def __call__(self, x):
        return x @ self.kernel + self.bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    embedding: jax.Array
    layers: list


def as_dicts():
    return {"embedding": TABLE, "layers": [{"kernel": KERNEL, "bias": BIAS}, {"kernel": KERNEL, "bias": BIAS}]}


def as_dataclass():
    return Weights(TABLE, [Layer(KERNEL, BIAS), Layer(KERNEL, BIAS)])


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Param(TABLE)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(2, 3, rngs=rngs)])


def as_state():
    return nnx.state(Net(), nnx.Param)


TREES = {"dicts": as_dicts, "a dataclass of modules": as_dataclass, "flax's state": as_state, "flax's module": Net}

ALL = {"embedding", "0 kernel", "0 bias", "1 kernel", "1 bias"}
EXPECTED = {
    masks.path("kernel"): {"0 kernel", "1 kernel"},
    masks.path("bias", "embedding"): {"embedding", "0 bias", "1 bias"},
    masks.path("layers"): ALL - {"embedding"},
    masks.path("0"): {"0 kernel", "0 bias"},
    masks.path("kern"): set(),
    masks.path("value"): set(),
    masks.matching("kern|emb"): {"embedding", "0 kernel", "1 kernel"},
    masks.matching(r"^layers/1/b|^embedding$"): {"embedding", "1 bias"},
    masks.matching("bias$"): {"0 bias", "1 bias"},
    masks.matching("^kernel"): set(),
    masks.axes(at_least=2): {"embedding", "0 kernel", "1 kernel"},
    masks.axes(at_most=1): {"0 bias", "1 bias"},
    masks.axes(2, 2): {"embedding", "0 kernel", "1 kernel"},
    masks.axes(3): set(),
    masks.axes(): ALL,
    masks.matrices(): {"embedding", "0 kernel", "1 kernel"},
    masks.matrices("embedding"): {"0 kernel", "1 kernel"},
    masks.matrices(["embedding", "0"]): {"1 kernel"},
    masks.matrices(exclude=masks.matching("layers/.*kernel")): {"embedding"},
    ~masks.path("kernel"): {"embedding", "0 bias", "1 bias"},
    masks.path("kernel") & masks.path("0"): {"0 kernel"},
    masks.path("embedding") | masks.path("0") & ~masks.axes(2): {"embedding", "0 bias"},
    (masks.path("embedding") | masks.path("0")) & ~masks.axes(2): {"0 bias"},
}


def named(tree):
    """The leaves that are True, by a short name of each."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    words = [re.findall(r"embedding|kernel|bias|\d", jax.tree_util.keystr(path)) for path, _ in leaves]
    return {" ".join(found) for found, (_, bit) in zip(words, leaves, strict=True) if bit}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
@pytest.mark.parametrize("mask", EXPECTED, ids=repr)
def test_which_leaves_a_mask_names(mask, make):
    params = make()
    tree = mask(params)
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    assert {type(bit) for bit in jax.tree.leaves(tree)} == {bool}
    assert named(tree) == EXPECTED[mask]
    assert named(mask(jax.eval_shape(lambda: params) if make is not Net else params)) == EXPECTED[mask]


@pytest.mark.parametrize("mask", EXPECTED, ids=repr)
def test_a_mask_is_a_value(mask):
    for other in pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask), eval(repr(mask), {"masks": masks}):
        assert other == mask
        assert hash(other) == hash(mask)
        assert repr(other) == repr(mask)
    assert [other for other in EXPECTED if other == mask] == [mask]
    tx, again = (optlab.adamw(0.1, weight_decay=0.5, mask=copy.deepcopy(mask)) for _ in range(2))
    assert tx == again
    assert hash(tx) == hash(again)
    assert eval(repr(tx), vars(optlab)) == tx


def test_how_masks_print():
    a, b, c = masks.path("a"), masks.matching("b"), masks.axes(1, 2)
    assert repr(a & b & c | ~(a | b)) == (
        "(masks.path('a') & masks.matching('b') & masks.axes(at_least=1, at_most=2)) | "
        "~(masks.path('a') | masks.matching('b'))"
    )
    assert (a & b) & c == a & (b & c)
    assert ~~a == a
    assert masks.matrices("a") == masks.axes(at_least=2) & ~masks.path("a")


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_optax_takes_them_and_does_the_same(make, peer):
    params = jax.tree.map(jnp.asarray, make())
    zeros, mask = jax.tree.map(jnp.zeros_like, params), masks.matrices(exclude="embedding")
    with peer():
        txs = (make(0.1, weight_decay=0.5, mask=mask) for make in (optlab.adamw, optax.adamw))
        ours, theirs = (jax.tree.leaves(tx.update(zeros, tx.init(params), params)[0]) for tx in txs)
    for u, v, w, acts in zip(ours, theirs, jax.tree.leaves(params), jax.tree.leaves(mask(params)), strict=True):
        np.testing.assert_allclose(u, -0.05 * np.asarray(w) * acts, rtol=1e-6)
        np.testing.assert_allclose(v, u, rtol=1e-6)


def test_leaves_that_are_none_or_masked_stay_where_they_are():
    tree = {"kernel": KERNEL, "none": None, "masked": optax.MaskedNode()}
    assert masks.axes(2)(tree) == {"kernel": True, "none": None, "masked": optax.MaskedNode()}
    assert masks.axes(2)(KERNEL) is True
    assert masks.matching("^$")(KERNEL) is True


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Tagged:
    kernel: jax.Array
    tags: list = dataclasses.field(metadata={"static": True})


def test_a_tree_that_does_not_hash_has_paths_too():
    assert masks.path("kernel")(Tagged(KERNEL, ["a"])) == Tagged(True, ["a"])


def test_a_name_with_a_slash_is_one_name():
    assert masks.path("mlp/linear", "w")({"mlp/linear": {"b": 1.0}, "mlp": {"w": 1.0, "linear": 1.0}}) == {
        "mlp/linear": {"b": True},
        "mlp": {"w": True, "linear": False},
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: masks.path(), "masks.path: names must be strings, at least one, got none"),
        (lambda: masks.path("a", 0), "masks.path: names must be strings, at least one, got 'a', 0"),
        (lambda: masks.path(["a", "b"]), r"masks.path: names must be strings, at least one, got \['a', 'b'\]"),
        (lambda: masks.matching(re.compile("a")), "masks.matching: pattern must be a string, got re.compile"),
        (lambda: masks.matching("*"), r"masks.matching: '\*' is no regular expression: nothing to repeat"),
        (lambda: masks.axes(2.0), r"masks.axes: at_least must be a whole number, got 2.0 \(float\)"),
        (lambda: masks.axes(None), r"masks.axes: at_least must be a whole number, got None \(NoneType\)"),
        (lambda: masks.axes(at_most=True), r"masks.axes: at_most must be a whole number, got True \(bool\)"),
        (lambda: masks.axes(2, 1), "masks.axes: no leaf has from 2 to 1 axes"),
        (lambda: masks.axes(-1), "masks.axes: no leaf has from -1 to None axes"),
        (lambda: masks.matrices(3), "masks.matrices: exclude must be names or a mask, got 3"),
        (lambda: not masks.path("a"), r"masks.path\('a'\) is a mask, .* combine masks with &, \| and ~"),
        (lambda: masks.path("a") & {"a": True}, "unsupported operand"),
    ],
)
def test_what_is_no_mask_is_refused(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_masks_is_a_module_to_import():
    assert importlib.import_module("optlab.masks") is masks


# Trees as masks -------------------------------------------------------------------------------------------------------


def test_a_module_of_booleans_is_read_and_not_called():
    params = Layer(KERNEL, BIAS)
    mask = jax.tree.map(lambda w: w.ndim > 1, params)
    tx, again = (optlab.adamw(0.1, weight_decay=0.5, mask=mask) for _ in range(2))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates.kernel, -0.05 * np.ones((2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(updates.bias, 0)
    assert tx == again == copy.deepcopy(tx)
    assert tx != optlab.adamw(0.1, weight_decay=0.5, mask=Layer(True, True))


def decay_matrices(least, params):
    return jax.tree.map(lambda w: w.ndim >= least, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Least:
    """A function as a module without leaves."""

    least: int = dataclasses.field(metadata={"static": True})

    def __call__(self, params):
        return decay_matrices(self.least, params)


@pytest.mark.parametrize("mask", [Least(2), jax.tree_util.Partial(decay_matrices, 2)], ids=["a module", "a Partial"])
def test_what_holds_no_booleans_is_a_function(mask):
    tx = optlab.shrink_weights(0.5, mask=mask)
    updates, _ = tx.update({"b": BIAS, "w": KERNEL}, tx.init({"b": BIAS, "w": KERNEL}), {"b": BIAS, "w": KERNEL})
    assert [float(jnp.sum(updates[name])) for name in "bw"] == [3, 3]


PARAMS = {"dense": {"bias": BIAS, "kernel": KERNEL}, "layers": [Layer(KERNEL, BIAS), (KERNEL,)]}
FITTING = {"dense": True, "layers": [Layer(True, False), (True,)]}
MISFITS = {
    "a leaf that lacks": (FITTING | {"dense": {"bias": True}}, "['dense']['kernel']: nothing against float32[2, 3]"),
    "a leaf that is called otherwise": (
        FITTING | {"dense": {"bias": True, "weight": True}},
        "['dense']['kernel']: nothing against float32[2, 3]",
    ),
    "a leaf too many": (
        FITTING | {"dense": {"bias": True, "kernel": True, "scale": False}},
        "['dense']['scale']: False against nothing",
    ),
    "None for a leaf": (FITTING | {"dense": None}, "['dense']: None against a dict"),
    "a function that gives None": (lambda params: None, "the root: None against a dict"),
    "a tuple for a list": (FITTING | {"layers": (True, True)}, "['layers']: a tuple against a list"),
    "a list too short": (FITTING | {"layers": [Layer(True, False)]}, "['layers'][1]: nothing against a tuple"),
    "a dict for a module": (
        FITTING | {"layers": [{"kernel": True, "bias": False}, (True,)]},
        "['layers'][0]: a dict against a Layer",
    ),
    "a module of another width": (
        FITTING | {"layers": [Layer(True, False, width=5), (True,)]},
        "['layers'][0]: a Layer against another, which differs in what is no leaf",
    ),
    "a tree where a leaf is": (FITTING | {"dense": {"bias": [True], "kernel": True}}, "['dense']['bias']: a list"),
    "below a module": (
        FITTING | {"layers": [Layer({"w": True}, False), (True,)]},
        "['layers'][0].kernel: a dict against float32[2, 3]",
    ),
    "two of them": (
        {"dense": {"kernel": True}, "layers": [True]},
        "['dense']['bias']: nothing against float32[3]",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_mask_that_does_not_fit_names_the_first_path_in_plain_words(name):
    mask, said = MISFITS[name]
    tx = optlab.add_decayed_weights(0.1, mask=mask)
    start = f"add_decayed_weights: the mask and the params differ first at {said}"
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*; optlab.masks makes masks for any params$") as info:
        tx.init(PARAMS)
    assert not re.search(r"pytree|prefix|PyTreeDef|broadcast|Traceback|\n", str(info.value))
    assert info.value.__suppress_context__
