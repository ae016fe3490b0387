"""The letters of the papers: for hyperparameters by their names, for slots by where they stand in the state."""

import itertools
import re
from collections.abc import Mapping, Sequence

import sympy as sp

from optlab.equations.interpret import Formula, Truth

HYPERPARAMETERS = {
    "learning_rate": "eta",
    "lr": "eta",
    "step_size": "eta",
    "weight_decay": "lambda",
    "wd": "lambda",
    "weight_decay_rate": "lambda",
    "b1": "beta_1",
    "b2": "beta_2",
    "b3": "beta_3",
    "beta1": "beta_1",
    "beta2": "beta_2",
    "beta": "beta",
    "decay": "beta",
    "decay_rate": "beta",
    "momentum": "mu",
    "mu": "mu",
    "nesterov": "mu",
    "eps": "epsilon",
    "epsilon": "epsilon",
    "eps_root": "epsilon_r",
    "rho": "rho",
    "alpha": "alpha",
    "gamma": "gamma",
    "delta": "delta",
    "initial": "s_0",
    "initial_accumulator_value": "s_0",
    "initial_scale": "s_0",
}

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "lambda": "λ", "mu": "μ",
    "rho": "ρ",
}  # fmt: skip

_AT_STEP = {"w": "w_{t-1}", "g": "g_t"}
_HAT = r"\hat{"
_SUBSCRIPTS = str.maketrans("0123456789r", "₀₁₂₃₄₅₆₇₈₉ᵣ")

w = sp.Symbol("w", real=True)
g = sp.Symbol("g", real=True)
next_weight = sp.Symbol("w_t", real=True)
first_weight = sp.Symbol("w_0", real=True)


def hyperparameter(name: str) -> sp.Symbol:
    """The symbol of a hyperparameter; decays, rates and guards are positive."""
    return sp.Symbol(HYPERPARAMETERS.get(name, name), positive=True)


def hyperparameters(defaults: Mapping[str, float | None]) -> dict[str, sp.Symbol]:
    """A symbol for each, no two alike; one whose default is negative may have either sign."""
    letters: dict[str, sp.Symbol] = {}
    for name, default in defaults.items():
        taken = {letter.name for letter in letters.values()} | _TAKEN.keys()
        wanted = itertools.chain([HYPERPARAMETERS.get(name, name), name], (f"{name}{k}" for k in itertools.count(2)))
        letter = next(letter for letter in wanted if letter not in taken)
        is_negative = default is not None and default < 0
        letters[name] = sp.Symbol(letter, real=True) if is_negative else sp.Symbol(letter, positive=True)
    return letters


def numbered(symbol: sp.Symbol, index: int) -> sp.Symbol:
    """The symbol, and with an index for all but the first."""
    return sp.Symbol(f"{symbol.name}_{index + 1}", positive=True) if index else symbol


def schedule(function: Formula) -> sp.Symbol:
    """The letter of a schedule, without its index."""
    return sp.Symbol(function.func.__name__.split("_")[0], positive=True)


def is_decay(symbol: Formula) -> bool:
    """Whether it is a hyperparameter between 0 and 1."""
    return isinstance(symbol, sp.Symbol) and re.fullmatch(r"beta(_\d)?|mu|rho", symbol.name) is not None


_FIRST_MOMENTS = {"mu", "m", "ema", "trace", "momentum", "average", "mean"}
_SECOND_MOMENTS = {"nu", "v", "rms"}
_ACCUMULATORS = {"sum", "max", "nu_max", "sum_of_squares", "deviation", "s"}
_TAKEN = {"g": "gradient", "w": "weight", "t": "step", "N": "size"}
_SQUARED = {"denominator", "second_moment", "belief", "square"}


def slot_letters(paths: Sequence[Sequence[str]]) -> list[str]:
    """One letter for each state leaf, from the names along its path: m, v and s, as in the papers, or its own name."""
    letters: list[str] = []
    for path in paths:
        name = next((part for part in reversed(path) if part), "s")
        if name in _FIRST_MOMENTS:
            letter = "v" if _SQUARED & set(path) else "m"
        elif name in _SECOND_MOMENTS:
            letter = "v"
        elif name in _ACCUMULATORS:
            letter = "s"
        else:
            letter = re.sub(r"\W+", "", name) or "s"
        letter = _TAKEN.get(letter, letter)
        same = sum(re.sub(r"\d+$", "", other) == letter for other in letters)
        letters.append(f"{letter}{same + 1}" if same else letter)
    return letters


def slot(letter: str, *, is_truth: bool) -> tuple[sp.Symbol, sp.Symbol]:
    """A slot before and after the step."""
    if is_truth:
        return Truth(f"{letter}_{{t-1}}"), Truth(f"{letter}_t")
    return sp.Symbol(f"{letter}_{{t-1}}", real=True), sp.Symbol(f"{letter}_t", real=True)


def corrected(after: sp.Symbol) -> sp.Symbol:
    """The symbol with a hat, for a slot divided by the sum of its weights."""
    return sp.Symbol(rf"\hat{{{after.name.removesuffix('_t')}}}_t", real=True)


def unicode(symbol: sp.Symbol) -> str:
    """As plain text: β₁, mₜ₋₁, m̂ₜ."""
    name = _AT_STEP.get(symbol.name, symbol.name)
    if name.startswith(_HAT):
        return f"{name[len(_HAT) : -len('}_t')]}\N{COMBINING CIRCUMFLEX ACCENT}ₜ"
    for ending, sign in (("_{t-1}", "ₜ₋₁"), ("_t", "ₜ")):
        if name.endswith(ending):
            return name.removesuffix(ending) + sign
    head, tail = _greek(name)
    if head or re.fullmatch(r"[gsw]_\d+", name):
        return GREEK.get(head, name[0]) + (tail or name[2:] * (not head)).translate(_SUBSCRIPTS)
    return name


def latex(symbol: sp.Symbol) -> str:
    name = _AT_STEP.get(symbol.name, symbol.name)
    if name.startswith(_HAT):
        return rf"\hat{{{_roman(name[len(_HAT) : -len('}_t')])}}}_t"
    for ending in ("_{t-1}", "_t"):
        if name.endswith(ending):
            return _roman(name.removesuffix(ending)) + ending
    head, tail = _greek(name)
    if head:
        return (r"\varepsilon" if head == "epsilon" else rf"\{head}") + (f"_{{{tail}}}" if tail else "")
    return f"{name[0]}_{{{name[2:]}}}" if re.fullmatch(r"[gsw]_\d+", name) else _roman(name)


def _greek(name: str) -> tuple[str, str]:
    """The Greek letter that a name begins with and its index; two empty strings where it is no such name."""
    head, _, tail = name.partition("_")
    return (head, tail) if head in GREEK and re.fullmatch(r"\d*|r", tail) else ("", "")


def _roman(name: str) -> str:
    return name if len(name) == 1 else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"
