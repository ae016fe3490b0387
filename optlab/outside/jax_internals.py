"""What is used of JAX that it does not promise to keep: each reach with its reason; a new JAX is one file's work.

Nothing else in optlab imports `jax.core`, `jax.extend`, `jax.interpreters` or `jax._src`, knows a primitive by its name
to lower it, or reads what JAX writes in its messages (a test reads the imports). The names of the primitives whose
meaning `equations.interpret` knows stand there, beside the meanings: those are its subject.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax._src import distributed

# Types of what is traced and of what stands in a jaxpr, which `equations` reads; JAX has no others, and no other place.
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, Var, jaxpr_as_fun

__all__ = [
    "UNKNOWN_TO_TRITON",
    "ClosedJaxpr",
    "Jaxpr",
    "Literal",
    "Primitive",
    "ShapedArray",
    "Var",
    "function_of",
    "is_traced",
    "key_value_store",
    "on_every_trace",
    "primitives_within",
    "speaks_of_donation",
]

UNKNOWN_TO_TRITON = ("random", "threefry", "gather", "scatter", "dynamic_", "sort", "cum", "dot_general")
"""How the names of primitives begin for which Pallas has no Triton code; it doesn't say for which it has."""


def is_traced(value: Any) -> bool:
    """Whether a value is not known before the program runs."""
    return isinstance(value, Tracer)


def function_of(jaxpr: Jaxpr, constants: Sequence[Any]) -> Callable[..., list[Any]]:
    """A traced function again, with other constants, such as those that a kernel is handed."""
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, constants))


def primitives_within(jaxpr: Any) -> Iterator[str]:
    """The names of the operations in a jaxpr and in those that stand in its parameters; JAX has no public walk."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                below = getattr(inner, "jaxpr", inner)
                if hasattr(below, "eqns"):
                    yield from primitives_within(below)


def key_value_store() -> Any:
    """Where the processes of `jax.distributed` tell each other texts; what JAX makes public of it carries arrays."""
    return distributed.global_state.client


def on_every_trace(callback: Callable[[], None]) -> None:
    """Calls `callback` after everything that JAX traces from now on.

    JAX reports events by name and has no list of the names; a listener can't be taken away before jax 0.9.
    """

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("jaxpr_trace_duration"):
            callback()

    jax.monitoring.register_event_duration_secs_listener(listen)


def speaks_of_donation(error: BaseException) -> bool:
    """Whether JAX complains of an array that was donated, or is there twice: it has no type for that, only words."""
    return any(word in str(error) for word in ("donate", "deleted"))


# What `jax.jit` traces anew for, beside the types of its arguments: who keeps traces of his own has to as well.
_TRACED_ANEW_FOR = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)


def trace_settings() -> tuple[Any, ...]:
    return (*(getattr(jax.config, name) for name in _TRACED_ANEW_FOR), jax.sharding.get_abstract_mesh())


def jit_is_off() -> bool:
    """Whether functions run one operation after the other, as under `jax.disable_jit`."""
    return jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
