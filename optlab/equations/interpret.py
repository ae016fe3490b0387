"""From a jaxpr to SymPy: what a traced computation does to one weight, which stands for every weight of a leaf."""

import fractions
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from optlab.outside import jax_internals as extended

Formula = Any
"""A SymPy expression or truth; SymPy's own annotations don't say which attributes it has."""

Sizes = tuple[int, int]
"""The numbers of weights of a leaf that is traced twice: a constant that is another one then depends on it."""

t = sp.Symbol("t", integer=True, positive=True)
n = sp.Symbol("N", integer=True, positive=True)
over_weights = sp.Function("Σ", real=True)
largest = sp.Function("largest", real=True)

_SATURATED = 2**31 - 2


class Inexpressible(ValueError):
    """The computation can't be written as the recurrence of one weight.

    Attributes:
      reason: which part of it stands in the way, without the name `of` whose computation it is.
    """

    def __init__(self, reason: str, of: str = "") -> None:
        super().__init__(f"{of} can't be written as the recurrence of one weight: {reason}" if of else reason)
        self.reason = reason


def number(value: Any) -> Formula:
    """A constant as the decimal that it was meant to be: 1 - 0.9 is 0.1."""
    dtype = np.asarray(value).dtype
    if dtype == np.bool_:
        return sp.true if value else sp.false
    if np.issubdtype(dtype, np.integer):
        return sp.Integer(int(value))
    value, digits = float(value), 14 if dtype == np.float64 else 7
    if math.isnan(value) or math.isinf(value):
        return {math.inf: sp.oo, -math.inf: -sp.oo}.get(value, sp.nan)
    if value and value % math.pi == 0:
        return round(value / math.pi) * sp.pi
    fraction = fractions.Fraction(value).limit_denominator(1000)
    return sp.Rational(fraction if float(fraction) == value else f"{value:.{digits}g}")


class Reading:
    """One reading of a jaxpr of a leaf of `size` weights.

    Attributes:
      definitions: the expression behind every symbol that an output was given, filled while reading.
    """

    def __init__(self, size: int, by_size: Mapping[int, Formula]) -> None:
        self.size = size
        self.by_size = by_size
        self.definitions: dict[sp.Symbol, Formula] = {}

    def read(
        self, closed: extended.ClosedJaxpr, arguments: Sequence[Any], names: Sequence[sp.Symbol | None]
    ) -> list[Any]:
        """The outputs as expressions of `arguments`.

        An output with a name reads as that symbol wherever it is used, and its expression goes to `definitions`; one
        that is constant, or passed on as it came, gets no definition.

        Raises:
          Inexpressible: a primitive that has no meaning for one weight.
        """
        jaxpr = closed.jaxpr
        named = _names_behind_casts(jaxpr, names)
        values: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            values[var] = self.by_size[id(var)] if id(var) in self.by_size else _constant(value)

        def value_of(atom: Any) -> Any:
            if isinstance(atom, extended.Literal):
                return self.by_size[id(atom)] if id(atom) in self.by_size else number(atom.val)
            return values[atom]

        for equation in jaxpr.eqns:
            inner_names = [named.get(var) for var in equation.outvars]
            outputs = self._equation(equation, [value_of(var) for var in equation.invars], inner_names)
            for var, name, output in zip(equation.outvars, inner_names, outputs, strict=True):
                if name is None or not output.free_symbols:
                    values[var] = output
                    continue
                values[var] = name
                if name != output:
                    self.definitions.setdefault(name, output)
        return [value_of(var) for var in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Any], names: list[sp.Symbol | None]) -> Sequence[Any]:
        primitive, params = equation.primitive.name, equation.params
        if primitive == "schedule":
            return [sp.Function(params["letter"], real=True)(inputs[0] + 1)]
        if primitive == "cond":
            return self._cond(params["branches"], inputs)
        if (inner := inner_call(equation)) is not None:
            return self.read(inner, inputs, names)
        if primitive == "optimization_barrier":
            return inputs
        self._require_plain(equation)
        if primitive in _PASSING:
            return inputs[:1]
        if primitive in _OVER_WEIGHTS or primitive in _OVER_TRUTHS:
            return [_reduced(primitive, equation, inputs)]
        if primitive == "convert_element_type":
            return [_converted(inputs[0], equation.invars[0].aval.dtype, params["new_dtype"])]
        if primitive == "integer_pow":
            return [_MEANING["pow"](*inputs, sp.Integer(params["y"]))]
        if primitive == "div" and np.issubdtype(equation.outvars[0].aval.dtype, np.integer):
            return [_whole(inputs[0] / inputs[1])]
        if primitive == "select_n" and len(inputs) > 3:
            raise Inexpressible("select_n: chooses among more than two cases")
        if primitive not in _MEANING:
            raise Inexpressible(_why_not(primitive))
        return [_MEANING[primitive](*inputs)]

    def _require_plain(self, equation: Any) -> None:
        """Refuses what has neither one value for each weight, in the order of the weights, nor one for all of them."""
        for var in equation.outvars:
            shape = getattr(var.aval, "shape", ())
            if math.prod(shape) not in (1, self.size):
                made = "(" + ", ".join("N" if size == self.size else str(size) for size in shape) + ")"
                raise Inexpressible(f"{equation.primitive.name}: makes an array of shape {made} of a leaf of N weights")
        if equation.primitive.name == "transpose":
            (var,), order = equation.invars, equation.params["permutation"]
            if (moved := [axis for axis in order if var.aval.shape[axis] > 1]) != sorted(moved):
                raise Inexpressible("transpose: puts the weights of a leaf in another order")

    def _cond(self, branches: Sequence[extended.ClosedJaxpr], inputs: list[Any]) -> list[Any]:
        which, *operands = inputs
        if len(branches) != 2:
            raise Inexpressible("cond: chooses among more than two branches")
        outputs = [self.read(branch, operands, [None] * len(branch.jaxpr.outvars)) for branch in branches]
        return [where(which, *pair) for pair in zip(*outputs, strict=True)]


def _names_behind_casts(jaxpr: extended.Jaxpr, names: Sequence[sp.Symbol | None]) -> dict[Any, sp.Symbol]:
    """Which variables bear a name: the named outputs, and what they are casts of."""
    taken = {var for var in jaxpr.invars if isinstance(var, extended.Var)}
    named = {
        var: name
        for var, name in zip(jaxpr.outvars, names, strict=True)
        if name is not None and isinstance(var, extended.Var) and var not in taken
    }
    for equation in reversed(jaxpr.eqns):
        if _keeps_value(equation) and equation.outvars[0] in named:
            source = equation.invars[0]
            if isinstance(source, extended.Var) and source not in taken:
                named.setdefault(source, named[equation.outvars[0]])
    return named


def _keeps_value(equation: Any) -> bool:
    """Whether its output is its input, but for rounding."""
    if equation.primitive.name != "convert_element_type":
        return equation.primitive.name in _PASSING
    types = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    return all(jnp.issubdtype(dtype, np.inexact) for dtype in types)


def _constant(value: Any) -> Formula:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise Inexpressible("a constant random key: draws random numbers")
    array = np.asarray(value)
    if array.size == 0 or np.any(array != array.flat[0]):
        raise Inexpressible("a constant array: its entries differ, so the weights of a leaf are not treated alike")
    return number(array.flat[0])


def inner_call(equation: Any) -> extended.ClosedJaxpr | None:
    """The computation that a call such as a nested `jit` or a custom derivative wraps, of the same arguments."""
    if equation.primitive.name in _LOOPS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        inner = extended.ClosedJaxpr(inner, []) if isinstance(inner, extended.Jaxpr) else inner
        if isinstance(inner, extended.ClosedJaxpr) and _shapes(inner.jaxpr.invars) == _shapes(equation.invars):
            return inner
    return None


def _shapes(variables: Sequence[Any]) -> list[Any]:
    return [getattr(var.aval, "shape", None) for var in variables]


def _reduced(primitive: str, equation: Any, inputs: list[Any]) -> Formula:
    """A sum or a maximum over the weights of the leaf, or over an axis of length one."""
    sizes = [math.prod(var.aval.shape) for var in equation.invars]
    if primitive in _OVER_TRUTHS:
        if inputs[0] in (sp.true, sp.false):
            return inputs[0]
        raise Inexpressible(_why_not(primitive))
    summand = functools.reduce(operator.mul, inputs)
    if max(sizes) == math.prod(equation.outvars[0].aval.shape):
        return summand
    if not summand.free_symbols - {t} and not summand.atoms(AppliedUndef):
        return summand if primitive == "reduce_max" else n * summand
    if primitive == "reduce_max":
        return largest(summand)
    coefficient, term = summand.as_coeff_Mul()
    return coefficient * over_weights(term)


# Constants that depend on the number of weights ----------------------------------------------------------------------


def by_size(one: extended.ClosedJaxpr, other: extended.ClosedJaxpr, sizes: Sizes) -> dict[int, Formula]:
    """The constants of `one` that depend on the size of the leaf, by the `id` of their literal or variable.

    Args:
      one, other: one computation, of leaves of each of the two sizes.

    Raises:
      Inexpressible: the two are not the same steps, or a constant is no simple function of the size.
    """
    found: dict[int, Formula] = {}
    jaxprs = one.jaxpr, other.jaxpr
    if [e.primitive.name for e in jaxprs[0].eqns] != [e.primitive.name for e in jaxprs[1].eqns]:
        raise Inexpressible("it computes otherwise for another number of weights")
    for var, *values in zip(jaxprs[0].constvars, one.consts, other.consts, strict=True):
        if all(np.size(value) and jnp.issubdtype(value.dtype, np.number) for value in values):
            _note(found, var, [np.asarray(value).flat[0] for value in values], sizes)
    for equations in zip(jaxprs[0].eqns, jaxprs[1].eqns, strict=True):
        for pair in zip(*(equation.invars for equation in equations), strict=True):
            if all(isinstance(atom, extended.Literal) for atom in pair):
                _note(found, pair[0], [np.asarray(atom.val).flat[0] for atom in pair], sizes)
        for inner, other_inner in zip(*map(_inner_jaxprs, equations), strict=True):
            found |= by_size(inner, other_inner, sizes)
    return found


def _inner_jaxprs(equation: Any) -> list[extended.ClosedJaxpr]:
    inner = inner_call(equation)
    return [*equation.params.get("branches", ()), *([] if inner is None else [inner])]


def _note(found: dict[int, Formula], of: Any, values: Sequence[Any], sizes: Sizes) -> None:
    if not np.array_equal(values[0], values[1], equal_nan=True):
        found[id(of)] = _function_of_size(float(values[0]), float(values[1]), sizes)


def _function_of_size(value: float, other: float, sizes: Sizes) -> Formula:
    """`a*N**p`, or a power of `N + c`, whichever gives both values."""
    for power in (1, -1, 2, -2):
        bases = [abs(x) ** (1 / power) if x else math.nan for x in (value, other)]
        beside = bases[0] - sizes[0]
        if math.isclose(beside, bases[1] - sizes[1], abs_tol=1e-3) and math.isclose(
            beside, round(beside), abs_tol=1e-3
        ):
            return sp.sign(value) * (n + round(beside)) ** power
    if value * other > 0:
        ratio = math.log(value / other) / math.log(sizes[0] / sizes[1])
        power = sp.Rational(fractions.Fraction(ratio).limit_denominator(4))
        factors = [x / size ** float(power) for x, size in zip((value, other), sizes, strict=True)]
        if math.isclose(factors[0], factors[1], rel_tol=1e-6):
            return number(np.float32(factors[0])) * n**power
    raise Inexpressible(
        f"a constant depends on the number of weights: {value:g} of {sizes[0]}, {other:g} of {sizes[1]}"
    )


class Truth(sp.Symbol):
    """A symbol that is true or false; SymPy's own symbols may stand for either."""


def is_truth(value: Any) -> bool:
    return isinstance(value, Relational | BooleanFunction | BooleanAtom | Truth)


def _converted(value: Any, old: np.dtype, new: np.dtype) -> Any:
    if is_truth(value):
        return value if new == np.bool_ else where(value, sp.Integer(0), sp.Integer(1))
    if new == np.bool_:
        return sp.Ne(value, 0)
    return _whole(value) if np.issubdtype(new, np.integer) and not np.issubdtype(old, np.integer) else value


def _whole(value: Formula) -> Formula:
    """The whole number toward zero."""
    return sp.floor(value) if value.is_nonnegative else sp.sign(value) * sp.floor(sp.Abs(value))


def where(condition: Any, otherwise: Any, then: Any) -> Any:
    """`then` where the condition holds, in the order in which `select_n` has them."""
    if not is_truth(condition):
        condition = _nonzero(condition)
    if condition in (sp.true, sp.false):
        return then if condition == sp.true else otherwise
    if is_truth(then) or is_truth(otherwise):
        if then in (sp.true, sp.false):
            return condition | otherwise if then == sp.true else ~condition & otherwise
        return (condition & then) | (~condition & otherwise)
    if _is_of_leaf(condition):  # then it holds for every weight of a sum too
        then = then.xreplace(_known(condition, sp.And, sp.true))
        otherwise = otherwise.xreplace(_known(condition, sp.Or, sp.false))
    return sp.Piecewise((then, condition), (otherwise, True))


def without_ite(expression: Formula) -> Formula:
    """`expression` with and, or, not for SymPy's if-then-else of truths, which it can't turn into a function."""
    if not expression.has(sp.ITE):
        return expression
    return expression.replace(sp.ITE, lambda when, then, otherwise: (when & then) | (~when & otherwise))


def _known(condition: Formula, joined_by: Any, value: Formula) -> dict[Formula, Formula]:
    """What else is known where `condition` is: that its parts are true, or false, however they are written."""
    parts = condition.args if isinstance(condition, joined_by) else (condition,)
    return {form: value for part in parts for form in (part, getattr(part, "reversed", part))}


def _nonzero(value: Formula) -> Formula:
    """`value != 0`; the condition itself, for the number that a truth was cast to."""
    if isinstance(value, sp.Piecewise) and [part for part, _ in cases_of(value)] == [1, 0]:
        return cases_of(value)[0][1]
    return sp.Ne(value, 0)


def cases_of(piecewise: Formula) -> list[tuple[Formula, Formula]]:
    """The values of a `Piecewise` with their conditions."""
    return [(value, condition) for value, condition in piecewise.args]


def _is_of_leaf(condition: Formula) -> bool:
    """Whether a condition is one for all weights: only constants and sums over the leaf stand in it."""
    sums = condition.atoms(AppliedUndef)
    outside = condition.xreplace({total: sp.Dummy(positive=True) for total in sums}).free_symbols
    return bool(sums) and all(symbol.is_positive for symbol in outside)


def _compare(relation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compare(a: Any, b: Any) -> Any:
        if is_truth(a) and is_truth(b):
            same = sp.Equivalent(a, b)
            return same if relation is sp.Eq else sp.Not(same)
        for value, other, sign in ((a, b, 1), (b, a, -1)):
            if value.is_infinite or (value.is_Integer and value >= _SATURATED and other.has(t)):
                # what is compared is finite, and counts do not saturate
                sign = -sign if value.is_negative else sign
                return sp.true if relation(sign, 0) else sp.false
        for value, of in ((a, lambda x: compare(x, b)), (b, lambda x: compare(a, x))):
            if isinstance(value, sp.Piecewise):
                *cases, (last, _) = cases_of(value)
                return functools.reduce(lambda rest, case: where(case[1], rest, of(case[0])), reversed(cases), of(last))
        if b.is_zero:  # of a product of signs, that of the product
            inside = [each.args[0] if isinstance(each, sp.sign) else each for each in sp.Mul.make_args(a)]
            a = functools.reduce(lambda product, each: product * each, inside, sp.S.One)
        return relation(a, b)

    return compare


def _exp(x: Formula) -> Formula:
    """`exp(x)`, as a power of the step where a logarithm of a decay stands in `x`."""
    if x.is_Mul:
        factors, logs = list(x.args), [factor for factor in x.args if isinstance(factor, sp.log)]
        if len(logs) == 1:
            factors.remove(logs[0])
            return logs[0].args[0] ** sp.Mul(*factors)
        coefficient, steps = x.as_coeff_Mul()
        if coefficient != 1 and steps.free_symbols <= {t}:
            return number(math.exp(float(coefficient))) ** steps
    return sp.exp(x)


def _expm1(x: Formula) -> Formula:
    return _exp(x) - 1


def _bitwise(on_truths: Callable[..., Any]) -> Callable[..., Any]:
    def meaning(*values: Any) -> Any:
        if not all(map(is_truth, values)):
            raise Inexpressible("and, or, not: of the bits of integers")
        return on_truths(*values)

    return meaning


_PASSING = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "stop_gradient", "real", "conj", "pvary",
    "reduce_precision", "sharding_constraint", "transpose", "device_put",
}  # fmt: skip

_OVER_WEIGHTS = {"reduce_sum", "reduce_max", "dot_general"}

_OVER_TRUTHS = {"reduce_and", "reduce_or"}

_LOOPS = {"while", "scan"}

_MEANING: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "add_any": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "rem": lambda a, b: a - b * _whole(a / b),
    "neg": operator.neg,
    "pow": operator.pow,
    "square": lambda x: x**2,
    "sqrt": sp.sqrt,
    "rsqrt": lambda x: 1 / sp.sqrt(x),
    "cbrt": sp.cbrt,
    "exp": _exp,
    "exp2": lambda x: 2**x,
    "expm1": _expm1,
    "log": sp.log,
    "log1p": lambda x: sp.log(1 + x),
    "sin": sp.sin,
    "cos": sp.cos,
    "tan": sp.tan,
    "tanh": sp.tanh,
    "erf": sp.erf,
    "logistic": lambda x: 1 / (1 + sp.exp(-x)),
    "abs": sp.Abs,
    "sign": sp.sign,
    "floor": sp.floor,
    "ceil": sp.ceiling,
    "max": sp.Max,
    "min": sp.Min,
    "clamp": lambda low, x, high: sp.Min(sp.Max(x, low), high),
    "select_n": where,
    "is_finite": lambda x: sp.true,
    "lt": _compare(sp.Lt),
    "le": _compare(sp.Le),
    "gt": _compare(sp.Gt),
    "ge": _compare(sp.Ge),
    "eq": _compare(sp.Eq),
    "ne": _compare(sp.Ne),
    "and": _bitwise(sp.And),
    "or": _bitwise(sp.Or),
    "not": _bitwise(sp.Not),
}


def _why_not(primitive: str) -> str:
    if primitive in _LOOPS:
        return f"{primitive}: loops, which no closed formula stands for"
    if primitive.startswith(("random_", "threefry")):
        return f"{primitive}: draws random numbers"
    if primitive.startswith(("reduce_", "cum", "arg", "sort", "top_k", "dot_", "gather", "scatter", "dynamic_")):
        return f"{primitive}: mixes the weights of a leaf in a way that has no sign here"
    return f"{primitive}: has no formula for one weight here"
