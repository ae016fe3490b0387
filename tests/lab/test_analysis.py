"""Basins, ridges, equal strength and laws, on grids whose answers are known because they were made of them."""

import numpy as np
import pytest
import xarray as xr

from optlab.lab import analysis, results

RATES = [1e-3, 3e-3, 1e-2, 3e-2]
DECAYS = [1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0]
SEEDS = 8
AXES = ("site", "coupling", "gate", "learning_rate", "weight_decay", "seed")


def grid(values, *, norms=None, maximize=True, diverged=None, noise=0.0):
    """A study whose metric is `values(site, rate, decay)`, and whose weight norm is `norms(site, rate, decay)`."""
    sites = ("gradient", "update")
    shape = (2, 1, 1, len(RATES), len(DECAYS), SEEDS)
    drawn = noise * np.random.default_rng(0).normal(size=shape)

    def filled(function):
        table = [[[function(site, rate, decay) for decay in DECAYS] for rate in RATES] for site in sites]
        return np.array(table, float)[:, None, None, :, :, None] + np.zeros(shape)

    variables = {
        "metric": filled(values) + drawn,
        "weight_norm": filled(norms or (lambda site, rate, decay: 1 / decay)),
        "diverged": filled(diverged or (lambda *cell: False)).astype(bool),
        "trained": np.ones(shape, bool),
    }
    coordinates = {"site": list(sites), "coupling": ["natural"], "gate": ["none"]}
    coordinates |= {"learning_rate": RATES, "weight_decay": DECAYS, "seed": np.arange(SEEDS)}
    roles = {"objective": "metric", "reported": "metric", "maximize": int(maximize), "steps": 10**9}
    return xr.Dataset({name: (AXES, value) for name, value in variables.items()}, coordinates, roles)


def bowl(centre, sign=1):
    """1, less the squared distance from the decay `centre(rate)`, in decades."""
    return lambda site, rate, decay: sign * (1 - 0.03 * np.log10(decay / centre(rate)) ** 2)


def along(rate):
    return 1.0


def against(rate):
    return 1e-2 / rate


@pytest.mark.parametrize("sign", [1, -1])
def test_a_basin_is_counted_and_its_axes_told_apart(sign):
    separable = analysis.basin(grid(bowl(along, sign), maximize=sign == 1), "update")
    assert separable.share.value == 3 / 7  # half a decade to both sides: 0.03 * 0.52**2 < 0.01 < 0.03 * 1**2
    assert abs(separable.correlation.value) < 1e-12
    product = analysis.basin(grid(bowl(against, sign), maximize=sign == 1), "update")
    assert product.correlation.value < -0.7


def test_a_basin_has_no_cell_with_a_diverged_run():
    whole = analysis.basin(grid(bowl(along)), "update")
    cut = analysis.basin(grid(bowl(along), diverged=lambda site, rate, decay: decay >= 1), "update", tolerance=0.005)
    assert cut.share.value < whole.share.value
    assert np.isnan(analysis.basin(grid(bowl(along)), "update", tolerance=1e-9).correlation.value)


@pytest.mark.parametrize(("centre", "slope", "moved"), [(along, 0.0, 1.0), (against, -1.0, 1 / 30)])
def test_a_ridge_stays_or_follows_the_rate(centre, slope, moved):
    found = analysis.ridge(grid(bowl(centre)), "update", RATES)
    assert found.slope.value == pytest.approx(slope, abs=0.1)
    assert found.moved.value == pytest.approx(moved, rel=0.3)
    assert found.decays[2].value == pytest.approx(1.0, rel=0.1)


def test_equal_strength_takes_the_units_of_the_decay_away():
    """`gradient` needs a hundredth of the decay; what is learnt depends on the norm alone, plus an advantage."""
    unit = {"gradient": 0.1, "update": 1.0}

    def norm(site, rate, decay):
        return 1 / (decay / unit[site])

    def with_advantage(advantage):
        def value(site, rate, decay):
            return 1 - 0.05 * abs(np.log10(norm(site, rate, decay))) + advantage * (site == "gradient")

        return grid(value, norms=norm, noise=0.001)

    even = analysis.at_equal_strength(with_advantage(0.0), "update", "gradient", 1e-2)
    ahead = analysis.at_equal_strength(with_advantage(0.02), "update", "gradient", 1e-2)
    assert even is not None
    assert ahead is not None
    assert abs(even.mean) < 0.005
    assert ahead.mean - even.mean == pytest.approx(0.02)
    assert ahead.half_width < 0.005


def test_equal_strength_out_of_reach_is_said():
    far = grid(bowl(along), norms=lambda site, rate, decay: (1e6 if site == "gradient" else 1.0) / decay)
    assert analysis.at_equal_strength(far, "update", "gradient", 1e-2) is None
    failed = grid(bowl(along), diverged=lambda site, rate, decay: site == "update")
    assert analysis.at_equal_strength(failed, "update", "gradient", 1e-2) is None
    with pytest.raises(ValueError, match="at_equal_strength: unknown strength 'loss'; known are weight_norm"):
        analysis.at_equal_strength(far, "update", "gradient", 1e-2, "loss")


MADE = {
    "timescale": ({"a": 200.0, "b": 1.5}, lambda rate, decay: 200 + 1.5 / (rate * decay)),
    "timescales": ({"a": 2.0, "b": 0.7}, lambda rate, decay: 2 / rate + 0.7 / (rate * decay)),
    "power": (
        {"a": 3.0, "b": 2.0, "p": 0.8, "q": 1.1, "r": 0.6},
        lambda rate, decay: 3 / rate**0.8 + 2 / (rate**1.1 * decay**0.6),
    ),
    "logarithm": (
        {"a": 5.0, "b": 200.0, "c": 3e4, "p": 0.9},
        lambda rate, decay: 5 / rate**0.9 + 200 * np.log10(3e4 / decay),
    ),
}


@pytest.mark.parametrize("form", MADE)
def test_a_law_is_found_again(form):
    numbers, law = MADE[form]
    found = analysis.fit_law(grid(lambda site, rate, decay: law(rate, decay)), "update", "metric", form)
    assert set(found.numbers) == set(numbers)
    assert {name: estimate.value for name, estimate in found.numbers.items()} == pytest.approx(numbers, rel=1e-3)
    assert found.error < 1e-5
    assert found.cells == len(RATES) * len(DECAYS)


@pytest.mark.parametrize("form", ["timescale", "logarithm"])
def test_the_wrong_law_does_not_fit(form):
    other = {"timescale": "logarithm", "logarithm": "timescale"}[form]
    made = grid(lambda site, rate, decay: MADE[other][1](rate, decay))
    assert analysis.fit_law(made, "update", "metric", form).error > 0.1


def test_a_run_that_did_not_get_there_counts_as_one_that_takes_longer():
    law = MADE["timescale"][1]
    made = grid(lambda site, rate, decay: law(rate, decay))
    scattered = made.metric * np.exp(0.3 * np.random.default_rng(0).normal(size=made.metric.shape))
    cut = made.assign(metric=scattered.where(scattered < 3000, np.inf)).assign_attrs(steps=3000)
    found = analysis.fit_law(cut, "update", "metric", "timescale")
    assert (found.cells, found.censored) == (16, 81)
    assert found.numbers["b"].value == pytest.approx(1.5, rel=0.1)
    assert found.numbers["b"].holds(1.5)


def test_a_law_needs_enough_sound_cells_and_a_known_form():
    made = grid(lambda site, rate, decay: 100.0 if decay >= 10 else np.inf)
    with pytest.raises(ValueError, match="update has 4 cells in which every run has metric, too few for the 5 numbers"):
        analysis.fit_law(made, "update", "metric", "power")
    with pytest.raises(ValueError, match="unknown form 'linear'; known are timescale, timescales, power"):
        analysis.fit_law(made, "update", "metric", "linear")
    law = MADE["timescale"][1]
    failed = grid(
        lambda site, rate, decay: law(rate, decay) if decay < 3 else 1.0, diverged=lambda site, rate, decay: decay >= 3
    )
    found = analysis.fit_law(failed, "update", "metric", "timescale")
    assert found.cells == 4 * (len(DECAYS) - 2)
    assert found.numbers["b"].value == pytest.approx(1.5)


def test_basins_are_compared_seed_by_seed():
    wide = grid(lambda site, rate, decay: 1.0 if site == "gradient" or decay == 1 else 0.5)
    found = analysis.basin_difference(wide, "gradient", "update")
    assert found == pytest.approx((6 / 7, 6 / 7, 6 / 7))


def test_what_falls_too_steeply_is_not_interpolated():
    def value(site, rate, decay):
        return bowl(along)(site, rate, decay) if site == "update" else float(decay < 1)

    made = grid(value, norms=lambda site, rate, decay: (1.0 if site == "update" else 0.5) / decay)
    found = analysis.at_equal_strength(made, "update", "gradient", 1e-2)
    assert found is not None
    assert -1 < found.mean < 0
    assert analysis.at_equal_strength(made, "update", "gradient", 1e-2, steepest=0.9) is None


def test_a_bootstrap_of_a_mean_is_the_interval_of_a_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 40)
    found = analysis.bootstrap(lambda numbers: float(values[numbers].mean()), len(values))
    assert found.value == values.mean()
    assert (found.high - found.low) / 2 == pytest.approx(results.interval(values).half_width, rel=0.1)
    assert found.holds(float(values.mean()))
    assert analysis.bootstrap(lambda numbers: float("nan"), 4).text() == "nan (nan to nan)"
