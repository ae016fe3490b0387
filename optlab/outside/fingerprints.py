"""What a function computes, as a hash: of its traced program, with the content of every constant in it.

JAX says nowhere what identifies a traced program across processes, so this reads jaxprs: their equations, the names of
the primitives that call what lies outside of the program, and of those that hold functions.
"""

import dataclasses
import enum
import functools
import hashlib
import numbers
import re
from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optlab.outside.jax_internals import ClosedJaxpr, Jaxpr, Literal, ShapedArray

# What they run is not in the program.
_OUTSIDE = {
    "pure_callback": "Python code while it runs (jax.pure_callback)",
    "io_callback": "Python code while it runs (io_callback)",
    "ffi_call": "compiled code of its own (jax.ffi)",
    "custom_vmap_call": "a rule of its own where it is mapped (custom_vmap), and was not mapped",
}
# They give nothing back.
_WATCHING = {"debug_callback", "debug_print"}
# They hold functions beside what they compute: how it would be differentiated, batched or stored, which the program
# that is traced has behind it, or what was traced.
_WITH_RULES = re.compile(r"custom_(jvp|vjp|transpose)_call.*|custom_lin|checkpoint|remat\d?|linear_call|reduce")
_NAMES = {"name", "name_and_src_info", "debug", "debug_info", "source_info", "metadata", "cost_estimate"}
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+|\b0x[0-9a-f]{6,}")
_GENERATORS = {"threefry2x32", "rbg", "unsafe_rbg"}


class Opaque(ValueError):
    """Something whose content can't be told; the message says what, as in "it ..."."""


def fingerprint(function: Callable[..., Any], *args: Any) -> str:
    """A hash of the program that `function` is at these arguments, which may be `jax.ShapeDtypeStruct`s.

    Equal programs, with constants equal to the bit, have equal ones, in every process. Names and the places in source
    files don't count, nor do rules of the function's own for derivatives that the caller doesn't take.

    Raises:
      Opaque: the program runs what is not in it, or holds what has no content that can be read.
    """
    return _Reader().content(jax.make_jaxpr(function)(*args)).hex()


class _Reader:
    def __init__(self) -> None:
        self._read: dict[int, tuple[Any, bytes]] = {}  # with what the address belongs to, lest it be given away
        self._kinds: dict[Any, bytes] = {}

    def content(self, value: Any) -> bytes:
        """A hash of `value`, or its text: equal for equal values, in every process."""
        if isinstance(value, Jaxpr | ClosedJaxpr | jax.Array | np.ndarray):
            if id(value) not in self._read:
                self._read[id(value)] = value, self._content(value)
            return self._read[id(value)][1]
        return self._content(value)

    def _content(self, value: Any) -> bytes:
        match value:
            case None | bool() | str() | bytes():
                return f"{type(value).__name__} {value!r}".encode()
            case enum.Enum():
                return _hash("enum", type(value).__name__, value.name)
            case np.dtype() | ShapedArray():
                return self._kind(value)
            case ClosedJaxpr():
                return self._program(value.jaxpr, value.consts)
            case Jaxpr():
                return self._program(value, ())
            case Mapping():
                items = sorted((self.content(key), self.content(item)) for key, item in value.items())
                return _hash("mapping", *(part for pair in items for part in pair))
            case Set():
                return _hash("set", *sorted(map(self.content, value)))
            case tuple() | list() if not _is_generator(value):
                return _hash(type(value).__name__, *map(self.content, value))
            case functools.partial():
                return _hash("partial", *map(self.content, (value.func, value.args, value.keywords)))
        if hasattr(value, "__array__") and not isinstance(value, type):
            return self._array(value)
        match value:
            case numbers.Integral():
                return b"int %d" % int(value)
            case numbers.Real():
                return f"float {float(value).hex()}".encode()
            case numbers.Complex():
                return _hash("complex", *(float(part).hex() for part in (value.real, value.imag)))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return _hash(type(value).__name__, self.content({k: v for k, v in fields.items() if k not in _NAMES}))
        return self._described(value)

    def _kind(self, value: Any) -> bytes:
        """Of a dtype, or of shape and dtype: what there is most of."""
        if value not in self._kinds:
            self._kinds[value] = self._described(value)
        return self._kinds[value]

    def _described(self, value: Any) -> bytes:
        """Of what JAX describes by its text, and of nothing else."""
        kind, text = type(value), str(value)
        ours = kind.__module__.partition(".")[0] in ("jax", "jaxlib", "numpy", "ml_dtypes")
        if _is_generator(value):
            ours, text = value.name in _GENERATORS, value.name
        elif isinstance(value, type):
            ours, text = ours or value.__module__ in ("builtins", "numpy", "ml_dtypes"), value.__name__
        elif callable(value) and not isinstance(value, np.dtype | jax.sharding.Mesh):
            raise Opaque(f"holds the function {getattr(value, '__name__', kind.__name__)}, which is not traced")
        if not ours or _ADDRESS.search(text):
            raise Opaque(f"holds {_a(kind.__name__)}, whose content can't be read")
        return _hash(kind.__name__, text, str(getattr(value, "weak_type", "")))

    def _array(self, value: Any) -> bytes:
        if isinstance(value, jax.Array):
            if not value.is_fully_addressable:
                raise Opaque("holds an array that is spread over several processes")
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                return _hash("key", str(value.dtype), self._array(jax.random.key_data(value)))
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise Opaque("holds an array of Python objects")
        return _hash("array", str(array.dtype), str(np.shape(value)), array.tobytes())

    def _program(self, program: Jaxpr, consts: Any) -> bytes:
        """The equations in their order, with variables numbered as they come."""
        numbers_of: dict[Any, int] = {}

        def new(variable: Any) -> bytes:
            numbers_of[variable] = len(numbers_of)
            return self._kind(variable.aval)

        def read(atom: Any) -> bytes:
            if isinstance(atom, Literal):
                return _hash("literal", self._kind(atom.aval), self.content(np.asarray(atom.val)))
            return b"variable %d" % numbers_of[atom]

        for constant in consts:
            if not isinstance(jax.typeof(constant), ShapedArray):
                raise Opaque(f"holds {_a(type(constant).__name__)}, whose content may change")
        parts = [_hash("consts", *map(self.content, consts))]
        parts += map(new, (*program.constvars, *program.invars))
        for equation in program.eqns:
            name = equation.primitive.name
            if name in _OUTSIDE:
                raise Opaque(f"runs {_OUTSIDE[name]}")
            if name in _WATCHING:
                continue
            ruled = _WITH_RULES.fullmatch(name)
            said = {
                key: value
                for key, value in equation.params.items()
                if key not in _NAMES and not (ruled and _is_rule(value))
            }
            parts += [_hash("equation", name, self.content(said)), *map(read, equation.invars)]
            parts += map(new, equation.outvars)
        return _hash("program", *parts, *map(read, program.outvars))


def _is_rule(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _is_generator(value: Any) -> bool:
    """Whether it is what `jax.random` calls an implementation: a tuple of functions, known by its name."""
    return type(value).__name__ == "PRNGImpl"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _hash(*parts: str | bytes) -> bytes:
    """Of the parts, each with its length before it, so that no two lists run into one."""
    whole: list[bytes] = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole += (b"%d:" % len(data), data)
    return hashlib.sha256(b"".join(whole)).digest()
