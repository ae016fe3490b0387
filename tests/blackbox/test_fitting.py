"""Fits of recurrences: what they find, how sure they are of it, and how much they allow for rounding."""

import numpy as np
import pytest

from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import DOUBLE, Fit, Trajectory, fit

EMA, ADAM = Core("ema"), Core("corrected_ema", "corrected_ema")
STEPS, WEIGHTS = 40, 20


def run_of(model: Model, rate: float, values: dict[str, float], off: float, seed: int) -> Trajectory:
    """Weights around one that take the steps of a model, and normal errors of the size `off`."""
    rng = np.random.default_rng(seed)
    g, errors = rng.normal(size=(STEPS, WEIGHTS)), off * rng.normal(size=(STEPS, WEIGHTS))
    w = [np.ones(WEIGHTS)]
    for t in range(STEPS):
        before = np.stack([*w, *np.zeros((STEPS - t - 1, WEIGHTS))])
        w.append(model.step(before, g, rate, values)[t] + errors[t])
    return Trajectory(np.stack(w), g, DOUBLE)


@pytest.mark.parametrize(("place", "free"), [("none", ("rate", "b1")), ("before", ("rate", "b1", "decay"))])
def test_uncertainties_are_standard_deviations(place: str, free: tuple[str, ...]) -> None:
    """The errors of thirty fits, in units of what they say, are 1 in root mean square."""
    true = {"rate": 1e-3, "b1": 0.9, "decay": 1e-3}
    model, values = Model(EMA, place), {name: true[name] for name in free if name != "rate"}
    start = Fit(model, 2e-3, values | {"b1": 0.8}, np.inf)
    found = [fit(start, run_of(model, true["rate"], values, 1e-9, seed), free) for seed in range(30)]
    for name in free:
        errors = [(each.rate if name == "rate" else each.values[name]) - true[name] for each in found]
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
