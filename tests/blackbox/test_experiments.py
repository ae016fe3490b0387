"""What black boxes are put through, and what is read from it before anything of them is claimed."""

import itertools
import math

import numpy as np
import optax
import pytest

from optlab.blackbox import identify, searching
from optlab.blackbox.adapters import Box
from optlab.blackbox.experiments import Experiments, twin_moves
from optlab.blackbox.families import Core, Model
from optlab.blackbox.fitting import DOUBLE, Fit, Trajectory, rms
from optlab.blackbox.placing import DECAYS, strength
from optlab.blackbox.probes import ladder
from optlab.blackbox.searching import LARGE, SCREENED, screen
from optlab.blackbox.signs import steps_by_sign

RATE = 0.01


def _sgdw(lr, wd):
    return lambda w, g: w - lr * (g + wd * w)


def driven(decay: float) -> Experiments:
    return Experiments(Box(_sgdw), RATE, decay, 0)


def test_twins_start_at_zero_and_around_one_on_both_sides() -> None:
    probe = ladder(3, 0)
    still, away = probe.start[0::2], probe.start[1::2]
    assert not still.any()
    np.testing.assert_array_equal(probe.grads[:, 0::2], probe.grads[:, 1::2])
    assert ((np.abs(away) >= 0.5) & (np.abs(away) <= 2)).all()
    assert {(size < 1, side < 0) for size, side in zip(np.abs(away), away, strict=True)} == {
        (small, left) for small in (True, False) for left in (True, False)
    }


@pytest.mark.parametrize(("share_of_visible", "raised"), [(0.9, 10), (1.1, 1)])
def test_a_decay_is_raised_until_it_moves_twins_by_more_than_rounding_hides(share_of_visible, raised) -> None:
    decay = 1e-6
    decay *= share_of_visible * 1e4 / rms(twin_moves(driven(decay).run(RATE, decay, driven(decay).probe))[1])
    found, run = driven(decay).at_visible_decay()
    assert found == pytest.approx(raised * decay)
    np.testing.assert_array_equal(run.w, driven(decay).run(RATE, found, driven(decay).probe).w)


def test_a_box_that_ignores_its_rate_is_told_so_where_weights_are_lost_too() -> None:
    def overflows(lr, wd):
        return lambda w, g: np.where(np.abs(g) > 1e6, np.nan, w - 0.1 * g)

    with pytest.raises(ValueError, match="the box ignores its learning rate"):
        identify(overflows)


def test_the_screen_stops_at_the_simplest_core_that_fits() -> None:
    experiments = Experiments(Box(lambda lr: _sgdw(lr, 0.0)), RATE, 0.1, 0)
    _, run = experiments.at_rest()
    found = screen(run.only(np.flatnonzero(experiments.probe.scale >= LARGE)))
    assert found[0].model.core == Core("gradient")
    assert len(found) < SCREENED / 2


def test_decays_are_looked_for_near_every_power_of_ten_and_closer_among_the_usual() -> None:
    assert {sign * 10.0**power for sign in (1, -1) for power in range(-10, 5)} <= set(DECAYS)
    usual = sorted(decay for decay in DECAYS if 1e-4 <= decay <= 10)
    assert max(b / a for a, b in itertools.pairwise(usual)) < 10**0.26


def test_values_that_may_be_of_any_size_are_looked_for_in_every_decade() -> None:
    for name, values in searching._SCANNED.items():
        low = -17 if name != "decay" else -10
        assert values == tuple(10.0**power for power in range(low, 1)), name


@pytest.mark.parametrize(("roundings", "by_sign"), [(0.0, True), (3.5, True), (4.5, False)])
def test_steps_by_sign_are_of_one_size_but_for_rounding(roundings: float, by_sign: bool) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0, 0.0], (7, 10))
    w = np.concatenate([np.ones((1, 10)), 1 + np.cumsum(1e-3 * signs, axis=0)])
    w[1:, 3] -= w[1, 3] - 1.001  # a weight that moves in its first step
    w[1, 3:4] += roundings * Trajectory(w, signs, DOUBLE).noise[0, 3]
    assert steps_by_sign(Trajectory(w[:2], signs[:1], DOUBLE)) == by_sign


def test_a_decay_that_half_the_number_takes_away_follows_no_power_of_it() -> None:
    model = Model(Core("corrected_ema", "corrected_ema"), "before")
    full, half_rate, half_decay = (
        Fit(model, rate, {"decay": decay}, 0.0, uncertainties={"decay": 1e-12})
        for rate, decay in ((RATE, 1e-3), (RATE / 2, 5e-4), (RATE, 0.0))
    )
    found = strength(full, half_rate, half_decay)
    assert (found.law, found.amount, found.by_rate) == ("1 - decay", 1e-3, pytest.approx(1))
    assert math.isnan(found.by_decay)


def test_a_decay_that_no_number_moves_is_watched_at_none() -> None:
    found = identify(lambda lr, wd: optax.adamw(lr, weight_decay=0.3))
    assert found.values["weight_decay"].value == pytest.approx(0.3, rel=1e-6)
    assert "weight_decay has no effect" in found.notes
    assert not any(note.startswith("decay watched at") for note in found.notes)
