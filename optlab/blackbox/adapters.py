"""One way to drive every black box: weights and gradients in, weights out."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.outside.peers import lenient_float64

Step = Callable[[Any, Any], Any]
Leaves = Mapping[str, np.ndarray]
Gradient = Callable[[int, Leaves], Leaves]

RATES = ("learning_rate", "lr")
DECAYS = ("weight_decay", "wd")
FORMS = "an optax-like transform (init and update), a step (w, g) -> new w, or be a torch.optim class"


class Signature(NamedTuple):
    """How a maker is called: the names of its arguments, `None` for one that it takes by position or not at all."""

    rate: str | None
    decay: str | None
    takes_decay: bool


class Box:
    """A maker of optimizers, of which only what goes in and what comes out is looked at.

    Args:
      make: called anew for every run, as `make(learning_rate, weight_decay)`, or without the latter where it takes
        none; a class of `torch.optim` is given its parameter first. Gives an optax-like transform, or a step
        `(w, g) -> new w` over NumPy arrays of any shape.

    Raises:
      TypeError: not callable, or no argument that could be the learning rate.
    """

    def __init__(self, make: Any) -> None:
        if not callable(make):
            raise TypeError(f"identify: make must be callable as make(learning_rate, weight_decay), got {make!r}")
        self._make = make
        self._is_torch = _is_torch_class(make)
        self._signature = _signature(make, self._is_torch)
        self._joins = True

    @property
    def joins(self) -> bool:
        """Whether one optimizer has all the arrays of a run; steps `(w, g) -> new w` have one each."""
        return self._joins

    @property
    def takes_decay(self) -> bool:
        return self._signature.takes_decay

    def run(self, learning_rate: float, weight_decay: float, start: np.ndarray, grads: np.ndarray) -> np.ndarray:
        """The weights before and after every step, `[steps + 1, weights]`, from a fresh optimizer.

        Args:
          learning_rate, weight_decay: handed to the maker.
          start: weights, `[weights]`, float64.
          grads: one row per step, `[steps, weights]`; they do not depend on the weights.

        Raises:
          TypeError: the maker gives nothing that steps, or the step gives no real floating-point array.
          ValueError: the maker or the step raises, or the step gives another shape.
        """
        weights = [start]
        with lenient_float64(), np.errstate(all="ignore"):
            step = self._fresh(learning_rate, weight_decay, start)
            for t, g in enumerate(grads, 1):
                weights.append(_stepped(step, weights[-1], g, t))
        return np.stack(weights)

    def run_leaves(
        self, learning_rate: float, weight_decay: float, start: Leaves, gradient: Gradient, steps: int
    ) -> tuple[Leaves, Leaves]:
        """Several arrays in one optimizer: the weights before and after every step, and the gradients.

        A step `(w, g) -> new w` is made anew for each of them.

        Args:
          learning_rate, weight_decay: handed to the maker.
          start: weights by name.
          gradient: from the number of the step, 0-based, and the weights to gradients.
          steps: how many.

        Raises:
          TypeError, ValueError: see `run`.
        """
        weights = {name: [w] for name, w in start.items()}
        grads: dict[str, list[np.ndarray]] = {name: [] for name in start}
        with lenient_float64(), np.errstate(all="ignore"):
            step = self._fresh(learning_rate, weight_decay, dict(start))
            for t in range(steps):
                w = {name: of_leaf[-1] for name, of_leaf in weights.items()}
                g = gradient(t, w)
                for name, new in _stepped(step, w, g, t + 1).items():
                    weights[name].append(new)
                    grads[name].append(g[name])
        return _stacked(weights), _stacked(grads)

    def _fresh(self, learning_rate: float, weight_decay: float, start: Any) -> Step:
        """A step of an array, or of arrays by name as `start` is."""
        rate, decay, takes_decay = self._signature
        values = [(rate, learning_rate), (decay, weight_decay)][: 2 if takes_decay else 1]
        positional = [value for name, value in values if name is None]
        named = {name: value for name, value in values if name is not None}
        wd = f", weight_decay={weight_decay:g}" if takes_decay else ""
        try:
            if self._is_torch:
                return _torch_step(functools.partial(self._make, **named), start)
            made = self._make(*positional, **named)
            if callable(getattr(made, "init", None)) and callable(getattr(made, "update", None)):
                return _optax_step(made, start)
            if isinstance(start, dict) and callable(made):
                self._joins = False
                alone: dict[str, Any] = {name: self._make(*positional, **named) for name in list(start)}
                return lambda w, g: {name: alone[name](w[name], g[name]) for name in w}
        except Exception as error:
            raise ValueError(
                f"identify: make(learning_rate={learning_rate:g}{wd}) raised {_said(error)}; a maker takes these two"
                " and fixes the rest, as functools.partial(make, ...) does"
            ) from error
        if not callable(made):
            raise TypeError(f"identify: make must give {FORMS}; it gave {type(made).__name__}")
        return made


def _stacked(leaves: Mapping[str, list[np.ndarray]]) -> Leaves:
    return {name: np.stack(of_leaf) for name, of_leaf in leaves.items()}


def _stepped(step: Step, w: Any, g: Any, t: int) -> Any:
    """The new weights of step `t`, an array or arrays by name as `w` is."""
    try:
        new = step(*jax.tree.map(np.copy, (w, g)))
    except Exception as error:
        raise ValueError(f"identify: step {t} of the box raised {_said(error)}") from error
    if isinstance(w, dict):
        return {name: _checked(np.asarray(new[name]), w[name], t) for name in w}
    return _checked(np.asarray(new), w, t)


def _said(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _is_torch_class(make: Any) -> bool:
    while isinstance(make, functools.partial):
        make = make.func
    torch = sys.modules.get("torch")  # whoever hands one of its classes has imported it
    return torch is not None and isinstance(make, type) and issubclass(make, torch.optim.Optimizer)


def _parameters(make: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments that are still free; those of the function itself where a partial's do not suit it."""
    try:
        return inspect.signature(make).parameters
    except ValueError:
        if not isinstance(make, functools.partial):
            return {}
        return {name: p for name, p in _parameters(make.func).items() if name not in make.keywords}


def _signature(make: Any, is_torch: bool) -> Signature:
    parameters = _parameters(make)
    named_rate = next((name for name in RATES if name in parameters), None)
    named_decay = next((name for name in DECAYS if name in parameters), None)
    if named_rate is not None:
        return Signature(named_rate, named_decay, named_decay is not None)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters.values() if p.kind in by_position and p.default is inspect.Parameter.empty]
    if is_torch or not required or len(required) > 2:
        raise TypeError(
            "identify: make must take (learning_rate, weight_decay), or learning_rate alone, got a callable that takes "
            f"({', '.join(parameters)}); wrap it: lambda lr, wd: ..."
        )
    return Signature(None, named_decay, named_decay is not None or len(required) == 2)


def _optax_step(tx: Any, start: Any) -> Step:
    state = tx.init(jax.tree.map(jnp.asarray, start))

    def apply(params: Any, update: Any) -> Any:
        # adding to wider weights would hide how few digits the updates have
        return optax.apply_updates(params.astype(jnp.float32) if update.dtype == jnp.float32 else params, update)

    def step(w: Any, g: Any) -> Any:
        nonlocal state
        params, grads = jax.tree.map(jnp.asarray, (w, g))
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(apply, params, updates)

    return step


def _torch_step(make: Callable[..., Any], start: Any) -> Step:
    import torch  # pyright: ignore[reportMissingImports]

    parameters = jax.tree.map(lambda w: torch.nn.Parameter(torch.from_numpy(w.copy())), start)
    optimizer = make(jax.tree.leaves(parameters))

    def step(w: Any, g: Any) -> Any:
        for parameter, grad in zip(jax.tree.leaves(parameters), jax.tree.leaves(g), strict=True):
            parameter.grad = torch.from_numpy(grad)
        optimizer.step()
        return jax.tree.map(lambda parameter: parameter.detach().numpy().copy(), parameters)

    return step


def _checked(new: np.ndarray, start: np.ndarray, t: int) -> np.ndarray:
    if new.dtype.kind != "f":
        raise TypeError(f"identify: the box must give real floating-point weights, step {t} gave {new.dtype}")
    if new.shape != start.shape:
        raise ValueError(f"identify: step {t} of the box turned weights of shape {start.shape} into {new.shape}")
    return new.astype(np.float64)
