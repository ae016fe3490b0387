"""`train_step`: loss, gradient and the optimizer's step as one compiled program that works in place."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.algebra.combinators import require_transform
from optlab.algebra.rules import wide, widened
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import describe
from optlab.memory.rounding import apply_updates
from optlab.outside.jax_internals import speaks_of_donation


class TrainStep:
    """What `train_step` makes: `step(params, state, *batch, key=None) -> (params, state, loss)`, compiled.

    Attributes:
      lower: that of `jax.jit`, `step.lower(params, state, *batch).compile()`, to look at the program.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self._compiled = jax.jit(step, donate_argnums=(0, 1))
        self.lower = self._compiled.lower

    @spelled("a step of train_step")
    def __call__(self, params: Any, state: Any, *batch: Any, key: Any = None) -> tuple[Any, Any, Any]:
        try:
            return self._compiled(params, state, *batch, key=key)
        except TypeError:
            _refuse_what_is_no_array(params, state, batch, key)
            raise
        except (ValueError, RuntimeError) as error:
            if speaks_of_donation(error):
                _refuse_donated(params, state, batch)
            raise


@spelled()
def train_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation | optax.MultiSteps,
    *,
    has_aux: bool = False,
) -> TrainStep:
    """`loss, g = value_and_grad(loss_fn)(w, *batch);  u = tx(g);  w <- w + u`, as one compiled program.

        step = optlab.train_step(loss_fn, tx)
        state = tx.init(params)
        for batch in batches:
            params, state, loss = step(params, state, batch)

    Params and state are donated: the new ones take over their memory, and the old ones can't be read any more. Nothing
    waits for the device before the loss is read. Weights in bfloat16 are rounded to nearest, which loses small steps,
    or by chance where each step has its own key, `step(params, state, batch, key=key)`; see `apply_updates`.

    Args:
      loss_fn: `loss_fn(params, *batch)`, a real scalar. Params are any tree of floating-point or complex arrays: a dict
        of Linen, a State of `nnx.split(model, nnx.Param, ...)`, an Equinox model after `eqx.partition`, with `None` for
        what was left out. The batch is any trees of arrays.
      tx: a transform of optlab or optax, or `optax.MultiSteps`, which accumulates gradients. `value`, `grad` and
        `value_fn` are handed to it, for those of optax that ask for them.
      has_aux: whether `loss_fn` gives `(loss, aux)`, and the step `(params, state, (loss, aux))`: new batch statistics,
        say, to be handed in with the next batch.

    Raises:
      TypeError: `tx` is no transform, or `loss_fn` no function; `loss_fn` gives no real scalar; params have a leaf that
        has no gradient, or something is no array; a transform of optax wants updates in the dtype of narrow gradients.
      ValueError: an array of params or state was donated to an earlier step, or is there twice.
    """
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if isinstance(loss_fn, optax.GradientTransformation) or not callable(loss_fn):
        raise TypeError(
            f"train_step: loss_fn must be a function of params and batch, got {_said(loss_fn)}; call "
            "train_step(loss_fn, tx)"
        )
    require_transform("train_step: tx", tx)
    if not isinstance(has_aux, bool):
        raise TypeError(f"train_step: has_aux must be True or False, got {has_aux!r}")
    update = _update_of(tx)

    def loss_and_aux(params: Any, *batch: Any) -> tuple[Any, Any]:
        returned = loss_fn(params, *batch)
        if not has_aux:
            return _scalar(returned, "the loss alone; has_aux=True lets it give (loss, aux)"), None
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"train_step: with has_aux=True loss_fn must return (loss, aux), got {_said(returned)}")
        return _scalar(returned[0], "(loss, aux)"), returned[1]

    def step(params: Any, state: Any, *batch: Any, key: Any = None) -> tuple[Any, Any, Any]:
        _require_differentiable(params)
        (loss, aux), grads = jax.value_and_grad(loss_and_aux, has_aux=True)(params, *batch)
        grads = jax.tree.map(jnp.conj, grads)  # JAX's gradient of a complex weight is the conjugate of the steepest
        value_fn = functools.partial(_first, loss_and_aux, *batch)
        updates, state = update(grads, state, params, value=loss, grad=grads, value_fn=value_fn)
        params = apply_updates(params, updates, rounding="nearest" if key is None else "stochastic", key=key)
        return params, state, (loss, aux) if has_aux else loss

    return TrainStep(step)


def _update_of(tx: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    """`tx.update`, whose error says so where a transform of optax can't have updates wider than gradients."""
    update = optax.with_extra_args_support(tx).update

    def explained(grads: Any, *others: Any, **extra_args: Any) -> tuple[Any, Any]:
        try:
            return update(grads, *others, **extra_args)
        except TypeError as error:
            narrow = {g.dtype.name for g in jax.tree.leaves(grads) if wide(g.dtype) != g.dtype}
            if not narrow or not _passes(
                functools.partial(update, **extra_args), jax.tree.map(widened, grads), *others
            ):
                raise
            raise TypeError(
                f"train_step: {describe(tx)} wants updates in the dtype of the gradients, {min(narrow)}, and those of "
                "optlab leave in float32: put keep_dtype around what stands inside of it, as in "
                "apply_if_finite(keep_dtype(adamw(...)), 5)"
            ) from error

    return explained


def _passes(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        jax.eval_shape(function, *arguments)
    except Exception:
        return False
    return True


def _first(loss_and_aux: Callable[..., tuple[Any, Any]], *batch_and_params: Any) -> Any:
    *batch, params = batch_and_params
    return loss_and_aux(params, *batch)[0]


def _scalar(loss: Any, wanted: str) -> Any:
    if not isinstance(loss, jax.Array) or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            f"train_step: loss_fn must return {wanted}; the loss must be one real number, got {_said(loss)}"
        )
    return loss


def _said(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"NumPy's {value.dtype}{list(value.shape)}"
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, optax.GradientTransformation):
        return describe(value)
    name = getattr(value, "__name__", None)
    return f"the function {name}" if name and callable(value) else f"a {type(value).__name__}"


def _require_differentiable(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"train_step: params at {_path(path)} are {_said(leaf)}, which have no gradient: leave them out with "
                "your framework's filter (nnx.split, eqx.partition) and hand them in with the batch"
            )


_INSTEAD = {
    "params": "leave it out with your framework's filter (nnx.split, eqx.partition), and put it back inside loss_fn",
    "state": "give what tx.init returned, or the last step",
    "batch": "leave it out of the batch",
    "key": "give a jax.random.key",
}


def _refuse_what_is_no_array(params: Any, state: Any, batch: Any, key: Any) -> None:
    """Says which leaf is no array, where JAX says that one isn't."""
    for name, tree in {"params": params, "state": state, "batch": batch, "key": key}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            try:
                jax.typeof(leaf)
            except TypeError:
                raise TypeError(
                    f"train_step: {name} at {_path(path)} is {_said(leaf)}, which is no array of JAX: {_INSTEAD[name]}"
                ) from None


def _refuse_donated(params: Any, state: Any, batch: Any) -> None:
    """Says which array can't be donated, where JAX says that one of them can't."""
    seen: dict[Hashable, str] = {}
    for name, tree in {"params": params, "state": state, "batch": batch}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not isinstance(leaf, jax.Array):
                continue
            place = f"{name} at {_path(path)}"
            if leaf.is_deleted():
                raise ValueError(
                    f"train_step: {place} were donated to an earlier step; go on with the params and state that it "
                    "returned, or copy before it what has to stay"
                ) from None
            if (other := seen.setdefault(id(leaf), place)) != place:
                raise ValueError(
                    f"train_step: {place} is the array of {other}, which is updated in place: copy one of them, as "
                    "state = jax.jit(tx.init)(params) does"
                ) from None


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the root"
