"""Black boxes with a known answer, drawn at random, and black boxes of no known family."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import optlab
from optlab import chain


@dataclasses.dataclass(frozen=True)
class Draw:
    """A maker, what it is called with, and what `identify` has to say of it.

    Attributes:
      sites: all that the core can't tell from each other.
      values: recovered hyperparameters by name; `eps` and `learning_rate` among them.
    """

    name: str
    make: Callable[..., Any]
    learning_rate: float
    weight_decay: float
    family: str
    sites: frozenset[str]
    coupling: str
    gate: str
    values: dict[str, float]


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(10 ** rng.uniform(np.log10(low), np.log10(high)))


def hyperparameters(rng: np.random.Generator) -> dict[str, float]:
    """In the ranges that people use, and beyond."""
    return {
        "b1": 1 - _log(rng, 0.01, 0.5),
        "b2": 1 - _log(rng, 1e-4, 0.1),
        "eps": _log(rng, 1e-10, 1e-3),
        "learning_rate": _log(rng, 1e-4, 1),
        "weight_decay": _log(rng, 1e-3, 1),
    }


# Cores, by optlab's atoms --------------------------------------------------------------------------------------------

SITES = {"none": "none", "gradient": "lr", "first_moment": "lr", "second_moment": "lr", "direction": "lr"}
SITES |= {"update": "lr", "step": "constant"}


def _quotient(family: str, h: dict[str, float]) -> optlab.Transform:
    b1, b2, eps = h["b1"], h["b2"], h["eps"]
    average = chain(optlab.scale_by_ema(b1), optlab.bias_correct(b1))
    variance = chain(optlab.square(), optlab.scale_by_ema(b2))
    if family == "adam":
        return optlab.scale_by_rms(b2, eps, numerator=average)
    if family == "rmsprop":
        return optlab.divide(optlab.identity(), chain(variance, optlab.root(eps)))
    if family == "adagrad":
        return optlab.divide(optlab.identity(), chain(optlab.square(), optlab.running_sum(0.0), optlab.root(eps)))
    if family == "adamax":
        return optlab.divide(average, chain(optlab.absolute(eps), optlab.decayed_max(b2)))
    if family == "nadam":
        return optlab.scale_by_rms(b2, eps, numerator=optlab.scale_by_nesterov_ema(b1))
    size = chain(variance, optlab.bias_correct(b2), optlab.running_max(), optlab.root(eps))
    return optlab.divide(average, size)


QUOTIENTS = {
    "adam": ("b1", "b2", "eps"),
    "rmsprop": ("b2", "eps"),
    "adagrad": ("eps",),
    "adamax": ("b1", "b2", "eps"),
    "nadam": ("b1", "b2", "eps"),
    "amsgrad": ("b1", "b2", "eps"),
}


def _from_sites(rng: np.random.Generator) -> Draw:
    h = hyperparameters(rng)
    family, site = str(rng.choice(list(QUOTIENTS))), str(rng.choice(list(SITES)))
    core = _quotient(family, h)
    # without an average above, the numerator is the direction
    same = {"first_moment", "direction"} if family in ("rmsprop", "adagrad") else {site}
    sites = frozenset(same if site in same else {site})

    def make(learning_rate, weight_decay):
        return optlab.Decay(site).apply_to(core, learning_rate, weight_decay)

    return _drawn(f"optlab {family} {site}", make, family, sites, SITES[site], h, QUOTIENTS[family])


def _drawn(name, make, family, sites, coupling, h, names, gate="none") -> Draw:
    if isinstance(sites, str):
        sites = frozenset({sites})
    kept = {key: h[key] for key in ("learning_rate", *names, *(() if "none" in sites else ("weight_decay",)))}
    coupling = "none" if "none" in sites else coupling
    return Draw(name, make, h["learning_rate"], h["weight_decay"], family, sites, coupling, gate, kept)


_LINKS = {
    "sgd": (lambda h: optlab.identity(), ()),
    "momentum": (lambda h: optlab.scale_by_ema(h["b1"]), ("b1",)),
    "heavy_ball": (lambda h: optlab.accumulate(h["b1"]), ("b1",)),
    "nesterov": (lambda h: optlab.accumulate_nesterov(h["b1"]), ("b1",)),
    "sign_sgd": (lambda h: optlab.sign(), ()),
    "signum": (lambda h: chain(optlab.scale_by_ema(h["b1"]), optlab.sign()), ("b1",)),
    "lion": (lambda h: chain(optlab.interpolate_ema(h["b1"], h["b2"]), optlab.sign()), ("b1", "b2")),
    "laprop": (
        lambda h: chain(
            optlab.scale_by_rms(h["b2"], h["eps"]), optlab.scale_by_ema(h["b1"]), optlab.bias_correct(h["b1"])
        ),
        ("b1", "b2", "eps"),
    ),
    "adabelief": (lambda h: optlab.scale_by_belief(h["b1"], h["b2"], h["eps"], 1e-16), ("b1", "b2", "eps")),
}


def _from_links(rng: np.random.Generator) -> Draw:
    """Decay before or behind a core that is no quotient."""
    h = hyperparameters(rng)
    family, site = str(rng.choice(list(_LINKS))), str(rng.choice(["none", "gradient", "update", "step"]))
    build, names = _LINKS[family]

    def make(lr, wd):
        rate = optlab.scale_by_learning_rate(lr)
        links = {
            "none": [build(h), rate],
            "gradient": [optlab.add_l2_to_grad(wd), build(h), rate],
            "update": [build(h), optlab.add_decayed_weights(wd), rate],
            "step": [build(h), rate, optlab.shrink_weights(wd)],
        }
        return chain(*links[site])

    sites = frozenset({"gradient", "update"} if family == "sgd" and site in ("gradient", "update") else {site})
    return _drawn(f"optlab {family} {site}", make, family, sites, SITES[site], h, names)


# optax ---------------------------------------------------------------------------------------------------------------

_OPTAX: dict[str, tuple[Callable[..., Any], str, str, tuple[str, ...]]] = {
    "adam": (lambda h: lambda lr: optax.adam(lr, h["b1"], h["b2"], h["eps"]), "adam", "none", ("b1", "b2", "eps")),
    "adamw": (
        lambda h: lambda lr, wd: optax.adamw(lr, h["b1"], h["b2"], h["eps"], weight_decay=wd),
        "adam",
        "update",
        ("b1", "b2", "eps"),
    ),
    "nadamw": (
        lambda h: lambda lr, wd: optax.nadamw(lr, h["b1"], h["b2"], h["eps"], weight_decay=wd),
        "nadam",
        "update",
        ("b1", "b2", "eps"),
    ),
    "adamaxw": (
        lambda h: lambda lr, wd: optax.adamaxw(lr, h["b1"], h["b2"], h["eps"], weight_decay=wd),
        "adamax",
        "update",
        ("b1", "b2", "eps"),
    ),
    "amsgrad": (
        lambda h: lambda lr: optax.amsgrad(lr, h["b1"], h["b2"], h["eps"]),
        "amsgrad",
        "none",
        ("b1", "b2", "eps"),
    ),
    "radam": (lambda h: lambda lr: optax.radam(lr, h["b1"], h["b2"], h["eps"]), "radam", "none", ("b1", "b2", "eps")),
    "rmsprop": (lambda h: lambda lr: optax.rmsprop(lr, h["b2"], h["eps"]), "rmsprop", "none", ("b2", "eps")),
    "rmsprop with momentum": (
        lambda h: lambda lr: optax.rmsprop(lr, h["b2"], h["eps"], momentum=h["b1"]),
        "rmsprop",
        "none",
        ("b1", "b2", "eps"),
    ),
    "adagrad": (lambda h: lambda lr: optax.adagrad(lr, 0.1, h["eps"]), "adagrad", "none", ()),
    "lion": (
        lambda h: lambda lr, wd: optax.lion(lr, h["b1"], h["b2"], weight_decay=wd),
        "lion",
        "update",
        ("b1", "b2"),
    ),
    "sgd with momentum": (lambda h: lambda lr: optax.sgd(lr, h["b1"]), "heavy_ball", "none", ("b1",)),
    "sgd with nesterov": (lambda h: lambda lr: optax.sgd(lr, h["b1"], nesterov=True), "nesterov", "none", ("b1",)),
    "adadelta": (
        lambda h: lambda lr, wd: optax.adadelta(lr, h["b2"], h["eps"], wd),
        "adadelta",
        "gradient",
        ("b2", "eps"),
    ),
}


def _from_optax(rng: np.random.Generator) -> Draw:
    h, name = hyperparameters(rng), str(rng.choice(list(_OPTAX)))
    build, family, site, names = _OPTAX[name]
    return _drawn(f"optax {name}", build(h), family, site, "lr", h, names)


# torch ---------------------------------------------------------------------------------------------------------------


def of_torch(name: str) -> Any:
    """A class of `torch.optim`; torch is imported here alone, so that what doesn't need it runs without."""
    return getattr(importlib.import_module("torch.optim"), name)


_TORCH: dict[str, tuple[str, Callable[[dict[str, float]], dict[str, Any]], str, str, tuple[str, ...]]] = {
    "Adam": ("Adam", lambda h: _betas(h), "adam", "gradient", ("b1", "b2", "eps")),
    "AdamW": ("AdamW", lambda h: _betas(h), "adam", "update", ("b1", "b2", "eps")),
    "AMSGrad": ("Adam", lambda h: {**_betas(h), "amsgrad": True}, "amsgrad", "gradient", ("b1", "b2", "eps")),
    "SGD": ("SGD", lambda h: {}, "sgd", "update", ()),
    "SGD with momentum": ("SGD", lambda h: {"momentum": h["b1"]}, "heavy_ball", "gradient", ("b1",)),
    "SGD with Nesterov": (
        "SGD",
        lambda h: {"momentum": h["b1"], "nesterov": True},
        "nesterov",
        "gradient",
        ("b1",),
    ),
    "RMSprop": (
        "RMSprop",
        lambda h: {"alpha": h["b2"], "eps": h["eps"]},
        "rmsprop",
        "gradient",
        ("b2", "eps"),
    ),
    "RMSprop, centred": (
        "RMSprop",
        lambda h: {"alpha": h["b2"], "eps": h["eps"], "momentum": h["b1"], "centered": True},
        "rmsprop",
        "gradient",
        ("b1", "b2", "eps"),
    ),
    "Adagrad": ("Adagrad", lambda h: {"eps": h["eps"]}, "adagrad", "gradient", ("eps",)),
    "NAdam": ("NAdam", lambda h: _betas(h), "nadam", "gradient", ("b1", "b2", "eps")),
    "NAdamW": (
        "NAdam",
        lambda h: {**_betas(h), "decoupled_weight_decay": True},
        "nadam",
        "update",
        ("b1", "b2", "eps"),
    ),
    "Adamax": ("Adamax", lambda h: _betas(h), "adamax", "gradient", ("b1", "b2", "eps")),
    "RAdam": ("RAdam", lambda h: _betas(h), "radam", "gradient", ("b1", "b2", "eps")),
    "Adadelta": (
        "Adadelta",
        lambda h: {"rho": h["b2"], "eps": h["eps"]},
        "adadelta",
        "gradient",
        ("b2", "eps"),
    ),
}


def _betas(h: dict[str, float]) -> dict[str, Any]:
    return {"betas": (h["b1"], h["b2"]), "eps": h["eps"]}


def _from_torch(rng: np.random.Generator) -> Draw:
    h, name = hyperparameters(rng), str(rng.choice(list(_TORCH)))
    optimizer, arguments, family, site, names = _TORCH[name]
    kwargs = arguments(h)

    class Drawn(of_torch(optimizer)):
        def __init__(self, params, lr, weight_decay):
            super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)

    sites = frozenset({"gradient", "update"}) if family == "sgd" else frozenset({site})
    return _drawn(f"torch {name}", Drawn, family, sites, "lr", h, names)


# Bare functions: decay where no library has it -----------------------------------------------------------------------


def _direction(family: str, h: dict[str, float]) -> Callable[[Any], Any]:
    """A fresh `g -> u`, in the dtype of `g`."""
    b1, b2, eps = h["b1"], h["b2"], h["eps"]
    m = v = 0.0
    t = 0

    def adam(g):
        nonlocal m, v, t
        t += 1
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)

    def rmsprop(g):
        nonlocal v
        v = b2 * v + (1 - b2) * g * g
        return g / (np.sqrt(v) + eps)

    def heavy_ball(g):
        nonlocal m
        m = b1 * m + g
        return m

    def lion(g):
        nonlocal m
        u = np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        return u

    return {"adam": adam, "rmsprop": rmsprop, "heavy_ball": heavy_ball, "lion": lion, "sgd": lambda g: g}[family]


_CORES = {"adam": ("b1", "b2", "eps"), "rmsprop": ("b2", "eps"), "heavy_ball": ("b1",), "lion": ("b1", "b2")}
_APPLIED: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "after": (lambda w, u, lr, wd: (w - lr * u) * (1 - lr * wd), "after", "lr", "none"),
    "after, not multiplied": (lambda w, u, lr, wd: (w - lr * u) * (1 - wd / 50), "after", "constant", "none"),
    "proximal": (lambda w, u, lr, wd: (w - lr * u) / (1 + lr * wd), "proximal", "lr", "none"),
    "cautious": (lambda w, u, lr, wd: w - lr * u - lr * wd * w * (u * w >= 0), "update", "lr", "cautious"),
    "quadratic": (lambda w, u, lr, wd: w - lr * u - lr**2 * wd * w, "update", "lr^2", "none"),
}


def _from_functions(rng: np.random.Generator) -> Draw:
    h = hyperparameters(rng)
    family, how = str(rng.choice(list(_CORES))), str(rng.choice(list(_APPLIED)))
    applied, site, coupling, gate = _APPLIED[how]

    def make(lr, wd):
        direction = _direction(family, h)
        return lambda w, g: applied(w, direction(g), lr, wd)

    drawn = _drawn(f"function {family} {how}", make, family, site, coupling, h, _CORES[family], gate)
    share = 1 / 50 if how == "after, not multiplied" else 1.0
    return dataclasses.replace(drawn, values={**drawn.values, "weight_decay": share * h["weight_decay"]})


_SOURCES = (_from_sites, _from_sites, _from_links, _from_optax, _from_torch, _from_torch, _from_functions)


def draw(seed: int) -> Draw:
    rng = np.random.default_rng([seed, 4])
    return _SOURCES[seed % len(_SOURCES)](rng)


def needs_torch(seed: int) -> bool:
    return _SOURCES[seed % len(_SOURCES)] is _from_torch


def in_single(drawn: Draw) -> Draw:
    """The same, computed and given in float32 whatever it is handed."""

    def make(lr, wd):
        if isinstance(drawn.make, type):
            return _torch_in_single(drawn.make, lr, wd)
        made = drawn.make(lr, wd) if _takes_two(drawn) else drawn.make(lr)
        if not hasattr(made, "init"):
            return lambda w, g: made(w.astype(np.float32), g.astype(np.float32))
        state = None

        def step(w, g):
            nonlocal state
            params = jnp.asarray(w, jnp.float32)
            state = made.init(params) if state is None else state
            updates, state = made.update(jnp.asarray(g, jnp.float32), state, params)
            return optax.apply_updates(params, updates)

        return step

    return dataclasses.replace(drawn, name=f"{drawn.name}, float32", make=make)


def _takes_two(drawn: Draw) -> bool:
    return drawn.make.__code__.co_argcount == 2


def _torch_in_single(optimizer: Any, lr: float, wd: float) -> Callable[..., Any]:
    torch = importlib.import_module("torch")
    parameter = None
    made = None

    def step(w, g):
        nonlocal parameter, made
        if parameter is None:
            parameter = torch.nn.Parameter(torch.tensor(w, dtype=torch.float32))
            made = optimizer([parameter], lr, wd)
        parameter.grad = torch.tensor(g, dtype=torch.float32)
        made.step()
        return parameter.detach().numpy().copy()

    return step


# Outsiders -----------------------------------------------------------------------------------------------------------

_TYPICAL = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}


def _stepping(advance: Callable[..., Any], family: str = "adam") -> Callable[..., Any]:
    """A maker of `advance(w, u, g, t, lr, wd) -> new w`, `u` being the direction of a known core."""

    def make(lr, wd):
        direction, t = _direction(family, _TYPICAL), 0

        def step(w, g):
            nonlocal t
            t += 1
            return advance(w, direction(g), g, t, lr, wd)

        return step

    return make


def _on_changed_gradients(change: Callable[..., Any], family: str = "adam") -> Callable[..., Any]:
    def make(lr, wd):
        direction, t = _direction(family, _TYPICAL), 0

        def step(w, g):
            nonlocal t
            t += 1
            return w - lr * (direction(change(g, t)) + wd * w)

        return step

    return make


def _unseeded_noise(lr, wd):
    rng, direction = np.random.default_rng(), _direction("lion", _TYPICAL)
    return lambda w, g: w - lr * (direction(g) + wd * w + 0.01 * rng.normal(size=w.shape))


def _seeded_noise(size: float) -> Callable[..., Any]:
    def make(lr, wd):
        rng, direction = np.random.default_rng(0), _direction("lion", _TYPICAL)
        return lambda w, g: w - lr * (direction(g) + wd * w + size * rng.normal(size=w.shape))

    return make


def _noisy_adam(size: float) -> Callable[..., Any]:
    def make(lr, wd):
        rng, direction = np.random.default_rng(0), _direction("adam", _TYPICAL)
        return lambda w, g: w - lr * (direction(g) * (1 + size * rng.normal(size=w.shape)) + wd * w)

    return make


def _shampoo(lr, wd):
    statistics = 0.0

    def step(w, g):
        nonlocal statistics
        statistics = statistics + np.outer(g, g) / (g @ g)
        values, vectors = np.linalg.eigh(statistics + 1e-6 * np.eye(g.size))
        return w - lr * ((vectors * values**-0.5) @ (vectors.T @ g) + wd * w)

    return step


def _momentum_of_sign(lr, wd):
    m = 0.0

    def step(w, g):
        nonlocal m
        m = 0.9 * m + 0.1 * np.sign(g)
        return w - lr * (m + wd * w)

    return step


def _delayed(lr, wd):
    direction, before = _direction("adam", _TYPICAL), None

    def step(w, g):
        nonlocal before
        before, used = g, g if before is None else before
        return w - lr * (direction(used) + wd * w)

    return step


def _random_function(seed: int) -> Callable[..., Any]:
    a, b, c = np.random.default_rng(seed).normal(size=(3, 8))

    def make(lr, wd):
        state = 0.0

        def step(w, g):
            nonlocal state
            inner = np.tanh(np.multiply.outer(a, g) + np.multiply.outer(b, w) + np.expand_dims(c, -1) * state)
            state = 0.7 * state + inner.mean(0)
            return w - lr * (np.tensordot(c, inner, 1) + wd * w)

        return step

    return make


def _annealed_b2(lr, wd):
    v, t = 0.0, 0

    def step(w, g):
        nonlocal v, t
        t += 1
        b2 = 1 - t**-0.8
        v = b2 * v + (1 - b2) * g * g
        return w - lr * (g / (np.sqrt(v) + 1e-8) + wd * w)

    return step


@optlab.atom
def _orthogonal_atom():
    return optlab.Rule(lambda u, slots, w, t: (jnp.linalg.qr(u)[0] if u.ndim == 2 else u, slots), elementwise=False)


ORTHOGONAL = _orthogonal_atom()

# What only some arrays, some weights or some gradients see ----------------------------------------------------------


def _by_shape(change: Callable[..., Any], family: str = "adam") -> Callable[..., Any]:
    """A maker whose updates are `change(u, w, g, lr)`, `u` being those of a known core."""

    def make(lr, wd):
        direction = _direction(family, _TYPICAL)

        def step(w, g):
            return w - lr * (change(direction(g), w, g) + wd * w)

        return step

    return make


def _orthogonal(u, w, g):
    return np.linalg.qr(u)[0] if u.ndim == 2 else u


def _low_rank(rank: int) -> Callable[..., Any]:
    def change(u, w, g):
        if u.ndim != 2 or min(u.shape) <= rank:
            return u
        left = np.linalg.svd(g, full_matrices=False)[0][:, :rank]
        return left @ (left.T @ u)

    return change


def _projected(axes: Callable[[int], tuple[int, ...]], near: float) -> Callable[..., Any]:
    """Takes the part along the weights out of the update where gradients are nearly orthogonal to them, as AdamP."""

    def change(u, w, g):
        if u.ndim < 2:
            return u
        over = axes(u.ndim)
        size = np.sqrt(np.sum(w * w, over, keepdims=True)) + 1e-30
        cosine = np.sum(w * g, over, keepdims=True) / (size * np.sqrt(np.sum(g * g, over, keepdims=True)) + 1e-30)
        along = w / size * np.sum(w / size * u, over, keepdims=True)
        return u - along if np.abs(cosine).max() < near else u

    return change


def _rows_normalized(u, w, g):
    return u / np.sqrt(np.mean(u * u, axis=-1, keepdims=True)) if u.ndim > 2 else u


def _spread_over_rows(u, w, g):
    return u - u.mean(axis=0) if u.ndim == 2 and u.shape[0] > u.shape[1] else u


def _adapted(family: str, first: float, measure: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """A maker whose rate is multiplied by the largest distance from the start so far."""

    def make(lr, wd):
        direction, start, distance = _direction(family, _TYPICAL), None, first

        def step(w, g):
            nonlocal start, distance
            start = w if start is None else start
            distance = np.maximum(distance, measure(w - start))
            return w - lr * distance * (direction(g) + wd * w)

        return step

    return make


def _d_adapted(lr, wd):
    """Adam at a rate that is estimated from gradients along the way from the start, as Prodigy's."""
    direction, start, d, along, s = _direction("adam", _TYPICAL), None, 1e-6, 0.0, 0.0

    def step(w, g):
        nonlocal start, d, along, s
        start = w if start is None else start
        along = along + lr * d * np.sum(g * (start - w))
        s = s + lr * d * g
        d = max(d, float(along / (np.sum(np.abs(s)) + 1e-30)))
        return w - lr * d * (direction(g) + wd * w)

    return step


def _masked(wd_on: Callable[[np.ndarray], bool]) -> Callable[..., Any]:
    return _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + (wd if wd_on(w) else 0.0) * w))


OUTSIDERS: dict[str, Callable[..., Any]] = {
    "Lion with noise": _unseeded_noise,
    "Lion with seeded noise": _seeded_noise(0.01),
    "Lion with little seeded noise": _seeded_noise(1e-6),
    "Shampoo-like": _shampoo,
    "clipped by global norm": lambda lr, wd: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(lr, weight_decay=wd)
    ),
    "clipped gradients": _on_changed_gradients(lambda g, t: np.clip(g, -1, 1)),
    "clipped updates": _stepping(lambda w, u, g, t, lr, wd: w - lr * (np.clip(u, -0.9, 0.9) + wd * w)),
    "random function 1": _random_function(1),
    "random function 2": _random_function(2),
    "quantised weights": _stepping(lambda w, u, g, t, lr, wd: np.round((w - lr * (u + wd * w)) * 1e4) / 1e4),
    "cubic gradients": _on_changed_gradients(lambda g, t: g**3),
    "cubic decay": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + wd * w**3)),
    "L1 decay": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + wd * np.sign(w))),
    "uphill": _stepping(lambda w, u, g, t, lr, wd: w + lr * u),
    "sign flips every third step": _stepping(lambda w, u, g, t, lr, wd: w - lr * u * (-1 if t % 3 == 0 else 1)),
    "rate that decays": _stepping(lambda w, u, g, t, lr, wd: w - lr / np.sqrt(t) * (u + wd * w)),
    "rate that decays late": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + wd * w) * (1 if t < 60 else 0.5)),
    "warm-up": _stepping(lambda w, u, g, t, lr, wd: w - lr * min(t / 10, 1) * (u + wd * w)),
    "momentum of signs": _momentum_of_sign,
    "Adam through tanh": _stepping(lambda w, u, g, t, lr, wd: w - lr * (np.tanh(u) + wd * w)),
    "Adam with a cautious update": _stepping(lambda w, u, g, t, lr, wd: w - lr * u * (u * g > 0)),
    "Adam a millionth off": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + 1e-6 * u**3 + wd * w)),
    "Adam scaled by the weight": _stepping(lambda w, u, g, t, lr, wd: w - lr * (np.abs(w) + 1e-3) * u),
    "delayed gradients": _delayed,
    "centralised gradients": _on_changed_gradients(lambda g, t: g - g.mean()),
    "annealed second moment": _annealed_b2,
    "every second gradient lost": _on_changed_gradients(lambda g, t: g * (t % 2)),
    "yogi": optax.yogi,
    "adan": optax.adan,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "novograd": optax.novograd,
    "fromage": optax.fromage,
    "optimistic gradient descent": optax.optimistic_gradient_descent,
    "smooth Lion": lambda lr, wd: optax.chain(
        optax.scale_by_lion(mode="smooth"), optax.add_decayed_weights(wd), optax.scale_by_learning_rate(lr)
    ),
    "matrices orthogonal": _by_shape(_orthogonal),
    "matrices orthogonal, by optlab": lambda lr, wd: chain(
        optlab.scale_by_ema(0.9), ORTHOGONAL, optlab.add_decayed_weights(wd), optlab.scale_by_learning_rate(lr)
    ),
    "matrices orthogonal, momentum": _by_shape(_orthogonal, "heavy_ball"),
    "matrices of low rank": _by_shape(_low_rank(4)),
    "large matrices of low rank": _by_shape(_low_rank(128)),
    "kernels another way": _by_shape(_rows_normalized),
    "tall matrices another way": _by_shape(_spread_over_rows),
    "projected by rows": _by_shape(_projected(lambda ndim: tuple(range(1, ndim)), 1e-9)),
    "projected by columns": _by_shape(_projected(lambda ndim: tuple(range(ndim - 1)), 1e-3)),
    "projected as a whole": _by_shape(_projected(lambda ndim: tuple(range(ndim)), 1e-3), "sgd"),
    "momentum projected by rows": _by_shape(_projected(lambda ndim: tuple(range(1, ndim)), 1e-3), "heavy_ball"),
    "adafactor of large matrices": optax.adafactor,
    "rate of the distance": _adapted("adam", 1e-6, np.linalg.norm),
    "rate of the distance, SGD": _adapted("sgd", 1e-6, lambda off: np.max(np.abs(off), initial=0)),
    "rate of the distance, each weight its own": _adapted("adam", 1e-8, np.abs),
    "D-adapted": _d_adapted,
    "decay of a constant": lambda lr, wd: lambda w, g: w - lr * (g + wd),
    "decay of a constant, Adam": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + wd)),
    "decay that speeds up": _stepping(lambda w, u, g, t, lr, wd: w - lr * u * (1 + wd)),
    "decay of matrices": _masked(lambda w: w.ndim > 1),
    "decay of kernels": _masked(lambda w: w.ndim > 2),
    "Adam a ten millionth off": _stepping(lambda w, u, g, t, lr, wd: w - lr * (u + 1e-7 * u**3 + wd * w)),
    "Adam with little seeded noise": _noisy_adam(3e-8),
}


# Known optimizers, written in other ways ------------------------------------------------------------------------------


def _single_scalars(correct_first: bool = True) -> Callable[..., Any]:
    """Adam or LaProp whose bias corrections are kept in float32, as running products."""

    def make(lr, wd):
        m = v = 0.0
        c1 = c2 = np.float32(0)

        def step(w, g):
            nonlocal m, v, c1, c2
            c1, c2 = c1 * np.float32(0.9) + np.float32(0.1), c2 * np.float32(0.999) + np.float32(0.001)
            v = 0.999 * v + 0.001 * g * g
            size = np.sqrt(v / float(c2)) + 1e-8
            m = 0.9 * m + 0.1 * (g if correct_first else g / size)
            u = m / float(c1)
            return w - lr * ((u / size if correct_first else u) + wd * w)

        return step

    return make


def _single_coefficients(lr, wd):
    """Adam by averages whose coefficients are computed anew at every step, in float32."""
    m = v = 0.0
    n1 = n2 = np.float32(0)

    def step(w, g):
        nonlocal m, v, n1, n2
        g = g + wd * w
        n1, n2 = n1 * np.float32(0.9) + np.float32(1), n2 * np.float32(0.999) + np.float32(1)
        m, v = m + float(1 / n1) * (g - m), v + float(1 / n2) * (g * g - v)
        return w - lr * m / (np.sqrt(v) + 1e-8)

    return step


def _single_rate(lr, wd):
    """Heavy ball whose rate is cast to float32 after a warm-up product that is 1."""
    m, t = 0.0, 0

    def step(w, g):
        nonlocal m, t
        t += 1
        m = 0.9 * m + g
        return w - float(np.float32(lr) * np.float32(1 + 1e-7 * (t % 3))) * m - lr * wd * w

    return step


def _lerp(initial: float, place: str) -> Callable[..., Any]:
    """RMSProp as `v += (1 - b2)*(g*g - v)`."""

    def make(lr, wd):
        v = initial

        def step(w, g):
            nonlocal v
            v = v + (1 - 0.9) * (g * g - v)
            size = np.sqrt(v + 1e-10) if place == "inside" else np.sqrt(v) + 1e-10
            return w - lr * (g / size + wd * w)

        return step

    return make


def _two_eps(corrected: bool, quotient_first: bool = False) -> Callable[..., Any]:
    """Adam or LaProp with 1e-15 inside of the root and 1e-8 outside, added before or after the correction."""

    def make(lr, wd):
        m = v = 0.0
        t = 0

        def step(w, g):
            nonlocal m, v, t
            t += 1
            v = 0.999 * v + 0.001 * g * g
            c = 1 - 0.999**t
            size = np.sqrt(v / c + 1e-15) + 1e-8 if corrected else (np.sqrt(v + 1e-15) + 1e-8) / np.sqrt(c)
            m = 0.9 * m + 0.1 * (g / size if quotient_first else g)
            u = m / (1 - 0.9**t)
            return w - lr * ((u if quotient_first else u / size) + wd * w)

        return step

    return make


def _radam_that_waits(lr, wd):
    m = v = 0.0
    t = 0

    def step(w, g):
        nonlocal m, v, t
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        end, c = 2 / 0.001 - 1, 1 - 0.999**t
        length = end - 2 * t * 0.999**t / c
        if length <= 5:
            return w
        r = np.sqrt((length - 4) * (length - 2) * end / ((end - 4) * (end - 2) * length))
        return w - lr * (r * m / (1 - 0.9**t) / (np.sqrt(v / c) + 1e-8) + wd * w)

    return step


def _stable(lr, wd):
    m = v = 0.0
    t = 0

    def step(w, g):
        nonlocal m, v, t
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        v_hat = v / (1 - 0.999**t)
        return w - lr * (m / (1 - 0.9**t) / (np.sqrt(v_hat) + 1e-8) + wd * w / np.sqrt(v_hat.mean()))

    return step


def _warmed_nadam(lr, wd):
    """torch's NAdam with its product of coefficients in float64."""
    m = v = 0.0
    product, t = 1.0, 0

    def step(w, g):
        nonlocal m, v, product, t
        t += 1
        c, following = (0.9 * (1 - 0.5 * 0.96 ** (n * 0.004)) for n in (t, t + 1))
        product *= c
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = following * m / (1 - product * following) + (1 - c) * g / (1 - product)
        return w - lr * (u / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + wd * w)

    return step


def _kind(make: Callable[..., Any], family: str, site: str = "update", **values: float) -> Draw:
    known = {"learning_rate": 0.01, "weight_decay": 0.1, **values}
    return Draw("", make, 0.01, 0.1, family, frozenset({site}), "lr", "none", known)


_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}

KINDS: dict[str, Draw] = {
    "Adam, corrections in float32": _kind(_single_scalars(), "adam", **_ADAM),
    "LaProp, corrections in float32": _kind(_single_scalars(correct_first=False), "laprop", **_ADAM),
    "Adam, coefficients in float32": _kind(_single_coefficients, "adam", "gradient", **_ADAM),
    "heavy ball, its rate in float32": _kind(_single_rate, "heavy_ball", b1=0.9),
    "RMSProp by differences": _kind(_lerp(0.0, "outside"), "rmsprop", b2=0.9, eps=1e-10),
    "RMSProp by differences, from 1": _kind(_lerp(1.0, "inside"), "rmsprop", b2=0.9, eps=1e-10, initial=1.0),
    "Adam with two eps": _kind(_two_eps(corrected=True), "adam", eps_root=1e-15, **_ADAM),
    "Adam with two eps, before the correction": _kind(_two_eps(corrected=False), "adam", eps_root=1e-15, **_ADAM),
    "LaProp with two eps": _kind(_two_eps(False, quotient_first=True), "laprop", eps_root=1e-15, **_ADAM),
    "RAdam that waits": _kind(_radam_that_waits, "radam", **_ADAM),
    "NAdam, its product in float64": _kind(_warmed_nadam, "nadam", momentum_decay=0.004, **_ADAM),
    "AdamS": dataclasses.replace(_kind(optlab.adams, "adam", **_ADAM), gate="stable"),
    "Adam, decay by the mean of each array": dataclasses.replace(_kind(_stable, "adam", **_ADAM), gate="stable"),
}


def torch_kinds() -> dict[str, Draw]:
    return {"torch's NAdam": _kind(of_torch("NAdam"), "nadam", "gradient", momentum_decay=0.004, **_ADAM)}


TORCH_OUTSIDERS = {"rprop": "Rprop", "asgd": "ASGD"}
