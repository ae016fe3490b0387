"""Equations as numbers, beside the transform that they were read from, run in float64."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import public
import sympy as sp

import optlab

STEPS = 9
WEIGHTS = np.array([1.3, -0.4, 0.7])

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("learning_rate", "lr"), (0.01, 0.2)),
    **dict.fromkeys(("weight_decay", "wd"), (0.05, 0.5)),
    "eps": (1e-3, 1e-1),
    "eps_root": (1e-3, 1e-1),
    **dict.fromkeys(("reps_rel", "estim_lr0", "init_estim_lr"), (0.01, 0.1)),
    **dict.fromkeys(("b1", "b2", "b3", "decay", "decay_rate", "momentum", "beta", "rho"), (0.3, 0.99)),
}


def _arguments(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _factories(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions of `module` that make an optimizer: of a learning rate, or of a variant of one."""
    found = {}
    for name, value in vars(module).items():
        function = value.func if isinstance(value, functools.partial) else value
        if not name.startswith("_") and inspect.isfunction(function):
            is_alias = function.__module__ == "optax._src.alias"
            if is_alias or (function.__module__.startswith("optax") and "learning_rate" in _arguments(value)):
                found[name] = value
    return found


FACTORIES = {
    **{f"optlab.{name}": public.MAKERS[name] for name in public.OPTIMIZERS},
    **{f"optax.{name}": factory for name, factory in _factories(optax).items()},
    **{f"optax.contrib.{name}": factory for name, factory in _factories(optax.contrib).items()},
    "optax.contrib.dog": functools.partial(optax.contrib.dog, init_step=("distance", 0.1)),  # else it hardly moves
}


def draw(factory: Callable[..., Any], seed: int) -> dict[str, float]:
    """Numbers for all numeric hyperparameters of a factory."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        default = parameter.default
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if name in RANGES and (is_number or default is parameter.empty or name == "learning_rate"):
            drawn[name] = rng.uniform(*RANGES[name])
        elif is_number:
            drawn[name] = default * rng.uniform(0.8, 1.2)
    return drawn


def gradients(seed: int) -> np.ndarray:
    """Of every size, and some of them zero."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(STEPS, len(WEIGHTS))) * 10 ** rng.uniform(-1, 1, (STEPS, len(WEIGHTS)))
    return np.where(rng.uniform(size=drawn.shape) < 0.1, 0.0, drawn)


def run(tx: Any, grads: np.ndarray) -> np.ndarray:
    """The weights after each step of the transform itself, jitted."""
    with conftest.lenient(), jax.enable_x64(True):

        @jax.jit
        def trajectory(w: Any, grads: Any) -> Any:
            def step(carry: Any, g: Any) -> Any:
                updates, state = tx.update(g, carry[1], carry[0])
                w = optax.apply_updates(carry[0], updates)
                return (w, state), w

            return jax.lax.scan(step, (w, tx.init(w)), grads)[1]

        return np.asarray(trajectory(jnp.asarray(WEIGHTS), jnp.asarray(grads)))


class Numbers(NamedTuple):
    """What a trajectory of equations needs beside them."""

    hyperparameters: Mapping[str, float]
    schedules: Mapping[str, Callable[[Any], Any]] = {}


def evaluate(explanation: optlab.equations.explanation.Explanation, numbers: Numbers, grads: Sequence[Any]) -> Any:
    """The weights after each step of the equations, for a leaf of some weights."""
    found = explanation.recurrence
    letters = {found.hyperparameters[name]: value for name, value in numbers.hyperparameters.items()}
    known: dict[str, Any] = {symbol.name: value for symbol, value in letters.items()}
    known |= {"w": WEIGHTS, "w_0": WEIGHTS, "N": len(WEIGHTS)}
    for slot in found.slots:
        known[slot.before.name] = _value(slot.first, known, numbers)
    weights = []
    for t, g in enumerate(grads, start=1):
        known |= {"t": float(t), "g": np.asarray(g)}
        for equation in explanation.equations:
            known[equation.lhs.name] = _value(equation.rhs, known, numbers)
        weights.append(known["w_t"])
        known |= {"w": known["w_t"]} | {slot.before.name: known[slot.after.name] for slot in found.slots}
    return np.array(weights)


def _value(expression: Any, known: Mapping[str, Any], numbers: Numbers) -> Any:
    names = sorted(expression.free_symbols, key=str)
    function = _compiled(expression, tuple(names), tuple(numbers.schedules.items()))
    with np.errstate(all="ignore"):
        return function(*(known[name.name] for name in names))


@functools.cache
def _compiled(expression: Any, names: tuple[sp.Symbol, ...], schedules: Any) -> Callable[..., Any]:
    one_based = {f"at_{name}": functools.partial(_scheduled, schedule) for name, schedule in schedules}
    for name, _ in schedules:  # `lambda` is no name in Python
        expression = expression.replace(sp.Function(name, real=True), sp.Function(f"at_{name}", real=True))
    numpy = {"Σ": np.sum, "largest": np.max, "zoo": np.nan, **one_based}
    return sp.lambdify(names, expression, modules=[numpy, "numpy"])


def _scheduled(schedule: Callable[[Any], Any], t: float) -> float:
    with conftest.lenient(), jax.enable_x64(True):
        return float(schedule(t - 1))


def differ(explanation: Any, tx: Any, numbers: Numbers, seed: int) -> float:
    """The largest difference between the equations and the transform, relative to the largest move of a weight."""
    grads = gradients(seed)
    wanted = run(tx, grads)
    moved = np.max(np.abs(wanted - WEIGHTS))
    assert np.isfinite(wanted).all(), "not a number is no test of an equation"
    assert moved > 1e-4, "nothing moves"
    return float(np.max(np.abs(evaluate(explanation, numbers, grads) - wanted)) / moved)
