"""The equations of a report are those of the transforms that a study trains with."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.lab import results
from optlab.lab.derivations import as_text, formulas, from_text
from optlab.lab.study import Study

CORE = ["mₜ = β₁·mₜ₋₁ + gₜ·(1 − β₁)", "m̂ₜ = mₜ/(1 − β₁ᵗ)", "vₜ = β₂·vₜ₋₁ + gₜ²·(1 − β₂)", "v̂ₜ = vₜ/(1 − β₂ᵗ)"]
LAST = {
    "none": "wₜ = wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + ε)",
    "direction": "wₜ = wₜ₋₁ − η·(m̂ₜ + λ·wₜ₋₁)/(√v̂ₜ + ε)",
    "update": "wₜ = wₜ₋₁ − η·(m̂ₜ/(√v̂ₜ + ε) + λ·wₜ₋₁)",
    "step": "wₜ = wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + ε) − λ·wₜ₋₁",
    "after": "wₜ = wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + ε) − η·λ·(wₜ₋₁ − η·m̂ₜ/(√v̂ₜ + ε))",
    "proximal": "wₜ = wₜ₋₁ + (−η·m̂ₜ/(√v̂ₜ + ε) − η·λ·wₜ₋₁)/(1 + η·λ)",
}


@pytest.mark.parametrize("site", LAST)
def test_the_sites_behind_the_averages_share_them(site):
    found = formulas(Study(sites=(site,)), scheduled=False)[site]
    assert found.equations == [*CORE, LAST[site]]
    assert found.site.startswith(site)


@pytest.mark.parametrize(
    ("site", "m_sees", "v_sees"),
    [("loss", 1, 1), ("gradient", 1, 1), ("first_moment", 1, 0), ("second_moment", 0, 1)],
)
def test_the_averages_see_the_weight_where_the_site_says_so(site, m_sees, v_sees):
    m, _, v, _, w = formulas(Study(sites=(site,)), scheduled=False)[site].equations
    assert ("λ" in m, "λ" in v) == (m_sees, v_sees)
    assert w == LAST["none"]


def test_the_loss_toward_the_initial_weights_and_a_schedule_are_read_too():
    loss = formulas(Study(sites=("loss",), target="init", core="sgd"), scheduled=False)["loss"]
    assert loss.equations == ["wₜ = wₜ₋₁ − η·(gₜ + λ·(wₜ₋₁ − w₀))"]
    coupled = Study(sites=("update",), couplings=("lr", "schedule", "constant"), core="sgd")
    last = {name: found.equations[-1] for name, found in formulas(coupled, scheduled=True).items()}
    assert last == {
        "update lr": "wₜ = wₜ₋₁ − η·schedule·(gₜ + λ·wₜ₋₁)",
        "update schedule": "wₜ = wₜ₋₁ − η·schedule·gₜ − λ·schedule·wₜ₋₁",
        "update constant": "wₜ = wₜ₋₁ − η·schedule·gₜ − λ·wₜ₋₁",
    }


def test_a_core_without_a_name_keeps_its_numbers_and_one_without_equations_says_why():
    study = Study(sites=("update",), core=optlab.scale_by_ema(0.75))
    assert formulas(study, scheduled=False)["update"].equations[0] == "mₜ = 0.25·gₜ + 0.75·mₜ₋₁"
    noisy = optlab.chain(optax.add_noise(0.1, 0.5, 0))
    found = formulas(Study(sites=("update",), core=noisy), scheduled=False)["update"]
    assert "draws random numbers" in found.equations[0]
    assert found.site == "update"


def test_the_equations_survive_the_file_of_a_study():
    found = formulas(Study(sites=("update", "after")), scheduled=False)
    assert from_text(as_text(found)) == found


@optlab.atom
def orthogonal():
    def update(u, slots, w, t):
        return jnp.linalg.qr(u)[0] if u.ndim == 2 else u, slots

    return optlab.Rule(update, elementwise=False)


def test_the_equations_say_which_leaves_they_hold_for():
    update = formulas(Study(sites=("update",), core="sgd"), scheduled=False)["update"]
    assert update.holds.startswith("holds for vectors (")
    assert "matrices (" in update.holds
    assert update.elsewhere == {}
    study = Study(sites=("update",), core=optlab.chain(orthogonal()))
    apart = formulas(study, scheduled=False)["update"]
    assert apart.equations == update.equations
    assert apart.holds.startswith("holds for vectors (")
    assert "matrices" not in apart.holds
    ((matrices, said),) = apart.elsewhere.items()
    assert matrices.startswith("matrices (")
    assert said != update.equations
    assert from_text(as_text({"update": apart})) == {"update": apart}


def test_equations_of_results_before_they_were_checked_and_of_later_ones_are_read():
    before = '{"update": {"equations": ["w = 1"], "site": "update", "coupling": "none"}}'
    found = from_text(before)["update"]
    assert (found.equations, found.holds, found.elsewhere) == (["w = 1"], "", {})
    assert from_text(before.replace('"site"', '"later": 1, "site"'))["update"] == found
    for garbled in ("w = 1", "[]", '{"update": 1}'):
        with pytest.raises(ValueError, match="no equations as optlab writes them"):
            from_text(garbled)


def test_the_kept_study_has_the_equations_of_its_sites():
    data = results.load(results.Path(__file__).parents[2] / "examples" / "studies" / "decay" / results.FILE)
    found = from_text(data.attrs["equations"])
    assert sorted(found) == sorted(np.unique(data.site.values).tolist())
    assert found["update"].equations[-1] == LAST["update"]
