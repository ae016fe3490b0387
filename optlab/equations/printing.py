"""Expressions as one line of plain text, and as LaTeX."""

from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from optlab.equations import symbols
from optlab.equations.interpret import Formula, over_weights, without_ite

_RAISED = str.maketrans("0123456789+-t ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵗ\0", "")
_RELATIONS = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥", "<": "<", ">": ">"}


def decimal(value: Formula) -> str:
    """A number as people write it: 1e-8, 0.999."""
    return f"{float(value):.12g}".replace("e-0", "e-")


def _is_constant(expression: Formula) -> bool:
    """Whether only hyperparameters stand in it, or a schedule."""
    if expression.is_Number:
        return False
    return (isinstance(expression, AppliedUndef) and expression.func.__name__ != "Σ") or all(
        symbol.is_positive and not symbol.is_integer for symbol in expression.free_symbols
    )


def _in_order(terms: list[Formula]) -> list[Formula]:
    """The terms of a sum as papers write them: the weight first, a guard last, what is subtracted after the rest."""

    def key(term: Formula) -> tuple[bool, bool, bool]:
        return term.could_extract_minus_sign(), term != symbols.w, _is_constant(term)

    return sorted(terms, key=key)


def _split(product: Formula) -> tuple[Formula, list[Formula], list[Formula]]:
    """The number in front, and the factors above and below the line, sums last."""
    number, rest = product.as_coeff_Mul()
    factors: list[Formula] = sorted(
        sp.Mul.make_args(rest), key=lambda factor: (factor.is_Add, not _is_constant(factor))
    )
    below = [1 / factor for factor in factors if factor.is_Pow and factor.exp.could_extract_minus_sign()]
    above = [factor for factor in factors if not (factor.is_Pow and factor.exp.could_extract_minus_sign())]
    return number, above, below


def _is_root(expression: Formula) -> bool:
    return expression.is_Pow and expression.exp == sp.Rational(1, 2)


class _Text(StrPrinter):
    def _print_Symbol(self, expr: Formula) -> str:
        return symbols.unicode(expr)

    _print_Truth = _print_Symbol

    def _print_Rational(self, expr: Formula) -> str:
        return decimal(abs(expr)) if expr >= 0 else f"−{decimal(-expr)}"

    _print_Integer = _print_Rational

    def _print_Float(self, expr: Formula) -> str:
        return decimal(expr)

    def _print_Add(self, expr: Formula, order: Any = None) -> str:
        text = ""
        for term in _in_order(list(self._as_ordered_terms(expr, order=order))):
            minus = term.could_extract_minus_sign()
            shown = self.parenthesize(-term if minus else term, PRECEDENCE["Add"])
            text += f" − {shown}" if minus and text else f"−{shown}" if minus else f" + {shown}" if text else shown
        return text

    def _print_Mul(self, expr: Formula) -> str:
        number, above, below = _split(expr)
        shown = [self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in above]
        if abs(number) != 1 or not shown:
            shown.insert(0, decimal(abs(number)))
        text = ("−" if number < 0 else "") + "·".join(shown)
        if not below:
            return text
        level = PRECEDENCE["Pow"] if len(below) == 1 else PRECEDENCE["Mul"]
        under = [self._print(factor) if _is_root(factor) else self.parenthesize(factor, level) for factor in below]
        return f"{text}/{under[0]}" if len(under) == 1 else f"{text}/({'·'.join(under)})"

    def _print_Pow(self, expr: Formula, rational: bool = False) -> str:
        base, exponent = expr.as_base_exp()
        if exponent.is_Rational and exponent.q == 2 and exponent.p in (1, -1):
            inside = self._print(base)
            root = f"√{inside}" if base.is_Symbol or base.is_Integer else f"√({inside})"
            return root if exponent.p == 1 else f"1/{root}"
        if exponent == -1:
            return f"1/{self.parenthesize(base, PRECEDENCE['Pow'])}"
        inside = self._print(base) if base.is_Rational and base > 0 else self.parenthesize(base, PRECEDENCE["Pow"])
        raised = self._print(exponent).replace("−", "-").replace(" ", "")
        if set(raised) <= set("0123456789+-t"):
            return inside + raised.translate(_RAISED)
        return f"{inside}^({self._print(exponent)})"

    def _print_Function(self, expr: Formula) -> str:
        return f"{symbols.unicode(sp.Symbol(expr.func.__name__))}({self.stringify(expr.args, ', ')})"

    def _print_floor(self, expr: Formula) -> str:
        return f"⌊{self._print(expr.args[0])}⌋"

    def _print_Pi(self, expr: Formula) -> str:
        return "π"

    def _print_Abs(self, expr: Formula) -> str:
        return f"|{self._print(expr.args[0])}|"

    def _print_Max(self, expr: Formula) -> str:
        return f"max({', '.join(sorted(map(self._print, expr.args)))})"

    def _print_Min(self, expr: Formula) -> str:
        return f"min({', '.join(sorted(map(self._print, expr.args)))})"

    def _print_Piecewise(self, expr: Formula) -> str:
        *cases, last = [(self._print(value), self._print(condition)) for value, condition in expr.args]
        final = f"{last[0]} otherwise" if last[1] == "True" else f"{last[0]} if {last[1]}"
        return "{" + "; ".join([*(f"{value} if {condition}" for value, condition in cases), final]) + "}"

    def _print_Relational(self, expr: Any) -> str:
        return f"{self._print(expr.lhs)} {_RELATIONS[expr.rel_op]} {self._print(expr.rhs)}"

    _print_Equality = _print_Relational
    _print_Unequality = _print_Relational

    def _print_And(self, expr: Formula) -> str:
        return " and ".join(self.parenthesize(part, PRECEDENCE["And"]) for part in expr.args)

    def _print_Or(self, expr: Formula) -> str:
        return " or ".join(self.parenthesize(part, PRECEDENCE["Or"]) for part in expr.args)

    def _print_Not(self, expr: Formula) -> str:
        return f"not {self.parenthesize(expr.args[0], PRECEDENCE['Not'])}"


class _Latex(LatexPrinter):
    def _print_Symbol(self, expr: Formula, style: str = "plain") -> str:
        return symbols.latex(expr)

    _print_Truth = _print_Symbol

    def _print_Rational(self, expr: Formula) -> str:
        mantissa, _, exponent = decimal(expr).partition("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa

    def _print_Add(self, expr: Formula, order: Any = None) -> str:
        text = ""
        for term in _in_order(list(self._as_ordered_terms(expr, order=order))):
            minus = term.could_extract_minus_sign()
            shown = self._print(-term if minus else term)
            text += f" - {shown}" if minus else f" + {shown}" if text else shown
        return text.strip()

    def _print_Mul(self, expr: Formula) -> str:
        number, above, below = _split(expr)
        if below or number.is_Integer:
            return super()._print_Mul(expr)
        return f"{self._print(number)}\\,{self.parenthesize(sp.Mul(*above), PRECEDENCE['Mul'])}"

    def _print_Function(self, expr: Formula, exp: Any = None) -> str:
        if not isinstance(expr, AppliedUndef):
            return super()._print_Function(expr, exp)
        name = r"\textstyle\sum" if expr.func is over_weights else symbols.latex(sp.Symbol(expr.func.__name__))
        shown = rf"{name}\left({self._print(expr.args[0])}\right)"
        return shown if exp is None else rf"\left({shown}\right)^{{{exp}}}"


def text(expression: Formula) -> str:
    """One line of Unicode."""
    return _Text()._print(without_ite(expression))


def latex(expression: Formula) -> str:
    return _Latex({"mul_symbol": r"\,"})._print(without_ite(expression))
