"""What people type who come from optax, torch or Keras, and what it is here."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
Also = Mapping[str, Sequence[str]]

# Other names of what we have, each with ours, of which the first that is taken counts; two of them for a pair.
ALSO_CALLED: Mapping[str, Sequence[str]] = {
    "alpha": ("decay",),
    "b1": ("decay",),
    "b2": ("decay",),
    "beta": ("b1", "decay"),
    "beta1": ("b1", "decay"),
    "beta2": ("b2", "decay"),
    "beta_1": ("b1", "decay"),
    "beta_2": ("b2", "decay"),
    "betas": ("b1 b2",),
    "decay_rate": ("decay",),
    "epsilon": ("eps",),
    "initial_accumulator_value": ("initial",),
    "initial_scale": ("initial",),
    "lr": ("learning_rate",),
    "momentum": ("b1", "decay"),
    "rho": ("decay", "b2"),
    "step_size": ("learning_rate",),
    "wd": ("weight_decay",),
    "weight_decay_mask": ("mask",),
}

# The same of what takes transforms, and of classes.
IN_TOOLS: Mapping[str, Sequence[str]] = {
    "aux": ("has_aux",),
    "block_size": ("block",),
    "callback": ("progress",),
    "codecs": ("codec",),
    "directory": ("folder",),
    "dtype": ("codec",),
    "exist_ok": ("overwrite",),
    "fn": ("loss_fn", "make", "x"),
    "force": ("overwrite",),
    "group_size": ("block",),
    "grads": ("updates",),
    "gradients": ("updates",),
    "loss": ("loss_fn",),
    "lr_schedule": ("schedule",),
    "max_ndim": ("at_most",),
    "min_ndim": ("at_least",),
    "mode": ("rounding",),
    "model": ("params",),
    "mu_dtype": ("codec",),
    "n_steps": ("steps",),
    "name": ("says",),
    "ndim": ("at_least", "at_most"),
    "num_steps": ("steps",),
    "opt": ("tx", "core", "make", "x"),
    "optimizer": ("tx", "core", "make", "x"),
    "out": ("folder",),
    "output": ("folder",),
    "path": ("folder",),
    "place": ("site",),
    "rng": ("key", "seed"),
    "stochastic": ("rounding",),
    "timeout": ("seconds",),
    "toward": ("target",),
    "towards": ("target",),
    "transform": ("tx", "core", "x"),
    "tx": ("x", "core", "make"),
    "weights": ("params",),
    "where": ("site", "mask"),
}

_COMPILED = "every step is one compiled program: leave it out"
_CLIPPING = "chain(optax.clip_by_global_norm(max_norm), {owner}(...))"
_SMALL = "optlab.store(tx, optlab.codecs.bfloat16) keeps state in fewer bytes"
_LOOKS_AHEAD = "nadam(...) looks ahead with Adam, nesterov(...) without its quotient"

# What is a link or another optimizer here, for some owners or, under "", for all others.
INSTEAD: Mapping[str, Mapping[str, str]] = {
    "accumulator_dtype": {"": _SMALL},
    "amsgrad": {"": "amsgrad(...) is an optimizer of its own"},
    "bias_correction": {"": "bias_correct(decay) is a link of its own, behind scale_by_ema(decay)"},
    "capturable": {"": _COMPILED},
    "centered": {"": "scale_by_belief(b1, b2, eps, eps_root) is the nearest here"},
    "clipnorm": {"": _CLIPPING},
    "clipvalue": {"": "chain(optax.clip(max_delta), {owner}(...))"},
    "dampening": {"": "momentum(learning_rate, b1) is damped by b1, heavy_ball(learning_rate, b1) is not"},
    "debias": {"": "bias_correct(decay) is a link of its own, behind scale_by_ema(decay)"},
    "decoupled_weight_decay": {
        "": "the optimizer says where decay acts, adamw(...) or adam_l2(...); for any core, "
        "Decay(site).apply_to(core, ...)"
    },
    "differentiable": {"": "every step can be differentiated: leave it out"},
    "eps_in_sqrt": {"": "root(0.0, eps_root=eps) has it inside, in a chain"},
    "eps_root": {
        "": "scale_by_rms(b2, eps, eps_root, numerator=...) and root(eps, eps_root) take it, in a chain",
    },
    "foreach": {"": _COMPILED},
    "fused": {"": _COMPILED},
    "global_clipnorm": {"": _CLIPPING},
    "learning_rate": {"": "chain({owner}(...), scale_by_learning_rate(learning_rate))"},
    "lr_decay": {"": "learning_rate takes a schedule"},
    "mask": {"": "optax.masked({owner}(...), mask) works around any transform"},
    "max_grad_norm": {"": _CLIPPING},
    "maximize": {"": "take the gradient of -loss, or chain(optax.scale(-1.0), {owner}(...))"},
    "momentum": {
        "rmsprop": "accumulate(decay) behind the quotient: chain(divide(...), accumulate(decay), "
        "scale_by_learning_rate(learning_rate))",
        "": "heavy_ball(learning_rate, b1) and momentum(learning_rate, b1) have it, and accumulate(decay) is a link",
    },
    "momentum_decay": {"": "scale_by_nesterov_ema(decay) has a constant decay; torch's NAdam warms it up"},
    "mu_dtype": {"": _SMALL},
    "nesterov": {
        "accumulate": "accumulate_nesterov(decay)",
        "scale_by_ema": "scale_by_nesterov_ema(decay)",
        "": _LOOKS_AHEAD,
    },
    "params": {"": "optimizers see the parameters in init(params) and update(grads, state, params)"},
    "schedule": {"": "learning_rate takes a schedule"},
    "weight_decay": {
        "adam": "adamw(...) has it beside the update, adam_l2(...) in the gradient, as torch's Adam",
        "sgd": "chain(add_l2_to_grad(weight_decay), sgd(...)) is torch's",
        "heavy_ball": "sgdw(...) has it beside the momentum, chain(add_l2_to_grad(weight_decay), heavy_ball(...)) as "
        "torch has it",
        "nadam": "chain(add_l2_to_grad(weight_decay), nadam(...)) is torch's; nadamw is chain(scale_by_rms(b2, eps, "
        "numerator=scale_by_nesterov_ema(b1)), add_decayed_weights(weight_decay), "
        "scale_by_learning_rate(learning_rate))",
        "": "chain(add_l2_to_grad(weight_decay), {owner}(...)) has it in the gradient; "
        "Decay(site).apply_to(core, ...) anywhere",
    },
}


def advice(owner: str, name: str, taken: Collection[str]) -> str:
    """What to write in the place of an argument `name`, which `owner` doesn't take; it takes those in `taken`."""
    ours = ALSO_CALLED.get(name, ())
    if owner not in INSTEAD.get(name, {}) and (said := _by_another_name(ours, taken)):
        return said
    for one in (name, *ours):
        if one in INSTEAD:
            said = INSTEAD[one]
            return said.get(owner, said[""]).format(owner=owner)
    return _alike(name, taken)


def _by_another_name(ours: Sequence[str], taken: Collection[str]) -> str | None:
    for names in map(str.split, ours):
        if set(names) <= set(taken):
            return f"it is {', '.join(f'{one}=' for one in names)}"
    return None


def _alike(name: str, taken: Collection[str]) -> str:
    alike = difflib.get_close_matches(name, [one for one in taken if not one.startswith("*")], n=1, cutoff=0.75)
    return f"did you mean {alike[0]}=?" if alike else f"it takes {', '.join(taken) or 'none'}"


def keywords(signature: inspect.Signature) -> frozenset[str] | None:
    """The arguments that a keyword can name; None where any can."""
    parameters = signature.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def require_known(
    owner: str, arguments: Collection[str], signature: inspect.Signature, also: Also | None = None
) -> None:
    """Refuses an argument by keyword that `owner`, which is no transform's, does not take; `also` are other names."""
    known = keywords(signature)
    if known is None or known >= set(arguments):
        return
    name = min(set(arguments) - known)
    taken = [f"*{name}" if one.kind is one.VAR_POSITIONAL else name for name, one in signature.parameters.items()]
    ours = (*(also or {}).get(name, ()), *IN_TOOLS.get(name, ()), *ALSO_CALLED.get(name, ()))
    raise TypeError(f"{owner}: no argument {name!r}; {_by_another_name(ours, taken) or _alike(name, taken)}")


def spelled(owner: str = "", also: Also | None = None) -> Callable[[F], F]:
    """A decorator: the error of a keyword that a function, or a class, does not take names the one that it does.

    Args:
      owner: who says so, where that is not the bare name.
      also: other names, as in `IN_TOOLS`.
    """

    def decorator(function: F) -> F:
        said = owner or function.__name__
        if isinstance(function, type):
            function.__init__ = _spelled(said, function.__init__, inspect.signature(function), also)
            return cast(F, function)
        return cast(F, _spelled(said, function, inspect.signature(function), also))

    return decorator


def _spelled(
    owner: str, function: Callable[..., Any], signature: inspect.Signature, also: Also | None
) -> Callable[..., Any]:
    known = keywords(signature)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and known is not None and not known.issuperset(kwargs):
            require_known(owner, kwargs, signature, also)
        return function(*args, **kwargs)

    return call
