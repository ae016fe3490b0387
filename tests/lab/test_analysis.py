"""Basins, ridges, equal strength and laws, on grids whose answers are known because they were made of them."""

import numpy as np
import pytest
import xarray as xr

from optlab.lab import analysis, results

RATES = [1e-3, 3e-3, 1e-2, 3e-2]
DECAYS = [1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0]
SEEDS = 8
AXES = ("site", "coupling", "gate", "learning_rate", "weight_decay", "seed")


def grid(values, *, norms=None, maximize=True, diverged=None, noise=0.0, rates=RATES, decays=DECAYS, seeds=SEEDS):
    """A study whose metric is `values(site, rate, decay)`, and whose weight norm is `norms(site, rate, decay)`."""
    sites = ("gradient", "update")
    shape = (2, 1, 1, len(rates), len(decays), seeds)
    drawn = noise * np.random.default_rng(0).normal(size=shape)

    def filled(function):
        table = [[[function(site, rate, decay) for decay in decays] for rate in rates] for site in sites]
        return np.array(table, float)[:, None, None, :, :, None] + np.zeros(shape)

    variables = {
        "metric": filled(values) + drawn,
        "weight_norm": filled(norms or (lambda site, rate, decay: 1 / max(decay, 1e-3))),
        "diverged": filled(diverged or (lambda *cell: False)).astype(bool),
        "trained": np.ones(shape, bool),
    }
    coordinates = {"site": list(sites), "coupling": ["natural"], "gate": ["none"]}
    coordinates |= {"learning_rate": rates, "weight_decay": decays, "seed": np.arange(seeds)}
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


# Zeros, single seeds, and nothing left ------------------------------------------------------------------------------


def test_decays_of_zero_are_no_part_of_a_basin_or_a_ridge_and_may_be_the_best():
    decays = [0.0, 0.1, 1.0, 10.0]
    flat = grid(lambda site, rate, decay: 1.0, decays=decays)
    assert analysis.basin(flat, "update").share == (3 / 4, 3 / 4, 3 / 4)
    assert analysis.basin(flat, "update").correlation.value == pytest.approx(0)
    found = analysis.ridge(flat, "update", RATES)
    assert found.decays[0] == pytest.approx((1.0, 1.0, 1.0))  # the centre of 0.1, 1 and 10
    assert found.slope.value == 0
    without = grid(lambda site, rate, decay: float(decay == 0), decays=decays)
    assert analysis.basin(without, "update").share.value == 0
    assert np.isnan(analysis.ridge(without, "update", RATES).decays[0]).all()
    best_at_zero = grid(lambda site, rate, decay: 1.0 - 0.001 * (decay == 0.1) - 0.5 * (decay > 0.1), decays=decays)
    assert analysis.ridge(best_at_zero, "update", RATES).decays[0].value == pytest.approx(0.1)
    only = grid(lambda site, rate, decay: 1.0, decays=[0.0])
    assert analysis.basin(only, "update").share.value == 0
    assert np.isnan(analysis.ridge(only, "update", RATES).moved.value)


def test_rates_of_zero_are_no_part_of_a_basin_and_have_no_ridge():
    flat = grid(lambda site, rate, decay: 1.0, rates=[0.0, 0.1])
    assert analysis.basin(flat, "update").share.value == 1 / 2
    with pytest.raises(ValueError, match=r"ridge: rates must be .* above 0; got 0.0, 0.1, there are 0.1$"):
        analysis.ridge(flat, "update", [0.0, 0.1])
    with pytest.raises(ValueError, match=r"got 0.5, there are 0.001, 0.003, 0.01, 0.03$"):
        analysis.ridge(grid(bowl(along)), "update", [0.5])
    with pytest.raises(ValueError, match="got none, there are"):
        analysis.ridge(grid(bowl(along)), "update", [])


def test_one_seed_has_values_and_no_intervals():
    one = grid(bowl(against), seeds=1, noise=1e-6)
    many = grid(bowl(against), noise=1e-6)
    for value, other in (
        (analysis.basin(one, "update").share, analysis.basin(many, "update").share),
        (analysis.ridge(one, "update", RATES).slope, analysis.ridge(many, "update", RATES).slope),
        (analysis.ridge(one, "update", RATES).decays[1], analysis.ridge(many, "update", RATES).decays[1]),
    ):
        assert value.value == other.value
        assert np.isnan(value[1:]).all()
        assert np.isfinite(other).all()
    assert np.isnan(analysis.basin_difference(one, "gradient", "update").low)
    law = grid(lambda site, rate, decay: MADE["timescale"][1](rate, decay), seeds=1)
    (a, b) = analysis.fit_law(law, "update", "metric", "timescale").numbers.values()
    assert (a.value, b.value) == pytest.approx((200.0, 1.5), rel=1e-3)
    assert np.isnan([*a[1:], *b[1:]]).all()
    found = analysis.at_equal_strength(one, "update", "gradient", 1e-2)
    assert found is not None
    assert np.isnan(found.half_width)
    assert found.percent().endswith("± ?")


def test_one_rate_and_one_decay_have_no_slope():
    one_rate = analysis.ridge(grid(bowl(along), rates=[0.1]), "update", [0.1])
    assert np.isnan(one_rate.slope).all()
    assert one_rate.moved == (1.0, 1.0, 1.0)
    one_decay = grid(lambda site, rate, decay: 1.0, decays=[0.1])
    assert analysis.ridge(one_decay, "update", RATES).slope.value == 0
    assert analysis.basin(one_decay, "update").share.value == 1
    assert np.isnan(analysis.basin(one_decay, "update").correlation.value)


def test_where_every_run_diverged_there_is_no_best():
    failed = grid(bowl(along), diverged=lambda site, rate, decay: site == "update" or rate == 1e-3)
    assert np.isnan(analysis.basin(failed, "update").share).all()
    assert np.isnan(analysis.basin_difference(failed, "gradient", "update")).all()
    assert np.isnan(analysis.ridge(failed, "update", RATES).decays[0]).all()
    first, second = analysis.ridge(failed, "gradient", [1e-3, 3e-3]).decays
    assert np.isnan(first).all()
    assert second.value == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ValueError, match="update has 0 cells in which every run has metric"):
        analysis.fit_law(failed, "update", "metric", "timescale")


def test_no_decay_is_as_strong_as_none():
    """A share of zero has no logarithm; between it and the first decay nothing is interpolated."""
    decays = [0.0, 0.1, 1.0, 10.0]
    made = grid(lambda site, rate, decay: decay, norms=lambda site, rate, decay: decay, decays=decays)
    shared = made.rename(weight_norm="decay_share").expand_dims(layer=["all"], axis=-1)
    weak = shared.assign(metric=made.metric.where(made.weight_decay == 0.1, 0.0), diverged=made.diverged)
    found = analysis.at_equal_strength(weak, "update", "gradient", 1e-2, "decay_share")
    assert found is not None
    assert found.mean == 0
    none = shared.assign(metric=-made.metric, diverged=made.diverged)
    assert analysis.at_equal_strength(none, "update", "gradient", 1e-2, "decay_share") is None


def test_steps_to_a_goal_that_was_never_reached_have_no_difference():
    never = grid(lambda site, rate, decay: 1.0 if site == "update" else np.inf, maximize=False)
    found = analysis.at_equal_strength(never, "update", "gradient", 1e-2)
    assert found is not None
    assert found.mean == np.inf
    both = grid(lambda site, rate, decay: np.inf, maximize=False).assign_attrs(objective="weight_norm")
    found = analysis.at_equal_strength(both, "update", "gradient", 1e-2)
    assert found is not None
    assert np.isnan(found.mean)


def test_a_law_is_not_asked_where_it_divides_by_zero():
    def law(site, rate, decay):
        return MADE["timescale"][1](rate, decay) if decay and rate else 1.0

    made = grid(law, decays=[0.0, *DECAYS], rates=[0.0, *RATES])
    found = analysis.fit_law(made, "update", "metric", "timescale")
    assert found.cells == len(RATES) * len(DECAYS)
    assert found.numbers["b"].value == pytest.approx(1.5)


def test_what_the_study_does_not_have_is_refused_by_name():
    made = grid(bowl(along))
    for call in (analysis.basin, lambda *which: analysis.ridge(*which, RATES), analysis.scores):
        with pytest.raises(ValueError, match="the study has no structure 'step'; its structures are gradient, update"):
            call(made, "step")
    with pytest.raises(ValueError, match="the study has no structure 'step'"):
        analysis.at_equal_strength(made, "update", "step", 1e-2)
    with pytest.raises(ValueError, match=r"the study has no learning rate 0.5; its rates are 0.001, 0.003, 0.01, 0.03"):
        analysis.at_equal_strength(made, "update", "gradient", 0.5)
    with pytest.raises(ValueError, match="the study has no decay_share; it was run without measure_decay"):
        analysis.at_equal_strength(made, "update", "gradient", 1e-2, "decay_share")
    with pytest.raises(ValueError, match="the study has no structure 'step'"):
        analysis.fit_law(made, "step", "metric", "timescale")


# Strength and laws ----------------------------------------------------------------------------------------------------


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


# Intervals ------------------------------------------------------------------------------------------------------------


def bootstrap_of_mean(values):
    return analysis.bootstrap(lambda numbers: float(values[numbers].mean()), len(values))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_bootstrap_of_means_is_as_wide_as_student_s_interval(seeds):
    """Plain percentiles are 0.39, 0.62 and 0.81 times as wide."""
    drawn = np.random.default_rng(seeds).normal(3.0, 2.0, (30, seeds))
    found = [bootstrap_of_mean(values) for values in drawn]
    widths = [(each.high - each.low) / 2 for each in found] / results.mean_and_width(drawn)[1]
    assert widths.mean() == pytest.approx(1.0, abs=0.05)
    assert [each.value for each in found] == drawn.mean(1).tolist()


def test_bootstraps_of_means_hold_the_mean_as_often_as_they_say():
    """Of 300 means of 5, in 95%; plain percentiles do in 84%."""
    drawn = np.random.default_rng(0).normal(size=(300, 5))
    held = np.mean([bootstrap_of_mean(values).holds(0.0) for values in drawn])
    assert 0.92 < held < 0.98


def test_an_interval_follows_a_skewed_bootstrap():
    values = np.array([0.0] * 7 + [8.0])
    found = bootstrap_of_mean(values)
    assert found.high - found.value > 1.5 * (found.value - found.low) > 0


def test_an_interval_needs_two_seeds_and_values():
    assert analysis.bootstrap(lambda numbers: float("nan"), 4).text() == "nan (nan to nan)"
    assert analysis.bootstrap(lambda numbers: 1.0, 1).text() == "1.00 (nan to nan)"
    assert analysis.bootstrap(lambda numbers: float("nan") if len(set(numbers)) > 3 else 1.0, 4)[1:] != (1.0, 1.0)


@pytest.mark.parametrize("seeds", [5, 10])
def test_an_interval_of_a_law_is_student_s_where_a_seed_is_a_factor(seeds):
    """Every number of the law is its own times the mean factor, in logarithms: a mean, whose interval is known."""
    factors = 0.2 * np.random.default_rng(seeds).normal(size=seeds)
    made = grid(lambda site, rate, decay: MADE["timescale"][1](rate, decay), seeds=seeds)
    scattered = made.assign(metric=made.metric * np.exp(factors))
    mean, width = results.interval(factors)
    numbers = analysis.fit_law(scattered, "update", "metric", "timescale").numbers
    for name, number in MADE["timescale"][0].items():
        wanted = number * np.exp([mean, mean - width, mean + width])
        assert numbers[name] == pytest.approx(tuple(wanted), rel=1e-3)
