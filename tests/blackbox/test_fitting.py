"""Fits of recurrences: what they find, how sure they are of it, and how much they allow for rounding."""

import numpy as np
import pytest

from optlab.blackbox.families import DENOMINATORS, Core, Model
from optlab.blackbox.fitting import DOUBLE, Fit, Trajectory, fit

EMA, ADAM = Core("ema"), Core("corrected_ema", "corrected_ema")
STEPS, WEIGHTS = 40, 20


def averaged(rate: float, b1: float, decay: float, off: float, seed: int) -> Trajectory:
    """Weights that start at one and follow an average of their gradients, with normal errors of the size `off`."""
    rng = np.random.default_rng(seed)
    g, errors = rng.normal(size=(STEPS, WEIGHTS)), off * rng.normal(size=(STEPS, WEIGHTS))
    w, m = [np.ones(WEIGHTS)], np.zeros(WEIGHTS)
    for t in range(STEPS):
        m = b1 * m + (1 - b1) * g[t]
        w.append(w[-1] - decay * w[-1] - rate * m + errors[t])
    return Trajectory(np.stack(w), g, DOUBLE)


@pytest.mark.parametrize(("place", "decay"), [("none", 0.0), ("before", 1e-3)])
def test_uncertainties_are_standard_deviations(place: str, decay: float) -> None:
    """The errors of thirty fits, in units of what they say, are 1 in root mean square."""
    true = {"rate": 1e-3, "b1": 0.9} | ({"decay": decay} if decay else {})
    start = Fit(
        Model(EMA, place), 2e-3, {name: value for name, value in (true | {"b1": 0.8}).items() if name != "rate"}, np.inf
    )
    found = [fit(start, averaged(1e-3, 0.9, decay, 1e-9, seed), list(true)) for seed in range(30)]
    for name, value in true.items():
        errors = [(each.rate if name == "rate" else each.values[name]) - value for each in found]
        in_units = np.array(errors) / [each.uncertainties[name] for each in found]
        assert np.sqrt(np.mean(in_units**2)) == pytest.approx(1, abs=0.4), name


def test_averages_add_up_the_roundings_that_they_remember() -> None:
    """A step is allowed 8 roundings, and an average as many sixteenths as it remembers steps."""
    plain, average = Fit(Model(Core("gradient")), 1.0, {}, 0.0), Fit(Model(EMA), 1.0, {"b1": 0.9}, 0.0)
    both = Fit(Model(ADAM), 1.0, {"b1": 0.9, "b2": 0.99}, 0.0)
    assert [each.allowed() for each in (plain, average, both)] == pytest.approx([8, 8 * 26 / 16, 8 * 126 / 16])
    forever = Fit(Model(EMA), 1.0, {"b1": 1 - 1e-9}, 0.0)
    assert forever.allowed() == pytest.approx(8 * (1 + 1e4 / 16))


def test_a_fit_holds_up_to_what_is_allowed_at_any_positive_rate() -> None:
    held = Fit(Model(Core("gradient")), 1e-9, {}, 0.0, off=7.9)
    assert held.holds()
    assert not Fit(held.model, held.rate, {}, 0.0, off=8.1).holds()
    assert not Fit(held.model, -held.rate, {}, 0.0, off=7.9).holds()


@pytest.mark.parametrize("name", ["centred", "corrected_centred"])
def test_a_centred_second_moment_is_never_negative(name: str) -> None:
    """Of gradients that stay the same it is nothing but rounding, on whichever side."""
    for size in np.random.default_rng(0).uniform(0.1, 1, 20):
        v, _ = DENOMINATORS[name][1](np.full((400, 1), size), {"b2": 0.5})
        assert (v >= 0).all()
