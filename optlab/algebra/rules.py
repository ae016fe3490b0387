"""The recurrence of one weight, what it must give back, and the dtype in which it is computed."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Slots = dict[str, Any]


def no_slots(w: jax.Array) -> Slots:
    """`init` of a rule that remembers nothing."""
    del w
    return {}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The recurrence of one weight, as a paper writes it; an array is many weights at once.

    Attributes:
      update: `update(u, slots, w, t) -> (u, slots)`. From the incoming update `u`, the slots, the weight `w` and the
        1-based step `t` (int32 scalar), the outgoing update and the new slots. `u` and `w` come in the dtype of the
        statistics: float32, or wider for wider weights; `w` is None when the caller gave no params.
      init: `init(w) -> slots`, a dict of arrays under names that say what they are. `w` comes in the dtype in which
        `u` will; a slot that starts as `w` must be a copy of it, or the two can't be donated together.
      elementwise: whether every weight goes its own way; False for a rule that mixes the values of a leaf.
      needs_params: whether `update` reads `w`.
      descends: whether updates leave as steps, to be added to the weights: a learning rate turns their sign.
      pulls: what it does to the weights beside the update that it passes on. "up" adds some of them, which shrinks
        them if a learning rate follows; "down" takes some away, which does behind it.
      compares_signs: whether it compares the sign of `u` with that of `w`, so that no learning rate may stand before.
      averages: the decay of the average from zero that leaves as it is, not yet corrected; None for all other rules.
      corrects: the decay of the average that it corrects; None for all other rules.
    """

    update: Callable[[Any, Slots, Any, Any], tuple[Any, Slots]]
    init: Callable[[Any], Slots] = no_slots
    elementwise: bool = True
    needs_params: bool = False
    descends: bool = False
    pulls: Literal["up", "down"] | None = None
    compares_signs: bool = False
    averages: Any = None
    corrects: Any = None


class LeafError(ValueError):
    """Something is wrong with one leaf; whoever knows its path adds it."""


def named(name: str, rule: Rule) -> Rule:
    """`rule` with errors that say whose rule it is, and what to do where it was written otherwise than rules are."""
    for what, function, arguments in ("update", rule.update, "(u, slots, w, t)"), ("init", rule.init, "(w)"):
        try:
            inspect.signature(function).bind(*arguments.split(","))
        except TypeError:
            raise TypeError(
                f"{name}: {what} must be called as {what}{arguments}, got {what}{inspect.signature(function)}"
            ) from None
        except ValueError:  # a built-in without a signature
            continue

    def update(u: Any, slots: Slots, w: Any, t: Any) -> tuple[Any, Slots]:
        try:
            return applied(rule, u, slots, w, t)
        except LeafError as error:
            raise LeafError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
        except jax.errors.ConcretizationTypeError as error:
            raise LeafError(
                f"{name}: its update asks for the value of a traced array, as a Python `if` does; write "
                "jnp.where(condition, a, b)"
            ) from error
        except (AttributeError, TypeError) as error:
            if w is not None:
                raise
            raise LeafError(
                f"{name}: its update reads the weights, which are None where update(updates, state) is called "
                "without them; give its Rule needs_params=True, and call update(updates, state, params)"
            ) from error

    def init(w: Any) -> Slots:
        slots = rule.init(w)
        if not isinstance(slots, dict):
            raise LeafError(f"{name}: init must return a dict of slots, got {type(slots).__name__}")
        return slots

    return dataclasses.replace(rule, update=update, init=no_slots if rule.init is no_slots else init)


def applied(rule: Rule, u: Any, slots: Slots, w: Any, t: Any) -> tuple[jax.Array, Slots]:
    """One step of a rule, whose slots keep their types, refused if it returns anything but what it was given."""
    out, new_slots = _returned(rule.update(u, slots, w, t), u.dtype)
    if out.shape != u.shape:
        raise LeafError(f"the rule returned updates of shape {out.shape} for weights of shape {u.shape}")
    if jax.tree.structure(new_slots) != jax.tree.structure(slots):
        raise LeafError(f"the rule returned slots {sorted(new_slots)} where it had {sorted(slots)}")
    return out, jax.tree_util.tree_map_with_path(_as_before, new_slots, slots)


def _returned(result: Any, dtype: Any) -> tuple[jax.Array, Slots]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise LeafError(f"the rule must return (updates, dict of slots), got {type(result).__name__}")
    out = result[0] if hasattr(result[0], "dtype") else jnp.asarray(result[0], dtype)
    return out, result[1]


def _as_before(path: Any, new: Any, old: jax.Array) -> jax.Array:
    if jnp.shape(new) != old.shape:
        raise LeafError(f"the rule returned a slot of shape {jnp.shape(new)} where it had one of shape {old.shape}")
    new = jnp.asarray(new)
    if jnp.issubdtype(new.dtype, jnp.inexact) and not jnp.issubdtype(old.dtype, jnp.inexact):
        raise LeafError(
            f"the rule returned {new.dtype} for the slot {jax.tree_util.keystr(path)}, which began as {old.dtype} and "
            f"would lose what is behind the point; let init begin it as a float, or return {old.dtype}"
        )
    return new.astype(old.dtype)


def wide(dtype: Any) -> np.dtype:
    """The dtype of the statistics of a weight of `dtype`: at least single precision.

    Raises:
      LeafError: neither floating-point nor complex.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise LeafError(
            f"dtype {dtype} is neither floating-point nor complex; "
            "leave it out with optax.masked, optax.partition or your framework's filter"
        )
    return np.dtype(dtype) if dtype.itemsize >= 4 else np.dtype(jnp.float32)


def statistics_dtype(u: jax.Array, slots: Slots, w: jax.Array | None) -> np.dtype:
    incoming = wide(u.dtype)
    if w is not None:
        dtype = wide(w.dtype)
        if jnp.issubdtype(incoming, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise LeafError(f"updates are complex ({u.dtype}), params are real ({w.dtype})")
        return dtype
    kept = [slot.dtype for slot in jax.tree.leaves(slots) if jnp.issubdtype(slot.dtype, jnp.inexact)]
    if not kept:
        return incoming
    double = max(jnp.finfo(dtype).bits for dtype in kept) > 32
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in (incoming, *kept)):
        return np.dtype(jnp.complex128 if double else jnp.complex64)
    return np.dtype(jnp.float64 if double else jnp.float32)


def widened(w: Any) -> Any:
    """A weight in the dtype of its statistics."""
    if isinstance(w, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(w.shape, wide(w.dtype), sharding=w.sharding)
    require_array(w)
    w = jnp.asarray(w)
    return w.astype(wide(w.dtype))


def require_array(x: Any) -> None:
    if not hasattr(x, "dtype") and not isinstance(x, int | float | complex):
        raise LeafError(f"expected an array, got {type(x).__name__}")
