"""How much of each step was decay: against loops by hand, closed forms, and however a study is cut up and resumed."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr
from flax import nnx

import optlab
from optlab.lab import engine, one_run, record, results
from optlab.lab.engine import run, train
from optlab.lab.kept import opened
from optlab.lab.programs import Programs
from optlab.lab.progress import Progress
from optlab.lab.study import Structure, Study

pytestmark = pytest.mark.xdist_group("record")

LAYERS = {"all": [0, 1, 2], "offset": [2], "slope": [0, 1]}
STUDY = dataclasses.replace(
    tiny.STUDY,
    sites=("none", "loss", "gradient", "first_moment", "update", "proximal"),
    learning_rates=(0.3, 30.0),
    seeds=2,
    measure_decay=True,
)


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(1, 64, patch.setattr)
        return run(STUDY)


# By hand --------------------------------------------------------------------------------------------------------------


def ratio(above: float, below: float) -> float:
    return 0.0 if below == 0 else above / below


class Average:
    """Adam's two averages in float64."""

    def __init__(self) -> None:
        self.m, self.v, self.t = np.zeros(3), np.zeros(3), 0

    def direction(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * numerator, 0.999 * self.v + 0.001 * denominator**2
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-3)


@functools.cache
def beginning(seed: int) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """The initial weights, the offset last, and the batches, in float64."""
    task = tiny.tiny()
    data, params, key = one_run.start(task, jnp.int32(seed))
    batches = [task.batch(data, key, jnp.int32(step)) for step in range(12)]
    return np.append(np.float64(params["slope"]), 0.0), [tuple(map(np.float64, batch)) for batch in batches]


def by_hand(site: str, learning_rate: float, decay: float, seed: int, wrong: str = "") -> dict[str, np.ndarray]:
    """One run in float64 beside a plain Adam on the same weights: (windows, layers) of what is measured."""
    w, batches = beginning(seed)
    own, plain, elsewhere = Average(), Average(), w
    steps: list[np.ndarray] = []
    diverged = False

    def gradient(w: np.ndarray, step: int) -> tuple[float, np.ndarray]:
        features, targets = batches[step]
        error = features @ w[:2] + w[2] - targets
        return np.mean(error**2), 2 * np.append(error @ features, error.sum()) / len(error)

    for step in range(12):
        loss, g = gradient(w, step)
        penalized = g + decay * w
        diverged |= not loss <= 100
        seen = {
            "loss": (penalized, penalized),
            "gradient": (penalized, penalized),
            "first_moment": (penalized, g),
        }.get(site, (g, g))
        moved = -learning_rate * own.direction(*seen)
        if site == "update":
            moved = moved - learning_rate * decay * w
        if site == "proximal":
            moved = (w + moved) / (1 + learning_rate * decay) - w
        plain_g = penalized if wrong == "the plain state sees the penalty" else g
        if wrong == "the plain state has its own trajectory":
            plain_g = gradient(elsewhere, step)[1]
        core = -learning_rate * plain.direction(plain_g, plain_g)
        elsewhere = elsewhere + core
        if wrong == "no averages":
            core = -learning_rate * g
        d = moved - core
        row = []
        for layer in LAYERS.values():
            share = np.linalg.norm(d[layer]), np.linalg.norm(core[layer])
            below = share[1] if wrong == "a ratio for a share" else sum(share)
            at = (w + moved)[layer] if wrong == "the weights after the step" else w[layer]
            row.append([ratio(share[0], below), ratio(-d[layer] @ at, at @ at)])
        steps.append(np.full((3, 2), np.nan) if diverged and wrong != "steps after it diverged" else np.array(row))
        w = w if diverged else w + moved
    windows = np.reshape(steps, (3, 4, 3, 2))
    counts = np.isfinite(windows).sum(1)
    means = np.where(counts > 0, np.nansum(windows, 1) / np.maximum(counts, 1), np.nan)
    if wrong == "the last step of a window":
        means = windows[:, -1]
    return {name: means[..., number] for number, name in enumerate(record.NAMES)}


def differences(data: xr.Dataset, wrong: str = "") -> list[str]:
    """Where the measurements are not those by hand."""
    found = []
    for seed in range(STUDY.seeds):
        for site in STUDY.sites:
            for rate in STUDY.learning_rates:
                for decay in STUDY.weight_decays if site != "none" else (0.0,):
                    cell = data.sel(site=site, learning_rate=rate, seed=seed).squeeze(drop=True)
                    cell = cell.sel(weight_decay=decay or STUDY.weight_decays[0])
                    for name, expected in by_hand(site, rate, decay, seed, wrong).items():
                        curve = cell[f"curve_{name}"]
                        assert curve.dims == ("step", "layer")
                        np.testing.assert_array_equal(cell[name], curve[-1])
                        if not np.allclose(curve, expected, rtol=2e-3, atol=1e-5, equal_nan=True):
                            found.append(f"{site} {name} at {rate}, {decay}, {seed}: {curve.values}, not {expected}")
    return found


def test_every_window_is_that_of_two_adams_on_one_trajectory(measured: xr.Dataset) -> None:
    assert measured.layer.values.tolist() == list(LAYERS)
    assert differences(measured) == []
    assert measured.diverged.any()
    assert (measured.decay_share.isel(learning_rate=0) <= 1).all()


WRONG = [
    "the plain state sees the penalty",
    "the plain state has its own trajectory",
    "no averages",
    "a ratio for a share",
    "the weights after the step",
    "steps after it diverged",
    "the last step of a window",
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_loop_is_seen(measured: xr.Dataset, wrong: str) -> None:
    assert differences(measured, wrong)


def test_decoupled_decay_takes_its_rate_and_none_takes_nothing(measured: xr.Dataset) -> None:
    tame = measured.sel(learning_rate=0.3).squeeze(drop=True)
    for decay in STUDY.weight_decays:
        rates = tame.curve_decay_rate.sel(site="update", weight_decay=decay)
        np.testing.assert_allclose(rates.sel(layer=["all", "slope"]), 0.3 * decay, rtol=1e-5)
        first = 0.3 * decay * 3 / 4  # the offset is zero at the first step, and 0/0 is 0
        np.testing.assert_allclose(rates.sel(layer="offset").T, [[first] * 2, *[[0.3 * decay] * 2] * 2], rtol=1e-5)
    xr.testing.assert_allclose(tame.sel(site="loss", drop=True), tame.sel(site="gradient", drop=True), rtol=1e-4)
    none = measured.sel(site="none", learning_rate=0.3)
    assert (none.curve_decay_share == 0).all()
    assert (none.curve_decay_rate == 0).all()


# Closed forms of one step ---------------------------------------------------------------------------------------------

RATE, DECAY = 0.2, 1.5
WEIGHTS = {"a": jnp.float32([1.0, -2.0, 0.5]), "b": jnp.float32([[0.3, 4.0]])}
GRADS = {"a": jnp.float32([0.4, 1.0, -3.0]), "b": jnp.float32([[2.0, -0.1]])}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)])


def one_step(site: str, coupling: str | None = None) -> dict[str, float]:
    """What the whole tree's decay did to one step of SGD."""

    def updates(decay: optlab.Decay) -> Any:
        tx = decay.apply_to(optlab.identity(), RATE, DECAY)
        return tx.update(GRADS, tx.init(WEIGHTS), WEIGHTS)[0]

    found = record.of_step(updates(optlab.Decay(site, coupling)), updates(optlab.Decay("none")), WEIGHTS)
    return {name: float(values[0]) for name, values in found.items()}


def test_one_step_has_the_closed_form_of_its_site() -> None:
    w, plain, k = flat(WEIGHTS), -RATE * flat(GRADS), RATE * DECAY
    shrunk = 1 + plain @ w / (w @ w)  # behind the step, decay takes its share of the new weights
    expected = {
        ("gradient", None): k,
        ("update", None): k,
        ("step", None): DECAY,
        ("after", None): k * shrunk,
        ("after", "constant"): DECAY * shrunk,
        ("proximal", None): k / (1 + k) * shrunk,
    }
    for case, rate in expected.items():
        np.testing.assert_allclose(one_step(*case)["decay_rate"], rate, rtol=1e-5, err_msg=str(case))
    by_decay, by_gradient = np.linalg.norm(k * w), np.linalg.norm(plain)
    np.testing.assert_allclose(one_step("update")["decay_share"], by_decay / (by_decay + by_gradient), rtol=1e-5)


def test_nothing_is_nothing_and_no_gradient_is_all_decay() -> None:
    zeros = jax.tree.map(jnp.zeros_like, WEIGHTS)
    nothing = record.of_step(zeros, zeros, zeros)
    assert all((values == 0).all() for values in nothing.values())
    shrink = jax.tree.map(lambda w: -0.25 * w, WEIGHTS)
    alone = record.of_step(shrink, zeros, WEIGHTS)
    np.testing.assert_array_equal(alone["decay_share"], 1)
    np.testing.assert_allclose(alone["decay_rate"], 0.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_narrow_and_complex_weights_are_measured_in_float32(dtype: str) -> None:
    weights = {"w": jnp.array([1, 2 + 2j, 3j, 4] if dtype == "complex64" else [1, 2, 3, 4], dtype)}
    updates = {"w": -0.125 * weights["w"].astype("float32" if dtype == "bfloat16" else dtype)}
    plain = jax.tree.map(jnp.zeros_like, updates)
    found = record.of_step(updates, plain, weights)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found["decay_rate"], [0.125, 0.125], rtol=1e-6)


def test_a_window_is_the_mean_over_finite_steps_that_were_taken() -> None:
    steps = {"decay_share": jnp.float32([[1, np.nan], [2, 3], [np.inf, 5], [100, 100]])}
    mean = record.over_window(steps, jnp.array([True, True, True, False]))["decay_share"]
    np.testing.assert_array_equal(mean, [1.5, 4])
    assert np.isnan(record.over_window(steps, jnp.zeros(4, bool))["decay_share"]).all()


# Layers ---------------------------------------------------------------------------------------------------------------


class Nested(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(2, 3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3, 1, use_bias=False, rngs=rngs) for _ in range(2)])


ZERO = jnp.zeros(2)
TREES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a dict": (lambda: {"hidden": {"kernel": ZERO, "bias": ZERO}}, ["hidden.bias", "hidden.kernel"]),
    "a value": (lambda: {"value": ZERO}, ["value"]),
    "a tuple": (lambda: (ZERO, [ZERO, {"w": ZERO}]), ["0", "1.0", "1.1.w"]),
    "an array": (lambda: ZERO, ["weights"]),
    "a state": (
        lambda: nnx.state(Nested(nnx.Rngs(0)), nnx.Param),
        ["blocks.0.kernel", "blocks.1.kernel", "hidden.bias", "hidden.kernel"],
    ),
}


@pytest.mark.parametrize("tree", TREES)
def test_layers_are_named_and_in_the_order_of_the_leaves(tree: str) -> None:
    make, names = TREES[tree]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(make))
    assert record.layers(params) == record.layers(jax.eval_shape(make)) == ["all", *names]
    only_last = [jnp.zeros_like(leaf) for leaf in jax.tree.leaves(params)]
    only_last[-1] = jnp.ones_like(only_last[-1])
    marked = jax.tree.unflatten(jax.tree.structure(params), only_last)
    zeros = jax.tree.map(jnp.zeros_like, marked)
    share = record.of_step(marked, zeros, marked)["decay_share"]
    np.testing.assert_array_equal(share, [1, *[0] * (len(names) - 1), 1])


# Targets, schedules, dead inputs --------------------------------------------------------------------------------------


def test_the_rate_follows_the_schedule_and_the_target_and_one_measurement_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.use(1, 64, monkeypatch.setattr)
    study = dataclasses.replace(
        STUDY, sites=("update",), learning_rates=(0.3,), seeds=1, schedule="linear", target="init", every=12
    )
    data = run(study)
    assert data.step.values.tolist() == [12]
    rates = data.decay_rate.squeeze(drop=True).sel(layer="slope")
    factors = 1 - np.arange(12) / 12
    factors[0] = 0  # no weight is away from where it began
    np.testing.assert_allclose(rates, 0.3 * np.array(study.weight_decays) * factors.mean(), rtol=1e-3)


def test_a_dead_input_is_all_decay_and_explodes_under_the_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use(1, 64, monkeypatch.setattr)
    task = tiny.tiny()

    def dead(params: Any, points: Any) -> jax.Array:
        features, targets = points
        return tiny.loss({"slope": params["live"], "offset": 0 * params["dead"].sum()}, (features, targets))

    task = dataclasses.replace(
        task,
        init=lambda key: {"live": jnp.float32([0.3, -0.2]), "dead": jnp.float32([0.5, -1.0])},
        loss=dead,
        metrics=lambda params, data: {f"{part}_loss": dead(params, points) for part, points in data.items()},
        divergence=1e3,
    )
    study = dataclasses.replace(
        STUDY,
        task=task,
        sites=("gradient", "first_moment", "update"),
        learning_rates=(1e-2,),
        weight_decays=(1.0,),
        seeds=1,
        eps=1e-8,
    )
    data = run(study).squeeze(drop=True)
    shares, rates = data.curve_decay_share.sel(layer="dead"), data.curve_decay_rate.sel(layer="dead")
    np.testing.assert_allclose(shares.sel(site=["gradient", "update"]), 1)
    np.testing.assert_allclose(rates.sel(site="update"), 0.01, rtol=1e-5)
    assert (abs(rates.sel(site="gradient")) < 0.2).all()
    exploding = data.sel(site="first_moment")
    assert 0 < exploding.diverged_at < 12
    assert shares.sel(site="first_moment")[0] == 1
    assert rates.sel(site="first_moment")[0] > 1e5
    after = data.step > exploding.diverged_at
    assert np.isnan(exploding.curve_decay_share.where(after, drop=True)).all()
    assert not data.sel(site=["gradient", "update"]).diverged.any()


# However it is run ----------------------------------------------------------------------------------------------------

SMALL = dataclasses.replace(STUDY, sites=("none", "gradient"), weight_decays=(1.0,), seeds=3)


def numbers(data: xr.Dataset) -> xr.Dataset:
    return data.drop_attrs()


def test_cut_up_stopped_resumed_and_kept_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jax.local_device_count() == 8
    whole = run(dataclasses.replace(SMALL, sites=("gradient",)))
    tiny.use(2, 1, monkeypatch.setattr)
    programs = Programs(SMALL, SMALL.make_task())
    monkeypatch.setattr(engine, "Programs", lambda study, task: programs)  # compiled once for what follows
    cut = run(SMALL)
    xr.testing.assert_allclose(numbers(cut.sel(site=["gradient"])), numbers(whole), rtol=1e-4, atol=1e-7)

    def stop(progress: Progress) -> None:
        if progress.done == 6 and progress.underway:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path, stop)
    with opened(tmp_path, print) as kept:
        resumed = train(SMALL, kept)
    assert resumed is not None
    xr.testing.assert_identical(numbers(resumed), numbers(cut))
    assert resumed.attrs["decided"]
    results.save(resumed, tmp_path / results.FILE)
    loaded = results.load(tmp_path / results.FILE)
    xr.testing.assert_identical(loaded, resumed)
    assert loaded.curve_decay_share.dims == (*results.AXES, "step", "layer")
    assert loaded.decay_rate.dims == (*results.AXES, "layer")


def test_nothing_of_it_is_there_unless_it_is_asked_for(measured: xr.Dataset) -> None:
    silent = dataclasses.replace(STUDY, measure_decay=False)
    task = silent.make_task()

    def launched(study: Study) -> Any:
        begin = one_run.start(task, jnp.int32(0))
        treated = one_run.treatment(study, task, Structure("gradient"), 0.1, 0.1, begin.params)
        return one_run.advance(task, treated, begin, treated.launch(begin.params), jnp.int32(0))

    (without, nothing), (with_it, strength) = (jax.eval_shape(lambda s=s: launched(s)) for s in (silent, STUDY))
    assert nothing == {}
    assert set(strength) == set(record.NAMES)
    assert without.plain_state is None
    assert len(jax.tree.leaves(with_it)) > len(jax.tree.leaves(without))
