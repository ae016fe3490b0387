"""Where decay acts, by what law, and what multiplies it."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from optlab.blackbox import families
from optlab.blackbox.experiments import twin_moves
from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import Fit, Trajectory, fit, measured, predict, rms, simplest

DECAYS = tuple(sign * 10.0**power for power in range(-10, 5) for sign in (1.0, -1.0))
DECAYS += tuple(10.0 ** (quarter / 4) for quarter in range(-16, 5) if quarter % 4)  # the usual ones, closer
STARTS = 3
WHOLE = 0.02  # how far the power of a proportionality may be from a whole number, to be taken for it
DECOUPLED = ("before", "after")


def twins(run: Trajectory) -> tuple[str, float]:
    """What the distance of twins does: `constant`, `shrinks` by the same share at every step, or `moves` otherwise."""
    before, change = twin_moves(run)
    if rms(change) < 2:
        return "constant", 0.0
    share = -float(before @ change / (before @ before))
    return ("shrinks" if rms(change + share * before) < 4 else "moves"), share


def without(share: float, run: Trajectory) -> Trajectory:
    """The run as it would have been without a decoupled decay by `share` at every step."""
    moved = run.w[1:] - (1 - share) * run.w[:-1]
    return Trajectory(np.concatenate([run.w[:1], run.w[0] + np.cumsum(moved, axis=0)]), run.g, run.precision)


def placed(core: Core) -> list[Model]:
    """The core with decay wherever it may act, the usual places first."""
    gates = ["cautious", *(["stable"] if core.denominator in families.DENOMINATORS else [])]
    everywhere = [Model(core, place) for place in families.places(core)[1:]]
    return [*everywhere, *(Model(core, place, gate) for gate in gates for place in DECOUPLED)]


def through_moments(core: Core) -> list[Model]:
    """The core with decay wherever twins do not shrink at the same rate at every step."""
    return [model for model in placed(core) if model.gate != "none" or model.place not in DECOUPLED]


def fit_decay(start: Fit, run: Trajectory) -> Fit:
    """The decay that suits a model best, all else given; from another start where the likeliest leads nowhere."""
    with_decay = [dataclasses.replace(start, values={**start.values, "decay": decay}) for decay in DECAYS]
    likely = sorted(with_decay, key=lambda each: rms(run.off(predict(each, run))))[:STARTS]
    found = []
    for each in likely:
        found.append(fit(each, run, ["decay"]))
        if found[-1].holds():
            break
    return min(found, key=lambda each: each.rms)


def place(core: Fit, run: Trajectory, some: np.ndarray, turns: Callable[[Fit], dict[str, float]]) -> list[Fit]:
    """The core with decay wherever that explains the run equally well, the usual places first; else best first.

    Args:
      core: a fit without decay, at the run's rate.
      run: with decay.
      some: weights that are enough to tell the places by.
      turns: for a core that steps by a sign, the decay by place at which its first step turns; see `signs`.
    """
    starts = [dataclasses.replace(core, model=model) for model in placed(core.model.core)]
    part = run.only(some)
    if core.model.core.denominator == "magnitude":
        through = turns(core)
        found = [fit_decay(start, part) for start in starts if start.model.place in DECOUPLED]
        found += [
            with_given(start, through[start.model.place], part) for start in starts if start.model.place in through
        ]
    else:
        found = [fit_decay(start, part) for start in starts if start.model.gate != "stable"]
        if not any(each.holds() for each in found):
            found += [fit_decay(start, part) for start in starts if start.model.gate == "stable"]
    found = [_on_all(each, run) for each in found if each.holds()] or found
    best = min(found, key=lambda each: each.rms)
    if not best.holds():
        return [best]
    order = {(model.place, model.gate): number for number, model in enumerate(placed(core.model.core))}
    return simplest(found, lambda each: order[each.model.place, each.model.gate])


def _on_all(found: Fit, run: Trajectory) -> Fit:
    through_a_sign = found.model.core.denominator == "magnitude" and found.model.place not in DECOUPLED
    return measured(found, run) if through_a_sign else fit(found, run, ["decay"])


def with_given(start: Fit, decay: float, run: Trajectory) -> Fit:
    found = dataclasses.replace(start, values={**start.values, "decay": decay})
    spread = {**start.uncertainties, "decay": 8 * max(run.precision.moves, 1e-11) * decay}
    return measured(dataclasses.replace(found, uncertainties=spread), run)


# What the decay is proportional to -----------------------------------------------------------------------------------

LAWS: dict[str, Callable[[float], float]] = {
    "1 - decay": lambda share: share,
    "1/(1 + decay)": lambda share: share / (1 - share),
    "exp(-decay)": lambda share: -math.log1p(-share) if share < 1 else math.nan,
}


SHARES: dict[str, Callable[[float], float]] = {
    "1 - decay": lambda amount: amount,
    "1/(1 + decay)": lambda amount: amount / (1 + amount),
    "exp(-decay)": lambda amount: -math.expm1(-amount),
}


@dataclasses.dataclass(frozen=True)
class Strength:
    """What a decay amounts to.

    Attributes:
      law: a key of `LAWS` for a decoupled decay, else `-`.
      amount: `decay` of the law, or what multiplies the weight in the moments.
      by_rate: the power of the learning rate that the weight's change by decay follows.
      by_decay: the power of `weight_decay`; NaN where the box takes none.
    """

    law: str
    amount: float
    by_rate: float
    by_decay: float


def strength(full: Fit, half_rate: Fit, half_decay: Fit | None) -> Strength:
    """How the decay follows the rate and `weight_decay`, from fits at both, at half the rate and at half the decay."""
    fits = [full, half_rate, *([half_decay] if half_decay else [])]
    decays = [each.values["decay"] for each in fits]
    rates = math.log(full.rate / half_rate.rate)
    if full.model.place not in DECOUPLED:
        by_rate, by_decay = _powers(decays, rates)
        return Strength("-", decays[0], by_rate + 1, by_decay)
    found = {}
    for law, amount in LAWS.items():
        amounts = [amount(share) for share in decays]
        found[law] = Strength(law, amounts[0], *_powers(amounts, rates))
    noise = sum(each.uncertainties["decay"] / abs(each.values["decay"] or 1) for each in fits)
    linear = found["1 - decay"]
    best = min(found.values(), key=_unevenness)
    return best if _unevenness(linear) > 10 * (_unevenness(best) + noise) else linear


def at_rate(fits: Sequence[Fit], factor: float) -> tuple[Fit, bool]:
    """The fit that the powers of the rate predict at `factor` times the rate, and whether they are whole numbers."""
    full, half_rate = fits[0], fits[1]
    power = math.log2(full.rate / half_rate.rate)
    whole = abs(power - round(power)) < WHOLE
    values = dict(full.values)
    if full.model.place != "none":
        found = strength(full, half_rate, fits[2] if len(fits) > 2 else None)
        own = found.by_rate - (full.model.place not in DECOUPLED)
        whole = whole and abs(own - round(own)) < WHOLE
        amount = found.amount * factor ** (round(own) if whole else 0)
        values["decay"] = SHARES[found.law](amount) if found.law in SHARES else amount
    return dataclasses.replace(full, rate=full.rate * factor ** (round(power) if whole else 1), values=values), whole


def without_decay(full: Fit) -> Fit:
    values = {name: value for name, value in full.values.items() if name != "decay"}
    return dataclasses.replace(full, model=Model(full.model.core), values=values)


def _powers(amounts: Sequence[float], rates: float) -> tuple[float, float]:
    def power(other: float, by: float) -> float:
        ratio = amounts[0] / other if other else math.nan
        return math.log(ratio) / by if ratio > 0 else math.nan

    return power(amounts[1], rates), power(amounts[2], math.log(2)) if len(amounts) > 2 else math.nan


def _unevenness(found: Strength) -> float:
    """How far the powers are from whole numbers."""
    powers = [power for power in (found.by_rate, found.by_decay) if not math.isnan(power)]
    return sum(abs(power - round(power)) for power in powers) if powers else math.inf


def before_or_after(full: Fit, half_rate: Fit) -> tuple[Fit, Fit]:
    """The same fits of decay before the step, or after it where the effective rate is halved with the rate only then.

    A decay that always acts leaves no other trace of its order: `(w - rate*u) * keep` is `keep*w - (rate*keep)*u`.
    """
    if full.model.place != "before" or not full.holds():
        return full, half_rate
    model = dataclasses.replace(full.model, place="after")
    after, after_half = (
        dataclasses.replace(each, model=model, rate=each.rate / (1 - each.values["decay"]))
        for each in (full, half_rate)
    )
    noise = sum(each.uncertainties["rate"] / abs(each.rate) for each in (full, half_rate))
    if _unhalved(full, half_rate) <= 10 * (_unhalved(after, after_half) + noise):
        return full, half_rate
    return after, after_half


def _unhalved(full: Fit, half_rate: Fit) -> float:
    return abs(math.log2(full.rate / half_rate.rate) - 1)
