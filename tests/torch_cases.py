"""The table of torch's optimizers: a class of `torch.optim` with its arguments, and the same in optlab.

Both sides get every hyperparameter that they name from a setting (`trajectories.build`). A case that names none is
torch at its defaults. What optlab has no name for is built of its atoms, two of them the user's own.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from trajectories import Setting, build

import optlab
from optlab import chain


class Case(NamedTuple):
    """One optimizer, twice: the name and arguments of torch's class, and optlab's transform."""

    torch: str
    kwargs: Callable[..., dict[str, Any]]
    ours: Callable[..., optlab.Transform]


class Run(NamedTuple):
    """A case in one setting."""

    torch: str
    kwargs: dict[str, Any]
    ours: optlab.Transform


STEPS = 30
SETTINGS = {
    "small": Setting(
        STEPS,
        {
            "learning_rate": 1e-2,
            "b1": 0.9,
            "b2": 0.999,
            "decay": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "initial": 0.1,
            "lr_decay": 0.01,
            "momentum_decay": 4e-3,
        },
    ),
    "large": Setting(
        STEPS,
        {
            "learning_rate": 0.1,
            "b1": 0.8,
            "b2": 0.95,
            "decay": 0.9,
            "eps": 1e-2,
            "weight_decay": 1.0,
            "initial": 0.05,
            "lr_decay": 0.5,
            "momentum_decay": 0.5,
        },
    ),
}


# Links that torch has and optlab has not ----------------------------------------------------------------------------


@optlab.atom
def accumulate_dampened(decay, dampening):
    """`m <- decay*m + (1 - dampening)*u;  u -> m`, from `m = u` at the first step: torch's `SGD(dampening=)`."""

    def update(u, slots, w, t):
        m = jnp.where(t == 1, u, decay * slots["trace"] + (1 - dampening) * u)
        return m, {"trace": m}

    return optlab.Rule(update, init=lambda w: {"trace": jnp.zeros_like(w)})


@optlab.atom
def scale_by_warming_nesterov_ema(decay, momentum_decay):
    """torch's NAdam: the look-ahead of `scale_by_nesterov_ema` with a coefficient that warms up from `decay/2`.

    `c(t) = decay * (1 - 0.96**(t * momentum_decay) / 2);  p <- c(t) * p;  m <- decay*m + (1 - decay)*u;
    u -> c(t+1) * m / (1 - p*c(t+1)) + (1 - c(t)) * u / (1 - p)`, from `m = 0`, `p = 1`.
    """

    def coefficient(t):
        return decay * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def update(u, slots, w, t):
        t = t.astype(u.dtype)
        now, next_one = coefficient(t), coefficient(t + 1)
        m = decay * slots["ema"] + (1 - decay) * u
        product = now * slots["product"]
        return next_one * m / (1 - product * next_one) + (1 - now) * u / (1 - product), {"ema": m, "product": product}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w), "product": jnp.ones_like(w)})


@optlab.atom
def centred_root(decay, eps):
    """`v <- EMA(u**2);  m <- EMA(u);  u -> sqrt(v - m**2) + eps`, raw: no link subtracts one average of another."""

    def update(u, slots, w, t):
        m = decay * slots["ema"] + (1 - decay) * u
        v = decay * slots["square"] + (1 - decay) * u * u
        return jnp.sqrt(v - m * m) + eps, {"ema": m, "square": v}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w), "square": jnp.zeros_like(w)})


# The table ----------------------------------------------------------------------------------------------------------


def _descending(*links, learning_rate):
    return chain(*links, optlab.scale_by_learning_rate(learning_rate))


def _momentum(b1):
    return chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))


def _raw_rms(decay, eps):
    return chain(optlab.square(), optlab.scale_by_ema(decay), optlab.root(eps))


def torch_amsgrad(b1, b2, eps):
    """AMSGrad's quotient with torch's order: the maximum of the raw average, corrected afterwards."""
    size = chain(
        optlab.square(), optlab.scale_by_ema(b2), optlab.running_max(), optlab.bias_correct(b2), optlab.root(eps)
    )
    return optlab.divide(_momentum(b1), size)


def torch_nadam(b1, b2, eps, momentum_decay):
    """NAdam's quotient with torch's coefficients."""
    return optlab.scale_by_rms(b2, eps, numerator=scale_by_warming_nesterov_ema(b1, momentum_decay))


def _scaled(tx):
    return optlab.divide(optlab.identity(), tx)


CASES = {
    "SGD": Case("SGD", lambda learning_rate: {"lr": learning_rate}, optlab.sgd),
    "SGD with L2": Case(
        "SGD",
        lambda learning_rate, weight_decay: {"lr": learning_rate, "weight_decay": weight_decay},
        lambda learning_rate, weight_decay: chain(optlab.add_l2_to_grad(weight_decay), optlab.sgd(learning_rate)),
    ),
    "SGD with momentum": Case(
        "SGD", lambda learning_rate, b1: {"lr": learning_rate, "momentum": b1}, optlab.heavy_ball
    ),
    "SGD with momentum and L2": Case(
        "SGD",
        lambda learning_rate, b1, weight_decay: {"lr": learning_rate, "momentum": b1, "weight_decay": weight_decay},
        lambda learning_rate, b1, weight_decay: chain(
            optlab.add_l2_to_grad(weight_decay), optlab.heavy_ball(learning_rate, b1)
        ),
    ),
    "SGD with momentum and dampening": Case(
        "SGD",
        lambda learning_rate, b1: {"lr": learning_rate, "momentum": b1, "dampening": b1},
        lambda learning_rate, b1: _descending(accumulate_dampened(b1, b1), learning_rate=learning_rate),
    ),
    "SGD with Nesterov": Case(
        "SGD",
        lambda learning_rate, b1: {"lr": learning_rate, "momentum": b1, "nesterov": True},
        optlab.nesterov,
    ),
    "SGD with Nesterov and L2": Case(
        "SGD",
        lambda learning_rate, b1, weight_decay: {
            "lr": learning_rate,
            "momentum": b1,
            "nesterov": True,
            "weight_decay": weight_decay,
        },
        lambda learning_rate, b1, weight_decay: chain(
            optlab.add_l2_to_grad(weight_decay), optlab.nesterov(learning_rate, b1)
        ),
    ),
    "RMSprop": Case(
        "RMSprop",
        lambda learning_rate, decay, eps: {"lr": learning_rate, "alpha": decay, "eps": eps},
        optlab.rmsprop,
    ),
    "RMSprop with L2": Case(
        "RMSprop",
        lambda learning_rate, decay, eps, weight_decay: {
            "lr": learning_rate,
            "alpha": decay,
            "eps": eps,
            "weight_decay": weight_decay,
        },
        lambda learning_rate, decay, eps, weight_decay: chain(
            optlab.add_l2_to_grad(weight_decay), optlab.rmsprop(learning_rate, decay, eps)
        ),
    ),
    "RMSprop with momentum": Case(
        "RMSprop",
        lambda learning_rate, decay, eps, b1: {"lr": learning_rate, "alpha": decay, "eps": eps, "momentum": b1},
        lambda learning_rate, decay, eps, b1: _descending(
            _scaled(_raw_rms(decay, eps)), optlab.accumulate(b1), learning_rate=learning_rate
        ),
    ),
    "RMSprop, centred": Case(
        "RMSprop",
        lambda learning_rate, decay, eps: {"lr": learning_rate, "alpha": decay, "eps": eps, "centered": True},
        lambda learning_rate, decay, eps: _descending(_scaled(centred_root(decay, eps)), learning_rate=learning_rate),
    ),
    "Adagrad": Case(
        "Adagrad",
        lambda learning_rate, eps: {"lr": learning_rate, "lr_decay": 0, "eps": eps, "initial_accumulator_value": 0},
        lambda learning_rate, eps: optlab.adagrad(learning_rate, eps, initial=0.0),
    ),
    "Adagrad with a start": Case(
        "Adagrad",
        lambda learning_rate, eps, initial: {"lr": learning_rate, "eps": eps, "initial_accumulator_value": initial},
        lambda learning_rate, eps, initial: optlab.adagrad(learning_rate, eps, initial=initial),
    ),
    "Adagrad with L2": Case(
        "Adagrad",
        lambda learning_rate, eps, weight_decay: {"lr": learning_rate, "eps": eps, "weight_decay": weight_decay},
        lambda learning_rate, eps, weight_decay: chain(
            optlab.add_l2_to_grad(weight_decay), optlab.adagrad(learning_rate, eps)
        ),
    ),
    "Adagrad with a decaying rate": Case(
        "Adagrad",
        lambda learning_rate, eps, lr_decay: {"lr": learning_rate, "eps": eps, "lr_decay": lr_decay},
        lambda learning_rate, eps, lr_decay: optlab.adagrad(
            lambda count: learning_rate / (1 + lr_decay * jnp.asarray(count, float)), eps
        ),
    ),
    "Adam": Case(
        "Adam",
        lambda learning_rate, b1, b2, eps: {"lr": learning_rate, "betas": (b1, b2), "eps": eps},
        optlab.adam,
    ),
    "Adam with L2": Case(
        "Adam",
        lambda learning_rate, b1, b2, eps, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "weight_decay": weight_decay,
        },
        optlab.adam_l2,
    ),
    "AMSGrad": Case(
        "Adam",
        lambda learning_rate, b1, b2, eps: {"lr": learning_rate, "betas": (b1, b2), "eps": eps, "amsgrad": True},
        lambda learning_rate, b1, b2, eps: _descending(torch_amsgrad(b1, b2, eps), learning_rate=learning_rate),
    ),
    "AMSGrad with L2": Case(
        "Adam",
        lambda learning_rate, b1, b2, eps, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": True,
        },
        lambda learning_rate, b1, b2, eps, weight_decay: _descending(
            optlab.add_l2_to_grad(weight_decay), torch_amsgrad(b1, b2, eps), learning_rate=learning_rate
        ),
    ),
    "AdamW": Case(
        "AdamW",
        lambda learning_rate, b1, b2, eps, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "weight_decay": weight_decay,
        },
        optlab.adamw,
    ),
    "AdamW with AMSGrad": Case(
        "AdamW",
        lambda learning_rate, b1, b2, eps, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": True,
        },
        lambda learning_rate, b1, b2, eps, weight_decay: _descending(
            torch_amsgrad(b1, b2, eps), optlab.add_decayed_weights(weight_decay), learning_rate=learning_rate
        ),
    ),
    "NAdam": Case(
        "NAdam",
        lambda learning_rate, b1, b2, eps, momentum_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "momentum_decay": momentum_decay,
        },
        lambda learning_rate, b1, b2, eps, momentum_decay: _descending(
            torch_nadam(b1, b2, eps, momentum_decay), learning_rate=learning_rate
        ),
    ),
    "NAdam with L2": Case(
        "NAdam",
        lambda learning_rate, b1, b2, eps, momentum_decay, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "momentum_decay": momentum_decay,
            "weight_decay": weight_decay,
        },
        lambda learning_rate, b1, b2, eps, momentum_decay, weight_decay: _descending(
            optlab.add_l2_to_grad(weight_decay),
            torch_nadam(b1, b2, eps, momentum_decay),
            learning_rate=learning_rate,
        ),
    ),
    "NAdam with decay": Case(
        "NAdam",
        lambda learning_rate, b1, b2, eps, momentum_decay, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "momentum_decay": momentum_decay,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": True,
        },
        lambda learning_rate, b1, b2, eps, momentum_decay, weight_decay: _descending(
            torch_nadam(b1, b2, eps, momentum_decay),
            optlab.add_decayed_weights(weight_decay),
            learning_rate=learning_rate,
        ),
    ),
    "Adamax": Case(
        "Adamax",
        lambda learning_rate, b1, b2, eps: {"lr": learning_rate, "betas": (b1, b2), "eps": eps},
        optlab.adamax,
    ),
    "Adamax with L2": Case(
        "Adamax",
        lambda learning_rate, b1, b2, eps, weight_decay: {
            "lr": learning_rate,
            "betas": (b1, b2),
            "eps": eps,
            "weight_decay": weight_decay,
        },
        lambda learning_rate, b1, b2, eps, weight_decay: chain(
            optlab.add_l2_to_grad(weight_decay), optlab.adamax(learning_rate, b1, b2, eps)
        ),
    ),
    "SGD at its defaults": Case("SGD", dict, lambda: optlab.sgd(1e-3)),
    "RMSprop at its defaults": Case("RMSprop", dict, lambda: optlab.rmsprop(1e-2, 0.99)),
    "Adagrad at its defaults": Case("Adagrad", dict, lambda: optlab.adagrad(1e-2, eps=1e-10)),
    "Adam at its defaults": Case("Adam", dict, lambda: optlab.adam(1e-3)),
    "AdamW at its defaults": Case("AdamW", dict, lambda: optlab.adamw(1e-3, weight_decay=1e-2)),
    "NAdam at its defaults": Case(
        "NAdam", dict, lambda: _descending(torch_nadam(0.9, 0.999, 1e-8, 4e-3), learning_rate=2e-3)
    ),
    "Adamax at its defaults": Case("Adamax", dict, lambda: optlab.adamax(2e-3)),
}


def _runs() -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for name, case in CASES.items():
        if not inspect.signature(case.ours).parameters:
            runs[name] = Run(case.torch, {}, case.ours())
            continue
        for size, setting in SETTINGS.items():
            runs[f"{name}, {size}"] = Run(case.torch, build(case.kwargs, setting), build(case.ours, setting))
    return runs


RUNS = _runs()
