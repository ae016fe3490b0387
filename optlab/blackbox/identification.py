"""`identify`: what an optimizer is, told from outside."""

import dataclasses
import math
from typing import Any

import numpy as np

from optlab.algebra.hyperparameters import check_seed
from optlab.algebra.spellings import spelled
from optlab.blackbox import placing, signs
from optlab.blackbox.adapters import Box
from optlab.blackbox.card import INAPPLICABLE, Card, Value, correction, family
from optlab.blackbox.experiments import STEPS, Experiments
from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import DOUBLE, MIXED, ROUNDINGS, Fit, Precision, Trajectory, fit, off_from
from optlab.blackbox.placing import WHOLE
from optlab.blackbox.probes import every
from optlab.blackbox.searching import NEARLY, search
from optlab.blackbox.validation import HORIZON, Verdict, validate


@spelled()
def identify(make: Any, *, learning_rate: float = 0.01, weight_decay: float = 0.1, seed: int = 0) -> Card:
    """`(w, g) -> new w`, as anybody's optimizer has it -> its family, the site of its decay, its hyperparameters.

    The box is driven with chosen gradients and watched; nothing else of it is read. Twins, weights that see the same
    gradients from two starting points, tell decay: their distance moves by nothing else. A least-squares fit of
    every known recurrence tells the rest. It is held against longer runs that it was not fitted to, of a vector, a
    matrix and a kernel, with gradients given and with gradients that answer to the weights; see `validation`.

    Args:
      make: `make(learning_rate, weight_decay)`, called anew for every run; without the second where it takes none.
        Gives an optax-like transform, or a step `(w, g) -> new w` over NumPy arrays of any shape. A class of
        `torch.optim` is called as `make([parameter, ...], lr=..., weight_decay=...)`.
      learning_rate, weight_decay: > 0, handed to `make`, besides their halves and a decay of 0; the card says what
        they are in effect.
      seed: of the gradients.

    Returns:
      A card; `print` shows it on one screen. Its family is `None` unless it predicts all of these runs down to the
      rounding of the box.

    Raises:
      TypeError: `make` is not callable, takes no learning rate, or gives nothing that steps.
      ValueError: the box raises, gives another shape or weights that are not finite, is stochastic, or ignores its
        learning rate; or a rate or decay here that is not positive and finite.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"identify: {name} must be a finite number > 0, got {value!r}")
    check_seed("identify", seed)
    box = Box(make)
    experiments, rest = Experiments(box, float(learning_rate), float(weight_decay), seed).at_rest()
    half_rest = experiments.at_half_rate(0.0, rest)
    decaying = experiments.decaying(rest) if box.takes_decay else ""
    decay, base = experiments.at_visible_decay() if decaying == "vectors" else (0.0, rest)
    if decaying == "arrays":
        decay = experiments.decay
    probed = _Probed(experiments, decay, rest, half_rest, base, decaying)
    found = probed.explained()
    verdict = probed.validated(found)
    nearly = found.full.rms * ROUNDINGS * DOUBLE.moves < NEARLY
    if experiments.precision == DOUBLE and not verdict.holds and not verdict.known and nearly:
        mixed = probed.at(MIXED)
        found_mixed = mixed.explained()
        verdict_mixed = mixed.validated(found_mixed)
        if verdict_mixed.holds or verdict_mixed.known:
            probed, found, verdict = mixed, found_mixed, verdict_mixed
    return _card(probed, found, verdict)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What explains the runs best: fits of the one at the base values, at half the rate and at half the decay."""

    full: Fit
    half_rate: Fit
    half_decay: Fit | None = None
    same_as: tuple[str, ...] = ()
    core: Fit | None = None

    def fits(self) -> list[Fit]:
        return [each for each in (self.full, self.half_rate, self.half_decay) if each is not None]


@dataclasses.dataclass(frozen=True)
class _Probed:
    """The runs of a box: at no decay (`rest`), at half the rate, and with decay (`base`); what is `decaying` at all."""

    experiments: Experiments
    decay: float
    rest: Trajectory
    half_rest: Trajectory
    base: Trajectory
    decaying: str

    def at(self, precision: Precision) -> "_Probed":
        """The same runs, of a box of another precision."""
        rest, half_rest, base = (Trajectory(run.w, run.g, precision) for run in (self.rest, self.half_rest, self.base))
        experiments = dataclasses.replace(self.experiments, precision=precision)
        return _Probed(experiments, self.decay, rest, half_rest, base, self.decaying)

    @property
    def always_decays(self) -> bool:
        return placing.twins(self.rest)[0] != "constant"

    def explained(self) -> _Found:
        return self.with_inherent_decay() if self.always_decays else self.without_inherent_decay()

    def validated(self, found: _Found) -> Verdict:
        return validate(self.experiments, self.decay, found.fits(), self.always_decays)

    def without_inherent_decay(self) -> _Found:
        """The core from the run without decay, then the decay alone."""
        core = self.core(self.rest)
        half = fit(dataclasses.replace(core, rate=core.rate / 2), self.half_rest, ["rate"])
        if not core.holds() or placing.twins(self.base)[0] == "constant":
            return _Found(core, half, core=core)
        rate = self.experiments.rate
        full, *others = placing.place(core, self.base, self.some(4), lambda core: self.turns(core, rate, self.decay))
        same_as = tuple(dict.fromkeys(each.model.place for each in others if each.model.place != full.model.place))
        return _Found(
            full,
            self.refit(full, half.rate, rate / 2, self.decay),
            self.refit(full, core.rate, rate, self.decay / 2),
            same_as,
            core,
        )

    def with_inherent_decay(self) -> _Found:
        """Core and decay from one run, for a box that decays whatever it is told."""
        motion, share = placing.twins(self.base)
        if motion == "shrinks":
            core = self.core(placing.without(share, self.base))
            start = dataclasses.replace(
                core, model=Model(core.model.core, "before"), values={**core.values, "decay": share}
            )
            by_sign = core.model.core.denominator == "magnitude"
            full = fit(start, self.base, ["rate", *(["decay"] if by_sign else start.model.names())])
        else:
            some = self.some(4)
            full = search(self.base.only(some), self.experiments.probe.scale[some], placing.through_moments, kept=2)[0]
            full = fit(full, self.base, ["rate", *full.model.names()])
        if not full.holds():
            return _Found(full, full)
        full = self.as_asked(full)
        rate = self.experiments.rate
        half_run = self.run(rate / 2, self.decay) if self.experiments.box.takes_decay else self.half_rest
        half = fit(dataclasses.replace(full, rate=full.rate / 2), half_run, ["rate", "decay"])
        half_decay = None
        if self.experiments.box.takes_decay:
            half_decay = fit(full, self.run(rate, self.decay / 2), ["decay"])
        return _Found(*placing.before_or_after(full, half), half_decay)

    def core(self, run: Trajectory) -> Fit:
        """The core of a run without decay, from the twins that start at zero and so round least."""
        still = run.only(np.arange(0, run.w.shape[1], 2))
        if signs.steps_by_sign(still):
            return signs.fit_core(lambda start, grads: self.drive(start, grads, self.experiments.rate, 0.0), still)
        some = self.some(2)[::2]
        found = search(run.only(some), self.experiments.probe.scale[some])[0]
        return self.as_asked(fit(found, still, ["rate", *found.model.names()]) if found.holds() else found)

    def some(self, nth: int) -> np.ndarray:
        return every(nth, self.experiments.probe.start.size)

    def as_asked(self, found: Fit) -> Fit:
        """A sum of decayed gradients, or their average at a larger rate: whichever is nearer to the rate asked for."""
        if found.model.core != Core("trace") or found.rate <= 0:
            return found
        larger = found.rate / (1 - found.values["b1"])
        asked = self.experiments.rate
        if abs(math.log(larger / asked)) > abs(math.log(found.rate / asked)):
            return found
        model = dataclasses.replace(found.model, core=Core("ema"))
        return dataclasses.replace(found, model=model, rate=larger)

    def run(self, rate: float, decay: float) -> Trajectory:
        return self.experiments.run(rate, decay, self.experiments.probe)

    def drive(self, start: np.ndarray, grads: np.ndarray, rate: float, decay: float) -> np.ndarray:
        return self.experiments.box.run(rate, decay, start, grads)

    def turns(self, core: Fit, rate: float, decay: float) -> dict[str, float]:
        return signs.decays_through(lambda start, grads: self.drive(start, grads, rate, decay), core)

    def refit(self, full: Fit, effective_rate: float, rate: float, decay: float) -> Fit:
        """The decay at another rate or decay, all else as in `full`."""
        start, run = dataclasses.replace(full, rate=effective_rate), self.run(rate, decay)
        if full.model.core.denominator != "magnitude" or full.model.place in placing.DECOUPLED:
            return fit(start, run, ["decay"])
        turns = self.turns(full, rate, decay)
        return placing.with_given(start, turns.get(full.model.place, math.nan), run)


# The card ---------------------------------------------------------------------------------------------------------


def _card(probed: _Probed, found: _Found, verdict: Verdict) -> Card:
    experiments, full, fresh = probed.experiments, verdict.full, verdict.run
    by_all = full.model.gate == "stable"  # a decay by which weights influence each other, as the model has it
    mixes = experiments.mixes(0.0, probed.rest) if by_all else experiments.mixes(probed.decay, probed.base)
    with np.errstate(all="ignore"):
        moved = np.abs(np.diff(fresh.w, axis=0))
        per_noise = float(np.median((fresh.noise / moved)[fresh.seen & (moved > 0)]))
    common = {
        "gradient": _gradient_scale(probed),
        "residual": off_from(full, fresh) * per_noise,
        "floor": full.allowed() * per_noise,
        "nearest": family(full.model.core),
        "precision": experiments.precision.name,
        "mixes": mixes,
        "shapes": (probed.experiments.probe.start.shape, *verdict.shapes),
        "horizon": HORIZON,
        "rates": verdict.rates,
    }
    notes = (*_notes_on_the_decay(probed), *verdict.notes)
    if mixes or not verdict.holds:
        motion = placing.twins(probed.base)[0]
        site = {"constant": "none", "shrinks": "decoupled", "moves": "unknown"}[motion]
        site = "unknown" if site == "none" and probed.decaying else site
        known = verdict.known or _known_at_rest(probed, found)
        return Card(None, site, "none", "-", "none", {}, {}, INAPPLICABLE, None, known=known, notes=notes, **common)
    found = dataclasses.replace(found, full=full)
    site, coupling, law, decay_value, decay_notes = _decay(probed, found)
    core = full.model.core
    rounding = experiments.precision.moves
    values = {"learning_rate": _value(full, "rate", rounding, experiments.rate)}
    values |= decay_value
    values |= {name: _value(full, name, rounding) for name in core.names()}
    unidentifiable = _unidentifiable(core, values, common["precision"])
    return Card(
        family(core),
        site,
        coupling,
        law,
        full.model.gate,
        {name: value for name, value in values.items() if name not in unidentifiable},
        unidentifiable,
        correction(core),
        core,
        same_as=_sites(found.same_as, coupling),
        notes=(*notes, *decay_notes, *_notes_on_the_core(found)),
        **common,
    )


def _known_at_rest(probed: _Probed, found: _Found) -> tuple[str, ...]:
    if found.core is None or not found.core.holds() or (found.full.holds() and found.full.model.place != "none"):
        return ()
    alone = " while weight_decay is 0" if probed.decaying else ""
    return (f"{family(found.core.model.core)} on vectors for {STEPS} steps{alone}",)


def _value(found: Fit, name: str, rounding: float, given: float | None = None) -> Value:
    value = found.rate if name == "rate" else found.values[name]
    return Value(float(value), max(found.uncertainties.get(name, 0.0), rounding * abs(value)), given)


def _gradient_scale(probed: _Probed) -> str:
    """What updates do when gradients grow a thousandfold."""
    scale, moved = probed.experiments.probe.scale, np.diff(probed.rest.w, axis=0)
    larger, smaller = (moved[:, np.isclose(scale, size)][:, ::2] for size in (1e6, 1e3))
    typical = np.median(np.abs(larger))
    if np.median(np.abs(larger - smaller)) <= 1e-3 * typical:
        return "scale-free"
    return "proportional" if np.median(np.abs(larger - 1e3 * smaller)) <= 1e-3 * typical else "neither"


def _power(name: str, power: float) -> str:
    """A power of something, in words; the constant where it is 0."""
    whole = round(power) if not math.isnan(power) and abs(power - round(power)) < WHOLE else None
    if whole is None:
        return f"{name}^{power:.2f}"
    return {0: "constant", 1: name}.get(whole, f"{name}^{whole}")


def _sites(places: tuple[str, ...], coupling: str) -> tuple[str, ...]:
    before = "step" if coupling == "constant" else "update"
    return tuple(before if place == "before" else place for place in places)


def _decay(probed: _Probed, found: _Found) -> tuple[str, str, str, dict[str, Value], tuple[str, ...]]:
    """Site, coupling and law of the decay, its value at the base rate and decay, and what is odd about it."""
    full, experiments = found.full, probed.experiments
    if full.model.place == "none":
        return "none", "none", "-", {}, ()
    strength = placing.strength(full, found.half_rate, found.half_decay)
    coupling = _power("lr", strength.by_rate)
    site = _sites((full.model.place,), coupling)[0]
    if site == "after" and strength.law == "1/(1 + decay)":
        site = "proximal"
    own_rate = strength.by_rate - (full.model.place not in placing.DECOUPLED)
    value = strength.amount / full.rate ** (round(own_rate) if abs(own_rate - round(own_rate)) < WHOLE else own_rate)
    notes = []
    given = None
    if experiments.box.takes_decay:
        given = experiments.decay
        power = _power("weight_decay", strength.by_decay)
        if power != "weight_decay":
            notes.append(f"the decay goes as {'no power of weight_decay' if power == 'constant' else power}")
        if probed.decay not in (0, given):
            notes.append(f"decay watched at weight_decay={probed.decay:g}, where rounding does not hide it")
            value *= (given / probed.decay) ** (0.0 if math.isnan(strength.by_decay) else round(strength.by_decay))
    if value < 0:
        notes.append("sign trap: weights grow by what they should shrink by")
    amount = full.values["decay"]
    relative = full.uncertainties.get("decay", 0.0) / abs(amount) + full.uncertainties.get("rate", 0.0) / full.rate
    relative = max(relative, experiments.precision.moves)
    return site, coupling, strength.law, {"weight_decay": Value(value, relative * abs(value), given)}, tuple(notes)


def _unidentifiable(core: Core, values: dict[str, Value], precision: str) -> dict[str, str]:
    found = {
        name: f"its error would be {value.uncertainty / abs(value.value):.0%} of it"
        for name, value in values.items()
        if value.value and value.uncertainty > 0.3 * abs(value.value)
    }
    if core.denominator not in ("one", "magnitude") and core.eps == "none":
        found["eps"] = (
            "inside the root it is an initial sum"
            if core.denominator == "sum"
            else f"0, or too small for gradients of 1e-16 in {precision}"
        )
    return found


def _notes_on_the_decay(probed: _Probed) -> tuple[str, ...]:
    if not probed.experiments.box.takes_decay:
        return ("make takes no weight_decay",)
    if not probed.decaying:
        return ("weight_decay has no effect",)
    if probed.decaying == "arrays":
        return ("weight_decay acts on matrices or kernels alone",)
    return (
        ("weight_decay moves every weight alike, which is no decay",)
        if placing.twins(probed.base)[0] == "constant"
        else ()
    )


def _notes_on_the_core(found: _Found) -> tuple[str, ...]:
    full, notes = found.full, []
    power = _power("learning_rate", math.log2(full.rate / found.half_rate.rate))
    if power != "learning_rate":
        notes.append(f"the effective rate goes as {power}")
    if full.model.core == Core("trace"):
        notes.append(f"the same as momentum (EMA) at rate {full.rate / (1 - full.values['b1']):.6g}")
    if full.model.core == Core("ema"):
        notes.append(f"the same as heavy_ball at rate {full.rate * (1 - full.values['b1']):.6g}")
    if full.model.core.numerator == "warming_nesterov_ema":
        notes.append("the look-ahead warms up as torch's")
    return tuple(notes)
