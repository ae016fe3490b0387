"""A task from a Flax NNX module and arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from optlab.lab.tasks.task import Task, no_summary, require_whole, steps_between

MEASUREMENTS = 10


class Split(NamedTuple):
    """Inputs and targets of equal length for training, for choosing the best cell, and for reporting it."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`mean(-log softmax(logits)[label])`, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels that are the largest logit."""
    return (logits.argmax(-1) == labels).mean()


ACCURACY = {"accuracy": accuracy}


def functional(module: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Callable[[jax.Array], nnx.State], Callable[..., Any]]:
    """`init(key) -> params` and `apply(params, *inputs) -> outputs` of a Flax NNX module.

    Raises:
      ValueError: the module holds variables that are no `nnx.Param`: a study has no place to keep them.
    """
    abstract = nnx.eval_shape(lambda: module(nnx.Rngs(0)))
    graphdef, _, rest = nnx.split(abstract, nnx.Param, ...)
    if others := sorted({type(leaf).__name__ for leaf in jax.tree.leaves(rest, is_leaf=_is_variable)}):
        raise ValueError(
            f"{type(abstract).__name__} holds {', '.join(others)} besides its Params; a study trains modules of Params "
            "alone: no batch statistics, no dropout"
        )

    def init(key: jax.Array) -> nnx.State:
        return nnx.state(module(nnx.Rngs(key)), nnx.Param)

    def apply(params: nnx.State, *inputs: Any) -> Any:
        return nnx.merge(graphdef, params)(*inputs)

    return init, apply


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def supervised(
    module: Callable[[nnx.Rngs], nnx.Module],
    data: Split | Callable[[jax.Array], Split],
    *,
    name: str,
    description: str,
    steps: int,
    batch_size: int | None,
    loss: Callable[[Any, Any], jax.Array] = cross_entropy,
    measures: Mapping[str, Callable[[Any, Any], jax.Array]] = ACCURACY,
    objective: str = "validation_accuracy",
    reported: str = "test_accuracy",
    maximize: bool = True,
    every: int | None = None,
    divergence: float = 1e3,
    summary: Callable[[jax.Array, Mapping[str, jax.Array]], Mapping[str, jax.Array]] = no_summary,
    schedule: Callable[[jax.Array], jax.typing.ArrayLike] | None = None,
) -> Task:
    """A task that learns targets from inputs; classification if not told otherwise.

    Its metrics are `train_loss`, `validation_loss`, `test_loss`, and of every measure `train_<measure>` and so on, NaN
    where the loss is not finite.

    Args:
      module: `module(rngs)` makes the Flax NNX module, which maps inputs to outputs; a class with such an `__init__`.
      data: the arrays, the same for every seed, or `data(key)`, drawn from the run's seed.
      batch_size: how many examples a batch draws from `train`, with replacement; None: each batch is all of `train`.
      loss: `loss(outputs, targets)`, a scalar.
      measures: by name, `measure(outputs, targets)`, a scalar.
      every: None for ten measurements, or as many below as divide `steps`.
      name, description, steps, objective, reported, maximize, divergence, summary, schedule: see `Task`.

    Raises:
      TypeError: the data are not three pairs.
      ValueError: a bad number, a module with other variables than Params, or inputs and targets that differ in length.
    """
    require_whole(name, steps=steps, **({} if batch_size is None else {"batch_size": batch_size}))
    init, apply = functional(module)

    def draw(key: jax.Array) -> Split:
        return jax.tree.map(jnp.asarray, _split(name, data(key) if callable(data) else data))

    sizes = _sizes(name, jax.eval_shape(draw, jax.eval_shape(lambda: jax.random.key(0))))

    def batch(data: Split, key: jax.Array, step: jax.Array) -> tuple[Any, Any]:
        if batch_size is None:
            return data.train
        chosen = jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, sizes["train"])
        return jax.tree.map(lambda values: values[chosen], data.train)

    def loss_of(params: nnx.State, batch: tuple[Any, Any]) -> jax.Array:
        inputs, targets = batch
        return loss(apply(params, inputs), targets)

    def metrics(params: nnx.State, data: Split) -> dict[str, jax.Array]:
        measured = {}
        for part, (inputs, targets) in data._asdict().items():
            outputs = apply(params, inputs)
            measured[f"{part}_loss"] = value = loss(outputs, targets)
            for measure, function in measures.items():
                measured[f"{part}_{measure}"] = jnp.where(jnp.isfinite(value), function(outputs, targets), jnp.nan)
        return measured

    return Task(
        name=name,
        description=description,
        steps=steps,
        data=draw,
        init=init,
        batch=batch,
        loss=loss_of,
        metrics=metrics,
        every=steps_between(steps, MEASUREMENTS) if every is None else every,
        objective=objective,
        reported=reported,
        maximize=maximize,
        divergence=divergence,
        summary=summary,
        schedule=schedule,
    )


def _split(who: str, data: Any) -> Split:
    if not isinstance(data, tuple | list) or len(data) != 3 or any(len(part) != 2 for part in data):
        raise TypeError(
            f"{who}: data must be a Split of three pairs of inputs and targets, train, validation and test, "
            f"got {type(data).__name__}"
        )
    return Split(*map(tuple, data))


def _sizes(who: str, split: Split) -> dict[str, int]:
    """How many examples each part has."""
    sizes = {}
    for part, arrays in split._asdict().items():
        lengths = {array.shape[:1] for array in jax.tree.leaves(arrays)}
        if len(lengths) != 1 or lengths & {(), (0,)}:
            raise ValueError(
                f"{who}: {part} must have as many inputs as targets, from 1; got shapes "
                f"{', '.join(str(array.shape) for array in jax.tree.leaves(arrays))}"
            )
        ((sizes[part],),) = lengths
    return sizes
