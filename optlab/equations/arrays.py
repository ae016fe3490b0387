"""A traced computation on NumPy arrays, in float64 throughout: casts between floating-point types do nothing."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optlab.equations.interpret import inner_call, number
from optlab.outside.jax_internals import ClosedJaxpr, Jaxpr, Literal

Function = Callable[..., Any]


class Program:
    """A jaxpr, flattened once, to be run many times; call it with as many arrays as the jaxpr takes.

    What NumPy has is NumPy's, which costs no compilation; any other primitive is JAX's own, to be run under
    `lenient_float64`.
    """

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.registers: list[Any] = []
        self.instructions: list[tuple[Function, list[int], list[int]]] = []
        self.inputs = [self._register() for _ in closed.jaxpr.invars]
        self.outputs = self._flatten(closed, self.inputs)

    def __call__(self, *arguments: Any) -> list[Any]:
        values = list(self.registers)
        for place, argument in zip(self.inputs, arguments, strict=True):
            values[place] = widened(argument)
        with np.errstate(all="ignore"):
            for function, sources, targets in self.instructions:
                results = function(*(values[source] for source in sources))
                for target, result in zip(targets, results, strict=True):
                    values[target] = result
        return [values[place] for place in self.outputs]

    def _register(self, value: Any = None) -> int:
        self.registers.append(value)
        return len(self.registers) - 1

    def _flatten(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        """Appends the instructions of a jaxpr whose arguments stand in `inputs`; the registers of its results."""
        jaxpr = closed.jaxpr
        places: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        places |= {
            var: self._register(widened(value)) for var, value in zip(jaxpr.constvars, closed.consts, strict=True)
        }

        def place_of(atom: Any) -> int:
            return self._register(widened(atom.val)) if isinstance(atom, Literal) else places[atom]

        for equation in jaxpr.eqns:
            sources = [place_of(var) for var in equation.invars]
            inner = inner_call(equation)
            if inner is not None:
                targets = self._flatten(inner, sources)
            else:
                targets = [self._register() for _ in equation.outvars]
                self.instructions.append((_meaning(equation), sources, targets))
            places |= dict(zip(equation.outvars, targets, strict=True))
        return [place_of(var) for var in jaxpr.outvars]


def widened(value: Any) -> Any:
    """An array in float64; a constant of fewer digits is the decimal that it was meant to be."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.inexact) or array.dtype in (np.float64, np.complex128):
        return array
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array.astype(np.complex128)
    if array.size == 1:
        return np.full(array.shape, float(number(array.reshape(())[()])))
    return array.astype(np.float64)


def _meaning(equation: Any) -> Function:
    """What an equation does, as a function from arrays to a list of arrays."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        branches = [Program(branch) for branch in params["branches"]]
        return lambda which, *operands: branches[int(np.clip(which, 0, len(branches) - 1))](*operands)
    if name == "optimization_barrier":
        return lambda *arrays: arrays
    if name == "dot_general" and not params["dimension_numbers"][1][0]:
        contracted = params["dimension_numbers"][0]
        return lambda a, b: (np.tensordot(a, b, axes=(contracted[0], contracted[1])),)
    whole = any(jnp.issubdtype(var.aval.dtype, jnp.integer) for var in equation.outvars)
    if name in _ON_ARRAYS and not (whole and name in _OTHERWISE_ON_INTEGERS):
        function = functools.partial(_ON_ARRAYS[name], **{key: params[key] for key in _PARAMETERS.get(name, ())})
        return lambda *arrays: (function(*arrays),)
    return functools.partial(_bound, equation)


def _bound(equation: Any, *arrays: Any) -> list[Any]:
    """An equation by JAX's own primitive; one that wraps a jaxpr has its types fixed."""
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # the former before JAX 0.10
    if functions or any(map(_has_jaxpr, equation.params.values())) or equation.primitive.name in _OF_BITS:
        arrays = tuple(
            array if jnp.issubdtype(var.aval.dtype, jax.dtypes.extended) else jnp.asarray(array, var.aval.dtype)
            for array, var in zip(arrays, equation.invars, strict=True)
        )
    else:
        wanted = params.get("preferred_element_type")
        if wanted is not None and jnp.issubdtype(wanted, jnp.floating):
            params = params | {"preferred_element_type": np.dtype(np.float64)}
        arrays = tuple(array if isinstance(array, jax.Array) else jnp.asarray(array) for array in arrays)
    results = equation.primitive.bind(*functions, *arrays, **params)
    return [widened(result) for result in (results if equation.primitive.multiple_results else [results])]


def _has_jaxpr(param: Any) -> bool:
    parts = param if isinstance(param, tuple | list) else [param]
    return any(isinstance(part, Jaxpr | ClosedJaxpr) for part in parts)


def _cast(x: Any, new_dtype: Any) -> Any:
    if new_dtype == np.bool_:
        return np.not_equal(x, 0)
    if jnp.issubdtype(new_dtype, jnp.complexfloating):
        return np.asarray(x, np.complex128)
    if jnp.issubdtype(new_dtype, jnp.floating):
        return np.asarray(np.real(x), np.float64)
    return np.asarray(x).astype(new_dtype)


def _broadcast(x: Any, shape: Any, broadcast_dimensions: Any) -> Any:
    axes = np.ones(len(shape), int)
    axes[list(broadcast_dimensions)] = np.shape(x)
    return np.broadcast_to(np.reshape(x, axes), shape)


def _reshape(x: Any, new_sizes: Any) -> Any:
    return np.reshape(x, new_sizes)


def _squeeze(x: Any, dimensions: Any) -> Any:
    return np.squeeze(x, tuple(dimensions))


def _transpose(x: Any, permutation: Any) -> Any:
    return np.transpose(x, permutation)


def _over(reduce: Function) -> Function:
    return lambda x, axes: reduce(x, axis=tuple(axes))


def _select(which: Any, *cases: Any) -> Any:
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 else np.choose(which, cases)


_OF_BITS = {"bitcast_convert_type", "nextafter", "random_bits", "random_gamma"}

_OTHERWISE_ON_INTEGERS = {"div", "pow", "integer_pow"}

_PARAMETERS = {
    "convert_element_type": ("new_dtype",),
    "integer_pow": ("y",),
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "reshape": ("new_sizes",),
    "squeeze": ("dimensions",),
    "transpose": ("permutation",),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), ("axes",)),
}

_ON_ARRAYS: dict[str, Function] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "rem": np.fmod,
    "neg": np.negative,
    "pow": np.power,
    "integer_pow": lambda x, y: x**y,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "select_n": _select,
    "is_finite": np.isfinite,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "real": np.real,
    "conj": np.conj,
    "copy": np.asarray,
    "copy_p": np.asarray,
    "stop_gradient": np.asarray,
    "convert_element_type": _cast,
    "reduce_precision": lambda x: x,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "reduce_sum": _over(np.sum),
    "reduce_max": _over(np.max),
    "reduce_min": _over(np.min),
    "reduce_prod": _over(np.prod),
    "reduce_and": _over(np.all),
    "reduce_or": _over(np.any),
}
