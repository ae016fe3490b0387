"""What the known optimizers compute, in float64: a numerator, a denominator, where eps stands, and where decay acts.

Everything is written for open-loop gradients: the weights that a box went through are given, so that one step of each
weight is predicted from what it did before, and no error of one step enters the next.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.signal import lfilter

Array = np.ndarray
Values = Mapping[str, float]


def _steps(g: Array) -> Array:
    return np.arange(1.0, len(g) + 1)[:, None]


def _weight_sum(decay: float, t: Array) -> Array:
    return -np.expm1(t * np.log(decay))


def _ema(u: Array, decay: float) -> Array:
    return np.asarray(lfilter([1 - decay], [1, -decay], u, axis=0))


def _trace(u: Array, decay: float) -> Array:
    return np.asarray(lfilter([1.0], [1, -decay], u, axis=0))


# Numerators -------------------------------------------------------------------------------------------------------


def _dampened(g: Array, p: Values) -> Array:
    """`m <- b1*m + (1 - dampening)*g`, from `m = g` at the first step."""
    rest = g * (1 - p["dampening"])
    rest[0] = g[0]
    return _trace(rest, p["b1"])


def _nesterov_trace(g: Array, p: Values) -> Array:
    return p["b1"] * _trace(g, p["b1"]) + g


def _nesterov_ema(g: Array, p: Values) -> Array:
    b1, t = p["b1"], _steps(g)
    return b1 * _ema(g, b1) / _weight_sum(b1, t + 1) + (1 - b1) * g / _weight_sum(b1, t)


def _warming_nesterov_ema(g: Array, p: Values) -> Array:
    """torch's NAdam: the coefficient `c(t) = b1*(1 - 0.96**(t*momentum_decay) / 2)` warms up, and corrects itself."""
    b1 = p["b1"]
    t = np.arange(1.0, len(g) + 2)[:, None]
    c = b1 * (1 - 0.5 * 0.96 ** (t * p["momentum_decay"]))
    product = np.cumprod(c, axis=0)
    return c[1:] * _ema(g, b1) / (1 - product[1:]) + (1 - c[:-1]) * g / (1 - product[:-1])


def _interpolated(g: Array, p: Values) -> Array:
    """`b1*m + (1 - b1)*g`, with `m` kept by `b2`: Lion's."""
    before = np.zeros_like(g)
    before[1:] = _ema(g, p["b2"])[:-1]
    return p["b1"] * before + (1 - p["b1"]) * g


NUMERATORS: dict[str, tuple[tuple[str, ...], Callable[[Array, Values], Array]]] = {
    "gradient": ((), lambda g, p: g),
    "ema": (("b1",), lambda g, p: _ema(g, p["b1"])),
    "corrected_ema": (("b1",), lambda g, p: _ema(g, p["b1"]) / _weight_sum(p["b1"], _steps(g))),
    "trace": (("b1",), lambda g, p: _trace(g, p["b1"])),
    "nesterov_trace": (("b1",), _nesterov_trace),
    "dampened_trace": (("b1", "dampening"), _dampened),
    "nesterov_ema": (("b1",), _nesterov_ema),
    "warming_nesterov_ema": (("b1", "momentum_decay"), _warming_nesterov_ema),
    "interpolated": (("b1", "b2"), _interpolated),
}

# Denominators -----------------------------------------------------------------------------------------------------
# Each gives a second moment and its bias correction; what is divided by is the root of their quotient, with eps.


def _average(g: Array, p: Values) -> Array:
    return _ema(g * g, p["b2"]) + p.get("initial", 0.0) * p["b2"] ** _steps(g)


def _correction(g: Array, p: Values) -> Array:
    return _weight_sum(p["b2"], _steps(g))


def _deviation(g: Array, p: Values) -> Array:
    """`s <- b2*s + (1 - b2)*(g - m)**2 + eps_root`, around `m <- EMA(g)`."""
    drift = p["eps_root"] / (1 - p["b2"]) * _correction(g, p)
    return _ema((g - _ema(g, p["b1"])) ** 2, p["b2"]) + drift


def _centred(g: Array, p: Values) -> Array:
    return np.maximum(_average(g, p) - _ema(g, p["b2"]) ** 2, 0)


def _corrected_centred(g: Array, p: Values) -> Array:
    c = _correction(g, p)
    return np.maximum(_average(g, p) / c - (_ema(g, p["b2"]) / c) ** 2, 0)


def _maximum(v: Array) -> Array:
    return np.maximum.accumulate(v, axis=0)


ONE = np.ones(1)

DENOMINATORS: dict[str, tuple[tuple[str, ...], Callable[[Array, Values], tuple[Array, Array]]]] = {
    "ema": (("b2",), lambda g, p: (_average(g, p), ONE)),
    "corrected_ema": (("b2",), lambda g, p: (_average(g, p), _correction(g, p))),
    "sum": (("initial",), lambda g, p: (p["initial"] + np.cumsum(g * g, axis=0), ONE)),
    "sum_from_zero": ((), lambda g, p: (np.cumsum(g * g, axis=0), ONE)),
    "max_of_corrected": (("b2",), lambda g, p: (_maximum(_average(g, p) / _correction(g, p)), ONE)),
    "corrected_max": (("b2",), lambda g, p: (_maximum(_average(g, p)), _correction(g, p))),
    "max": (("b2",), lambda g, p: (_maximum(_average(g, p)), ONE)),
    "centred": (("b2",), lambda g, p: (_centred(g, p), ONE)),
    "corrected_centred": (("b2",), lambda g, p: (_corrected_centred(g, p), ONE)),
    "belief": (("b1", "b2", "eps_root"), lambda g, p: (_deviation(g, p), _correction(g, p))),
    "rectified": (("b2",), lambda g, p: (_average(g, p), _correction(g, p))),
    "rectified_still": (("b2",), lambda g, p: (_average(g, p), _correction(g, p))),
}


def _decayed_max(g: Array, p: Values, eps: str) -> Array:
    added = p["eps"] if eps == "inside" else 0.0
    size = np.abs(g) + added
    for t in range(1, len(g)):
        size[t] = np.maximum(p["b2"] * size[t - 1], size[t])
    return size + p["eps"] if eps == "outside" else size


RECTIFIED = {"rectified": 1.0, "rectified_still": np.inf}  # and what is divided by before


def _length(t: Array, b2: float) -> Array:
    """How many gradients RAdam takes the second moment to be of; the variance is tractable where they are above 5."""
    return 2 / (1 - b2) - 1 - 2 * t * b2**t / _weight_sum(b2, t)


def _rectified(root: Array, p: Values, kind: str) -> Array:
    """RAdam (Liu et al. 2020): no denominator, or no step, until the variance of the second moment is tractable."""
    length, end = _length(_steps(root), p["b2"]), 2 / (1 - p["b2"]) - 1
    tractable = length > 5
    length = np.where(tractable, length, 5)
    factor = np.sqrt((length - 4) * (length - 2) * end / ((end - 4) * (end - 2) * length))
    return np.where(tractable, root / factor, RECTIFIED[kind])


def _adadelta(g: Array, p: Values) -> Array:
    """`sqrt(EMA(g**2) + eps) / sqrt(x + eps)`, with `x` the average of the squared updates before."""
    size = np.sqrt(_ema(g * g, p["b2"]) + p["eps"])
    x = np.zeros_like(g[0])
    for t in range(len(g)):
        size[t] /= np.sqrt(x + p["eps"])
        x = p["b2"] * x + (1 - p["b2"]) * (g[t] / size[t]) ** 2
    return size


# The recurrence of one weight --------------------------------------------------------------------------------------

MOMENTUM_FIRST = "momentum, then the quotient"
QUOTIENT_FIRST = "the quotient, then momentum"


@dataclasses.dataclass(frozen=True)
class Scalars:
    """What the scalars of every step are off by, `[steps, 1]` or 0-dimensional, in a box that rounds them.

    Attributes:
      above, below: factors of what the numerator and the denominator see.
      newest: what the newest gradient counts in the numerator besides.
      correction: a factor of the second moment's.
      total, share: factors of the update, and of a decoupled decay.
    """

    above: Array | float = 1.0
    below: Array | float = 1.0
    newest: Array | float = 0.0
    correction: Array | float = 1.0
    total: Array | float = 1.0
    share: Array | float = 1.0


EXACT = Scalars()


@dataclasses.dataclass(frozen=True)
class Core:
    """`u = numerator(g) / denominator(g)`, an optimizer without its rate and its decay.

    Attributes:
      numerator: a key of `NUMERATORS`.
      denominator: a key of `DENOMINATORS`, or `one`, `magnitude` (of the numerator, which leaves its sign),
        `decayed_max`, `adadelta`.
      eps: `none`, `outside` the root, `inside` of it, or `both`, which calls the inner one `eps_root`; `_uncorrected`:
        added before the bias correction.
      order: of a quotient and an average.
      starts: whether the second moment starts elsewhere than at zero.
    """

    numerator: str
    denominator: str = "one"
    eps: str = "none"
    order: str = MOMENTUM_FIRST
    starts: bool = False

    def names(self) -> list[str]:
        """The hyperparameters that it has, `eps` last."""
        if self.denominator in ("one", "magnitude"):
            below = ()
        elif self.denominator in ("decayed_max", "adadelta"):
            below = ("b2",)
        else:
            below = DENOMINATORS[self.denominator][0]
        names = dict.fromkeys((*NUMERATORS[self.numerator][0], *below))
        names |= dict.fromkeys([*(["initial"] if self.starts else []), *(["eps_root"] if "both" in self.eps else [])])
        return [*names, *(["eps"] if self.eps != "none" else [])]

    def divisor(self, g: Array, p: Values, scalars: Scalars = EXACT) -> Array:
        if self.denominator == "one":
            return ONE
        if self.denominator == "decayed_max":
            return _decayed_max(g, p, self.eps)
        if self.denominator == "adadelta":
            return _adadelta(g, p)
        v, correction = DENOMINATORS[self.denominator][1](g, p)
        eps, eps_root = p.get("eps", 0.0), p.get("eps_root", 0.0)
        correction = correction * scalars.correction
        root = {
            "none": lambda: np.sqrt(v / correction),
            "outside": lambda: np.sqrt(v / correction) + eps,
            "inside": lambda: np.sqrt(v / correction + eps),
            "both": lambda: np.sqrt(v / correction + eps_root) + eps,
            "outside_uncorrected": lambda: (np.sqrt(v) + eps) / np.sqrt(correction),
            "inside_uncorrected": lambda: np.sqrt((v + eps) / correction),
            "both_uncorrected": lambda: (np.sqrt(v + eps_root) + eps) / np.sqrt(correction),
        }[self.eps]()
        return _rectified(root, p, self.denominator) if self.denominator in RECTIFIED else root

    def updates(
        self, above: Array, below: Array, p: Values, added: Array | float = 0.0, scalars: Scalars = EXACT
    ) -> Array:
        """`u` of every step: the numerator sees `above`, the denominator `below`; `added` joins the numerator."""
        numerator = NUMERATORS[self.numerator][1]
        if self.denominator == "magnitude":
            return np.sign(numerator(above, p) + added)
        if scalars is not EXACT:
            return self._with_rounded_scalars(above, below * scalars.below, p, added, scalars)
        divisor = self.divisor(below, p)
        if self.order == QUOTIENT_FIRST:
            return numerator(above / divisor, p)
        return (numerator(above, p) + added) / divisor

    def _with_rounded_scalars(self, above: Array, below: Array, p: Values, added: Any, scalars: Scalars) -> Array:
        divisor = self.divisor(below, p, scalars)
        if self.order == QUOTIENT_FIRST:
            above, divisor = above / divisor, ONE
        u = NUMERATORS[self.numerator][1](above * scalars.above, p) + scalars.newest * above + added
        return u / divisor * scalars.total


# Where decay acts: before and after the step it is a share of the weight, elsewhere a multiple of it.
PLACES = ("none", "before", "after", "gradient", "first_moment", "second_moment", "direction")


@dataclasses.dataclass(frozen=True)
class Model:
    """A core with decay at one of `PLACES`.

    Attributes:
      gate: `cautious` decay acts only where `u*w >= 0`, `stable` decay is divided by the root of the mean of the second
        moments of all the weights that the optimizer has.
    """

    core: Core
    place: str = "none"
    gate: str = "none"

    def names(self) -> list[str]:
        return [*self.core.names(), *(["decay"] if self.place != "none" else [])]

    def updates(self, w: Array, g: Array, p: Values, scalars: Scalars = EXACT) -> Array:
        pull = p["decay"] * w if self.place in PLACES[3:] else 0.0
        above = g + pull if self.place in ("gradient", "first_moment") else g
        below = g + pull if self.place in ("gradient", "second_moment") else g
        return self.core.updates(above, below, p, pull if self.place == "direction" else 0.0, scalars)

    def size(self, w: Array, g: Array, p: Values) -> Array:
        """What `u` is of terms that do not cancel, which is what it rounds by."""
        if self.core.denominator == "magnitude":
            return np.ones_like(g)
        pull = p["decay"] * w if self.place in PLACES[3:] else np.zeros_like(w)
        below = g + pull if self.place in ("gradient", "second_moment") else g
        above = np.abs(g) + np.abs(pull) if self.place in ("gradient", "first_moment") else np.abs(g)
        return self.core.updates(above, below, p, np.abs(pull) if self.place == "direction" else 0.0)

    def clear(self, w: Array, g: Array, p: Values, rounding: float) -> Array:
        """Where the sign that the update is of, if it is one, is not of terms that cancel down to their rounding."""
        if self.core.denominator != "magnitude":
            return np.ones(g.shape, bool)
        pull = p["decay"] * w if self.place in PLACES[3:] else np.zeros_like(w)
        average = NUMERATORS[self.core.numerator][1]
        added = pull if self.place == "direction" else 0.0
        seen = g if self.place == "direction" else g + pull
        terms = np.abs(g) if self.place == "direction" else np.abs(g) + np.abs(pull)
        return np.abs(average(seen, p) + added) > rounding * (average(terms, p) + np.abs(added))

    def moves(
        self, w: Array, g: Array, rate: float, p: Values, everyone: Array | None = None, scalars: Scalars = EXACT
    ) -> Array:
        """What every step adds to the weights, each predicted from those before it, `w`; `everyone`: all gradients."""
        u = self.updates(w, g, p, scalars)
        if self.place not in ("before", "after"):
            return -rate * u
        share = p["decay"]
        if self.gate == "cautious":
            share = share * (u * w >= 0)
        elif self.gate == "stable":
            v, correction = DENOMINATORS[self.core.denominator][1](g if everyone is None else everyone, p)
            share = share / np.sqrt(np.mean(v / correction, axis=1, keepdims=True))
        if self.core.denominator == "rectified_still":  # then decay waits too
            share = share * (_length(_steps(w), p["b2"]) > 5)
        kept = 1 - share if self.place == "after" else 1.0
        return -rate * u * kept - share * scalars.share * w


def places(core: Core) -> list[str]:
    """Where decay can act on this core as on no earlier place of the list."""
    if core.denominator in ("one", "magnitude"):
        through = ["gradient", "direction"]
    elif core.denominator in ("belief", "adadelta"):
        through = ["gradient"]
    else:
        through = ["gradient", "first_moment", "second_moment"]
        through += [] if core.order == QUOTIENT_FIRST else ["direction"]
    return ["none", "before", "after", *through]


# The cores that are tried, simplest first ---------------------------------------------------------------------------


def _quotients() -> list[Core]:
    averages = ["ema", "corrected_ema"]
    maxima = ["max_of_corrected", "corrected_max", "max", "decayed_max"]
    centred = ["centred", "corrected_centred"]
    cores = [Core("gradient", size) for size in (*averages, "sum", *centred, *maxima)]
    cores += [Core(above, size) for above in averages for size in (*averages, "sum", *maxima, "belief")]
    cores += [Core(above, size) for above in ("nesterov_ema", "warming_nesterov_ema") for size in averages]
    cores += [Core("nesterov_ema", "belief"), Core("nesterov_ema", "rectified")]
    cores += [Core("corrected_ema", each) for each in RECTIFIED]
    later = [(above, size) for above in ("trace", "nesterov_trace") for size in (*averages, "sum", *centred)]
    later += [("corrected_ema", size) for size in (*averages, "sum")]
    return [*cores, *(Core(*each, order=QUOTIENT_FIRST) for each in later), Core("gradient", "adadelta", "inside")]


CORRECTED = ("corrected_ema", "corrected_max")

LINEAR = [Core(above) for above in NUMERATORS if above not in ("ema", "interpolated")]
QUOTIENTS = _quotients()
SIGNS = [Core(above, "magnitude") for above in ("gradient", "ema", "interpolated")]


def with_eps(core: Core) -> list[Core]:
    """The core with eps at each place where it can be told from the other places."""
    if core.denominator in ("one", "magnitude", "adadelta"):
        return [core]
    if core.denominator == "sum":  # what it starts from is its eps inside of the root
        zero = dataclasses.replace(core, denominator="sum_from_zero")
        return [zero, dataclasses.replace(zero, eps="outside"), core, dataclasses.replace(core, eps="outside")]
    eps = ["none", "outside", "inside"]
    if core.denominator in (*CORRECTED, *RECTIFIED):
        eps += ["outside_uncorrected", "inside_uncorrected"]
    if core.denominator == "belief":
        eps = ["none", "outside"]
    return [dataclasses.replace(core, eps=place) for place in eps]


def with_two_eps(core: Core) -> list[Core]:
    """The core with one eps inside of the root and one outside."""
    if core.denominator not in DENOMINATORS or core.denominator in ("sum", "sum_from_zero", "belief"):
        return []
    places = ["both", *(["both_uncorrected"] if core.denominator in (*CORRECTED, *RECTIFIED) else [])]
    return [dataclasses.replace(core, eps=place) for place in places]
