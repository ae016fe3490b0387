"""Every public transform, built from its own signature, so that a new one is tested without being listed.

A new hyperparameter without a default has to be added to `ARGUMENTS`: without it every test that goes over the public
transforms fails.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optlab

ARGUMENTS: dict[str, Any] = {
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "decay": 0.9,
    "b1": 0.9,
    "b2": 0.95,
    "eps": 1e-3,
    "eps_root": 1e-4,
    "numerator": optlab.scale_by_ema(0.8),
    "denominator": optlab.rms(0.95, 1e-3),
    "link": optlab.add_decayed_weights(0.1),
    "following": optlab.add_decayed_weights(0.1),
    "tx": optlab.adamw(0.01, weight_decay=0.1),
    "codec": optlab.codecs.int8,
    "second_moment": optlab.chain(optlab.square(), optlab.scale_by_ema(0.95)),
}


def _makers() -> dict[str, Callable[..., optlab.Transform]]:
    """The public functions that return a transform; `chain` is no transform of its own."""
    functions = {name: getattr(optlab, name) for name in optlab.__all__ if inspect.isfunction(getattr(optlab, name))}
    returns = {name: inspect.signature(function).return_annotation for name, function in functions.items()}
    return {name: functions[name] for name in functions if returns[name] in (optlab.Rule, optlab.Transform)}


MAKERS = {name: maker for name, maker in _makers().items() if name != "chain"}
TRANSFORMS = sorted(MAKERS)
OPTIMIZERS = [name for name in TRANSFORMS if "learning_rate" in inspect.signature(MAKERS[name]).parameters]
OPTIMIZERS.remove("scale_by_learning_rate")


def random_tree(shapes: Any, seed: int, dtype: Any = jnp.float32) -> Any:
    """Normal numbers in a tree of shapes; complex ones for a complex dtype."""
    rng = np.random.default_rng(seed)

    def leaf(shape: tuple[int, ...]) -> jax.Array:
        real, imaginary = rng.normal(size=(2, *shape))
        return jnp.asarray(real + 1j * imaginary if jnp.issubdtype(dtype, jnp.complexfloating) else real, dtype)

    return jax.tree.map(leaf, shapes, is_leaf=lambda shape: isinstance(shape, tuple))


def parameters(name: str) -> list[str]:
    return list(inspect.signature(MAKERS[name]).parameters)


def build(name: str, **changed: Any) -> optlab.Transform:
    """The transform with every hyperparameter that has no default, and those that are `changed`, if it has them."""
    required = inspect.signature(MAKERS[name]).parameters.values()
    given = {p.name: ARGUMENTS[p.name] for p in required if p.default is inspect.Parameter.empty}
    return MAKERS[name](**given | {key: value for key, value in changed.items() if key in parameters(name)})
