"""An optimizer's regime in words: what its equations say about decay, scale, bias correction, ε and order."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from optlab.equations import printing, symbols
from optlab.equations.hats import Hats, corrections, with_hats
from optlab.equations.interpret import Formula, t
from optlab.equations.numeric import Step, run
from optlab.equations.recurrence import Recurrence, Slot

DECAY = symbols.hyperparameter("weight_decay")
RATE = symbols.hyperparameter("learning_rate")
TYPICAL = {RATE: 0.01, **{symbols.hyperparameter(name): 0.9 for name in ("b1", "b2", "decay", "momentum")}}
GUARDS = (symbols.hyperparameter("eps"), symbols.hyperparameter("eps_root"))


@dataclasses.dataclass(frozen=True)
class Regime:
    """One sentence for each question.

    Attributes:
      site: where weight decay acts.
      coupling: what multiplies it.
      scale: what a gradient a thousand times as large does to the steps, measured on the equations.
      correction: which averages are divided by the sum of their weights.
      epsilon: where the guard of the divisor stands.
      order: in which order momentum and normalization come.
    """

    site: str
    coupling: str
    scale: str
    correction: str
    epsilon: str
    order: str

    def __str__(self) -> str:
        names = {"site": "decay", "coupling": "coupling", "correction": "correction", "epsilon": "ε"}
        rows = [(names.get(name, name), sentence) for name, sentence in dataclasses.asdict(self).items()]
        return "\n".join(f"  {name + ':':<12}{sentence}" for name, sentence in rows)


def regime_of(found: Recurrence) -> Regime:
    """The regime that the equations show."""
    site, coupling = _decay(found)
    hats = corrections(found)
    return Regime(site, coupling, _scale(found), _correction(found, hats), _epsilon(found, hats), _order(found))


# Decay --------------------------------------------------------------------------------------------------------------


def _decay(found: Recurrence) -> tuple[str, str]:
    """Where decay acts and what multiplies it."""
    reader = _DecayReader(found)
    return reader.site(), reader.coupling()


class _DecayReader:
    """The dependence of one step on the weight.

    Gates are opened (a condition on the weight is taken to hold) and sums over the leaf are letters, so that what
    remains is the term itself; both are mentioned beside it.
    """

    def __init__(self, found: Recurrence) -> None:
        self.found = found
        schedule = {f: DECAY for e in found.expressions for f in e.atoms(AppliedUndef) if f.func.__name__ == "λ"}
        sums = {
            f: sp.Dummy(f.func.__name__, positive=True)
            for e in found.expressions
            for f in e.atoms(AppliedUndef)
            if f.func.__name__ in ("Σ", "largest")
        }
        self.gates: list[str] = []
        replaced = [self._open(e.xreplace(schedule).xreplace(sums)) for e in found.expressions]
        self.news = dict(zip(found.slots, replaced, strict=False))
        self.update = sp.expand(replaced[-1] - symbols.w, deep=False)
        self.letters = {slot.after for slot in found.slots} | {slot.before for slot in found.slots}
        self.sums = sums
        self.trust_ratio = any(f.has(symbols.w) for f in sums)
        self.to_start = any(e.has(symbols.first_weight) for e in replaced)
        self.named = any(e.has(DECAY) for e in replaced)

    def _open(self, expression: Formula) -> Formula:
        """`expression` where every condition on the weight holds."""

        def branch(piecewise: Formula) -> Formula:
            if not any(condition.has(symbols.w) for _, condition in piecewise.args):
                return piecewise
            value, condition = next((pair for pair in piecewise.args if pair[0] != 0), piecewise.args[0])
            if condition != sp.true:
                self.gates.append(printing.text(with_hats(condition, corrections(self.found))))
            return value

        return expression.replace(lambda part: isinstance(part, sp.Piecewise), branch)

    @property
    def seen_by(self) -> list[Slot]:
        return [slot for slot, new in self.news.items() if new.has(symbols.w)]

    @property
    def direct(self) -> Formula:
        """What the update takes from the weight beside its slots."""
        return sp.diff(self.update, symbols.w)

    def in_gradient(self) -> Formula | None:
        """c, where the weight is seen only as part of `g + c*w`."""
        for candidate in [DECAY] if self.named else self._ratios():
            shifted = {symbols.g: symbols.g - candidate * symbols.w}
            parts = [part.subs(shifted) for part in (*self.news.values(), self.update)]
            if not any(sp.expand(part).has(symbols.w) for part in parts):
                return candidate
        return None

    def _ratios(self) -> list[Formula]:
        parts = [part for part in (*self.news.values(), self.update) if part.has(symbols.w) and part.has(symbols.g)]
        ratios = [sp.simplify(sp.diff(part, symbols.w) / sp.diff(part, symbols.g)) for part in parts]
        return [ratio for ratio in ratios if ratio.is_Number]

    def site(self) -> str:
        where = self._site()
        if where.startswith("none"):
            return where
        if self.to_start:
            where += "; toward the initial weight"
        if self.gates:
            where += f"; only where {' and '.join(dict.fromkeys(self.gates))}"
        return where

    def _site(self) -> str:
        direct, seen_by = self.direct, self.seen_by
        if direct == 0 and not seen_by:
            return "none; the step depends on the size of all weights" if self.trust_ratio else "none"
        c = self.in_gradient()
        if c is not None and not self.letters:
            return f"gradient: g + {_times_w(c)}, which without averages is the same as update"
        if c is not None:
            return f"gradient: every average sees g + {_times_w(c)} (L2, coupled)"
        if direct == 0:
            return self._in_moments(seen_by)
        if seen_by:
            return f"in {_names(seen_by)} and beside the update"
        if direct.free_symbols & (self.letters | {symbols.g}):
            return "direction: beside the momentum, under the same divisor, (m + λ·w)/P"
        return self._decoupled(direct)

    def _in_moments(self, seen_by: Sequence[Slot]) -> str:
        moments = _moments(self.found)
        if set(seen_by) <= set(moments.first):
            return f"first_moment: only {_names(seen_by)} sees the weight"
        if set(seen_by) <= set(moments.second):
            return f"second_moment: only {_names(seen_by)} sees the weight"
        return f"in {_names(seen_by)}"

    def _decoupled(self, direct: Formula) -> str:
        if self._grows(direct):
            return "after the learning rate with the wrong sign: weights grow (the sign trap)"
        if not self.named and self.found.hyperparameters:
            return "decoupled, by a factor of its own"
        if not self.named:
            return "decoupled; from numbers alone update, step, after and proximal can't be told apart"
        kappa = self._kappa(direct)
        on_rate = kappa is None or _has_rate(kappa)
        return {
            "linear": f"{'update' if on_rate else 'step'}: decoupled, beside the update, w − η·u − κ·w",
            "after": "after: decoupled, after the step, (w − η·u)·(1 − κ)",
            "proximal": "proximal: decoupled, after the step, (w − η·u)/(1 + κ)",
        }.get(self._law(direct), "decoupled, by a law of its own")

    def _law(self, direct: Formula) -> str:
        rest = self.update - direct * symbols.w
        ratio = _at_random(rest / rest.subs(DECAY, 0), 1) if rest.subs(DECAY, 0) != 0 else 1.0
        if math.isclose(ratio, 1, rel_tol=1e-9):
            return "linear" if self._kappa(direct) is not None else "other"
        if math.isclose(ratio, _at_random(1 + direct, 1), rel_tol=1e-9):
            return "after" if self._kappa(direct) is not None else "proximal"
        return "other"

    def _kappa(self, direct: Formula) -> Formula | None:
        """κ/λ of a decay linear in λ."""
        kappa = sp.simplify(-direct / DECAY)
        return None if kappa.has(DECAY) else kappa

    def _grows(self, direct: Formula) -> bool:
        return not direct.has(symbols.w) and _at_random(direct, 1) > 0

    def coupling(self) -> str:
        direct, seen_by = self.direct, self.seen_by
        if direct == 0 and not seen_by:
            return "no decay"
        if self.in_gradient() is not None or direct == 0:
            return "through what is averaged; its share of the step depends on the gradients"
        if direct.free_symbols & (self.letters | {symbols.g}):
            return f"the weight is multiplied by {self._shown(-direct)}"
        if not self.named:
            return f"the weight loses {self._shown(-direct)} of itself per step"
        kappa = self._kappa(direct)
        if kappa is None:
            kappa = sp.simplify((1 / (1 + direct) - 1) / DECAY)
        beside = ", and by sums over all weights" if kappa.free_symbols & set(self.sums.values()) else ""
        by = "multiplied by the learning rate" if _has_rate(kappa) else "not multiplied by the learning rate"
        return f"{by}{beside}: κ = {self._shown(kappa * DECAY)}"

    def _shown(self, expression: Formula) -> str:
        back = {letter: function for function, letter in self.sums.items()}
        return printing.text(with_hats(expression.xreplace(back), corrections(self.found)))


def _has_rate(kappa: Formula) -> bool:
    return kappa.has(RATE) or any(function.func.__name__ == "η" for function in kappa.atoms(AppliedUndef))


def _times_w(c: Formula) -> str:
    return printing.text(c * sp.Symbol("w_", real=True)).replace("w_", "w")


def _names(slots: Sequence[Slot]) -> str:
    return " and ".join(symbols.unicode(slot.after) for slot in slots)


def _at_random(expression: Formula, seed: int) -> float:
    """The value at positive numbers drawn for all symbols."""
    draws = np.random.default_rng(seed).uniform(0.1, 0.9, 100)
    functions = {f: sp.Float(draw) for f, draw in zip(expression.atoms(AppliedUndef), draws, strict=False)}
    expression = expression.xreplace(functions)
    names = sorted(expression.free_symbols, key=str)
    values = {name: 3 if name.is_integer else sp.Float(draw) for name, draw in zip(names, draws[50:], strict=False)}
    return float(sp.re(expression.xreplace(values).evalf()))


# Moments ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Moments:
    """The slots that follow the gradient's sign, as first moments do, and those that follow its size, as second."""

    first: tuple[Slot, ...]
    second: tuple[Slot, ...]


def _moments(found: Recurrence) -> _Moments:
    gradients = np.random.default_rng(0).uniform(0.5, 2, 3)
    up, down, smaller = (_end(found, sign * gradients).slots for sign in (1, -1, 0.5))
    first, second = [], []
    for slot in found.slots:
        a, b, c = (float(slots[slot.after]) for slots in (up, down, smaller))
        if math.isclose(a, -b, rel_tol=1e-4) and a:
            first.append(slot)
        elif math.isclose(a, b, rel_tol=1e-9) and not math.isclose(a, c, rel_tol=1e-9):
            second.append(slot)
    return _Moments(tuple(first), tuple(second))


def _end(found: Recurrence, gradients: np.ndarray) -> Step:
    """The last of a few steps without decay, at the defaults of the hyperparameters.

    The weight stays at zero, where nothing decays, or at one where its size multiplies the step.
    """
    by_size = any(f.has(symbols.w) for e in found.expressions for f in e.atoms(AppliedUndef))
    values = {
        symbol: found.defaults.get(name, TYPICAL.get(symbol, 0.5)) for name, symbol in found.hyperparameters.items()
    }
    return run(found, values | {DECAY: 0.0}, gradients, weight=float(by_size), held=True)[-1]


def _scale(found: Recurrence) -> str:
    gradients = np.random.default_rng(0).uniform(1, 3, 12) * np.resize([1, 1, -1], 12)
    moved = [abs(_end(found, scale * gradients).moved) for scale in (1, 1000)]
    if not all(map(math.isfinite, moved)) or not all(moved):
        return "not measured: the equations at default hyperparameters don't move the weight"
    ratio = moved[1] / moved[0]
    if math.isclose(ratio, 1, rel_tol=1e-2):
        return "scale-free: gradients a thousand times as large give the same step"
    if math.isclose(ratio, 1000, rel_tol=1e-2):
        return "proportional to the gradient"
    return f"neither scale-free nor proportional: a thousand times the gradient gives {ratio:.3g} times the step"


def _correction(found: Recurrence, hats: Hats) -> str:
    slots = [slot.after for slot in found.slots]
    parts = [f"{symbols.unicode(slot)} by {printing.text(hats[slot][1])}" for slot in slots if slot in hats]
    others = {
        1 / power
        for expression in (with_hats(e, hats) for e in found.expressions)
        for power in expression.atoms(sp.Pow)
        if power.exp == -1 and (1 - power.base).is_Pow and not (1 - power.base).base.has(t) and power.base.has(t)
    }
    parts += sorted(f"a term of the step by {printing.text(divisor)}" for divisor in others)
    if parts:
        return "divides " + ", ".join(parts)
    return "none" if slots else "none: there is no average"


# The guard of the divisor -------------------------------------------------------------------------------------------


def _epsilon(found: Recurrence, hats: Hats) -> str:
    letters = {slot.after for slot in found.slots} | {slot.before for slot in found.slots} | {symbols.g}
    letters |= {hat for hat, _ in hats.values()}
    rooted = {
        power.base
        for expression in found.expressions
        for power in with_hats(expression, hats).atoms(sp.Pow)
        if power.exp.is_Rational and power.exp.q == 2
    }
    places: dict[str, None] = {}
    for slot, whole in zip((*found.slots, None), found.expressions, strict=True):
        expression = with_hats(whole, hats)
        for total in sorted(expression.atoms(sp.Add), key=sp.default_sort_key):
            guards = [term for term in total.args if _is_guard(term)]
            if not guards or not total.free_symbols & letters:
                continue
            guard, shown = printing.text(guards[0]), printing.text(total)
            if slot is not None and total == expression:
                places[f"{guard} is added to {symbols.unicode(slot.after)} at every step"] = None
            elif total in rooted:
                places[f"{guard} inside the root, √({shown})"] = None
            elif any(root.exp == sp.Rational(1, 2) for term in total.args for root in term.atoms(sp.Pow)):
                places[f"{guard} outside the root, {shown}"] = None
            else:
                places[f"{guard} is added, {shown}"] = None
    return "; ".join(places) or "none"


def _is_guard(term: Formula) -> bool:
    return term in GUARDS or (term.is_Number and 0 < term < sp.Rational(1, 20))


# Order --------------------------------------------------------------------------------------------------------------


def _order(found: Recurrence) -> str:
    moments = _moments(found)
    firsts, seconds = ({slot.after for slot in slots} for slots in (moments.first, moments.second))
    m, v = _names(moments.first), _names(moments.second)
    if not firsts and not seconds:
        if found.slots:
            return "of a kind of its own"
        return "the sign of the gradient" if found.weight.atoms(sp.sign) else "the gradient as it is"
    if not seconds:
        if found.weight.atoms(sp.sign):
            return f"momentum {m}, then its sign (the order of Signum and Lion)"
        return f"momentum {m}, no normalization"
    if not firsts:
        return f"normalization by {v}, no momentum"
    if any(slot.new.free_symbols & seconds for slot in moments.first):
        return f"normalization by {v}, then momentum {m} (the order of LaProp)"
    seen = [slot for slot in moments.second if slot.new.free_symbols & firsts]
    if any(slot.new.has(symbols.g) for slot in seen):
        return f"momentum {m}, normalized by the deviation {v} of the gradient from it (the order of AdaBelief)"
    if seen:
        return f"momentum {m}, normalized by its own size {v} (the order of AdaMomentum)"
    return f"momentum {m} and normalization {v} of the same gradient, then their quotient (the order of Adam)"
