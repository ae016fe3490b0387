"""Is an expression zero? A proof by normal forms, within bounds on time and size."""

import time

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from optlab.equations.interpret import Formula
from optlab.equations.symbols import is_decay

TERMS = 20_000
"""The largest polynomial, in terms, that is multiplied out."""


class Undecided(Exception):
    """The proof would take longer, or grow larger, than allowed."""


def is_zero(expression: Formula, seconds: float) -> bool:
    """Whether `expression` is zero for every value of its symbols that their assumptions allow.

    True is a proof. False means that the normal form is not zero, which for an expression with nested roots or
    conditions need not mean that the expression is not.

    A decay b in (0, 1) becomes 1/(1 + x) with x > 0, so that SymPy knows the sign of 1 - b**t. Every root, modulus,
    maximum, condition and unknown function of one normal form becomes one letter, with the polynomial that it obeys;
    what is left is a quotient of polynomials in the letters.

    Raises:
      Undecided: out of time or of size.
    """
    return _Proof(time.monotonic() + seconds).is_zero(expression)


class _Proof:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.letters: dict[Formula, sp.Dummy] = {}
        self.squares: dict[sp.Dummy, Formula] = {}

    def is_zero(self, expression: Formula) -> bool:
        decays = sorted((s for s in expression.free_symbols if is_decay(s)), key=str)
        xs = {decay: 1 / (1 + sp.Dummy("x", positive=True)) for decay in decays}
        numerator = self._fraction(self._in_letters(expression.xreplace(xs)))[0]
        for letter in reversed(self.squares):  # a later letter may hold earlier ones
            if numerator.has(letter):
                rest = self._polynomial(numerator, letter).rem(sp.Poly(letter**2 - self.squares[letter], letter))
                numerator = self._fraction(rest.as_expr())[0]
        return self._expanded(numerator) == 0

    def _in_letters(self, expression: Formula) -> Formula:
        """The expression as a rational function of symbols and letters."""
        self._check_time()
        if expression.is_Number or expression.is_Symbol:
            return expression
        if expression.is_Add or expression.is_Mul:
            return expression.func(*map(self._in_letters, expression.args))
        if expression.is_Pow:
            base, exponent = expression.as_base_exp()
            if exponent.is_Integer:
                return self._in_letters(base) ** exponent
            if exponent.is_Rational and exponent.q == 2:
                return self._root(base) ** exponent.p
        if isinstance(expression, sp.Abs):
            return self._modulus(expression.args[0])
        if isinstance(expression, Boolean):
            return self._condition(expression)
        if isinstance(expression, sp.Piecewise):
            cases: tuple[Formula, ...] = expression.args
            return self._letter(
                sp.Piecewise(*((self._normal(value), self._condition(truth)) for value, truth in cases))
            )
        if isinstance(expression, sp.sign):
            return self._sign(expression.args[0])
        if isinstance(expression, sp.Max | sp.Min | AppliedUndef) or expression.is_Pow or expression.is_Function:
            return self._letter(expression.func(*map(self._normal, expression.args)))
        raise Undecided(f"no normal form for {type(expression).__name__}")

    def _condition(self, condition: Formula) -> Formula:
        if condition.is_Relational:
            return condition.func(self._normal(condition.lhs - condition.rhs), 0)
        if isinstance(condition, Boolean) and condition.args:
            return condition.func(*map(self._condition, condition.args))
        return condition

    def _normal(self, expression: Formula) -> Formula:
        numerator, denominator = self._fraction(self._in_letters(expression))
        return numerator / denominator

    def _letter(self, form: Formula, square: Formula | None = None) -> Formula:
        if form.is_Number or form.is_Symbol:
            return form
        if form not in self.letters:
            positive = isinstance(form, sp.Pow) and form.exp == sp.Rational(1, 2)
            self.letters[form] = sp.Dummy("r", real=True, positive=positive or None)
            if square is not None:
                self.squares[self.letters[form]] = square
        return self.letters[form]

    def _root(self, base: Formula) -> Formula:
        """The root as what is known to be positive times the root of one core without square factors."""
        number, factors = self._factored(base)
        is_square = sp.sqrt(abs(number)).is_Rational
        content, core = (sp.sqrt(abs(number)), sp.sign(number)) if is_square else (sp.Integer(1), number)
        for factor, power in factors:
            whole, left = divmod(power, 2)
            content *= self._modulus_of(factor) ** whole
            if left and factor.is_positive:
                content *= self._letter(sp.Pow(factor, sp.Rational(1, 2), evaluate=False), factor)
            elif left:
                core *= factor
        return content if core == 1 else content * self._letter(sp.Pow(core, sp.Rational(1, 2), evaluate=False), core)

    def _modulus(self, argument: Formula) -> Formula:
        number, factors = self._factored(argument)
        return sp.Mul(abs(number), *(self._modulus_of(factor) ** power for factor, power in factors))

    def _modulus_of(self, factor: Formula) -> Formula:
        return factor if factor.is_positive else self._letter(sp.Abs(factor, evaluate=False), factor**2)

    def _sign(self, argument: Formula) -> Formula:
        number, factors = self._factored(argument)
        core = sp.Mul(*(factor**power for factor, power in factors if not factor.is_positive))
        return sp.sign(number) * (self._letter(sp.sign(core)) if core != 1 else 1)

    def _factored(self, expression: Formula) -> tuple[Formula, list[tuple[Formula, int]]]:
        """A number, and factors with their powers, which are negative below the line."""
        numerator, denominator = self._fraction(self._in_letters(expression))
        above, below = sp.factor_list(numerator), sp.factor_list(denominator)
        return above[0] / below[0], above[1] + [(factor, -power) for factor, power in below[1]]

    def _fraction(self, expression: Formula) -> tuple[Formula, Formula]:
        """Numerator and denominator without a common factor."""
        self._check_time()
        numerator, denominator = sp.fraction(sp.together(expression))
        if numerator == 0:
            return sp.Integer(0), sp.Integer(1)
        numerator, denominator = self._expanded(numerator), self._expanded(denominator)
        if numerator == 0:
            return numerator, sp.Integer(1)
        return sp.fraction(sp.cancel(numerator / denominator))

    def _polynomial(self, expression: Formula, letter: sp.Dummy) -> sp.Poly:
        return sp.Poly(self._expanded(expression), letter)

    def _expanded(self, expression: Formula) -> Formula:
        self._check_time()
        if _terms(expression) > TERMS:
            raise Undecided(f"an intermediate result has more than {TERMS} terms")
        return sp.expand(expression)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise Undecided("out of time")


def _terms(expression: Formula) -> int:
    """A bound on the terms of the expanded polynomial."""
    if expression.is_Add:
        return sum(map(_terms, expression.args))
    if expression.is_Mul:
        product = 1
        for factor in expression.args:
            product *= _terms(factor)
        return product
    if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
        return _terms(expression.base) ** int(expression.exp)
    return 1
