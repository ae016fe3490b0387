"""What `identify` answers: a card of one screen."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping

from optlab.blackbox.families import QUOTIENT_FIRST, Core
from optlab.outside.version import __version__

BOTH, NEITHER, INAPPLICABLE = "both moments", "none", "not applicable"
EPS_PLACES = {
    "none": "nowhere",
    "outside": "outside the root",
    "inside": "inside the root",
    "outside_uncorrected": "outside the root, before the bias correction",
    "inside_uncorrected": "inside the root, before the bias correction",
    "both": "inside and outside the root",
    "both_uncorrected": "inside and outside the root, before the bias correction",
}
_GATES = {"cautious": "only where u*w >= 0", "stable": "divided by the root of the mean of v"}
_SITES = {
    "none": "no decay",
    "update": "w - lr*(u + wd*w)",
    "step": "w - lr*u - wd*w",
    "after": "(w - lr*u) * (1 - decay)",
    "proximal": "(w - lr*u) / (1 + decay)",
    "gradient": "every moment sees g + wd*w",
    "first_moment": "only the numerator sees g + wd*w",
    "second_moment": "only the denominator sees g + wd*w",
    "direction": "(m + wd*w) / P",
    "decoupled": "outside of the moments",
    "unknown": "not told apart",
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A recovered hyperparameter, give or take `uncertainty`; `given` is what the maker was called with."""

    value: float
    uncertainty: float
    given: float | None = None

    def __str__(self) -> str:
        relative = self.uncertainty / abs(self.value) if self.value else math.inf
        digits = min(max(round(-math.log10(max(relative, 1e-9))), 2), 8) if relative < 1 else 2
        given = "" if self.given is None else f"  (given {self.given:g})"
        return f"{self.value:.{digits}g} ± {self.uncertainty:.0e}{given}"


@dataclasses.dataclass(frozen=True)
class Card:
    """What a black box does.

    Attributes:
      family: the optimizer's name, or `None` where none of the known families predicts all that was driven.
      site: where its decay acts: a site of the README's table, `after` or `proximal`; without a family `none`,
        `decoupled` or `unknown`.
      same_as: sites that this core can't tell from `site`.
      coupling: what multiplies the decay, as a power of the learning rate: `lr`, `constant`, `lr^2`; `none` without
        decay.
      law: how a decoupled decay shrinks weights, `1 - decay`, `1/(1 + decay)` or `exp(-decay)`; else `-`.
      gate: `cautious` where decay acts only on weights with `u*w >= 0`, `stable` where it is divided by the root of the
        mean of all second moments, else `none`.
      values: recovered hyperparameters by name; `b2` belongs to the second moment.
      unidentifiable: hyperparameters that left no trace, and why.
      correction: which moments are corrected for their start at zero.
      core: the recurrence in the terms of `families`, `None` without a family.
      gradient: `scale-free`, `proportional` or `neither`: what updates do when gradients grow.
      residual: of a fresh run, relative to the moves of the weights.
      floor: the residual that rounding alone may leave.
      nearest: the family that fits best, where none fits.
      precision: `float64` or `float32`, as the box's numbers have it.
      mixes: whether the weights of an array influence each other.
      shapes: of the arrays that were driven.
      horizon: the steps that a family is held against.
      rates: learning rates that it is held against.
      known: without a family, what was seen to be of one all the same.
      notes: what else was seen.
      version: of optlab.
    """

    family: str | None
    site: str
    coupling: str
    law: str
    gate: str
    values: Mapping[str, Value]
    unidentifiable: Mapping[str, str]
    correction: str
    core: Core | None
    gradient: str
    residual: float
    floor: float
    nearest: str
    precision: str
    mixes: bool
    shapes: tuple[tuple[int, ...], ...]
    horizon: int
    rates: tuple[float, ...]
    same_as: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    version: str = __version__

    def __str__(self) -> str:
        same = f"; the same as {', '.join(self.same_as)} here" if self.same_as else ""
        lines = [("family", self.family or f"none of the known families; nearest: {self.nearest}")]
        lines += [("known", known) for known in self.known]
        lines += [("decay", f"{self.site}: {_SITES[self.site]}{same}")]
        if self.site != "none":
            gate = "" if self.gate == "none" else f", {self.gate}: {_GATES[self.gate]}"
            law = "" if self.law == "-" else f", shrinks by {self.law}"
            lines += [("coupling", f"{self.coupling}{law}{gate}")]
        if self.core is not None:
            lines += [("correction", self.correction)] if self.correction != INAPPLICABLE else []
            lines += [("eps", eps_place(self.core))] if "eps" in self.values else []
            lines += [("order", self.core.order)] if self.core.order == QUOTIENT_FIRST else []
        lines += [(f"  {name}", str(value)) for name, value in self.values.items()]
        lines += [(f"  {name}", f"not identifiable: {why}") for name, why in self.unidentifiable.items()]
        lines += [("gradient", self.gradient), ("residual", f"{self.residual:.1e} (rounding: {self.floor:.0e})")]
        lines += [("precision", self.precision), ("shapes", ", ".join(map(str, self.shapes)))]
        rates = " and ".join(f"{rate:g}" for rate in self.rates)
        answering = " and answering to the weights" if len(self.rates) > 1 else ""
        lines += [("horizon", f"{self.horizon} steps at learning_rate={rates}, gradients given{answering}")]
        lines += [("version", f"optlab {self.version}"), *(("note", note) for note in self.notes)]
        return "\n".join(_wrapped(name, text) for name, text in lines)


def _wrapped(name: str, text: str) -> str:
    return textwrap.fill(text, 80, initial_indent=f"{name:<16}", subsequent_indent=" " * 16)


def eps_place(core: Core) -> str:
    """Where eps stands, in words."""
    return "inside the maximum" if (core.denominator, core.eps) == ("decayed_max", "inside") else EPS_PLACES[core.eps]


# Names -----------------------------------------------------------------------------------------------------------

_PLAIN = {
    "gradient": "sgd",
    "ema": "momentum",
    "corrected_ema": "momentum",
    "trace": "heavy_ball",
    "dampened_trace": "heavy_ball",
    "nesterov_trace": "nesterov",
    "nesterov_ema": "nesterov",
    "warming_nesterov_ema": "nesterov",
}
_SIGNS = {"gradient": "sign_sgd", "ema": "signum", "interpolated": "lion"}
_BY_DENOMINATOR = {
    "sum": "adagrad",
    "sum_from_zero": "adagrad",
    "max_of_corrected": "amsgrad",
    "corrected_max": "amsgrad",
    "max": "amsgrad",
    "decayed_max": "adamax",
    "belief": "adabelief",
    "rectified": "radam",
    "rectified_still": "radam",
    "adadelta": "adadelta",
}


def family(core: Core) -> str:
    """The name that the field has for a core."""
    if core.denominator == "one":
        return _PLAIN[core.numerator]
    if core.denominator == "magnitude":
        return _SIGNS[core.numerator]
    if core.denominator in _BY_DENOMINATOR:
        return _BY_DENOMINATOR[core.denominator]
    if core.order == QUOTIENT_FIRST:
        return "laprop" if core.numerator == "corrected_ema" else "rmsprop"
    if core.numerator == "gradient":
        return "rmsprop"
    return "nadam" if "nesterov" in core.numerator else "adam"


_CORRECTED = {"corrected_ema", "nesterov_ema", "warming_nesterov_ema", "max_of_corrected", "corrected_max"}
_CORRECTED |= {"corrected_centred", "belief", "rectified", "rectified_still"}
_RAW = {"ema", "max", "centred"}


def correction(core: Core) -> str:
    """Which of the averages are divided by the sum of their weights."""
    moments = {"the first moment": core.numerator, "the second moment": core.denominator}
    corrected = [moment for moment, average in moments.items() if average in _CORRECTED]
    if len(corrected) == 2:
        return BOTH
    raw = core.denominator != "magnitude" and not _RAW.isdisjoint(moments.values())
    return corrected[0] if corrected else NEITHER if raw else INAPPLICABLE
