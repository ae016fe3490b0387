"""What people type who come from elsewhere: the error names what it is here, and what it names is there."""

import inspect
import re

import jax.numpy as jnp
import optax
import public
import pytest

import optlab
from optlab import codecs, lab, masks, testing
from optlab.algebra import spellings

NAMES = {parameter for name in public.TRANSFORMS for parameter in public.parameters(name)}

OWNERS = {"": optlab, "optlab.": optlab, "optax.": optax, "Decay.": optlab.Decay}

TYPED = {
    "adam, lr": "it is learning_rate=",
    "adam, betas": "it is b1=, b2=",
    "adam, beta2": "it is b2=",
    "adam, wd": "adamw(...) has it beside the update, adam_l2(...) in the gradient, as torch's Adam",
    "adam, weight_decay": "adamw(...) has it beside the update, adam_l2(...) in the gradient, as torch's Adam",
    "adam, mu_dtype": "optlab.store(tx, optlab.codecs.bfloat16) keeps state in fewer bytes",
    "adam, amsgrad": "amsgrad(...) is an optimizer of its own",
    "adam, maximize": "take the gradient of -loss, or chain(optax.scale(-1.0), adam(...))",
    "adam, fused": "every step is one compiled program: leave it out",
    "adam, foreach": "every step is one compiled program: leave it out",
    "adam, nesterov": "nadam(...) looks ahead with Adam, nesterov(...) without its quotient",
    "adam, eps_root": "scale_by_rms(b2, eps, eps_root, numerator=...) and root(eps, eps_root) take it, in a chain",
    "adam, decoupled_weight_decay": "the optimizer says where decay acts, adamw(...) or adam_l2(...); ...",
    "adam, mask": "optax.masked(adam(...), mask) works around any transform",
    "adam, global_clipnorm": "chain(optax.clip_by_global_norm(max_norm), adam(...))",
    "adam, quantity": "it takes learning_rate, b1, b2, eps",
    "adam, learn_rate": "did you mean learning_rate=?",
    "adamw, wd": "it is weight_decay=",
    "adamw, weight_decay_mask": "it is mask=",
    "heavy_ball, momentum": "it is b1=",
    "accumulate, momentum": "it is decay=",
    "accumulate, nesterov": "accumulate_nesterov(decay)",
    "scale_by_ema, debias": "bias_correct(decay) is a link of its own, behind scale_by_ema(decay)",
    "sgd, momentum": "heavy_ball(learning_rate, b1) and momentum(learning_rate, b1) have it, and accumulate(decay) ...",
    "sgd, nesterov": "nadam(...) looks ahead with Adam, nesterov(...) without its quotient",
    "rmsprop, momentum": "accumulate(decay) behind the quotient: chain(divide(...), accumulate(decay), ...",
    "rmsprop, alpha": "it is decay=",
    "rmsprop, b2": "it is decay=",
    "adagrad, initial_accumulator_value": "it is initial=",
    "adagrad, weight_decay": "chain(add_l2_to_grad(weight_decay), adagrad(...)) has it in the gradient; Decay(site)...",
    "nadam, weight_decay": "chain(add_l2_to_grad(weight_decay), nadam(...)) is torch's; nadamw is chain(...",
    "scale_by_rms, lr": "chain(scale_by_rms(...), scale_by_learning_rate(learning_rate))",
    "sign, scale": "it takes none",
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_has_a_name_here(typed):
    owner, argument = typed.split(", ")
    said = re.escape(f"{owner}: no argument {argument!r}; {TYPED[typed]}").replace(r"\.\.\.", ".*")
    with pytest.raises(TypeError, match=f"^{said}$"):
        public.MAKERS[owner](**{argument: 1.0})


@pytest.mark.parametrize("typed", sorted(spellings.ALSO_CALLED.keys() | spellings.INSTEAD.keys()))
def test_an_advice_names_what_is_there(typed):
    for name in public.TRANSFORMS:
        said = spellings.advice(name, typed, public.parameters(name))
        for module, function in re.findall(r"(\w+\.)?\b(\w+)\(", said.replace("Decay(site)", "Decay")):
            assert function in ("init", "update") or hasattr(OWNERS[module], function), said
        for argument in re.findall(r"\b(\w+)=", said):
            assert argument in NAMES, said


def test_other_names_are_of_what_there_is():
    for ours in spellings.ALSO_CALLED.values():
        for names in ours:
            assert set(names.split()) <= NAMES
    assert all("" in said for said in spellings.INSTEAD.values())


def test_nadamw_as_it_is_said(peer):
    said = spellings.advice("nadam", "weight_decay", public.parameters("nadam"))
    numbers = {"b2": 0.95, "eps": 1e-3, "b1": 0.9, "weight_decay": 0.1, "learning_rate": 0.01}
    tx = eval(said.partition("nadamw is ")[2], vars(optlab) | numbers)
    assert tx == optlab.chain(
        optlab.nadam(0.01, 0.9, 0.95, 1e-3).parts[0],
        optlab.add_decayed_weights(0.1),
        optlab.scale_by_learning_rate(0.01),
    )


def test_too_many_arguments_name_those_that_go_by_name_only():
    with pytest.raises(TypeError, match=r"^adamw: too many positional arguments; by name only: weight_decay, mask$"):
        optlab.adamw(1e-3, 0.9, 0.999, 1e-8, 0.1)
    with pytest.raises(TypeError, match=r"^adam: too many positional arguments$"):
        optlab.adam(1e-3, 0.9, 0.999, 1e-8, 0.1)


@pytest.mark.parametrize(
    ("name", "alike"), [("nadamw", "nadam, adamw, adam"), ("Adam", "adam"), ("clip_by_norm", None), ("zzz", None)]
)
def test_a_name_that_is_not_there_offers_those_that_are(name, alike):
    offer = f"; did you mean {alike}" if alike else ""
    with pytest.raises(AttributeError, match=f"^module 'optlab' has no attribute '{name}'{offer}"):
        getattr(optlab, name)


# What takes transforms, and classes ---------------------------------------------------------------------------------

TX, W = optlab.identity(), jnp.ones(3)
DECAY = optlab.Decay("update")
STEP = optlab.train_step(lambda w: jnp.sum(w), TX)

TOOLS = {
    "chain": (optlab.chain, {"links": [TX]}, "it takes *links"),
    "divide": (optlab.divide, {"top": TX}, "it takes numerator, denominator"),
    "draw": (optlab.draw, {"optimizer": TX}, "it is tx="),
    "product": (optlab.product, {"factor": 1.0}, "it takes *factors"),
    "l2_penalty": (optlab.l2_penalty, {"params": W, "wd": 0.1}, "it is weight_decay="),
    "Decay": (optlab.Decay, {"where": "update"}, "it is site="),
    "Decay.apply_to": (DECAY.apply_to, {"core": TX, "learning_rate": 0.1, "wd": 0.1}, "it is weight_decay="),
    "Decay.penalize": (DECAY.penalize, {"loss_fn": abs, "initial_params": W}, "did you mean init_params=?"),
    "store": (optlab.store, {"tx": TX, "dtype": "int8"}, "it is codec="),
    "codecs.Int8": (codecs.Int8, {"block_size": 64}, "it is block="),
    "codecs.Float8": (codecs.Float8, {"group_size": 64}, "it is block="),
    "codecs.BFloat16": (codecs.BFloat16, {"mode": "nearest"}, "it is rounding="),
    "keep_dtype": (optlab.keep_dtype, {"optimizer": TX}, "it is tx="),
    "apply_updates": (optlab.apply_updates, {"params": W, "grads": W}, "it is updates="),
    "train_step": (optlab.train_step, {"tx": TX, "loss": abs}, "it is loss_fn="),
    "a step of train_step": (STEP, {"rng": W}, "it is key="),
    "compare": (optlab.compare, {"a": TX, "b": TX, "n_steps": 3}, "it is steps="),
    "explain": (optlab.explain, {"tx": TX}, "it is x="),
    "identify": (optlab.identify, {"make": optlab.adam, "lr": 0.1}, "it is learning_rate="),
    "check": (optlab.check, {"make": optlab.adam, "name": "adam"}, "it is says="),
    "testing.check": (testing.check, {"tx": TX, "prop": "speed"}, "it takes tx, name, exempt, inapplicable"),
    "masks.path": (masks.path, {"name": "bias"}, "it takes *names"),
    "masks.matching": (masks.matching, {"patern": "bias"}, "did you mean pattern=?"),
    "masks.axes": (masks.axes, {"min_ndim": 2}, "it is at_least="),
    "masks.matrices": (masks.matrices, {"excluded": "head"}, "did you mean exclude=?"),
    "lab.run": (lab.run, {"study": None, "out": "here"}, "it is folder="),
    "lab.read": (lab.read, {"file": "here"}, "it takes path"),
    "Study": (lab.Study, {"lr": (0.1,)}, "it is learning_rates="),
}


@pytest.mark.parametrize("owner", TOOLS)
def test_what_is_typed_at_a_tool_has_a_name_there(owner):
    call, arguments, says = TOOLS[owner]
    name = list(arguments)[-1]
    with pytest.raises(TypeError, match=f"^{re.escape(f'{owner}: no argument {name!r}; {says}')}$"):
        call(**arguments)


def test_betas_of_a_study_are_two():
    with pytest.raises(TypeError, match=r"^Study: no argument 'betas'; it is b1=, b2=$"):
        lab.Study(betas=(0.9, 0.99))  # pyright: ignore[reportCallIssue]


def test_every_public_function_answers_to_a_wrong_keyword():
    """Those of the table of contents, but for the types that a transform is made of."""
    for name in set(optlab.__all__) - {"Rule", "State", "Transform"}:
        if callable(function := getattr(optlab, name)):
            with pytest.raises(TypeError, match=rf"^{name}: .*no argument 'quantity'; it takes"):
                function(*[abs] * (name == "schedule"), quantity=1.0)


def test_what_is_known_by_another_name_at_a_tool_is_there():
    arguments = {parameter for call, *_ in TOOLS.values() for parameter in inspect.signature(call).parameters}
    for ours in spellings.IN_TOOLS.values():
        assert set(ours) <= arguments


def test_a_tool_keeps_its_signature_and_what_it_takes():
    assert list(inspect.signature(optlab.store).parameters) == ["tx", "codec", "min_size", "seed"]
    assert optlab.Decay(site="step", coupling="lr") == optlab.Decay("step", "lr")
    assert optlab.chain() == optlab.identity()
