"""What people type who come from optax, torch or Keras, and what it is here."""

import difflib
from collections.abc import Collection, Mapping, Sequence

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
    own = INSTEAD.get(name, {}).get(owner)
    for names in map(str.split, ours):
        if own is None and set(names) <= set(taken):
            return f"it is {', '.join(f'{one}=' for one in names)}"
    for one in (name, *ours):
        if one in INSTEAD:
            said = INSTEAD[one]
            return said.get(owner, said[""]).format(owner=owner)
    alike = difflib.get_close_matches(name, taken, n=1, cutoff=0.75)
    return f"did you mean {alike[0]}=?" if alike else f"it takes {', '.join(taken) or 'none'}"
